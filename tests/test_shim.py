"""Installing fastfake in the place of torch's fake tensors, and taking it out again."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._higher_order_ops
import torch._subclasses.fake_impls
import torch._subclasses.fake_tensor as torch_fake_tensor
from torch.fx.experimental.proxy_tensor import make_fx

import fastfake
from fastfake import _C, installation, rebinding

pytestmark = pytest.mark.usefixtures("uninstalled")


def bindings() -> dict[tuple[str, str], int]:
    """Which of torch's and of our objects each global variable of a module holds, and each rule table as key."""
    replaced = {*installation._exchange().ours_of, *installation._exchange().theirs_of}
    found = {
        (module_name, name): id(value)
        for module_name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and not module_name.startswith("fastfake")
        for name, value in list(vars(module).items())
        if id(value) in replaced
    }
    for operator in installation._operators_with_rules():
        for key in operator.python_key_table:
            found[str(operator), f"{key.__module__}.{key}"] = id(key)
    return found


def run_program(program: str, **environment: str) -> str:
    """Run a program in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def refers_to(module: ModuleType, wanted: object) -> bool:
    return any(value is wanted for value in vars(module).values())


def test_install_puts_our_classes_in_every_module_of_torch() -> None:
    # A local variable that a comprehension uses is a closure's, which would be exchanged too.
    theirs = weakref.ref(torch_fake_tensor.FakeTensor)
    holders = [
        name
        for name, module in list(sys.modules.items())
        if name.startswith("torch") and isinstance(module, ModuleType) and refers_to(module, theirs())
    ]
    assert len(holders) > 5
    fastfake.install()
    for name in holders:
        assert not refers_to(sys.modules[name], theirs())
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
    with fastfake.install_temporarily():
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


def test_threads_that_make_their_first_modes_at_once_install_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = 4
    together = threading.Barrier(threads)
    exchanges = []
    everywhere = rebinding.everywhere

    def slowly(*arguments: Any) -> Any:
        exchanges.append(threading.current_thread())
        # Lets the other threads go on.
        time.sleep(0.05)
        return everywhere(*arguments)

    def class_of_an_empty_tensor(_: int) -> type:
        together.wait()
        with fastfake.FakeTensorMode():
            return type(torch.empty(2))

    monkeypatch.setattr(rebinding, "everywhere", slowly)
    with ThreadPoolExecutor(threads) as pool:
        assert set(pool.map(class_of_an_empty_tensor, range(threads))) == {fastfake.FakeTensor}
    assert len(exchanges) == 1


def test_the_context_manager_leaves_an_earlier_installation_alone() -> None:
    with fastfake.install_temporarily():
        assert fastfake.is_installed()
    assert not fastfake.is_installed()
    fastfake.install()
    with pytest.raises(ValueError, match="on purpose"), fastfake.install_temporarily():
        raise ValueError("on purpose")
    assert fastfake.is_installed()


def test_rules_of_higher_order_operators_are_found_for_our_mode() -> None:
    def classes_with_rules() -> set[Any]:
        return {key for op in installation._operators_with_rules() for key in op.python_key_table}

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


@pytest.mark.exhaustive
def test_modules_imported_later_see_our_classes() -> None:
    run_program("""
import fastfake, torch, sys
fastfake.install()
assert "torch.fx.passes.fake_tensor_prop" not in sys.modules
from torch.fx.passes import fake_tensor_prop
assert fake_tensor_prop.FakeTensorMode is fastfake.FakeTensorMode
""")


def test_torchs_own_mode_works_between_installations() -> None:
    for _ in range(2):
        with torch_fake_tensor.FakeTensorMode():
            theirs = torch.empty(3).sin()
        assert type(theirs).__module__ == "torch._subclasses.fake_tensor"
        with fastfake.install_temporarily(), fastfake.FakeTensorMode():
            ours = torch.empty(3).sin()
        assert type(ours) is fastfake.FakeTensor


TYPES = (torch.Tensor, torch_fake_tensor.FakeTensor)
UNION = int | torch_fake_tensor.FakeTensor


def test_tuples_and_unions_among_global_variables_hold_our_class_while_installed() -> None:
    before = described(TYPES), str(UNION)
    fastfake.install()
    assert TYPES[1] is fastfake.FakeTensor
    with fastfake.FakeTensorMode():
        assert isinstance(torch.empty(2), UNION)
    fastfake.uninstall()
    assert (described(TYPES), str(UNION)) == before


class Registry:
    """Holds torch's class in the ways in which programs do."""

    attribute = torch_fake_tensor.FakeTensor

    def __init__(self) -> None:
        cls = torch_fake_tensor.FakeTensor
        self.instance_attribute = cls
        self.values = {"before": int, "class": cls, "after": str}
        self.keys = {int: 1, cls: 2, str: 3}
        self.rules = {(cls, int): "rule"}
        self.by_default = defaultdict(list, {cls: [1]})
        self.in_order = OrderedDict([(int, 1), (cls, 2), (str, 3)])
        self.elements = [int, cls, str]
        self.queue = deque([cls])
        self.members = {int, cls}
        self.frozen = frozenset({int, cls})
        self.types = (torch.Tensor, cls)
        self.partial_argument = functools.partial(issubclass, cls)
        self.partial_function = functools.partial(cls, None)

        def closure() -> type:
            return cls

        def defaults(first: type = cls, *, second: type = cls) -> tuple[type, type]:
            return first, second

        @functools.singledispatch
        def by_type(argument: object) -> str:
            return "anything"

        by_type.register(cls, lambda argument: "fake tensor")
        self.closure, self.defaults, self.by_type = closure, defaults, by_type

    def classes(self) -> dict[str, list[str]]:
        """The classes found in each place, in order, as text with identities: classes would be exchanged here too."""
        found: dict[str, object] = {
            "attribute": self.attribute,
            "instance attribute": self.instance_attribute,
            "values": list(self.values.items()),
            "keys": list(self.keys.items()),
            "rules": list(self.rules),
            "by default": list(self.by_default.items()),
            "in order": list(self.in_order.items()),
            "elements": list(self.elements),
            "queue": list(self.queue),
            "members": self.members,
            "frozen": self.frozen,
            "types": self.types,
            "partial": (self.partial_argument.args, self.partial_function.func),
            "closure": self.closure(),
            "defaults": self.defaults(),
        }
        return {name: described(value) for name, value in found.items()}


def test_a_registry_lacks_no_other_key_while_one_is_exchanged() -> None:
    class Registry(dict[str, int]):
        """Fails where another thread, which Python may run after each step, would miss a key."""

        def clear(self) -> None:
            raise AssertionError("another thread would find nothing")

        def __delitem__(self, key: str) -> None:
            raise AssertionError("another thread would find no key, or another order")

        pop = __delitem__  # type: ignore[assignment]

    registry = Registry(first=1, old=2, last=3)
    rebinding._rename_key(registry, "old", "new")
    assert list(registry.items()) == [("first", 1), ("new", 2), ("last", 3)]


def test_ordered_registries_and_sets_have_the_new_member_before_they_lose_the_old_one() -> None:
    class Ordered(OrderedDict[str, int]):
        def __delitem__(self, key: str) -> None:
            assert key == "old" and list(self) == ["first", "old", "new", "last"]
            super().__delitem__(key)

    class Members(set[str]):
        def discard(self, member: str) -> None:
            assert member == "old" and self == {"old", "new"}
            super().discard(member)

    ordered, members = Ordered(first=1, old=2, last=3), Members({"old"})
    rebinding._rename_key(ordered, "old", "new")
    rebinding._exchange_member(members, "old", "new")
    assert list(ordered.items()) == [("first", 1), ("new", 2), ("last", 3)]
    assert members == {"new"}


def described(value: object) -> list[str]:
    leaves: list[str] = []
    members = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    if isinstance(members, list | tuple):
        for member in members:
            leaves += described(member)
        return leaves
    return [f"{value} {id(value)}"]


def test_registries_closures_and_defaults_hold_our_class_while_installed() -> None:
    registry = Registry()
    before, theirs = registry.classes(), described(torch_fake_tensor.FakeTensor)[0]
    fastfake.install()
    during = registry.classes()
    ours = described(fastfake.FakeTensor)[0]
    for name, value in before.items():
        assert theirs in value, name
        # In the same places: registries that are searched in order stay in order. Only sets have none.
        expected = [ours if each == theirs else each for each in value]
        assert during[name] == expected or name in ("members", "frozen"), name
        assert sorted(during[name]) == sorted(expected), name
    assert registry.by_default[str] == registry.by_default.pop(str)
    with fastfake.FakeTensorMode():
        assert registry.by_type(torch.empty(2)) == "fake tensor"
        assert isinstance(torch.empty(2), registry.types)
    fastfake.uninstall()
    assert registry.classes() == before


def test_uninstall_keeps_what_somebody_assigned_since() -> None:
    registry = Registry()
    fastfake.install()
    registry.values["class"] = float
    registry.elements.insert(0, bytes)
    registry.members.discard(fastfake.FakeTensor)
    Registry.attribute = str
    try:
        fastfake.uninstall()
        assert registry.values["class"] is float
        assert registry.elements == [bytes, int, torch_fake_tensor.FakeTensor, str]
        assert registry.members == {int}
        assert Registry.attribute is str
    finally:
        Registry.attribute = torch_fake_tensor.FakeTensor


def test_attributes_of_classes_that_were_looked_up_before_hold_our_class_while_installed(uninstalled: None) -> None:
    class One:
        KIND = torch._subclasses.fake_tensor.FakeTensor

    class Several:
        KINDS = (int, torch._subclasses.fake_tensor.FakeTensor)

    class DerivedFromOne(One):
        pass

    class DerivedFromSeveral(Several):
        pass

    def look_up() -> tuple[object, object]:
        return DerivedFromOne.KIND, DerivedFromSeveral.KINDS[1]

    theirs = torch._subclasses.fake_tensor.FakeTensor
    for _ in range(50):  # until Python remembers what it found, in the class and in this function
        assert look_up() == (theirs, theirs)
    with fastfake.install_temporarily():
        assert look_up() == (fastfake.FakeTensor, fastfake.FakeTensor)
    assert look_up() == (theirs, theirs)


def test_a_container_that_holds_both_classes_keeps_both_afterwards() -> None:
    both = {torch_fake_tensor.FakeTensor, fastfake.FakeTensor}
    table = {torch_fake_tensor.FakeTensor: "theirs", fastfake.FakeTensor: "ours"}
    fastfake.install()
    assert fastfake.FakeTensor in both
    assert table[fastfake.FakeTensor] == "ours"
    fastfake.uninstall()
    assert both == {torch_fake_tensor.FakeTensor, fastfake.FakeTensor}
    assert table == {torch_fake_tensor.FakeTensor: "theirs", fastfake.FakeTensor: "ours"}


def test_torchs_classes_themselves_stay_whole() -> None:
    theirs = {"cls": weakref.ref(torch_fake_tensor.FakeTensor)}
    bases = torch_fake_tensor.FakeTensor.__mro__

    class Derived(torch_fake_tensor.FakeTensor):
        pass

    fastfake.install()
    assert Derived.__mro__[1] is theirs["cls"]()
    assert theirs["cls"]().__mro__ == bases
    fastfake.uninstall()
    # Its methods name their class in a closure, for `super()`.
    with torch_fake_tensor.FakeTensorMode() as mode:
        assert torch.empty(2).sin().fake_mode is mode


@pytest.mark.exhaustive
def test_nothing_of_torch_refers_to_ours_after_compiling_and_uninstalling() -> None:
    program = """
import gc, sys, torch, fastfake
from types import ModuleType
import torch._dynamo, torch.export, torch.fx.experimental.proxy_tensor as proxy_tensor
with fastfake.install_temporarily():
    compiled = torch.compile(lambda x: x.sin() + 1, backend="aot_eager")
    compiled(torch.ones(3, requires_grad=True)).sum().backward()
    assert fastfake.FakeTensorMode.cache_info().misses
    assert fastfake.FakeTensor in proxy_tensor.HANDLED_TYPES
    torch.compiler.reset()
for name, module in list(sys.modules.items()):
    if name.startswith("torch") and isinstance(module, ModuleType):
        for variable, value in list(vars(module).items()):
            assert "fastfake" not in (repr(value) if type(value) in (type, tuple) else ""), (name, variable)
for holder in gc.get_referrers(fastfake.FakeTensorMode):
    if type(holder) is dict and any(key is fastfake.FakeTensorMode for key in holder):
        raise AssertionError(f"a registry still has a rule: {list(holder)[:5]}")
torch.compiler.reset()
x = torch.compile(lambda x: x.cos(), backend="aot_eager")(torch.ones(3))
assert torch.equal(x, torch.ones(3).cos())
"""
    run_program(program)


@pytest.mark.exhaustive
def test_a_program_that_compiled_before_compiles_after_installing() -> None:
    program = """
import torch, warnings
torch.compile(lambda x: x.sin(), backend="aot_eager")(torch.ones(3))
warnings.simplefilter("ignore")
import fastfake.shim, fastfake
fastfake.FakeTensorMode.cache_clear()
x = torch.ones(3, requires_grad=True)
torch.compile(lambda x: x.cos() + 1, backend="aot_eager")(x).sum().backward()
assert torch.allclose(x.grad, -torch.ones(3).sin())
assert fastfake.FakeTensorMode.cache_info().misses
"""
    run_program(program)


def test_importing_the_shim_installs_even_before_torch() -> None:
    run_program("""
import sys
assert "torch" not in sys.modules
import fastfake.shim
import torch, fastfake
from torch._subclasses.fake_tensor import FakeTensorMode
assert fastfake.is_installed() and FakeTensorMode is fastfake.FakeTensorMode
import fastfake.shim
""")


# A mode is made where a signal handler or a profiler would make it, at the given line of what exchanges the rules. The
# first mode of a process imports modules, whose operators have rules too.
MODE_AT_A_LINE = """
import sys
import torch
import torch._subclasses.fake_tensor as fake_tensor
import fastfake
from fastfake import installation

left = [{line}]
functions = (installation._rebind_rule_tables.__code__, installation._operators_with_rules.__code__)

def trace(frame, event, arg):
    if frame.f_code not in functions or not left:
        return None
    left[0] -= 1
    if left[0] == 0:
        left.clear()
        with fastfake.FakeTensorMode():
            torch.empty(2)
    return trace

sys.settrace(trace)
fastfake.install()
sys.settrace(None)
assert not left
sides = {{"torch._subclasses.fake_tensor", "fastfake.fake_mode"}}

def side():
    # In which module the class is that torch's name and the rules have; there must be only one.
    operators = installation._operators_with_rules()
    classes = [key for operator in operators for key in operator.python_key_table]
    (only,) = sides & {{each.__module__ for each in [*classes, fake_tensor.FakeTensorMode]}}
    return only

assert side() == "fastfake.fake_mode"
fastfake.uninstall()
assert side() == "torch._subclasses.fake_tensor"
"""


@pytest.mark.parametrize("line", [12, *(pytest.param(line, marks=pytest.mark.exhaustive) for line in (5, 15, 1000))])
def test_a_mode_that_is_made_in_the_middle_of_the_first_installation_does_no_harm(line: int) -> None:
    run_program(MODE_AT_A_LINE.format(line=line))


@pytest.mark.exhaustive
def test_installing_logs_how_much_was_exchanged() -> None:
    program = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
import torch, fastfake
from fastfake import installation
for _ in range(2):
    fastfake.FakeTensorMode()
print(len(installation._undos))
"""
    line, number = run_program(program).splitlines()
    assert line == f"INFO fastfake: installed: {number} references to torch's fake tensor system lead to fastfake's now"
    assert int(number) > 50


def test_importing_fastfake_alone_does_not_install() -> None:
    run_program("import fastfake; assert not fastfake.is_installed()")


@pytest.mark.exhaustive
def test_torchs_list_of_the_kernels_of_an_operator_has_ours_in_it_and_is_otherwise_torchs() -> None:
    program = """
import torch
try:
    torch.ops.aten._nested_tensor_size(torch.empty(2))
except NotImplementedError as error:
    print(error)
"""
    theirs, ours = run_program(program), run_program(f"import fastfake{program}")
    assert ours.count("Fake, ") == ours.count("\nFake: registered at ") == 1
    lines = [line for line in ours.replace("Fake, ", "").splitlines() if not line.startswith("Fake: ")]
    assert lines == theirs.splitlines()


def test_living_fake_tensors_of_torchs_class_give_one_warning_with_their_number() -> None:
    with torch_fake_tensor.FakeTensorMode():
        living = [torch.empty(2) for _ in range(7)]
    with pytest.warns(UserWarning, match="fake tensors of torch's own class") as caught:
        fastfake.install()
    assert len(caught) == 1
    assert int(str(caught[0].message).split()[0]) >= len(living)
    assert caught[0].filename == __file__


@pytest.mark.exhaustive
def test_without_fake_tensors_of_torchs_class_nothing_is_warned_of() -> None:
    run_program("""
import torch, torch._dynamo, warnings
warnings.simplefilter("error")
import fastfake.shim
""")


def test_when_disabled_nothing_happens_but_one_line_in_the_log() -> None:
    program = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")
import torch, torch._subclasses.fake_tensor as fake_tensor
theirs = fake_tensor.FakeTensorMode
import fastfake.shim, fastfake
assert fake_tensor.FakeTensorMode is theirs and not fastfake.is_installed()
# Programs that name fastfake's classes run on torch's.
assert fastfake.FakeTensorMode is theirs
with fastfake.FakeTensorMode():
    assert isinstance(torch.empty(2), fake_tensor.FakeTensor)
fastfake.uninstall()
"""
    output = run_program(program, FASTFAKE_DISABLE="1")
    assert output == "fastfake: FASTFAKE_DISABLE is set: torch's own fake tensors stay in place\n"


@pytest.mark.exhaustive
def test_names_that_a_later_torch_adds_are_left_alone_and_logged() -> None:
    program = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
import torch._subclasses.fake_tensor as fake_tensor
class Novelty: pass
Novelty.__module__ = fake_tensor.__name__
fake_tensor.Novelty = Novelty
import fastfake.shim
assert fake_tensor.Novelty is Novelty
"""
    assert run_program(program) == "torch's fake tensor module has names unknown to fastfake: Novelty\n"


def test_every_name_of_this_torchs_module_is_ours_or_known_to_stay_torchs() -> None:
    assert installation._exchange().unknown == []


@pytest.mark.exhaustive
def test_importing_the_shim_adds_less_than_150_ms_to_importing_torch() -> None:
    program = """
from time import process_time
start = process_time()
import torch
after_torch = process_time()
import fastfake.shim
print(after_torch - start, process_time() - after_torch)
"""
    seconds = [[float(part) for part in run_program(program).split()] for _ in range(3)]
    torchs, ours = (min(each) for each in zip(*seconds, strict=True))
    # Where torch takes 1 s ours take 0.1 s; a slower machine is slower for both.
    assert ours < 0.15 * max(1.0, torchs)


def test_an_installation_that_fails_in_the_middle_leaves_torchs_classes_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    before, bound = registry.classes(), bindings()
    in_namespaces = rebinding.in_namespaces

    def fail_in_the_middle(namespaces: list[dict[str, Any]], *others: Any) -> None:
        monkeypatch.undo()
        in_namespaces(namespaces[: len(namespaces) // 2], *others)
        raise KeyboardInterrupt

    monkeypatch.setattr(rebinding, "in_namespaces", fail_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        fastfake.install()
    assert not fastfake.is_installed()
    assert registry.classes() == before
    assert bindings() == bound
    fastfake.install()
    fastfake.uninstall()
    assert registry.classes() == before


def test_an_interrupt_while_a_registry_is_exchanged_leaves_torchs_classes_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    before, rename = registry.classes(), rebinding._rename_key

    def interrupted_afterwards(holder: dict[Any, Any], old: object, new: object) -> None:
        rename(holder, old, new)
        if holder is registry.keys and rebinding._rename_key is not rename:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(rebinding, "_rename_key", interrupted_afterwards)
    with pytest.raises(KeyboardInterrupt):
        fastfake.install()
    assert rebinding._rename_key is rename
    assert not fastfake.is_installed()
    assert registry.classes() == before
