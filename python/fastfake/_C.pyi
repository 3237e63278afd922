"""Types of the native module."""

from collections.abc import Callable, Collection, Sequence, Set
from contextvars import ContextVar
from types import ModuleType, TracebackType
from typing import Any

import torch
from sympy import Symbol
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import Self

built_for_torch: str
"""The version of torch against whose headers the module was compiled."""

class ModeState:
    """The native part of a FakeTensorMode: what the hit path reads."""

    allow_fallback_kernels: bool
    allow_non_fake_inputs: bool
    allow_scalar_outputs: bool
    allow_meta: bool
    _allow_unsafe_data_ptr_access: bool
    static_shapes: bool
    propagate_real_tensors: bool
    cache_enabled: bool
    cache_crosscheck_enabled: bool
    _tracks_leaks: bool
    in_kernel_invocation: bool
    shape_env: ShapeEnv | None
    epoch: int
    @property
    def known_values(self) -> int | None:
        """The most elements of tensors whose values are followed; None where none are."""

    @known_values.setter
    def known_values(self, limit: int | None) -> None: ...
    def __enter__(self) -> Self:
        """Activate the mode, whole or, if that raises, not at all."""

    def __exit__(self, *exception: object) -> None:
        """Deactivate the mode and bring back the one that it replaced."""

class FakeModeRemoval:
    """A context in which this thread's fake mode is inactive."""

    def __init__(self) -> None: ...
    def __enter__(self) -> TorchDispatchMode | None: ...
    def __exit__(self, *exception: object) -> None: ...

class Following:
    """A context in which this thread's calls do another thing with known values."""

    def __init__(self, following: int) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

class RealComputation:
    """A context in which this thread computes with real tensors, below autograd and whatever modes are active."""

    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

class KernelInvocation:
    """A context in which this thread's calls reach meta kernels and fake tensors say that they are on meta."""

    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None: ...

def register_classes(
    fake_tensor: type[torch.Tensor],
    fake_mode: type[ModeState],
    crosscheck: Callable[[str, Sequence[Any], Sequence[Any], Sequence[Any]], None],
    convert: Callable[[Any, list[torch.Tensor]], list[torch.Tensor] | None],
    is_given_back: Callable[[Any, Any], bool],
    lift_plain: Callable[[Any, torch.Tensor], torch.Tensor | None],
) -> None:
    """Tell native code the classes FakeTensor and FakeTensorMode, and the functions that it calls.

    Those compare results, convert real tensors among the arguments of a call under a mode, tell whether a call
    that writes to the known value of a fake tensor gives the tensor itself, and make fake tensors of what
    ``torch.tensor`` just made.
    """

def fake_of_plain(mode: ModeState, real: torch.Tensor) -> Any:
    """Make the FakeTensor of a plain strided tensor on the CPU, which nothing remembers yet.

    Its storage ends where the tensor does.
    """

def declining_method(function: Callable[..., object]) -> Any:
    """Make what stands for a mode's `__torch_dispatch__`: it declines the calls that another class is asked first."""

def note_known_storage(tensor: torch.Tensor, owner: object) -> int:
    """Note that the values on the storage of ``tensor`` are known.

    Returns what names the storage to `forget_known_storage`, which is to be called before ``owner`` dies; 0 if the
    storage is another owner's.
    """

def forget_known_storage(storage: int) -> None:
    """Take back what `note_known_storage` noted."""

def owner_of_known_storage(tensor: torch.Tensor) -> Any:
    """Return the owner that was noted for the storage of ``tensor``; None if its values are not known."""

def following() -> int:
    """Return what becomes of known values in this thread's calls: 0 if results get values."""

def alias_of_fake(tensor: object) -> torch.Tensor | None:
    """Make an alias of a fake tensor, without autograd history.

    None for what is no plain fake tensor: one of a derived class, or with a known value, a real tensor, a layout other
    than strided, or an inference tensor.
    """

def register_symbols(
    sym_node: type[SymNode],
    news: Callable[[ShapeEnv, Any], tuple[Any, Collection[Set[Symbol]] | None]],
    pre_dispatch_modes: list[object],
    logging: ModuleType,
) -> None:
    """Tell native code torch's class of symbolic numbers, and what tells what a ShapeEnv learned.

    ``news`` takes a ShapeEnv and what it returned first before, or None. It returns something to be kept, and the
    symbols that each piece of news is about; None for those if it may be about any. ``pre_dispatch_modes`` is torch's
    list of the modes that run before dispatch, ``logging`` its module that knows what is logged.
    """

def install_node_methods() -> None:
    """Put methods that remember their results in the place of those of torch's SymNode."""

def remove_node_methods() -> None:
    """Put torch's methods back."""

def interpreter_table_fits() -> bool:
    """Whether torch's interpreter table has as many methods as when the module was compiled."""

def install_interpreter_hook() -> None:
    """Let native code take the dispatches of fake modes."""

def remove_interpreter_hook() -> None:
    """Leave all dispatches to torch, unless somebody else's hook came on top of ours since."""

def interpreter_hook_installed() -> bool:
    """Whether native code takes the dispatches of fake modes."""

def came_through_the_hook() -> bool:
    """Whether this thread computes what native code sent on to Python: a call, or a question about a tensor."""

def rename_key(dictionary: dict[Any, Any], old_key: object, new_key: object) -> None:
    """Exchange a key of a dictionary in its place, in one step: no other thread sees it without the items."""

def holding_namespaces(
    namespaces: list[dict[str, Any]], ids: dict[int, Any], types: tuple[type, ...]
) -> list[tuple[dict[str, Any], list[str]]]:
    """Give the names of values that have one of the ids, of tuples with such an element, and of values of the types.

    Args:
        namespaces: where to look. Only those that have such values are given.
        ids: has the ids of objects for keys.
        types: those of values that are given in any case.
    """

def observe_new_tensors(callable: Callable[[torch.Tensor], object] | None) -> None:
    """Have `callable` called with every fake tensor that native code makes; None ends that."""

def forget_entries_of_other_threads() -> None:
    """Take the modes that other threads are in for left, in the child of a fork."""

def in_kernel_invocation() -> bool:
    """Whether this thread is inside a KernelInvocation."""

def is_absent(device: torch.device) -> bool:
    """Whether torch has no device of this type, while there are modes or fake tensors on such."""

def absent_devices_were_used() -> bool:
    """Whether there was a fake tensor on any device that is not there: their guards stay for good."""

def device_object(device: torch.device) -> torch.device:
    """Return the one, immortal object for a device, of which there will be fake tensors; they hold no other."""

def common_device(
    arguments: Sequence[object],
    scalars_mix: bool,
    mixes_freely: torch.device | None,
    preferred: str,
) -> tuple[torch.device | None, torch.device | None]:
    """Find the common device of the fake tensors among the arguments, and one that does not fit."""

def operator_facts(name: str, overload: str) -> tuple[int, bool, str | None]:
    """Give an operator's id, whether it is a custom one that can be vouched for, and why its calls are not cached."""

def vouch_for_operator(name: str, overload: str) -> None:
    """Let calls of a custom operator be cached for good."""

def watch_vouched_operators(ids: ContextVar[frozenset[int]], profiles: ContextVar[Any], no_profiles: object) -> None:
    """Let calls of the custom operators in a context variable be cached, unless profiles of operators are set."""

def register_rules(rules_of: Callable[[str], int], new_work: Callable[[], object]) -> None:
    """Tell native code what gives the fake results of an operator, and what programs wait for collectives with.

    ``rules_of`` takes the name of an operator and returns bits, which operator_rules.py explains. ``new_work`` makes
    the script object by which a program waits for a collective.
    """

def watch_settings(context_variables: tuple[ContextVar[Any], ...]) -> None:
    """Make the values of these variables part of every cache key."""

def watch_tables(dictionaries: tuple[dict[Any, Any], ...], rules: list[Any], has_rule: Callable[[str], bool]) -> None:
    """Make earlier answers unreachable when one of the dictionaries changes, or the length of `rules`.

    Operators for whose name `has_rule` holds are not cached: torch asks a rule of theirs before it asks a mode.
    """

def note_registration() -> None:
    """Make earlier answers unreachable, as something was registered on which they may depend."""

def registrations() -> int:
    """Return a number that grows when something was registered since it was last asked for."""

def run_backward(
    function: Callable[..., object], tensors: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """What ``function(tensors, *args, **kwargs)`` gives, a method of torch's autograd engine.

    While it runs, devices of fake tensors that are not there need no threads and no streams of the engine.

    Args:
        function: the method.
        tensors: where the pass begins: tensors and gradient edges.
        args: its further arguments by position.
        kwargs: its arguments by name.
    """

def pretend_cuda(major: int, minor: int) -> None:
    """Let torch's C++ code find devices of CUDA with the compute capability ``major``.``minor``.

    Raises:
        RuntimeError: it does already.
    """

def stop_pretending() -> None:
    """End what `pretend_cuda` began, if it did."""

def pretends_cuda() -> bool:
    """Whether `pretend_cuda` has begun, and `stop_pretending` has not ended, the claim of devices."""

def pretended_index() -> int:
    """The index of the claimed device that is this thread's current one."""

def set_pretended_index(index: int) -> None:
    """Make the claimed device ``index``, one of torch's device indices, this thread's current one."""

def cache_statistics() -> tuple[int, int, int, dict[str, int], int]:
    """Return hits, misses, calls that modes declined, bypasses by reason, and the number of entries."""

def bypassed_operators() -> list[tuple[str, str, int]]:
    """Return reasons not to cache, with the name of an operator and how many of its calls each kept from the cache."""

def cache_clear() -> None:
    """Drop all entries and statistics."""

def cache_key(
    mode: ModeState, name: str, overload: str, args: Sequence[object], kwargs: dict[str, object]
) -> list[int] | str | None:
    """Return the words of a call's key, or why it is not cached; None if the operator cannot be called so."""

def cache_keys() -> list[tuple[str, str, list[int]]]:
    """Return for each entry the name and overload name of the operator, and the words of the key."""

def cache_entry(words: Sequence[int]) -> list[tuple[Any, ...]] | str | None:
    """Return the steps of an entry's recipe, or why its calls are not cached; None without an entry."""

def cache_erase(words: Sequence[int]) -> None:
    """Drop the entry with these words, if there is one."""

def cache_bytes() -> int:
    """Return the memory that the entries hold, in bytes."""

def cache_limit() -> int:
    """Return the most memory that entries may hold, in bytes."""

def set_cache_limit(bytes: int) -> None:
    """Set the most memory that entries may hold; surplus entries go at once."""

def memory_start(
    mode: ModeState | None,
    name_module: Callable[[Any], str],
    root_called: Callable[[Any, tuple[object, ...]], None],
    skipped: Sequence[str],
) -> None:
    """Begin to note the storages of a mode's tensors; of the first mode that computes something, if it is None.

    Args:
        mode: the mode.
        name_module: gives the name of a module that is called for the first time.
        root_called: is told of each call of a module, with its arguments, while no other module is running.
        skipped: the beginnings of the names of files whose lines are not the user's.

    Raises:
        RuntimeError: it has begun already.
    """

def memory_stop() -> None:
    """End that. What was noted stays until it begins anew."""

def memory_is_tracked() -> bool:
    """Whether `memory_start` has begun, and `memory_stop` has not ended, to note storages."""

def memory_events() -> tuple[
    list[tuple[int, int, int, int, torch.device, int, int, int, int, int]], dict[int, str], list[str], list[str]
]:
    """Return what was noted, and the names of operators, modules and lines of Python by number.

    Each event is its kind (0 birth, 1 resize, 2 death, 3 role, 4 phase), the number of the storage, its bytes, the role
    or
    phase, the device, and the operator, module, line, phase and number of steps of who allocated.
    """

def memory_steps() -> int:
    """Return how many steps optimizers have taken."""

def memory_follows(tensor: torch.Tensor) -> bool:
    """Return whether a tracker is on and a tensor is a fake one of the mode that it follows."""

def memory_note(tensor: torch.Tensor) -> None:
    """Note the storage of a fake tensor that Python code made, unless that was in the middle of a call."""

def memory_note_role(tensor: torch.Tensor, role: int, unless_it_has_one: bool = False, module: object = None) -> None:
    """Note what the storage of a fake tensor is for, and for which module; other tensors have nothing to note."""

def memory_note_size(storage: torch.UntypedStorage) -> None:
    """Note that a storage may have another size."""

def memory_watch_argument(name: str, overload: str, index: int, role: int) -> None:
    """Note from now on, until it ends, what an argument of an operator is for, by its index in the schema."""

def memory_enter_module(module: object, args: tuple[object, ...]) -> None:
    """Note that a module is called: a forward pre-hook."""

def memory_leave_module(module: object, args: tuple[object, ...], output: object) -> None:
    """Note that a module returns: a forward hook."""

def memory_enter_optimizer() -> None:
    """Note that an optimizer takes a step."""

def memory_leave_optimizer() -> None:
    """Note that it has taken it."""

class MemoryUnnoticed:
    """A context, to be entered once, inside of which nothing of this thread is noted."""

    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...
