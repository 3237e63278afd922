"""docs/map.md names everything that torch's module defines, and places that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pathlib
import re

import pytest
import torch._subclasses.fake_tensor as torch_fake_tensor

from fastfake import namespace
from fastfake.torch_version import MINOR

ROOT = pathlib.Path(__file__).parent.parent
LINES = [line.split("|") for line in (ROOT / "docs/map.md").read_text().splitlines() if line.startswith("| ")]


def is_about_the_torch_that_runs(remark: str) -> bool:
    """A row's remark may say which releases define what it names: 'since torch 2.14', 'until torch 2.14'."""
    bounds = {word: (int(major), int(minor)) for word, major, minor in re.findall(BOUND, remark)}
    return bounds.get("since", MINOR) <= MINOR <= bounds.get("until", MINOR)


BOUND = r"(since|until) torch (\d+)\.(\d+)"
ROWS = [(names, places) for _, names, places, remark, _ in LINES if is_about_the_torch_that_runs(remark)]
PYTHON_PLACES = sorted({place for _, places in ROWS for place in re.findall(r"`(fastfake[\w.]*)`", places)})
NATIVE_PLACES = sorted({place for _, places in ROWS for place in re.findall(r"`(csrc/[\w./]+)` ([\w:]+)", places)})


def defined_names() -> set[str]:
    """Classes, functions, methods and values that are assigned to, `Class.name` for those of classes."""
    return set(_names_in(ast.parse(inspect.getsource(torch_fake_tensor)).body, ""))


def _names_in(body: list[ast.stmt], prefix: str) -> list[str]:
    names = []
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            names.append(prefix + statement.name)
        elif isinstance(statement, ast.ClassDef):
            names += [statement.name, *_names_in(statement.body, f"{statement.name}.")]
        elif isinstance(statement, ast.Assign):
            names += [prefix + target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            assert isinstance(statement.target, ast.Name)
            names.append(prefix + statement.target.id)
        elif isinstance(statement, ast.If | ast.Try):
            names += _names_in(statement.body, prefix)
    return names


def mapped(pattern: str) -> set[str]:
    return {name for names, _ in ROWS for name in re.findall(pattern, names)}


def test_everything_that_torch_defines_is_in_the_page() -> None:
    fields = {f"{cls}.{f}" for cls in mapped(r"`(\w+)`") for f in _fields_with_default(cls)}
    assert defined_names() - fields - mapped(r"`([\w.]+)`") == set()


def _fields_with_default(name: str) -> set[str]:
    return set(getattr(getattr(torch_fake_tensor, name, None), "__dataclass_fields__", ()))


def test_the_page_names_nothing_that_torch_does_not_define() -> None:
    annotated_only = {"SymNumberMemoDescriptor._is_nested_int"}
    assert mapped(r"`([\w.]+)`") - defined_names() - annotated_only == set()


@pytest.mark.parametrize("place", PYTHON_PLACES)
def test_a_place_in_python_exists(place: str) -> None:
    parts = place.split(".")
    modules = [n for n in range(1, len(parts) + 1) if _is_module(".".join(parts[:n]))]
    module = importlib.import_module(".".join(parts[: modules[-1]]))
    for attribute in parts[modules[-1] :]:
        module = getattr(module, attribute)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize(("file", "symbol"), NATIVE_PLACES)
def test_a_native_place_exists(file: str, symbol: str) -> None:
    assert re.search(rf"\b{symbol}\b", (ROOT / file).read_text())


def test_names_in_italics_are_those_that_are_not_offered() -> None:
    offered = namespace.replacements().keys() | {"CONSTANT_NUMEL_LIMIT", "RECURSION_COUNT"}
    assert mapped(r"\*`(\w+)`\*") & offered == set()
    assert mapped(r"(?<!\*)`(\w+)`") - offered == set()
