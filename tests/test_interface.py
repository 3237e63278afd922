"""What stands in torch's module has the names, attributes and parameters of what stood there before.

Everything is enumerated from the installed torch, so that a new torch shows what is new in it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import pathlib
import re
from types import FunctionType
from typing import Any

import pytest
import torch
import torch._subclasses.fake_tensor as torch_fake_tensor

import fastfake
from fastfake import namespace

# Not classes or functions: other names for objects that are not this system's, loggers that `logging` hands to
# whoever asks by name, and two numbers that our code reads and writes where torch has them.
SHARED_VALUES = {
    "CONSTANT_NUMEL_LIMIT",
    "DimList",
    "RECURSION_COUNT",
    "T",
    "aten",
    "hc_log",
    "log",
    "not_implemented_log",
    "pytree",
}
# What a class has from Python, from `dataclass` or from Tensor says nothing about fake tensors.
NOT_PART_OF_THE_INTERFACE = re.compile(r"__(\w+)__$")


class Kept:
    """Keeps an object of torch's: installing exchanges classes in dictionaries and lists, but not in slots."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@functools.cache
def defined_by_torch() -> dict[str, Kept]:
    """The names bound in torch's module by anything but imports, with torch's own objects."""
    tree = ast.parse(inspect.getsource(torch_fake_tensor))
    names = set(_bound_names(tree.body))
    with _torchs_own():
        return {name: Kept(getattr(torch_fake_tensor, name)) for name in names if hasattr(torch_fake_tensor, name)}


def _bound_names(body: list[ast.stmt]) -> list[str]:
    names: list[str] = []
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.append(statement.name)
        elif isinstance(statement, ast.Assign):
            names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.append(statement.target.id)
        elif isinstance(statement, ast.Try):
            names += _bound_names(statement.body)
    return names


class _torchs_own:
    def __enter__(self) -> None:
        self.before = fastfake.is_installed()
        fastfake.uninstall()

    def __exit__(self, *exception: object) -> None:
        if self.before:
            fastfake.install()


def torchs_classes() -> list[str]:
    ours = namespace.replacements()
    return sorted(name for name, kept in defined_by_torch().items() if isinstance(kept.value, type) and name in ours)


def torchs_functions() -> list[str]:
    ours = namespace.replacements()
    return sorted(name for name, kept in defined_by_torch().items() if callable(kept.value) and name in ours)


@functools.cache
def other_sources_of_torch() -> list[str]:
    root = pathlib.Path(torch.__file__).parent
    own = {"fake_tensor.py", "_fake_tensor_utils.py"}
    return [path.read_text(errors="ignore") for path in root.rglob("*.py") if path.name not in own]


def used_elsewhere_in_torch(names: set[str], pattern: str) -> set[str]:
    search = re.compile(pattern.format("|".join(map(re.escape, names))))
    return {found for text in other_sources_of_torch() for found in search.findall(text)}


def test_every_public_class_and_function_that_torch_defines_is_ours_while_installed() -> None:
    defined = {n: kept for n, kept in defined_by_torch().items() if not n.startswith("_") and n not in SHARED_VALUES}
    with fastfake.install_temporarily():
        still_torchs = {name for name, kept in defined.items() if getattr(torch_fake_tensor, name) is kept.value}
    assert still_torchs == set()


@pytest.mark.parametrize("name", sorted(SHARED_VALUES))
def test_a_value_that_stays_torchs_is_neither_a_class_nor_a_function_of_its_module(name: str) -> None:
    value = defined_by_torch()[name].value
    assert not isinstance(value, FunctionType)
    assert not (isinstance(value, type) and value.__module__ == torch_fake_tensor.__name__)


def test_every_private_name_that_torch_imports_from_its_module_is_ours_while_installed() -> None:
    private = {name for name in defined_by_torch() if name.startswith("_")}
    imports = used_elsewhere_in_torch(private, r"\bfake_tensor\.({})\b") | {
        name
        for text in other_sources_of_torch()
        for block in re.findall(r"from torch\._subclasses\.fake_tensor import (\([^)]*\)|[^\n]*)", text)
        for name in re.findall(r"\w+", block)
        if name in private
    }
    assert "_DispatchCacheKey" in imports, "the search found nothing"
    with fastfake.install_temporarily():
        still_torchs = {n for n in imports if getattr(torch_fake_tensor, n) is defined_by_torch()[n].value}
    assert still_torchs == set()


@pytest.mark.parametrize("name", [name for name in torchs_classes() if not name.startswith("_")])
def test_no_public_attribute_of_a_public_class_is_missing(name: str) -> None:
    theirs, ours = defined_by_torch()[name].value, namespace.replacements()[name]
    offered = {a for cls in ours.__mro__ for a in (*vars(cls), *vars(cls).get("__annotations__", ()))}
    assert {a for a in vars(theirs) if not a.startswith("_")} - offered == set()


@pytest.mark.parametrize("name", torchs_classes())
def test_no_private_attribute_that_torch_uses_elsewhere_is_missing(name: str) -> None:
    theirs, ours = defined_by_torch()[name].value, namespace.replacements()[name]
    private = {a for a in vars(theirs) if a.startswith("_") and not NOT_PART_OF_THE_INTERFACE.match(a)}
    used = used_elsewhere_in_torch(private, r"\.({})\b") if private else set()
    offered = {a for cls in ours.__mro__ for a in vars(cls)}
    assert used - offered == set()


def test_the_search_for_private_attributes_finds_the_one_that_higher_order_operators_use() -> None:
    assert used_elsewhere_in_torch({"_flatten_into"}, r"\.({})\b") == {"_flatten_into"}


@pytest.mark.parametrize("name", ["FakeTensorConverter", "FakeTensorMode", "FakeTensorTLS"])
def test_an_instance_has_the_attributes_that_torchs_instance_has(name: str) -> None:
    with _torchs_own():
        expected = set(vars(defined_by_torch()[name].value()))
    ours = namespace.replacements()[name]()
    assert {attribute for attribute in expected if not hasattr(ours, attribute)} == set()


def methods() -> list[tuple[str, str]]:
    return [
        (name, method)
        for name in torchs_classes()
        for method, value in vars(defined_by_torch()[name].value).items()
        if isinstance(value, FunctionType | staticmethod | classmethod)
        and (not method.startswith("_") or method == "__init__")
        and "__dataclass_fields__" not in vars(defined_by_torch()[name].value)
    ]


def parameters(function: Any) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(function).parameters.values()}


@pytest.mark.parametrize(("name", "method"), methods())
def test_a_method_takes_the_parameters_that_torchs_takes(name: str, method: str) -> None:
    theirs = parameters(getattr(defined_by_torch()[name].value, method))
    ours = parameters(getattr(namespace.replacements()[name], method))
    if method in ("__torch_dispatch__", "__torch_function__", "dispatch"):
        theirs["kwargs"] = ours["kwargs"]  # an empty dictionary in torch, None in ours
    if (name, method) == ("FakeTensorMode", "__init__"):
        theirs |= dict.fromkeys(("known_values", "unknown_items"))  # see docs/differences.md
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(set(torchs_functions()) - set(torchs_classes())))
def test_a_function_takes_the_parameters_that_torchs_takes(name: str) -> None:
    theirs, ours = defined_by_torch()[name].value, namespace.replacements()[name]
    assert list(parameters(ours).items()) == list(parameters(theirs).items())


@pytest.mark.parametrize("name", torchs_classes())
def test_a_dataclass_has_torchs_fields_in_torchs_order(name: str) -> None:
    theirs, ours = defined_by_torch()[name].value, namespace.replacements()[name]
    fields = getattr(theirs, "__dataclass_fields__", {})
    assert list(fields) == list(getattr(ours, "__dataclass_fields__", {}))


@pytest.mark.parametrize("name", torchs_classes())
def test_an_exception_can_be_caught_as_torchs_can(name: str) -> None:
    theirs, ours = defined_by_torch()[name].value, namespace.replacements()[name]
    builtin = [base for base in theirs.__mro__ if base.__module__ == "builtins" and issubclass(base, BaseException)]
    assert [base for base in builtin if not issubclass(ours, base)] == []


def test_uninstalling_leaves_every_name_as_torch_defined_it() -> None:
    with fastfake.install_temporarily():
        pass
    with _torchs_own():
        changed = {n for n, kept in defined_by_torch().items() if getattr(torch_fake_tensor, n) is not kept.value}
    assert changed - {"RECURSION_COUNT"} == set()


def test_listing_the_package_shows_what_is_for_users_and_no_internal_module() -> None:
    shown = {name for name in dir(fastfake) if not name.startswith("__")}
    assert shown == set(fastfake.__all__)
    assert "__version__" in dir(fastfake)
