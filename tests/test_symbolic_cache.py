"""The cache as its user sees it: one for static and for symbolic shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from symbolic_tensors import (
    assert_as_computed,
    describe,
    dynamic,
    hits,
    hits_in,
    misses,
    shape_env_of,
    size,
    symbolic_mode,
)

import fastfake
from fastfake import _C, FakeTensorMode
from fastfake.cache_entries import SymbolStub
from fastfake.miss import pipeline

aten = torch.ops.aten


@pytest.fixture
def mode() -> Iterator[FakeTensorMode]:
    """An active mode with a ShapeEnv, and an empty cache."""
    with symbolic_mode() as active:
        dynamic(active, 4, 6)
        FakeTensorMode.cache_clear()
        yield active
    FakeTensorMode.cache_clear()


@pytest.fixture
def limit() -> Iterator[None]:
    before = fastfake.cache_limit()
    yield
    fastfake.set_cache_limit(before)
    FakeTensorMode.cache_clear()


def entries_of(name: str) -> list[Any]:
    """The entries of an operator, read through the view."""
    view: Any = FakeTensorMode.cache
    return [view[key] for key in view if str(key.key[0]) == name]


def test_symbolic_calls_count_like_others(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    plain = torch.empty(4, 6)
    FakeTensorMode.cache_clear()
    for _ in range(3):
        x.add_(1), plain.add_(1)
    info = FakeTensorMode.cache_info()
    assert (info.hits, info.misses, info.bypasses, info.size) == (4, 2, {}, 2)
    assert len(FakeTensorMode.cache) == 2
    assert (FakeTensorMode.cache_hits, FakeTensorMode.cache_misses) == (4, 2)


def test_a_clear_drops_both_kinds_and_what_symbols_were_called_stays_right(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    plain = torch.empty(4, 6)
    for _ in range(3):
        for _ in range(2):
            x[1:], plain[1:]
        FakeTensorMode.cache_clear()
        info = FakeTensorMode.cache_info()
        assert (info.hits, info.misses, info.size) == (0, 0, 0)
        assert describe(x[1:].shape)[0][3] == 3
        assert misses() > 0


def test_the_view_shows_where_the_integers_of_a_result_come_from(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    for _ in range(2):
        aten.t.default(x)
        x[1:]
        aten._unsafe_view.default(x, [-1])
        torch.cat([x, x])
    (slices,) = entries_of("aten.slice.Tensor")
    (info,) = slices.output_infos
    assert info.metadata.shape == (SymbolStub("new", 0), SymbolStub("argument", _index_of(x, 1)))
    assert isinstance(info.metadata.stride[0], SymbolStub)
    assert info.metadata.stride[1] == 1
    assert isinstance(info.metadata.storage_offset, SymbolStub)
    assert info.view_idx == 0
    assert info.metadata.memory_format is None
    (flat,) = entries_of("aten._unsafe_view.default")
    assert flat.output_infos[0].metadata.shape == (SymbolStub("numel", 0),)
    (joined,) = entries_of("aten.cat.default")
    assert joined.output_infos[0].metadata.storage_bytes.source == "new"
    assert joined.output_infos[0].view_idx is None


def _index_of(x: torch.Tensor, dim: int) -> int:
    """Which of the distinct nodes of a key a size is: bytes, offset, sizes, strides."""
    seen: list[Any] = []
    for number in (x.untyped_storage().nbytes(), x.storage_offset(), *x.shape):
        if isinstance(number, torch.SymInt) and not any(number.node is node for node in seen):
            seen.append(number.node)
    return next(i for i, node in enumerate(seen) if node is x.shape[dim].node)


def test_every_entry_can_be_read(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    for _ in range(3):
        x.max(1), x.unbind(0), x.add_(1), x @ x.t(), torch.full([2], x.shape[0] / 3), x.view(-1), torch.empty(3)
        torch.add(x, 1, out=torch.empty(x.shape))
    view: Any = FakeTensorMode.cache
    keys = list(view)
    assert len(keys) == len(view) == size()
    for key in keys:
        assert key in view
        assert repr(view[key])


def test_a_numeric_result_is_a_stub_in_the_view(mode: FakeTensorMode) -> None:
    library = torch.library.Library("aten", "FRAGMENT")
    library.define("fastfake_doubles(Tensor x) -> SymInt")
    library.impl("fastfake_doubles", lambda x: x.shape[0] * 2, "Meta")
    try:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            assert torch.ops.aten.fastfake_doubles(x).node.hint == 8
        (entry,) = entries_of("aten.fastfake_doubles.default")
        assert entry.output_infos[0].constant_value == SymbolStub("new", 0)
    finally:
        library._destroy()


def test_one_entry_can_be_dropped(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    x.sin(), x.cos(), x.tan()
    for name in ("sin", "tan", "cos"):
        key: Any = mode._cache_key(None, getattr(aten, name).default, (x,), {})
        assert key in FakeTensorMode.cache
        before = size()
        fastfake.cache_entries.evict_fake_tensor_cache_key(key)  # type: ignore[attr-defined]
        assert key not in FakeTensorMode.cache
        assert size() == before - 1
    before = misses()
    x.sin(), x.cos(), x.tan()
    assert misses() == before + 3
    int(x.shape[0])  # drops by scope what is left
    assert hits_in(lambda: x.sin()) == 0


def test_the_limit_is_one_for_both_kinds(mode: FakeTensorMode, limit: None) -> None:
    x = dynamic(mode, 4, 6)
    plain = torch.empty(4, 6)
    for number in range(300):
        x.new_empty(number), plain.new_empty(number), x.new_empty(x.shape[0], number)
    assert size() > 800
    held = _C.cache_bytes()
    for lower in (held // 2, held // 8):
        fastfake.set_cache_limit(lower)
        assert _C.cache_bytes() <= lower
        assert 0 < size() < 800
    # Goes on under the limit, and news and clears find only what is there.
    for number in range(300):
        x.new_empty(x.shape[1], number), plain.new_empty(number + 300)
        assert _C.cache_bytes() <= held // 8
    int(x.shape[0])
    assert hits_in(lambda: x.sin()) == 0
    assert hits_in(lambda: x.sin()) == 1
    fastfake.set_cache_limit(0)
    assert size() == 0
    assert hits_in(lambda: (x.sin(), x.sin())) == 0
    int(x.shape[1])
    assert x.sin().shape is not None


def test_answers_that_are_used_outlast_others(mode: FakeTensorMode, limit: None) -> None:
    x = dynamic(mode, 4, 6)
    plain = torch.empty(4, 6)
    x.sin(), plain.sin()
    fastfake.set_cache_limit(256 << 10)
    for number in range(2_000):
        x.new_empty(number, x.shape[0])
        assert hits_in(lambda: (x.sin(), plain.sin())) == 2
    assert size() < 2_000


def test_symbolic_entries_count_what_they_hold(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    before = _C.cache_bytes(), size()
    for number in range(1_000):
        x.new_empty(number, x.shape[0])
    entries = size() - before[1]
    assert entries >= 1_000
    held = (_C.cache_bytes() - before[0]) / entries
    assert 300 < held < 3_000


def test_a_mode_without_a_cache_neither_fills_nor_reads_it(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    x.sin()
    mode.cache_enabled = False
    before = size(), hits()
    x.sin(), x.cos()
    assert (size(), hits()) == before
    mode.cache_enabled = True
    assert hits_in(lambda: x.sin()) == 1


def falsify(monkeypatch: pytest.MonkeyPatch, instead: Any) -> None:
    """From now on the cosine is computed as something else."""
    run = pipeline.run

    def falsified(mode: FakeTensorMode, func: Any, args: Any, kwargs: Any) -> object:
        if func is aten.cos.default:
            with mode:
                return instead(*args)
        return run(mode, func, args, kwargs)

    monkeypatch.setattr(pipeline, "run", falsified)


@pytest.mark.parametrize(
    "instead",
    [
        pytest.param(lambda x: x[1:], id="size"),
        pytest.param(lambda x: x.clone().t(), id="order of sizes"),
        pytest.param(lambda x: x.new_empty(x.shape[1] * 2).as_strided(x.shape, x.stride()), id="bytes of the storage"),
        pytest.param(lambda x: torch.empty(x.shape, dtype=torch.float64), id="dtype"),
        pytest.param(lambda x: torch.empty(4, 6), id="numbers in place of symbols"),
    ],
)
def test_a_crosscheck_reports_an_answer_that_is_not_what_is_computed(
    mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, instead: Any
) -> None:
    x = dynamic(mode, 4, 6)
    with torch.no_grad():
        x.cos()
        mode.cache_crosscheck_enabled = True
        assert describe(x.cos().shape) == describe(x.shape)
        falsify(monkeypatch, instead)
        with pytest.raises(RuntimeError, match="crosscheck failure: func=aten::cos"):
            x.cos()
    assert mode.cache_enabled
    assert torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is mode
    monkeypatch.undo()
    assert describe(x.cos().shape) == describe(x.shape)


def test_a_crosscheck_adds_no_guard_and_changes_no_answer() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        mode.cache_crosscheck_enabled = mode.cache_enabled
        x = dynamic(mode, 4, 4)
        for _ in range(4):
            yield x + x.t(), x.split([1, 3]), x[1:], x.view(-1), x.add_(1), x.max(0)

    counts = assert_as_computed(program)
    assert counts[-1] >= 6


def test_answers_survive_an_uninstallation() -> None:
    was_installed = fastfake.is_installed()
    mode = symbolic_mode()
    with mode:
        x = dynamic(mode, 4, 6)
        x.sin()
    fastfake.uninstall()
    try:
        with mode:
            assert hits_in(lambda: x.sin()) == 1
        assert shape_env_of(mode) is mode.shape_env
    finally:
        if was_installed:
            fastfake.install()
        else:
            fastfake.uninstall()


def test_a_registration_drops_symbolic_answers_too(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    x.sin()
    assert hits_in(lambda: x.sin()) == 1
    library = torch.library.Library("aten", "FRAGMENT")
    library.define("fastfake_nothing(Tensor x) -> Tensor")
    library.impl("fastfake_nothing", lambda x: x.clone(), "Meta")
    try:
        assert hits_in(lambda: x.sin()) == 0
        assert hits_in(lambda: x.sin()) == 1
        int(x.shape[0])
        assert hits_in(lambda: x.sin()) == 0
    finally:
        library._destroy()
