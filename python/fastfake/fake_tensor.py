"""FakeTensor: shape, strides, dtype and device without data."""

from __future__ import annotations

import copy
import copyreg
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._stats import count
from torch.utils._traceback import CapturedTraceback

from . import _C, devices, in_use, known_storage
from .logs import not_implemented_log
from .memo import SymNumberMemoDescriptor
from .real_computation import no_dispatch
from .thread_state import track_if_exporting
from .torch_version import AT_LEAST_2_14

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from .fake_mode import FakeTensorMode

__all__ = ["FakeTensor", "FakeTensorConfig"]

aten = torch.ops.aten
_MKLDNN_KEY = torch._C._dispatch_key_parse("MkldnnCPU")


def _remember_where_made(tensor: Tensor) -> None:
    tensor._debug_trace = CapturedTraceback.extract(skip=1)  # type: ignore[attr-defined]


class _ObservedClass(type):
    """The type of FakeTensorConfig: has native code, which makes most tensors, follow a change of `debug`."""

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "debug":
            _C.observe_new_tensors(_remember_where_made if value else None)


class FakeTensorConfig(metaclass=_ObservedClass):
    """Settings of the process, which may be changed at any time.

    Attributes:
        debug: whether each fake tensor remembers in ``_debug_trace`` where it was made.
    """

    debug: bool


FakeTensorConfig.debug = os.environ.get("TORCH_FAKE_TENSOR_DEBUG", "0") == "1"


# Queries about the tensor itself. They are served from the tensor's own fields whatever mode is active,
# also while a kernel of its mode runs, so they never enter a mode.
def _symbolic_tuple_as_ints(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _device_query(args: Sequence[object]) -> torch.device:
    if len(args) != 1 or not isinstance(args[0], FakeTensor):
        raise AssertionError("Expected exactly one FakeTensor argument for _device_handler")
    # From the slot: `args[0].device` may be what led here.
    return torch.device("meta") if args[0].fake_mode.in_kernel_invocation else args[0]._fake_device


ATTRIBUTE_QUERIES: dict[Any, Any] = {
    torch.ops.prim.device.default: _device_query,
    aten.size.default: lambda args: _symbolic_tuple_as_ints(args[0].size()),
    aten.stride.default: lambda args: _symbolic_tuple_as_ints(args[0].stride()),
    aten.storage_offset.default: lambda args: int(args[0].storage_offset()),
}

# What `type(fake)(elem, **vars(fake))` may pass besides the constructor's own arguments: memos, which a
# new tensor starts without, and the trace of where the old one was made.
_MEMO_NAMES = ("nonzero", "item", "unique", "unique_consecutive", "nested_int")
_IGNORED_STATE = frozenset(
    {f"_{name}_memo{suffix}" for name in _MEMO_NAMES for suffix in ("", "_vc", "_epoch")} | {"_debug_trace"}
)


_INSTANCE_DICTIONARY: Any = vars(Tensor)["__dict__"]
_FIELDS = frozenset({"_fake_device", "constant", "dispatch_keys", "fake_mode", "pytype", "real_tensor"})


class FakeTensor(Tensor):
    """A tensor that has metadata and a device but no data.

    It is a meta tensor that carries the dispatch keys of the device it imitates, so that autograd and
    autocast treat it as one on that device. The fields below are slots: native code reads and writes them
    at fixed offsets. The attribute ``device`` is native as well.

    Attributes:
        fake_mode: the mode that made it.
        fake_device: the device it imitates.
        constant: a real tensor with its value where that is known, else None.
        real_tensor: the real tensor computed along under real tensor propagation, else None.
        pytype: the class of the tensor that it stands for, where recorded.
        dispatch_keys: the dispatch keys of the tensor that it stands for, where recorded.
    """

    __slots__ = (*sorted(_FIELDS - {"constant"} | {"_constant"}), "_memos")

    # What `copyreg` takes for the slots. The fields are in the dictionary for everybody who copies or swaps
    # tensors; whoever did both would swap them back.
    __slotnames__: ClassVar[list[str]] = ["_memos"]

    _constant: Tensor | None
    _fake_device: torch.device
    _memos: dict[str, Any] | None
    fake_mode: FakeTensorMode
    real_tensor: Tensor | None
    pytype: type[Tensor] | None
    dispatch_keys: torch.DispatchKeySet | None

    nonzero_memo = SymNumberMemoDescriptor()
    item_memo = SymNumberMemoDescriptor()
    unique_memo = SymNumberMemoDescriptor()
    unique_consecutive_memo = SymNumberMemoDescriptor()
    nested_int_memo = SymNumberMemoDescriptor(is_nested_int=True)

    # The place of fake tensors in torch's order of infrastructure modes.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    # Operators on fake tensors return fake tensors by dispatch. Tensor's own `__torch_function__` would only
    # convert results to the class that they have already, at the price of several Python calls an operator.
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let derived classes convert results to themselves, as classes derived from Tensor do."""
        super().__init_subclass__(**kwargs)
        cls.__slotnames__ = [name for name in copyreg._slotnames(cls) if name not in _FIELDS | {"_constant"}]  # type: ignore[attr-defined]
        if "__torch_function__" not in vars(cls):
            cls.__torch_function__ = classmethod(Tensor.__torch_function__.__func__)  # type: ignore[attr-defined]

    # torch keeps the fields in the instance's dictionary, and its users take them from there to make a similar
    # tensor. Here they get into the dictionary when it is asked for; the slots stay what counts.
    @property
    def __dict__(self) -> dict[str, Any]:
        """The instance's attributes, fields included."""
        attributes: dict[str, Any] = _INSTANCE_DICTIONARY.__get__(self)
        attributes.update((name, getattr(self, name)) for name in _FIELDS if hasattr(self, name))
        return attributes

    @__dict__.setter
    def __dict__(self, attributes: dict[str, Any]) -> None:
        _INSTANCE_DICTIONARY.__set__(self, attributes)
        for name in _FIELDS & attributes.keys():
            setattr(self, name, attributes[name])

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles keep, without telling slots from other attributes, as torch's do."""
        slots = copyreg._slotnames(type(self))  # type: ignore[attr-defined]
        state = self.__dict__ | {name: getattr(self, name) for name in slots if hasattr(self, name)}
        # A copy remembers what the original does now, not what it learns later.
        state["_memos"] = copy.copy(self._memos)
        return state

    def __setstate__(self, state: Any) -> None:
        """Take what `__getstate__` returned of another, and with a known value what keeps it true."""
        torch._utils._set_obj_state(self, state)
        self._rely_on_constant()

    def _reduce_ex_internal(self, proto: Any) -> tuple[Any, ...]:
        """Return what makes a tensor like this one, without attributes; `Tensor.__reduce_ex__` adds those.

        What torch takes for that is a tensor of the imitated device with a null pointer for data, which operators
        read: they end the process.
        """
        rebuild, arguments = super()._reduce_ex_internal(proto)
        if rebuild is not torch._utils._rebuild_wrapper_subclass:
            return rebuild, arguments
        geometry = (tuple(self.size()), self.stride(), self.storage_offset())
        return _remake, (type(self), self.fake_mode, self._fake_device, self.dtype, *geometry, self.requires_grad)

    def __repr__(self, **contents: Any) -> str:  # type: ignore[override]
        """Return what torch's does, which looks at values unless it knows the class."""
        in_use.ensure_installed()
        return super().__repr__(**contents)

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeTensor:
        """Return a copy of the same mode, unless the mode is being copied too.

        A tensor of a mode of its own could not meet the original, or anything else, in an operator.
        """
        memo.setdefault(id(self.fake_mode), self.fake_mode)
        # Real tensors must be copied as such, whatever modes make fake ones of what is new.
        with no_dispatch(), torch._C.DisableTorchFunction():
            copy.deepcopy((self.constant, self.real_tensor), memo)
        copied = super().__deepcopy__(memo)
        if isinstance(copied, FakeTensor):
            copied._rely_on_constant()
        return copied

    def _rely_on_constant(self) -> None:
        """Note, in a copy, that its value is to be forgotten when that of another tensor on the storage is."""
        if not known_storage.take_over(self) and self.constant is not None:
            self.fake_mode.fake_tensor_converter.add_constant_storage_mapping(self)

    @property
    def constant(self) -> Tensor | None:
        """A real tensor with the value where that is known, else None."""
        value = self._constant
        if value is not None and not known_storage.is_current(self, value):
            self._constant = value = None
        return value

    @constant.setter
    def constant(self, value: Tensor | None) -> None:
        self._constant = value

    @property
    def fake_device(self) -> torch.device:
        """The device that the tensor imitates."""
        return self._fake_device

    @fake_device.setter
    def fake_device(self, device: torch.device) -> None:
        # Interned, because native code reads the slot without the GIL.
        self._fake_device = _C.device_object(devices.normalize_device(device))

    @staticmethod
    def _normalize_fake_device(device: torch.device) -> torch.device:
        """Give an indexed device its index; the name is torch's."""
        return devices.normalize_device(device)

    def __new__(
        cls,
        fake_mode_or_elem: FakeTensorMode | Tensor | None = None,
        elem: Tensor | None = None,
        device: torch.device | str | None = None,  # the one to imitate
        constant: Tensor | None = None,
        real_tensor: Tensor | None = None,
        pytype: type[Tensor] | None = None,  # the class that is stood for
        dispatch_keys: torch.DispatchKeySet | None = None,
        *,
        fake_mode: FakeTensorMode | None = None,
        fake_device: torch.device | str | None = None,  # the attribute's name for `device`
        _fake_device: torch.device | str | None = None,  # the slot's name for it
        requires_grad: bool | None = None,
        _is_param: bool = False,
        **state: object,
    ) -> FakeTensor:
        """Make a fake tensor on the storage of a meta tensor.

        Args:
            fake_mode_or_elem: the mode; or the meta tensor, if the mode is given by keyword.
            elem: the meta tensor, of any shape.
            device: the device to imitate.
            constant: a real tensor with the value, if known.
            real_tensor: a real tensor computed along.
            pytype: the class that the tensor stands for.
            dispatch_keys: the dispatch keys that the tensor stands for.
            fake_mode: the mode, by keyword.
            fake_device: the device, under the attribute's name.
            _fake_device: the device, under the slot's name.
            requires_grad: whether the tensor requires grad; ``elem.requires_grad`` if None.
            _is_param: whether ``isinstance(tensor, torch.nn.Parameter)`` holds.
            **state: further attributes of another fake tensor, which are ignored.

        Raises:
            TypeError: the mode, the tensor or the device is missing, or given twice.
            ValueError: the three names of the device contradict each other.
            AssertionError: ``elem`` is not a meta tensor, or ``device`` is meta where that is not allowed.
        """
        for name in state:
            if name not in _IGNORED_STATE:
                raise TypeError(f"FakeTensor.__new__() got an unexpected keyword argument {name!r}")
        mode, elem = _mode_and_elem(fake_mode_or_elem, elem, fake_mode)
        imitated = _single_device(device=device, fake_device=fake_device, _fake_device=_fake_device)

        self = Tensor._make_subclass(
            cls,
            elem,
            elem.requires_grad if requires_grad is None else requires_grad,
            dispatch_device=True,
            device_for_backend_keys=imitated,
        )
        if mode._allow_unsafe_data_ptr_access:
            torch._C._set_warn_deprecated_on_mutable_data_ptr(self)
        else:
            torch._C._set_throw_on_mutable_data_ptr(self)
        if elem.device.type != "meta":
            raise AssertionError(f"elem.device.type must be 'meta', got {elem.device.type}")
        if imitated.type == "meta" and not mode.allow_meta:
            raise AssertionError("device.type must not be 'meta' when allow_meta is False")
        if isinstance(real_tensor, FakeTensor):
            raise AssertionError("real_tensor must not be a FakeTensor")

        self._fake_device = _C.device_object(imitated)
        self.fake_mode = mode
        self.constant = constant
        self.real_tensor = real_tensor
        self.pytype = pytype
        self.dispatch_keys = dispatch_keys
        self._memos = None
        if _is_param:
            self._is_param = True
        if FakeTensorConfig.debug:
            _remember_where_made(self)
        _C.memory_note(self)
        return self

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Accept anything: ``Tensor([1, 2])`` under a mode makes a fake tensor and initialises it with ``[1, 2]``."""
        super().__init__()
        track_if_exporting(self)

    @staticmethod
    def from_tensor(t: Tensor, fake_mode: FakeTensorMode) -> FakeTensor:
        """Convert a real tensor under ``fake_mode``; see `FakeTensorMode.from_tensor`."""
        return fake_mode.from_tensor(t)

    @classmethod
    @count
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run an operator on fake tensors outside of their mode, by entering it.

        Returns NotImplemented if another tensor subclass is among the arguments, or if a fake mode is
        active and declined already: then it is somebody else's turn.
        """
        query = ATTRIBUTE_QUERIES.get(func)
        if query is not None:
            return query(args)
        strangers = [t for t in types if not issubclass(t, FakeTensor) and t is not Tensor]
        if strangers:
            not_implemented_log.debug("FakeTensor unrecognized subclass(es): %s", strangers)
            return NotImplemented
        kwargs = kwargs or {}
        leaves = pytree.arg_tree_leaves(*args, **kwargs)
        mode = next((leaf.fake_mode for leaf in leaves if isinstance(leaf, FakeTensor)), None)
        if mode is None:
            raise AssertionError("Could not find a FakeTensor in the arguments")
        active = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        if active is not None:
            not_implemented_log.debug("FakeTensor mode already active: %s in %s", mode, active)
            return NotImplemented
        if mode.in_kernel_invocation:
            raise AssertionError("fake_mode.in_kernel_invocation must be False")
        with mode:
            return func(*args, **kwargs)

    @staticmethod
    def _find_common_device(func: OpOverload, flat_args: Sequence[object]) -> tuple[torch.device, bool]:
        """Find the device of an operator's results; see `devices.common_device`."""
        return devices.common_device(func, flat_args)

    # Since torch 2.14, a fake tensor made of an MKLDNN tensor says so; its meta tensor is strided.
    if AT_LEAST_2_14:

        @property
        def is_mkldnn(self) -> bool:  # type: ignore[override]
            """Whether the tensor stands for one in MKLDNN's layout."""
            return self.dispatch_keys is not None and self.dispatch_keys.has(_MKLDNN_KEY)

        @property
        def layout(self) -> torch.layout:  # type: ignore[override]
            """The layout that the tensor stands for."""
            if self.is_mkldnn:
                return torch._mkldnn  # type: ignore[attr-defined]
            return Tensor.layout.__get__(self, type(self))  # type: ignore[attr-defined]

        def to_dense(self, dtype: torch.dtype | None = None, *, masked_grad: bool | None = None) -> Tensor:
            """Return the tensor in the strided layout."""
            if self.is_mkldnn:
                return aten._to_dense.default(self, dtype=dtype, masked_grad=masked_grad)
            return Tensor.to_dense(self, dtype=dtype, masked_grad=masked_grad)

    def apply_(self, callable: object) -> FakeTensor:
        """Refuse, in the words with which torch refuses `map_`: torch would read elements that do not exist.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(".apply_ is not supported for tensor subclasses.")

    def get_nested_int(self, *, coeff: int | torch.SymInt = 1) -> torch.SymInt:
        """Return the symbol that names this tensor as the offsets of a jagged tensor.

        Args:
            coeff: a factor for the symbol.
        """
        if self.nested_int_memo is None:
            self.nested_int_memo = self.fake_mode.create_symbolic_nested_int(nt_tensor_id=None)
        memo = self.nested_int_memo
        if not isinstance(memo, torch.SymInt):
            raise AssertionError(f"Expected nested_int_memo to be torch.SymInt, got {type(memo)}")
        return memo * coeff

    def __format__(self, spec: str) -> str:
        """Format a number as such, where the mode was asked to give numbers and there is one."""
        value = self.constant
        has_number = self.fake_mode.unknown_items is not None or (
            value is not None and known_storage.of_value(value) is not None
        )
        return format(self.item(), spec) if has_number and self.dim() == 0 else super().__format__(spec)

    def tolist(self) -> Any:
        """Return the elements as nested lists; each is what ``item()`` says of it."""
        value = self.constant
        if value is not None and known_storage.of_value(value) is not None:
            with no_dispatch():
                return value.tolist()
        if self.dim() == 0:
            return self.item()
        if self.dim() == 1:
            return [element.item() for element in self]
        return [row.tolist() for row in self]


def _remake(
    kind: type[FakeTensor],
    mode: FakeTensorMode,
    device: torch.device,
    dtype: torch.dtype,
    size: Sequence[Any],
    stride: Sequence[Any],
    storage_offset: Any,
    requires_grad: bool,
) -> FakeTensor:
    """Make the tensor that a copy or a pickle starts from, whatever constructor the class ``kind`` has.

    As with torch, its storage ends where the tensor does.
    """
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    is_empty = any(guard_or_false(length == 0) for length in size)
    last = storage_offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    with no_dispatch(), torch._C.DisableTorchFunction():
        storage = torch.empty(0 if is_empty else last + 1, dtype=dtype, device="meta")
        elem = storage.as_strided(size, stride, storage_offset)
    return FakeTensor.__new__(kind, mode, elem, device, requires_grad=requires_grad)


def _mode_and_elem(
    first: FakeTensorMode | Tensor | None, elem: Tensor | None, fake_mode: FakeTensorMode | None
) -> tuple[FakeTensorMode, Tensor]:
    """Tell the constructor's two calling conventions apart: ``(mode, elem)`` and ``(elem, fake_mode=mode)``."""
    if isinstance(first, _C.ModeState):
        if fake_mode is not None and fake_mode is not first:
            raise TypeError("FakeTensor.__new__() got conflicting fake_mode values")
        fake_mode = first
    elif first is not None:
        if not isinstance(first, Tensor):
            raise TypeError(
                f"FakeTensor.__new__() expected a FakeTensorMode or Tensor as the first argument, got {type(first)}"
            )
        if elem is not None:
            raise TypeError("FakeTensor.__new__() expected either (fake_mode, elem, ...) or (elem, fake_mode=..., ...)")
        elem = first
    if fake_mode is None:
        raise TypeError("FakeTensor.__new__() missing required argument: 'fake_mode'")
    if elem is None:
        raise TypeError("FakeTensor.__new__() missing required argument: 'elem'")
    return fake_mode, elem


def _single_device(**named: torch.device | str | None) -> torch.device:
    """Return the device that the given names agree on."""
    given = {name: devices.normalize_device(torch.device(d)) for name, d in named.items() if d is not None}
    if not given:
        raise TypeError("FakeTensor.__new__() missing required argument: 'device' (or 'fake_device')")
    (first_name, device), *others = given.items()
    for name, other in others:
        if other != device:
            raise ValueError(
                f"FakeTensor.__new__() got conflicting device values: {first_name}={device}, {name}={other}"
            )
    return device
