"""The package is compiled for the torch that is installed; where there is none, the build asks for one."""

from __future__ import annotations

import importlib
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastfake import _C

ROOT = Path(__file__).parent.parent

pytest.importorskip("scikit_build_core", reason="only environments that build the package have what builds it")


@pytest.fixture
def build_backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("build_backend")


def torch_among(requirements: list[str]) -> list[str]:
    return [requirement for requirement in requirements if re.match(r"torch\b", requirement)]


def test_the_torch_that_is_installed_is_found(build_backend: ModuleType) -> None:
    assert build_backend.torch_directory() == Path(torch.__file__).parent
    assert torch_among(build_backend.get_requires_for_build_wheel()) == []


def test_where_no_torch_is_installed_a_supported_one_is_asked_for(
    build_backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_backend, "torch_directory", lambda: None)
    assert torch_among(build_backend.get_requires_for_build_wheel()) == ["torch>=2.13,<=2.15.999"]
    assert torch_among(build_backend.get_requires_for_build_editable()) == ["torch>=2.13,<=2.15.999"]
    given = {"cmake.define.FASTFAKE_TORCH": "/somewhere/torch"}
    assert torch_among(build_backend.get_requires_for_build_wheel(given)) == []


def test_the_module_is_the_one_for_the_torch_that_runs() -> None:
    major, minor, _ = torch.__version__.split(".", 2)
    assert Path(_C.__file__).parent.name == f"torch_{major}_{minor}"
    assert _C.built_for_torch == torch.__version__.partition("+")[0]


def test_the_wheels_that_are_published_hold_a_module_for_every_supported_torch() -> None:
    tomllib = pytest.importorskip("tomllib", reason="CPython 3.10 cannot read pyproject.toml")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    supported = re.search(r"FASTFAKE_TORCH_MINORS ([\d. ]*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert supported is not None
    compiled_for = settings["config-settings"]["cmake.define.FASTFAKE_TORCH"]
    assert [place.rpartition("/")[2] for place in compiled_for.split(";")] == supported[1].split()
    assert settings["before-all"].endswith(f"scripts/torch_headers.py build/torch {supported[1]}")


def test_a_wheel_is_tried_with_each_of_its_torches_but_those_with_tests_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    smoke = importlib.import_module("smoke")
    wheel = tmp_path / "fastfake.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for minor in ("2_13", "2_14", "2_15"):
            archive.writestr(f"fastfake/native/torch_{minor}/_C.so", "")
    tried: list[str] = []
    monkeypatch.setattr(smoke, "try_with", lambda torch, wheel, python: tried.append(torch))
    this_python = f"{sys.version_info.major}.{sys.version_info.minor}"
    smoke.try_with_each([(wheel, sys.executable)], except_for=["3.1:2.13", f"{this_python}:2.14"])
    assert sorted(tried) == ["2.13", "2.15"]
