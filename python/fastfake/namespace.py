"""What stands in `torch._subclasses.fake_tensor` while fastfake is installed, by name."""

from __future__ import annotations

from typing import Any

from . import (
    cache,
    cache_entries,
    converter,
    copy_mode,
    devices,
    errors,
    fake_mode,
    fake_tensor,
    kernel_invocation,
    logs,
    memo,
    metadata,
    queries,
    thread_state,
)
from .miss import decomposition, fallback_kernel, inferred_kernel, operator_traits

__all__ = ["STAY_TORCHS", "replacements"]

_MODULES = (
    cache,
    cache_entries,
    converter,
    copy_mode,
    errors,
    fake_mode,
    fake_tensor,
    kernel_invocation,
    logs,
    memo,
    metadata,
    queries,
)

# Names of torch's module that keep meaning torch's objects: nothing outside of the module uses them.
STAY_TORCHS = frozenset(
    {
        "T",
        "_FakeTensorConstructorIgnoredState",
        "_check_for_subclass",
        "_check_for_subclass_arg",
        "_dispatch_keys_has_mkldnn",
        "_pin_device_index",
        "_device_handler",
        "_is_indexed_device_type",
        "_is_plain_tensor",
        "_set_cache_key",
        "_set_cache_key_for_shape_env",
        "_validate_symbolic_output_for_caching",
    }
)


def replacements() -> dict[str, Any]:
    """Map the names that torch's module gives to our objects for them."""
    named = {name: getattr(module, name) for module in _MODULES for name in module.__all__}
    named |= {
        "FakeTensorTLS": thread_state.FakeTensorTLS,
        "fake_tensor_tls": thread_state.fake_tensor_tls,
        "_infer_fake_from_real_tensor": inferred_kernel.infer_tensor,
        "get_schema_info": operator_traits.schema_info,
        "inferred_fake_kernel_from_real_out": inferred_kernel.infer_result,
        "init_gpu_context": devices.init_gpu_context,
        "run_fallback_kernel": fallback_kernel.run_fallback_kernel,
        "should_allow_numbers_as_tensors": devices.should_allow_numbers_as_tensors,
        "torch_decomp_decompositions": decomposition.torch_decomp_decompositions,
    }
    return named
