"""The dispatch cache: what is answered from it, what is not, how it is bounded and what it keeps alive."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import both_sides
import pytest
import torch
import torch._functorch.config as functorch_config
import torch.fx.experimental._config as experimental_config
from torch._dispatch.python import enable_python_dispatcher
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastfake import _C, FakeTensorMode, disable_fake_tensor_cache

aten = torch.ops.aten


def hits_of(call: Callable[[], object]) -> int:
    """How many of the dispatches of one call the cache answers, once it was called before."""
    call()
    before = FakeTensorMode.cache_info()
    call()
    after = FakeTensorMode.cache_info()
    assert after.misses == before.misses
    return after.hits - before.hits


def bypasses_of(call: Callable[[], object]) -> dict[str, int]:
    """The reasons for which dispatches of one call bypass the cache."""
    before = FakeTensorMode.cache_info().bypasses
    call()
    after = FakeTensorMode.cache_info().bypasses
    return {reason: count - before.get(reason, 0) for reason, count in after.items() if count > before.get(reason, 0)}


def test_the_catch_all_kernel_stands_at_the_fake_key_of_every_operator() -> None:
    for name in ("aten::add.Tensor", "aten::mm", "aten::_unsafe_view"):
        table = torch._C._dispatch_dump_table(name)
        line = next(line for line in table.splitlines() if line.startswith("Fake:"))
        assert "fallback" in line and "fake_kernel.cpp" in line


def test_a_hit_runs_no_python_function(mode: FakeTensorMode) -> None:
    x, y = torch.empty(3, 4), torch.empty(4)
    torch.add(x, y)
    called = []
    sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        torch.add(x, y)
        x.t().relu_()
        x.detach()
        assert x.device.type == "cpu"
    finally:
        sys.setprofile(None)
    # `t` and `relu_` were new: their misses show that Python calls are seen at all.
    assert "__torch_dispatch__" in called
    called.clear()
    sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        torch.add(x, y)
        x.t().relu_()
        x.detach()
        assert x.device.type == "cpu"
    finally:
        sys.setprofile(None)
    assert called == []


def test_a_hit_allocates_no_python_object_but_its_result(mode: FakeTensorMode) -> None:
    x, y = torch.empty(3, 4), torch.empty(4)
    kept = [torch.add(x, y) for _ in range(64)]
    gc.collect()
    gc.disable()
    try:
        slots: list[object] = [None] * 1000
        before = sys.getallocatedblocks()
        for i in range(1000):
            slots[i] = torch.add(x, y)
        after = sys.getallocatedblocks()
    finally:
        gc.enable()
    # One block is the FakeTensor itself; a second object for each call would make 2000. The few beyond are
    # the loop's own integers and free lists.
    assert 1000 <= after - before < 1100
    assert len(kept) == 64


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: x.view(12), id="view"),
        pytest.param(lambda x: aten._unsafe_view.default(x, [12]), id="unsafe view, which torch never caches"),
        pytest.param(lambda x: x.split(1), id="list of views"),
        pytest.param(lambda x: x.max(dim=1), id="two results"),
        pytest.param(lambda x: x.add_(1), id="in place"),
        pytest.param(lambda x: torch.add(x, 1, out=torch.empty(3, 4)), id="out"),
        pytest.param(lambda x: torch._foreach_add([x, x], 1.0), id="foreach"),
        pytest.param(lambda x: torch.rand(3), id="random factory"),
    ],
)
def test_calls_of_every_form_are_answered_from_the_cache(
    mode: FakeTensorMode, call: Callable[[torch.Tensor], object]
) -> None:
    x = torch.empty(3, 4)
    assert hits_of(lambda: call(x)) > 0
    assert bypasses_of(lambda: call(x)) == {}


def test_views_from_the_cache_share_the_storage_of_their_argument(mode: FakeTensorMode) -> None:
    for _ in range(2):
        x = torch.empty(3, 4)
        a, b = x.split(2)[0], aten._unsafe_view.default(x, [12])
        assert a.untyped_storage()._cdata == x.untyped_storage()._cdata == b.untyped_storage()._cdata
    assert FakeTensorMode.cache_info().hits > 0


def test_numbers_differ_in_the_key_by_type_and_by_bits(mode: FakeTensorMode) -> None:
    x = torch.empty(3, dtype=torch.int32)
    assert (x + 1).dtype == torch.int32
    assert (x + 1.0).dtype == torch.float32
    assert (x + True).dtype == torch.int32
    misses = FakeTensorMode.cache_info().misses
    y = torch.empty(3)
    for value in (0.0, -0.0, float("nan"), float("inf")):
        y.clamp(value)
    # One for `empty`, and one for each value.
    assert FakeTensorMode.cache_info().misses == misses + 5
    y.clamp(float("nan"))
    assert FakeTensorMode.cache_info().misses == misses + 5


def test_equal_shapes_with_other_aliasing_are_other_calls(mode: FakeTensorMode) -> None:
    x, y = torch.empty(4), torch.empty(4)
    view = x.view(4)
    aten.mul.Tensor(x, y)
    for other in (x, view):
        misses = FakeTensorMode.cache_info().misses
        aten.mul.Tensor(x, other)
        assert FakeTensorMode.cache_info().misses > misses
        misses = FakeTensorMode.cache_info().misses
        aten.mul.Tensor(x, other)
        assert FakeTensorMode.cache_info().misses == misses


def test_long_lists_keep_apart_which_tensors_repeat(mode: FakeTensorMode) -> None:
    tensors = [torch.empty(2) for _ in range(40)]
    results = torch._foreach_add(tensors, tensors)
    assert len({id(r) for r in results}) == 40
    misses = FakeTensorMode.cache_info().misses
    torch._foreach_add(tensors, [*tensors[1:], tensors[0]])
    assert FakeTensorMode.cache_info().misses > misses
    again = torch._foreach_add(tensors, tensors)
    assert len({t.untyped_storage()._cdata for t in again}) == 40


KEYS_OF_MKLDNN = torch._C._dispatch_keys(torch.ones(2).to_mkldnn())


def in_layout_of_mkldnn(fake: Any) -> torch.Tensor:
    fake.dispatch_keys = KEYS_OF_MKLDNN
    return fake


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: x.transpose_(0, 1), "inplace view"),
        (lambda x: in_layout_of_mkldnn(x).sin(), "mkldnn tensor"),
        (lambda x: torch.ops.aten.lift_fresh(x), "lift"),
        (lambda x: torch.tensor(1.0) + torch.tensor(2.0), "constant attribute"),
        (lambda x: x.resize_(2), "inplace view"),
        (lambda x: torch.add(x, 1, out=torch.empty(0)), "arguments changed"),
    ],
)
def test_what_cannot_be_cached_is_counted_with_its_reason(
    mode: FakeTensorMode, call: Callable[[torch.Tensor], object], reason: str
) -> None:
    for _ in range(2):
        assert bypasses_of(lambda: call(torch.empty(3, 4))).get(reason, 0) == 1


def test_a_zero_tensor_of_autograd_is_cached_where_torch_gives_up() -> None:
    def program(fakes: Any) -> Any:
        fakes.FakeTensorMode.cache_clear()
        with fakes.FakeTensorMode():
            return [torch._efficientzerotensor((3,)) for _ in range(2)], fakes.FakeTensorMode.cache_info()

    ours, theirs = both_sides.on_ours(program), both_sides.on_torch(program)
    assert ours[0] == theirs[0]
    assert ours[1].hits == 1
    assert theirs[1].bypasses == {"dispatch_key_set mismatch": 2}


def test_an_out_argument_is_resized_every_time(mode: FakeTensorMode) -> None:
    for _ in range(3):
        out = torch.empty(0)
        assert torch.add(torch.empty(3, 4), 1, out=out) is out
        assert out.shape == (3, 4)


def test_a_mode_without_cache_neither_reads_nor_fills_it(mode: FakeTensorMode) -> None:
    x = torch.empty(3)
    before = FakeTensorMode.cache_info()
    with disable_fake_tensor_cache(mode):
        assert not mode.cache_enabled
        x.sin()
        x.sin()
    assert mode.cache_enabled
    assert FakeTensorMode.cache_info() == before


def test_errors_are_raised_again_and_not_cached(mode: FakeTensorMode) -> None:
    x, y = torch.empty(3), torch.empty(4)
    texts = []
    for _ in range(3):
        with pytest.raises(RuntimeError) as caught:
            x + y
        texts.append(str(caught.value))
    assert len(set(texts)) == 1
    assert FakeTensorMode.cache_info().size == 2


def test_thread_settings_are_part_of_the_key(mode: FakeTensorMode) -> None:
    x = torch.empty(3)
    assert not x.sin().is_inference()
    with torch.inference_mode():
        assert x.sin().is_inference()
    assert not x.sin().is_inference()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.empty(3).dtype == torch.float64
        assert (torch.empty(3, dtype=torch.int32) / 2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert (torch.empty(3, dtype=torch.int32) / 2).dtype == torch.float32


def test_attention_settings_are_part_of_the_key_of_attention_operators(mode: FakeTensorMode) -> None:
    query = torch.empty(1, 2, 8, 16)

    def misses_of_choosing() -> int:
        before = FakeTensorMode.cache_info().misses
        torch._fused_sdp_choice(query, query, query)
        return FakeTensorMode.cache_info().misses - before

    assert misses_of_choosing() == 1
    assert misses_of_choosing() == 0
    with sdpa_kernel(SDPBackend.MATH):
        assert misses_of_choosing() == 1
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True):
        assert misses_of_choosing() == 1
    assert misses_of_choosing() == 0


@pytest.mark.parametrize(
    ("call", "settings"),
    [
        pytest.param(lambda x: torch.empty(()).expand(2, 1).stride(), enable_python_dispatcher, id="Python dispatcher"),
        pytest.param(
            lambda x: torch.empty_strided((1, 2, 4), (4, 4, 1)).view(1, 2, 1, 4).stride(),
            lambda: experimental_config.patch(backed_size_oblivious=True),
            id="backed sizes oblivious",
        ),
        pytest.param(
            lambda x: error_of(lambda: torch.baddbmm(torch.empty(1, 2, 2).half(), *[torch.empty(1, 2, 2)] * 2)),
            lambda: experimental_config.patch(skip_dtype_check_in_meta_registrations=True),
            id="no dtype check",
        ),
        pytest.param(
            lambda x: error_of(lambda: x + torch.empty(5, device="cuda")),
            lambda: functorch_config.patch(fake_tensor_prefer_device_type="cuda"),
            id="preferred device",
        ),
        pytest.param(
            lambda x: error_of(lambda: x + torch.empty(5, device="cuda")),
            lambda: functorch_config.patch(fake_tensor_prefer_device_type="cpu"),
            id="other preferred device",
        ),
    ],
)
def test_what_kernels_and_decompositions_read_is_part_of_the_key(
    mode: FakeTensorMode,
    call: Callable[[torch.Tensor], object],
    settings: Callable[[], AbstractContextManager[object]],
) -> None:
    x = torch.empty(5)
    with disable_fake_tensor_cache(mode):
        otherwise = call(x)
        with settings():
            within = call(x)
    assert within != otherwise
    for _ in range(2):
        assert call(x) == otherwise
        with settings():
            assert call(x) == within


def error_of(call: Callable[[], torch.Tensor]) -> str:
    try:
        return str(call().device)
    except RuntimeError as error:
        return str(error)


def test_attention_backends_are_part_of_the_key(mode: FakeTensorMode) -> None:
    query = torch.empty(1, 1, 2, 8)

    def choose() -> None:
        torch._fused_sdp_choice(query, query, query)

    assert hits_of(choose) == 1
    orders: list[list[SDPBackend]] = [
        [SDPBackend.MATH],
        [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
        [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION],
    ]
    for backends in orders:
        misses = FakeTensorMode.cache_info().misses
        with sdpa_kernel(backends, set_priority=True):
            choose()
            assert FakeTensorMode.cache_info().misses == misses + 1
            assert hits_of(choose) == 1
    assert hits_of(choose) == 1


def test_what_autograd_knows_of_a_tensor_is_not_answered_from_the_cache(mode: FakeTensorMode) -> None:
    x, y = torch.empty(3), torch.empty(3)
    with torch.inference_mode():
        versions = []
        for _ in range(3):
            versions.append(aten._version(x))
            x.add_(1)
        leaf = torch.empty(3)
        assert versions == [0, 1, 2]
        assert not aten.retains_grad(y)
        with torch.inference_mode(False):
            inner = y.requires_grad_().sin()
            inner.retain_grad()
            other = y.sin()
        assert aten.retains_grad(inner) and not aten.retains_grad(other)
        assert aten.is_leaf(y) and not aten.is_leaf(inner)
        assert aten.is_leaf(leaf)


def test_modes_share_the_cache_but_not_each_others_tensors() -> None:
    FakeTensorMode.cache_clear()
    with FakeTensorMode() as first:
        torch.empty(3).sin()
    misses = FakeTensorMode.cache_info().misses
    with FakeTensorMode() as second:
        result = torch.empty(3).sin()
    assert FakeTensorMode.cache_info().misses == misses
    assert result.fake_mode is second is not first


def test_entries_keep_neither_a_mode_nor_a_tensor_alive() -> None:
    FakeTensorMode.cache_clear()
    mode = FakeTensorMode()
    with mode:
        x = torch.empty(3, 4)
        y = x.t().sin()
    assert FakeTensorMode.cache_info().size > 0
    dead = [weakref.ref(mode), weakref.ref(x), weakref.ref(y)]
    del mode, x, y
    gc.collect()
    assert [reference() for reference in dead] == [None, None, None]


def test_the_cache_stays_within_its_limit_and_keeps_what_is_used(mode: FakeTensorMode) -> None:
    limit = _C.cache_limit()
    try:
        _C.set_cache_limit(64 * 1024)
        used = torch.empty(7, 7)
        for size in range(1, 2000):
            torch.empty(size)
            used.sin()
            assert _C.cache_bytes() <= 64 * 1024
        assert 0 < FakeTensorMode.cache_info().size < 1000
        misses = FakeTensorMode.cache_info().misses
        used.sin()
        assert FakeTensorMode.cache_info().misses == misses
        _C.set_cache_limit(0)
        assert FakeTensorMode.cache_info().size == 0
    finally:
        _C.set_cache_limit(limit)


def test_clearing_the_cache_in_the_middle_of_a_hit_does_no_harm(mode: FakeTensorMode) -> None:
    x = torch.empty(8, 8)

    class ClearsWhenCollected:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            FakeTensorMode.cache_clear()

    threshold = gc.get_threshold()
    gc.set_threshold(3, 2, 2)  # collections happen inside the allocation of results
    try:
        for _ in range(300):
            ClearsWhenCollected()
            pieces = x.split(1)
            assert all(piece.shape == (1, 8) for piece in pieces)
    finally:
        gc.set_threshold(*threshold)


def test_crosscheck_accepts_a_true_cache_and_reports_a_false_one(
    mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode.cache_crosscheck_enabled = True
    x = torch.empty(3, 4)
    for _ in range(2):
        x.view(12).sin()
        x.add_(1)
        x.max(dim=1)
    assert FakeTensorMode.cache_info().hits > 0

    from fastfake.miss import pipeline

    run = pipeline.run
    x.cos()
    monkeypatch.setattr(
        pipeline,
        "run",
        lambda m, func, *rest: run(m, aten.sum.default, *rest) if func is aten.cos.default else run(m, func, *rest),
    )
    with pytest.raises(RuntimeError, match="FakeTensor cache crosscheck failure: func=aten::cos"):
        x.cos()
    assert mode.cache_enabled
    assert torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is mode


def test_an_operator_of_a_library_that_is_gone_leaves_nothing_behind(mode: FakeTensorMode) -> None:
    for dtype in (torch.float32, torch.float64):
        library = torch.library.Library("aten", "FRAGMENT")
        library.define("fastfake_test_op(Tensor x) -> Tensor")
        library.impl("fastfake_test_op", lambda x, dtype=dtype: torch.empty_like(x, dtype=dtype), "Meta")
        operator = torch.ops.aten.fastfake_test_op.default
        for _ in range(2):
            assert operator(torch.empty(3)).dtype == dtype
        library._destroy()
