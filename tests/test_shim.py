"""Installing fastfake in the place of torch's fake tensors, and taking it out again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._higher_order_ops
import torch._subclasses.fake_impls
import torch._subclasses.fake_tensor as torch_fake_tensor
from torch.fx.experimental.proxy_tensor import make_fx

import fastfake
from fastfake import _C, shim


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    before = fastfake.is_installed()
    fastfake.uninstall()
    yield
    fastfake.uninstall()
    if before:
        fastfake.install()


def bindings() -> dict[tuple[str, str], int]:
    """Which of torch's and of our objects each global variable of a module holds, and each rule table as key."""
    replaced = {id(value) for pair in shim._replacements().values() for value in pair}
    found = {
        (module_name, name): id(value)
        for module_name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and not module_name.startswith("fastfake")
        for name, value in list(vars(module).items())
        if id(value) in replaced
    }
    for operator in shim._operators_with_rules():
        for key in operator.python_key_table:
            found[str(operator), f"{key.__module__}.{key}"] = id(key)
    return found


def refers_to(module: ModuleType, wanted: object) -> bool:
    return any(value is wanted for value in vars(module).values())


def test_install_puts_our_classes_in_every_module_of_torch() -> None:
    theirs = torch_fake_tensor.FakeTensor
    holders = [
        name
        for name, module in list(sys.modules.items())
        if name.startswith("torch") and isinstance(module, ModuleType) and refers_to(module, theirs)
    ]
    assert len(holders) > 5
    fastfake.install()
    for name in holders:
        assert not refers_to(sys.modules[name], theirs)
        assert refers_to(sys.modules[name], fastfake.FakeTensor)
    assert torch_fake_tensor.FakeTensorMode is torch._subclasses.FakeTensorMode is fastfake.FakeTensorMode


def test_uninstall_puts_everything_back() -> None:
    before = bindings()
    fastfake.install()
    during = bindings()
    fastfake.uninstall()
    after = bindings()
    assert during != before
    assert {key: value for key, value in after.items() if key in before} == before


def test_tuples_of_classes_that_modules_keep_are_exchanged_and_come_back() -> None:
    import torch._dynamo.exc
    import torch.fx.experimental.proxy_tensor as proxy_tensor

    handled, may_fall_back = proxy_tensor.HANDLED_TYPES, torch._dynamo.exc.exceptions_allowed_to_be_fallback
    with fastfake.installed():
        assert (torch.Tensor, torch.nn.Parameter, fastfake.FakeTensor) == proxy_tensor.HANDLED_TYPES
        ours = torch._dynamo.exc.exceptions_allowed_to_be_fallback
        assert len(ours) == len(may_fall_back) and fastfake.DataDependentOutputException in ours
        with fastfake.FakeTensorMode():
            graph = make_fx(torch.sin)(torch.ones(3))
        assert any(node.target is torch.ops.aten.sin.default for node in graph.graph.nodes)
    assert proxy_tensor.HANDLED_TYPES is handled
    assert torch._dynamo.exc.exceptions_allowed_to_be_fallback is may_fall_back


def test_uninstall_leaves_alone_what_a_module_imported_from_fastfake() -> None:
    module = ModuleType("imports_from_fastfake")
    module.FakeTensorMode = fastfake.FakeTensorMode
    sys.modules[module.__name__] = module
    try:
        fastfake.install()
        fastfake.uninstall()
        assert module.FakeTensorMode is fastfake.FakeTensorMode
    finally:
        del sys.modules[module.__name__]


def test_installing_twice_is_installing_once() -> None:
    before = bindings()
    fastfake.install()
    fastfake.install()
    fastfake.uninstall()
    assert not fastfake.is_installed()
    assert {key: value for key, value in bindings().items() if key in before} == before
    fastfake.uninstall()
    assert not fastfake.is_installed()


def test_the_context_manager_leaves_an_earlier_installation_alone() -> None:
    with fastfake.installed():
        assert fastfake.is_installed()
    assert not fastfake.is_installed()
    fastfake.install()
    with pytest.raises(ValueError, match="on purpose"), fastfake.installed():
        raise ValueError("on purpose")
    assert fastfake.is_installed()


def test_rules_of_higher_order_operators_are_found_for_our_mode() -> None:
    def classes_with_rules() -> set[Any]:
        return {key for op in shim._operators_with_rules() for key in op.python_key_table}

    theirs = torch_fake_tensor.FakeTensorMode
    assert theirs in classes_with_rules()
    fastfake.install()
    assert fastfake.FakeTensorMode in classes_with_rules()
    assert theirs not in classes_with_rules()


def test_dynamo_takes_the_tensors_of_either_side_for_tensors() -> None:
    from torch._dynamo.variables.builder import VariableBuilder

    for change in (fastfake.install, fastfake.uninstall, fastfake.install):
        change()
        assert torch_fake_tensor.FakeTensor in VariableBuilder._type_dispatch()


def test_the_first_mode_installs() -> None:
    assert not _C.interpreter_hook_installed()
    fastfake.FakeTensorMode()
    assert fastfake.is_installed()


def test_modules_imported_later_see_our_classes() -> None:
    program = """
import fastfake, torch, sys
fastfake.install()
assert "torch.fx.passes.fake_tensor_prop" not in sys.modules
from torch.fx.passes import fake_tensor_prop
assert fake_tensor_prop.FakeTensorMode is fastfake.FakeTensorMode
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_torchs_own_mode_works_between_installations() -> None:
    for _ in range(2):
        with torch_fake_tensor.FakeTensorMode():
            theirs = torch.empty(3).sin()
        assert type(theirs).__module__ == "torch._subclasses.fake_tensor"
        with fastfake.installed(), fastfake.FakeTensorMode():
            ours = torch.empty(3).sin()
        assert type(ours) is fastfake.FakeTensor


def test_another_torch_gives_one_clear_import_error() -> None:
    program = """
import torch
torch.__version__ = "2.14.0"
try:
    import fastfake
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (
        done.stdout.strip() == f"fastfake {fastfake.__version__} is built for torch 2.13, but torch 2.14.0 is installed"
    )


def test_importing_fastfake_adds_less_than_100_ms_to_importing_torch() -> None:
    program = "import torch, time; t = time.perf_counter(); import fastfake; print(time.perf_counter() - t)"
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
        seconds.append(float(done.stdout))
    assert min(seconds) < 0.1
