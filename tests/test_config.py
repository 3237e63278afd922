"""Torch's configuration is read when torch reads it, and what was computed under it does not outlive it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo.config as dynamo_config
import torch._export.config as export_config
import torch._functorch.config as functorch_config
import torch._subclasses.fake_tensor as fake_tensor
from opinfo.programs import attempt, error_of, same_as_torch
from torch import nn

import fastfake
from fastfake import FakeTensorDeviceMismatchError, FakeTensorMode

pytestmark = pytest.mark.usefixtures("quiet_fake_tensor_log")

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    FakeTensorMode.cache_clear()
    yield
    FakeTensorMode.cache_clear()


FLAGS: list[tuple[Any, str, str, bool]] = [
    (dynamo_config, "fake_tensor_cache_enabled", "cache_enabled", False),
    (dynamo_config, "fake_tensor_cache_crosscheck_enabled", "cache_crosscheck_enabled", True),
    (functorch_config, "fake_tensor_allow_meta", "allow_meta", False),
    (functorch_config, "fake_tensor_allow_unsafe_data_ptr_access", "_allow_unsafe_data_ptr_access", False),
    (functorch_config, "fake_tensor_propagate_real_tensors", "propagate_real_tensors", True),
]


@pytest.mark.parametrize(("config", "name", "attribute", "value"), FLAGS, ids=[flag[1] for flag in FLAGS])
def test_a_mode_takes_its_flags_from_the_configuration_when_it_is_made(
    config: Any, name: str, attribute: str, value: bool
) -> None:
    @same_as_torch
    def program(_mode: Any) -> object:
        before = fake_tensor.FakeTensorMode()
        with config.patch(**{name: value}):
            patched = fake_tensor.FakeTensorMode()
            seen = [getattr(before, attribute)]
        after = fake_tensor.FakeTensorMode()
        seen += [getattr(mode, attribute) for mode in (before, patched, after)]
        return [seen, patched.cache_enabled]

    program()


def test_a_mode_made_while_the_cache_is_off_never_uses_it() -> None:
    with dynamo_config.patch(fake_tensor_cache_enabled=False):
        mode = FakeTensorMode()
    with mode:
        for _ in range(2):
            torch.empty(3).sin()
    info = FakeTensorMode.cache_info()
    assert (info.hits, info.misses, info.size) == (0, 0, 0)


def test_a_mode_made_while_the_crosscheck_is_on_checks_every_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    with dynamo_config.patch(fake_tensor_cache_crosscheck_enabled=True):
        mode = FakeTensorMode()
    with mode:
        x = torch.empty(3)
        x.sin()
        x.sin()
        x.cos()
        run = fastfake.miss.pipeline.run
        monkeypatch.setattr(
            fastfake.miss.pipeline,
            "run",
            lambda m, func, *rest: run(m, aten.sum.default if func is aten.cos.default else func, *rest),
        )
        with pytest.raises(RuntimeError, match="FakeTensor cache crosscheck failure: func=aten::cos"):
            x.cos()


@pytest.mark.parametrize("unsafe", [False, True])
def test_the_data_pointer_warns_or_raises_as_configured(unsafe: bool) -> None:
    @same_as_torch
    def program(_mode: Any) -> object:
        with functorch_config.patch(fake_tensor_allow_unsafe_data_ptr_access=unsafe):
            mode = fake_tensor.FakeTensorMode()
        with mode, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensors = [torch.empty(3), torch.empty(3) + 1, torch.empty(3) + 1, torch.empty(3)[1:]]
            return [[attempt(tensor.data_ptr) for tensor in tensors], attempt(lambda: tensors[0].add_(1).data_ptr())]

    program()


@pytest.mark.parametrize("preferred", [None, "cpu", "cuda", "xpu", ""])
def test_the_preferred_device_type_decides_between_devices_at_each_call(preferred: str | None) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        with mode:
            on_cpu, on_cuda, on_other = (torch.ones(3, device=device) for device in ("cpu", "cuda", "cuda:1"))
            on_meta, scalar = torch.ones(3, device="meta"), torch.ones((), device="cuda")
            calls: list[Callable[[], object]] = [
                lambda: on_cpu + on_cuda,
                lambda: on_cuda + on_cpu,
                lambda: on_cuda * on_other,
                lambda: torch.cat([on_cpu, on_cuda, on_cpu]),
                lambda: torch.cat([on_meta, on_cuda]),
                lambda: on_cpu.clone().add_(on_cuda),
                lambda: on_cpu.clone().add_(on_meta),
                lambda: on_cuda + scalar,
                lambda: on_cpu + scalar,
                lambda: torch.nextafter(scalar.cpu(), on_cuda),
                lambda: torch.nn.functional.linear(on_cpu, torch.ones(2, 3, device="cuda")),
                lambda: torch.where(on_cpu > 0, on_cuda, on_cuda),
            ]
            with functorch_config.patch(fake_tensor_prefer_device_type=preferred):
                return [attempt(call) for call in calls]

    program()


@pytest.mark.parametrize("preferred", [{"cpu": 1}, ["cpu"], 1, 0, True, b"cpu"], ids=repr)
def test_a_preference_of_another_type_matters_only_between_devices(preferred: object) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        with mode:
            on_cpu, on_cuda = torch.ones(3), torch.ones(3, device="cuda")
            calls: list[Callable[[], object]] = [
                lambda: on_cpu + 1,
                lambda: on_cpu * on_cpu,
                lambda: torch.cat([on_cuda, on_cuda]),
                lambda: on_cpu + on_cuda,
                lambda: torch.cat([on_cpu, on_cuda]),
            ]
            without = [attempt(call) for call in calls]
            with functorch_config.patch(fake_tensor_prefer_device_type=preferred):
                within = [attempt(call) for call in calls * 2]
            return without, within, [attempt(call) for call in calls]

    program()


def test_calls_under_a_setting_that_cannot_be_compared_are_computed_each_time() -> None:
    FakeTensorMode.cache_clear()
    with FakeTensorMode() as mode:
        on_cpu, on_cuda = torch.ones(3), torch.ones(3, device="cuda")
        with functorch_config.patch(fake_tensor_prefer_device_type="cuda"):
            for _ in range(2):
                assert torch.cat([on_cpu, on_cuda]).device.type == "cuda"
        with functorch_config.patch(fake_tensor_prefer_device_type={"cuda": 1}):
            for _ in range(2):
                with pytest.raises(TypeError):
                    torch.cat([on_cpu, on_cuda])
            hits = FakeTensorMode.cache_info().hits
            on_cpu + 1
            on_cpu + 1
            assert FakeTensorMode.cache_info().hits == hits
        assert FakeTensorMode.cache_info().bypasses["setting of another kind"] == 4
        assert (on_cpu + 1).fake_mode is mode


def test_results_found_by_a_preference_are_not_used_without_it() -> None:
    with FakeTensorMode():
        on_cpu, on_cuda = torch.ones(3), torch.ones(3, device="cuda")
        calls: list[Callable[[], torch.Tensor]] = [
            lambda: on_cpu + on_cuda,
            lambda: torch.cat([on_cpu, on_cuda]),
            # Decomposed: the preference is asked for by a call inside.
            lambda: nn.functional.linear(on_cpu, torch.ones(2, 3, device="cuda"), torch.ones(2)),
        ]
        for call in calls:
            for _ in range(2):
                with pytest.raises(FakeTensorDeviceMismatchError):
                    call()
                for preferred in ("cuda", "cpu"):
                    with functorch_config.patch(fake_tensor_prefer_device_type=preferred):
                        assert call().device.type == preferred
                        assert call().device.type == preferred


def test_calls_on_one_device_are_cached_whatever_the_preference() -> None:
    with FakeTensorMode(), functorch_config.patch(fake_tensor_prefer_device_type="cuda"):
        x, scalar = torch.ones(3, device="cuda"), torch.ones(())
        x * scalar
        before = FakeTensorMode.cache_info()
        x * scalar
        after = FakeTensorMode.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_a_profile_of_a_custom_operator_stands_in_while_it_is_configured() -> None:
    with torch.library._scoped_library("fastfake_config", "FRAGMENT") as library:
        library.define("profiled(Tensor x, int size) -> Tensor")
        operator = torch.ops.fastfake_config.profiled

        def generic_fake_kernel(func: Any, mode: Any, x: torch.Tensor, size: int) -> torch.Tensor:
            with mode:
                return x.new_empty(size)

        profiles = SimpleNamespace(data={operator.default: ()}, generic_fake_kernel=generic_fake_kernel)

        @same_as_torch
        def program(mode: Any) -> object:
            with mode:
                x = torch.ones(2, device="cuda")
                before = error_of(lambda: operator(x, 5))
                with dynamo_config.patch(_custom_ops_profile=profiles):
                    inside = [operator(x, 5), operator(x, 6)]
                after = error_of(lambda: operator(x, 5))
            return [before, inside, after]

        program()


def alive_and_tracked() -> list[torch.Tensor]:
    gc.collect()
    tracked = fake_tensor.fake_tensor_tls.non_strict_export_fake_tensor_tracker
    return sorted(tracked, key=lambda tensor: tensor.numel())


@pytest.mark.exhaustive
@same_as_torch
def test_fake_tensors_made_during_an_export_are_tracked_where_that_is_configured(_mode: Any) -> object:
    fake_tensor.fake_tensor_tls.non_strict_export_fake_tensor_tracker.clear()
    exporting = torch._export.utils._compiling_state_context

    def kept(mode: Any) -> list[torch.Tensor]:
        with mode:
            x = torch.ones(2)
            return [x, torch.cat([x, x]), torch.cat([x, x, x]), torch.ones(5).detach(), torch.ones(4, 4)[1:]]

    # Filled first, so that what is tracked next would come from the cache.
    ordinary = kept(fake_tensor.FakeTensorMode())
    with export_config.patch(detect_non_strict_fake_tensor_leaks=True):
        not_exporting = kept(fake_tensor.FakeTensorMode())
        none = alive_and_tracked()
        with exporting():
            mode = fake_tensor.FakeTensorMode()
            tensors = kept(mode)
            some = alive_and_tracked()
    with exporting():
        untracked = kept(mode)
    later = alive_and_tracked()
    fake_tensor.fake_tensor_tls.non_strict_export_fake_tensor_tracker.clear()
    return [ordinary, not_exporting, none, tensors, some, untracked, later]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@same_as_torch
def test_an_export_reports_the_fake_tensors_that_a_model_keeps(_mode: Any) -> object:
    kept: list[torch.Tensor] = []

    class Keeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.sin()
            kept.append(y.cos())
            return y + 1

    with export_config.patch(detect_non_strict_fake_tensor_leaks=True), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.export.export(Keeps(), (torch.ones(3),), strict=False)
    leaks = [str(w.message).splitlines()[0] for w in caught if "Detected" in str(w.message)]
    return [kept, leaks]
