"""Changes of torch's settings, each as a context in which the setting has another value."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch._dynamo.config as dynamo_config
import torch._functorch.config as functorch_config
import torch.fx.experimental._config as symbolic_config
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorConfig
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastfake.torch_version import AT_LEAST_2_15

native: Any = torch._C


@dataclass(frozen=True)
class Change:
    name: str
    context: Callable[[], AbstractContextManager[object]]

    def __str__(self) -> str:
        return self.name


@contextlib.contextmanager
def _set(setter: Callable[[Any], object], value: object, before: object) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


def _flipped(noun: str, setter: str | None = None) -> Change:
    """The other value of a flag of torch._C."""

    def context() -> AbstractContextManager[None]:
        before = getattr(native, f"_get_{noun}")()
        return _set(getattr(native, setter or f"_set_{noun}"), not before, before)

    return Change(noun, context)


def _other(noun: str, value: object) -> Change:
    """Another value of a setting of torch._C, of which values are taken in the form in which they are given."""

    def context() -> AbstractContextManager[None]:
        return _set(getattr(native, f"_set_{noun}"), value, getattr(native, f"_get_{noun}")())

    return Change(f"{noun} {value}", context)


@contextlib.contextmanager
def _autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """torch.autocast itself warns about devices that the build lacks, and does nothing."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        torch.clear_autocast_cache()


@contextlib.contextmanager
def _deterministic(*, warn_only: bool, fill: bool = True) -> Iterator[None]:
    filled = torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled


@contextlib.contextmanager
def _tensor_type(name: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the setter is deprecated
        torch.set_default_tensor_type(name)
        try:
            yield
        finally:
            torch.set_default_tensor_type("torch.FloatTensor")


@contextlib.contextmanager
def _fp32_precision(backend: str, operator: str, value: str) -> Iterator[None]:
    before = native._get_fp32_precision_getter(backend, operator)
    native._set_fp32_precision_setter(backend, operator, value)
    try:
        yield
    finally:
        native._set_fp32_precision_setter(backend, operator, before)


@contextlib.contextmanager
def _sdpa(*backends: SDPBackend) -> Iterator[None]:
    with sdpa_kernel(list(backends), set_priority=True):
        yield


def _anomaly() -> AbstractContextManager[object]:
    return torch.autograd.set_detect_anomaly(True, check_nan=False)


def _other_value(value: object) -> object:
    """A value that differs, for entries of which any number or truth value makes sense; otherwise the same one."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else value


def _all_other_entries(module: ModuleType, *left_out: str) -> Change:
    """All flags and numbers of a configuration at once, since none of them is thought to matter."""
    config: Any = module
    without_effect = [name for name, entry in config._config.items() if entry.deprecated]
    names = [name for name in config._config if name not in (*left_out, *without_effect, "TYPE_CHECKING")]

    def context() -> AbstractContextManager[object]:
        values: Mapping[str, object] = {name: getattr(config, name) for name in names}
        others = {name: other for name, value in values.items() if (other := _other_value(value)) is not value}
        return config.patch(others)

    return Change(f"all of {module.__name__}", context)


def _entry(module: ModuleType, name: str, value: object) -> Change:
    config: Any = module
    return Change(f"{name}={value!r}", lambda: config.patch({name: value}))


# Left alone by the changes of whole configurations: the switches of the cache that is compared, computing real tensors
# along, which does not use it, and entries that a change below gives a value of their own.
_OWN_CHANGE = (
    "fake_tensor_cache_enabled",
    "fake_tensor_cache_crosscheck_enabled",
    "fake_tensor_propagate_real_tensors",
    "fake_tensor_prefer_device_type",
    "backed_size_oblivious",
    "skip_dtype_check_in_meta_registrations",
)


def _together(name: str, *changes: Change) -> Change:
    """Several changes at once, of settings of which none is thought to matter."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for change in changes:
                stack.enter_context(change.context())
            yield

    return Change(name, context)


def _set_debug(value: bool) -> AbstractContextManager[None]:
    return _set(lambda debug: setattr(FakeTensorConfig, "debug", debug), value, FakeTensorConfig.debug)


# Not among them is what a build without CUDA, or a machine without arithmetic on float16, refuses to change: the
# libraries for linear algebra and BLAS, and how precisely float16 is summed up. No metadata depends on these.
CHANGES = (
    Change("default dtype float64", lambda: _set(torch.set_default_dtype, torch.float64, torch.get_default_dtype())),
    Change("default dtype bfloat16", lambda: _set(torch.set_default_dtype, torch.bfloat16, torch.get_default_dtype())),
    Change("default tensor type", lambda: _tensor_type("torch.DoubleTensor")),
    Change("default device cuda", lambda: torch.device("cuda")),
    Change("default device meta", lambda: torch.device("meta")),
    Change("no grad", torch.no_grad),
    Change("inference mode", torch.inference_mode),
    Change("Python dispatcher", enable_python_dispatcher),
    Change("deterministic", lambda: _deterministic(warn_only=False)),
    Change("deterministic, warning only", lambda: _deterministic(warn_only=True)),
    Change("deterministic, memory not filled", lambda: _deterministic(warn_only=False, fill=False)),
    Change("autocast on the CPU", lambda: _autocast("cpu", torch.bfloat16)),
    Change("autocast on CUDA", lambda: _autocast("cuda", torch.float16)),
    Change("attention by mathematics", lambda: _sdpa(SDPBackend.MATH)),
    Change("flash attention", lambda: _sdpa(SDPBackend.FLASH_ATTENTION)),
    Change("memory-efficient attention", lambda: _sdpa(SDPBackend.EFFICIENT_ATTENTION)),
    Change("attention of cuDNN", lambda: _sdpa(SDPBackend.CUDNN_ATTENTION)),
    Change("other order of attention", lambda: _sdpa(SDPBackend.MATH, SDPBackend.FLASH_ATTENTION)),
    _flipped("overrideable_sdp_enabled", "_set_sdp_use_overrideable"),
    _flipped("fa3_sdp_enabled", "_set_sdp_use_fa3"),
    *([_flipped("fa4_sdp_enabled", "_set_sdp_use_fa4")] if AT_LEAST_2_15 else []),
    _flipped("cudnn_enabled"),
    _flipped("mkldnn_enabled"),
    _flipped("nnpack_enabled"),
    _together(
        "how kernels compute, and how precisely",
        _flipped("math_sdp_allow_fp16_bf16_reduction"),
        _flipped("cudnn_benchmark"),
        _flipped("cudnn_deterministic"),
        _flipped("cudnn_allow_tf32"),
        _flipped("mkldnn_deterministic"),
        _flipped("miopen_immediate"),
        _flipped("cublas_allow_tf32"),
        _flipped("cublas_allow_fp16_accumulation"),
        _other("float32_matmul_precision", "medium"),
        _other("cudnn_depthwise_kernel", "cudnn"),
        Change("TF32 in convolutions of oneDNN", lambda: _fp32_precision("mkldnn", "conv", "tf32")),
        Change("TF32 everywhere", lambda: _fp32_precision("generic", "all", "tf32")),
        Change("one thread", lambda: _set(torch.set_num_threads, 1, torch.get_num_threads())),
    ),
    _together(
        "what belongs to autograd, to warnings and to other kinds of tensor",
        Change("anomaly mode", _anomaly),
        Change("no forward gradients", lambda: torch.autograd.forward_ad._set_fwd_grad_enabled(False)),
        Change("replayed views", lambda: torch.autograd._force_original_view_tracking(True)),
        Change("checks of sparse tensors", lambda: torch.sparse.check_sparse_tensor_invariants(True)),
        Change("warnings always", lambda: _set(torch.set_warn_always, True, False)),
        Change("no cache of autocast", lambda: _set(torch.set_autocast_cache_enabled, False, True)),
        Change("no fast path of attention", lambda: _set(torch.backends.mha.set_fastpath_enabled, False, True)),
        Change("descriptions of new tensors", lambda: _set_debug(True)),
    ),
    _entry(functorch_config, "fake_tensor_prefer_device_type", "cuda"),
    _entry(functorch_config, "fake_tensor_prefer_device_type", "cpu"),
    _entry(symbolic_config, "backed_size_oblivious", True),
    _entry(symbolic_config, "skip_dtype_check_in_meta_registrations", True),
    _all_other_entries(functorch_config, *_OWN_CHANGE),
    _all_other_entries(symbolic_config, *_OWN_CHANGE),
    _all_other_entries(dynamo_config, *_OWN_CHANGE),
)
