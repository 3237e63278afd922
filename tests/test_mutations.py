"""The table of scripts/mutate names tests that exist, for every part of the key that can be left out."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", ROOT / "scripts" / "mutations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_of_the_key_that_can_be_left_out_is_in_the_table(mutations: ModuleType) -> None:
    assert mutations.WATCHED_BY.keys().isdisjoint(mutations.CANNOT_BE_NOTICED)
    assert mutations.parts_in_the_sources() == mutations.WATCHED_BY.keys() | mutations.CANNOT_BE_NOTICED.keys()


def test_the_tests_of_the_table_exist(mutations: ModuleType) -> None:
    for test in set(mutations.WATCHED_BY.values()):
        path, _, name = test.partition("[")[0].partition("::")
        functions = [node.name for node in ast.parse((ROOT / path).read_text()).body if hasattr(node, "name")]
        assert name in functions, test
