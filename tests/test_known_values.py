"""Under a mode with `known_values` small tensors have the values of real ones, and no other metadata than ever."""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from both_sides import describe, fake_ones
from hypothesis import given, settings
from hypothesis import strategies as st
from opinfo.random_programs import OPERATIONS, START_SHAPES, Instruction, execute
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

import fastfake
from fastfake import DynamicOutputShapeException, FakeTensorMode

aten = torch.ops.aten


def known(fake: torch.Tensor) -> torch.Tensor | None:
    return fake.constant  # type: ignore[attr-defined]


def metadata(results: object) -> object:
    """What can be seen of tensors apart from values."""

    def is_tensor(described: object) -> bool:
        return isinstance(described, list) and bool(described) and described[0] in ("FakeTensor", "Parameter")

    def without_value(described: Any) -> Any:
        return described[:-2] if is_tensor(described) else described

    return pytree.tree_map(without_value, describe(results), is_leaf=is_tensor)


def values(results: object) -> list[object]:
    """The values of tensors, and other results as they are; real tensors are their own values."""

    def value(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        real = known(leaf) if isinstance(leaf, fastfake.FakeTensor) else leaf
        return None if real is None else (real.dtype, repr(real.detach().resolve_conj().resolve_neg().tolist()))

    return [value(leaf) for leaf in pytree.tree_leaves(results)]


def check(program: Callable[[], object]) -> None:
    """Check values against a real run, metadata against a run without known values; twice, for the cache."""
    expected = values(program())
    for _ in range(2):
        with FakeTensorMode():
            plain = metadata(program())
        with FakeTensorMode(known_values=True):
            results = program()
        assert values(results) == expected
        assert metadata(results) == plain


def written_through_view() -> object:
    base = torch.zeros(4, 3)
    row, column = base[1], base[:, 2]
    row.fill_(5.0)
    column.add_(torch.arange(4))
    return base, row, column, base.sum()


def written_by_index() -> object:
    t = torch.zeros(5, dtype=torch.long)
    t[1] = 3
    t[torch.tensor([2, 3])] = torch.tensor([7, 8])
    t[t == 0] = -1
    return t


def changed_metadata() -> object:
    t = torch.arange(6).view(2, 3)
    t.t_()
    t.unsqueeze_(0)
    return t, t[0]


def window_mask() -> object:
    mask = torch.zeros(1, 8, 8, 1)
    number = 0
    for rows in (slice(0, -4), slice(-4, -2), slice(-2, None)):
        for columns in (slice(0, -4), slice(-4, -2), slice(-2, None)):
            mask[:, rows, columns, :] = number
            number += 1
    return mask


def with_out() -> object:
    out = torch.zeros(3)
    return torch.add(torch.ones(3), torch.arange(3), out=out), out


def foreach() -> object:
    steps = [torch.tensor(0.0), torch.ones(3)]
    torch._foreach_add_(steps, 1)
    return steps, torch._foreach_mul(steps, 2.0)


def several_on_one_storage() -> object:
    first, second = torch.arange(6.0).split(3)
    first.neg_()
    return first, second


PROGRAMS = {
    "arange": lambda: torch.arange(2, 9, 2),
    "linspace": lambda: torch.linspace(0, 0.3, 7),
    "logspace": lambda: torch.logspace(0, 2, 3),
    "zeros": lambda: torch.zeros(2, 3),
    "ones": lambda: torch.ones(3, dtype=torch.int16),
    "full": lambda: torch.full((2, 2), 7),
    "eye": lambda: torch.eye(3),
    "tril_indices": lambda: torch.tril_indices(3, 3),
    "tensor": lambda: torch.tensor([[1, 2], [3, 4]]),
    "empty list": lambda: torch.tensor([]),
    "scalar_tensor": lambda: torch.scalar_tensor(3.5),
    "window": lambda: torch.hann_window(8),
    "like": lambda: (
        torch.zeros_like(torch.empty(3)),
        torch.empty(3).new_full((2,), 4),
        torch.full_like(torch.rand(2), 9),
    ),
    "numbers for tensors": lambda: torch.add(1, 2),
    "arithmetic": lambda: torch.arange(5) * 2 - torch.ones(5),
    "matmul": lambda: torch.eye(3) @ torch.arange(9.0).view(3, 3),
    "reduction": lambda: (torch.arange(12).view(3, 4).sum(1), torch.arange(4.0).mean()),
    "several results": lambda: torch.tensor([3.0, 1.0, 2.0]).sort(),
    "stack": lambda: torch.stack(
        [x.reshape(-1) for x in torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")]
    ),
    "cat": lambda: torch.cat([torch.zeros(2), torch.ones(3)]),
    "cast": lambda: torch.arange(3).to(torch.float64),
    "view": lambda: torch.arange(6).view(2, 3).transpose(0, 1)[1:],
    "expand": lambda: torch.arange(3).expand(4, 3) + 1,
    "conj": lambda: torch.tensor([1 + 2j, 3j]).conj(),
    "imag of conj": lambda: torch.tensor([1 + 2j, 3j]).conj().imag,
    "gather": lambda: torch.arange(10)[torch.tensor([3, 3, 0])],
    "where": lambda: torch.where(torch.arange(4) > 1, torch.arange(4), -1),
    "cumsum": lambda: torch.arange(5).cumsum(0).flip(0),
    "pad": lambda: torch.nn.functional.pad(torch.ones(2), (1, 1)),
    "interpolate": lambda: torch.nn.functional.interpolate(torch.arange(4.0).view(1, 1, 2, 2), scale_factor=2),
    "contiguous": lambda: torch.arange(6).view(2, 3).t().contiguous(),
    "channels last": lambda: torch.ones(1, 2, 3, 3).contiguous(memory_format=torch.channels_last) * 2,
    "requires grad": lambda: (torch.arange(3.0, requires_grad=True) * 2).detach(),
    "parameter": lambda: torch.nn.Parameter(0.5 * torch.ones(3)).data,
    "data": lambda: torch.ones(3).data.mul_(3),
    "inference": lambda: torch.inference_mode()(lambda: torch.arange(3).add_(1).view(3, 1))(),
    # Of other operators, which the mode sees too.
    "composite in place": lambda: torch.inference_mode()(lambda: (torch.arange(4.0) + 2).square_().multiply_(3))(),
    "written through view": written_through_view,
    "written by index": written_by_index,
    "changed metadata": changed_metadata,
    "window mask": window_mask,
    "out": with_out,
    "foreach": foreach,
    "several on one storage": several_on_one_storage,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_are_those_of_a_real_run_and_metadata_those_of_a_run_without_values(name: str) -> None:
    check(PROGRAMS[name])


def control_flow() -> list[int]:
    t, steps = torch.tensor(27), []
    while t != 1:
        t = t // 2 if t % 2 == 0 else 3 * t + 1
        steps.append(int(t))
    return steps


READS: dict[str, Callable[[], object]] = {
    "tolist": lambda: torch.linspace(0, 0.1, 12).tolist(),
    "each element": lambda: [x.item() for x in torch.linspace(0, 0.1, 12)],
    "chunks": lambda: [x.tolist() for x in torch.linspace(0, 0.1, 12).split([3, 4, 5])],
    "nested list": lambda: torch.arange(6).view(2, 3).tolist(),
    "item": lambda: (torch.arange(4).sum().item(), torch.ones(()).item(), torch.tensor([True]).item()),
    "numbers": lambda: (int(torch.ones(1)), float(torch.full((), 2)), bool(torch.zeros(1)), complex(torch.ones(()))),
    "range": lambda: list(range(torch.arange(5).max())),
    "formatted": lambda: f"{torch.ones(()).sum():.2f} {torch.tensor(3)}",
    "control flow": control_flow,
    "equal": lambda: (
        torch.equal(torch.arange(3), torch.tensor([0, 1, 2])),
        torch.allclose(torch.ones(2), torch.zeros(2)),
    ),
    "unique": lambda: torch.tensor([3, 1, 3, 2]).unique(return_inverse=True, return_counts=True),
    "unique_consecutive": lambda: torch.tensor([3, 3, 1]).unique_consecutive(),
    "nonzero": lambda: (torch.arange(4) % 2).nonzero(),
    "nonzero tuple": lambda: torch.eye(3).nonzero(as_tuple=True),
    "masked_select": lambda: torch.arange(4).masked_select(torch.arange(4) > 1),
    "mask": lambda: torch.arange(4)[torch.tensor([True, False, True, False])],
    "bincount": lambda: torch.bincount(torch.tensor([1, 1, 4])),
    "repeat_interleave": lambda: torch.repeat_interleave(torch.arange(3), torch.tensor([2, 0, 3])),
    "one_hot": lambda: torch.nn.functional.one_hot(torch.tensor([0, 2, 1])),
    "size": lambda: torch.ones(torch.tensor(3), torch.arange(5)[2]).shape,
    "split": lambda: [part.shape for part in torch.ones(9).split(torch.tensor([2, 3, 4]).tolist())],
    "histogram": lambda: torch.histc(torch.arange(4.0), 4).tolist(),
    "contains": lambda: 3 in torch.arange(5),
}


@pytest.mark.parametrize("name", READS)
def test_what_depends_on_elements_is_what_a_real_run_gives(name: str) -> None:
    expected = READS[name]()
    with FakeTensorMode(known_values=True):
        results = READS[name]()
    assert values(results) == values(expected)
    sizes = [leaf.shape for leaf in pytree.tree_leaves(results) if isinstance(leaf, torch.Tensor)]
    assert sizes == [leaf.shape for leaf in pytree.tree_leaves(expected) if isinstance(leaf, torch.Tensor)]


UNKNOWN: dict[str, Callable[[], torch.Tensor]] = {
    "empty": lambda: torch.empty(3),
    "empty_like": lambda: torch.empty_like(torch.ones(3)),
    "new_empty": lambda: torch.ones(3).new_empty(2),
    "random": lambda: torch.rand(3),
    "drawn from known": lambda: torch.bernoulli(torch.ones(3)),
    "permutation": lambda: torch.randperm(3),
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(3)),
    "grown": lambda: torch.ones(2).resize_(5),
    "filled": lambda: torch.empty(3).fill_(1),
    "many": lambda: torch.zeros(1025),
    "many from few": lambda: torch.outer(torch.ones(40), torch.ones(40)),
    "few from many": lambda: torch.ones(1).expand(2000).sum(),
    "mixed": lambda: torch.ones(3) + torch.empty(3),
    "on meta": lambda: torch.ones(3, device="meta"),
    "to meta": lambda: torch.ones(3).to("meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "in error": lambda: torch.arange(3).gather(0, torch.tensor([7])),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_does_not_follow_from_numbers_is_unknown(name: str) -> None:
    with FakeTensorMode(known_values=True):
        assert known(UNKNOWN[name]()) is None


def test_a_real_tensor_keeps_its_value_to_itself() -> None:
    mode = FakeTensorMode(known_values=True)
    assert known(mode.from_tensor(torch.ones(3))) is None


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "random": lambda t: t.uniform_(),
    "through a view": lambda t: t[1:].normal_(),
    "unknown operand": lambda t: t.add_(torch.empty(3)),
    "unknown source": lambda t: t.copy_(torch.empty(3)),
    "unknown element": lambda t: t.__setitem__(0, torch.empty(())),
    "out": lambda t: torch.add(torch.empty(3), 1, out=t),
    "foreach": lambda t: torch._foreach_add_([t], [torch.empty(3)]),
    "data": lambda t: t.data.random_(),
    "detached": lambda t: t.detach().random_(),
    "batch norm": lambda t: torch.nn.functional.batch_norm(torch.empty(2, 3), t, torch.ones(3), training=True),
    "storage": lambda t: t.set_(torch.empty(3)),
    "assigned data": lambda t: setattr(t, "data", torch.empty(3)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_cannot_be_followed_forgets(name: str) -> None:
    # Twice, so that the second write could be answered from the cache.
    for _ in range(2):
        with FakeTensorMode(known_values=True):
            t = torch.arange(3.0)
            copied = t.clone()
            WRITES[name](t)
        assert known(t) is None
        assert known(copied) is not None


@pytest.mark.parametrize("written", ["base", "view"])
def test_a_write_that_cannot_be_followed_forgets_what_shares_the_storage(written: str) -> None:
    for _ in range(2):
        with FakeTensorMode(known_values=True):
            base = torch.arange(6.0)
            view = base.view(2, 3)[1]
            huge = base.view(2, 3, 1).expand(2, 3, 1000)
            {"base": base, "view": view}[written].uniform_()
            assert known(base) is known(view) is known(huge) is None
            # What is written afterwards does not bring it back.
            base.zero_()
        assert known(base) is known(view) is None


def test_a_tensor_that_was_given_the_storage_of_a_known_value_writes_to_it() -> None:
    for _ in range(2):
        with FakeTensorMode(known_values=True):
            parameter, value = torch.empty(3), torch.ones(3)
            parameter.add_(1)
            parameter.data = value
            assert known(parameter) is None
            parameter.add_(1)
        assert known(value) is None


def test_a_value_that_was_replaced_is_not_taken_for_the_new_one() -> None:
    with FakeTensorMode(known_values=True):
        parameter = torch.nn.Parameter(torch.zeros(3))
        parameter.data = torch.ones(3)
        assert known(parameter) is None
        parameter.data = torch.zeros(2)
        assert known(parameter) is None


def test_a_value_of_other_elements_of_the_storage_is_not_taken_for_the_new_one() -> None:
    with FakeTensorMode(known_values=True):
        t = torch.arange(4)
        t.data = t[2:]
        assert known(t) is None


@pytest.mark.parametrize("limit", [1, 5, 1024])
def test_the_limit_counts_elements(limit: int) -> None:
    with FakeTensorMode(known_values=limit) as mode:
        assert mode.known_values == limit
        assert known(torch.zeros(limit)) is not None
        assert known(torch.tensor([0] * limit)) is not None
        assert known(torch.zeros(limit + 1)) is None
        assert known(torch.tensor([0] * (limit + 1))) is None
        # A view takes no memory, whatever its size.
        assert known(torch.zeros(limit).view(limit, 1).expand(limit, 7)) is not None


def test_true_means_1024_elements_and_none_nothing() -> None:
    mode = FakeTensorMode(known_values=True)
    assert mode.known_values == 1024
    mode.known_values = None
    assert mode.known_values is FakeTensorMode().known_values is FakeTensorMode(known_values=False).known_values is None


@pytest.mark.parametrize("wrong", [0, -1, 1 << 40])
def test_a_limit_that_is_no_number_of_elements_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="known_values must be a positive number"):
        FakeTensorMode(known_values=wrong)


@pytest.mark.parametrize("wrong", ["many", 1.5])
def test_a_limit_that_is_no_integer_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError):
        FakeTensorMode(known_values=wrong)


def test_a_mode_does_not_get_the_answers_of_a_mode_with_another_limit() -> None:
    FakeTensorMode.cache_clear()
    for limit, expected in ((None, None), (4, [0, 1, 2, 3]), (3, None), (4, [0, 1, 2, 3]), (None, None)):
        with FakeTensorMode(known_values=limit):
            value = known(torch.arange(4))
        assert (None if value is None else value.tolist()) == expected


def test_without_known_values_factories_are_answered_from_the_cache() -> None:
    FakeTensorMode.cache_clear()
    with FakeTensorMode(known_values=True):
        torch.zeros(3)
    with FakeTensorMode():
        torch.zeros(3)
        before = FakeTensorMode.cache_info().hits
        torch.zeros(3)
        assert FakeTensorMode.cache_info().hits == before + 1


def test_with_known_values_calls_without_values_are_answered_from_the_cache() -> None:
    FakeTensorMode.cache_clear()
    with FakeTensorMode(known_values=True):
        for _ in range(2):
            before = FakeTensorMode.cache_info().hits
            x = torch.empty(3)
            x.add_(x.sin())
            torch.zeros(5000)
        assert FakeTensorMode.cache_info().hits == before + 4


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "xpu"])
def test_values_on_imitated_devices_are_known_too(device: str) -> None:
    with FakeTensorMode(known_values=True):
        made = torch.linspace(0, 1, 3, device=device)
        moved = torch.arange(3).to(device)
        back = (moved * 2).cpu()
        assert made.device.type == moved.device.type == torch.device(device).type
        assert made.tolist() == [0.0, 0.5, 1.0]
        assert moved[1].item() == 1
        assert back.tolist() == [0, 2, 4] and back.device.type == "cpu"
        assert (moved > 0).nonzero().device == moved.device


def test_a_known_mask_tells_the_size_of_what_it_selects() -> None:
    with FakeTensorMode(known_values=True):
        x, mask = torch.empty(4, 3), torch.tensor([True, False, True, True])
        assert x[mask].shape == (3, 3)
        assert x[mask, 1:].shape == (3, 2)
        assert x[torch.eye(4, 3, dtype=torch.bool)].shape == (3,)
        assert x.masked_select(mask.unsqueeze(1)).shape == (9,)
        assert known(x[mask]) is None
        with pytest.raises(DynamicOutputShapeException):
            x[x[:, 0] > 0]


def test_counts_tell_the_size_of_what_is_repeated_however_large() -> None:
    with FakeTensorMode(known_values=True):
        counts = torch.tensor([1 << 20, 3])
        assert torch.repeat_interleave(counts).shape == ((1 << 20) + 3,)
        assert torch.empty(2, 5).repeat_interleave(counts, 0).shape == ((1 << 20) + 3, 5)


def test_an_operator_that_would_need_much_memory_is_not_computed() -> None:
    with FakeTensorMode(known_values=True):
        huge = torch.zeros(1).expand(1 << 50)
        assert known(huge + 1) is None
        assert known(huge[5]).tolist() == 0.0
        with pytest.raises(DynamicOutputShapeException):
            torch.bincount(torch.tensor([1 << 50]))


def test_gradients_of_known_values_have_known_values() -> None:
    def program() -> object:
        x = torch.arange(3.0, requires_grad=True)
        (x * x).sum().backward()
        return x.grad

    expected = program()
    with FakeTensorMode(known_values=True):
        assert known(program()).tolist() == expected.tolist()


def test_a_model_with_known_parameters_can_be_moved() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = torch.nn.Parameter(torch.zeros(1, 1, 8))
            self.scale = torch.nn.Parameter(torch.tensor(2.0))
            self.register_buffer("steps", torch.arange(4))

    with FakeTensorMode(known_values=True):
        model = Model().to("cuda").to(torch.float64)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}
    assert known(model.scale).tolist() == 2.0


def test_nothing_keeps_a_model_alive() -> None:
    with FakeTensorMode(known_values=True):
        model = torch.nn.Linear(3, 3)
        model.scale = torch.nn.Parameter(torch.ones(3))
        model.register_buffer("view", model.scale.detach()[1:])
        (model(torch.ones(2, 3)) * model.scale).sum().backward()
        references = [weakref.ref(model), weakref.ref(known(model.view)), weakref.ref(known(model.scale))]
        del model
        gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_deep_copies_share_what_the_originals_share_and_no_more() -> None:
    with FakeTensorMode(known_values=True):
        base = torch.zeros(4)
        copied, view = copy.deepcopy((base, base[1:]))
        assert known(copied).tolist() == [0.0] * 4
        copied.fill_(3)
        assert known(view).tolist() == [3.0] * 3
        assert known(base).tolist() == [0.0] * 4
        view.uniform_()
        assert known(copied) is known(view) is None
        assert known(base) is not None


def test_a_shallow_copy_shares_the_value() -> None:
    with FakeTensorMode(known_values=True):
        t = torch.zeros(4)
        copied = copy.copy(t)
        t.add_(1)
        assert known(copied).tolist() == [1.0] * 4
        copied.uniform_()
        assert known(t) is None


def test_a_deep_copied_module_has_values() -> None:
    with FakeTensorMode(known_values=True):
        norm = copy.deepcopy(torch.nn.BatchNorm1d(3))
        assert norm.num_batches_tracked.item() == 0
        norm(torch.empty(2, 3))
        assert norm.num_batches_tracked.item() == 1
        assert known(norm.running_mean) is None


@contextlib.contextmanager
def doubling(fake: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """A custom operator that doubles, with the given fake implementation."""
    with torch.library._scoped_library("fastfake_known_values", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CPU")
        torch.library.register_fake("fastfake_known_values::twice", fake, lib=library)
        yield torch.ops.fastfake_known_values.twice


PLACEHOLDERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros": lambda x: torch.zeros(x.shape),
    "tensor": lambda x: torch.tensor([0.0] * x.shape[0]),
    "numbers": lambda x: torch.add(0.0, 0.0),
}


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_a_fake_implementation_gives_no_values(name: str) -> None:
    with doubling(PLACEHOLDERS[name]) as twice, FakeTensorMode(known_values=True):
        for _ in range(2):
            assert known(twice(torch.empty(1))) is None
            assert known(PLACEHOLDERS[name](torch.empty(1))) is not None


def test_kernels_of_users_run_where_torch_runs_them_on_one_element() -> None:
    with doubling(torch.empty_like) as twice, FakeTensorMode(known_values=True):
        assert known(twice(torch.ones(1))).tolist() == [2.0]
        assert known(twice(torch.ones(3))) is None


HIGHER_ORDER: dict[str, Callable[[torch.Tensor], object]] = {
    "cond": lambda x: torch.ops.higher_order.cond(torch.tensor(True), lambda x: x + 1, lambda x: x + 2, (x,)),
    "map": lambda x: torch.ops.higher_order.map_impl(lambda x: (x + 1,), (x,), ()),
    "scan": lambda x: torch.ops.higher_order.scan(lambda c, x: (c + x, c + 1), (torch.tensor(0),), (x,), ()),
}


@pytest.mark.parametrize("name", HIGHER_ORDER)
def test_what_one_branch_or_iteration_computes_is_not_known(name: str) -> None:
    with FakeTensorMode(known_values=True):
        x = torch.arange(3)
        assert [known(t) for t in pytree.tree_leaves(HIGHER_ORDER[name](x))] in ([None], [None, None])
        assert known(x) is not None


def test_with_symbolic_sizes_small_tensors_are_known_and_others_as_ever() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv(allow_dynamic_output_shape_ops=True), known_values=True)
    x = mode.from_tensor(torch.ones(5, 4))
    with mode:
        assert torch.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
        assert torch.arange(4).nonzero().shape == (3, 1)
        assert "u0" in str(x.nonzero().shape)
        symbolic = torch.arange(x.shape[0])
        assert known(symbolic) is None
        assert str(symbolic.shape[0]) == str(x.shape[0])
        base = torch.zeros(1)
        base.expand(x.shape[0]).sum()
        assert known(base) is not None


def test_under_functionalization_values_are_followed() -> None:
    def program() -> torch.Tensor:
        t = torch.zeros(4)
        t[1:].add_(torch.arange(3))
        return t * 2

    expected = program()
    with FakeTensorMode(known_values=True):
        result = torch.func.functionalize(program)()
        assert result.tolist() == expected.tolist()


def test_turned_off_a_mode_says_nothing_false_of_what_it_knew() -> None:
    with FakeTensorMode(known_values=True) as mode:
        t = torch.arange(4)
        view = t[1:]
        mode.known_values = None
        assert view.tolist() == [1, 2, 3]
        assert known(torch.arange(4)) is None
        assert view.add_(1) is view
    assert known(t) is known(view) is None


def test_turned_on_a_mode_follows_what_torch_knew() -> None:
    with FakeTensorMode() as mode:
        t = torch.tensor([3])
        mode.known_values = True
        view = t.view(())
        t.add_(1)
        assert view.item() == 4
        view.random_()
    assert known(t) is known(view) is None


def test_threads_follow_their_own_values() -> None:
    mode = FakeTensorMode(known_values=True)
    found: list[list[int]] = []

    def work(start: int) -> None:
        with mode:
            t = torch.arange(start, start + 4)
            for _ in range(50):
                t = t + 1
            found.append(t.tolist())

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 40, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [list(range(start + 50, start + 54)) for start in range(0, 40, 10)]


def test_a_user_mode_sees_the_same_calls() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    def seen(limit: bool | None) -> list[str]:
        with FakeTensorMode(known_values=limit), Log() as log:
            t = torch.arange(4)
            t.add_(1)
            t.view(2, 2).sum()
        return log.names

    assert seen(True) == seen(None)


def test_a_device_mesh_can_be_made_and_sliced() -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=16)
    try:

        def program() -> object:
            mesh = init_device_mesh("cpu", (2, 4, 2), mesh_dim_names=("a", "b", "c"))
            flat = mesh["a", "b"]._flatten("ab")
            sizes = mesh.size(), mesh["b"].size(), flat.size()
            return sizes, mesh.get_coordinate(), mesh.mesh.tolist(), mesh["b"].get_local_rank(), mesh["c"].mesh.tolist()

        expected = program()
        with FakeTensorMode(known_values=True):
            assert program() == expected
    finally:
        dist.destroy_process_group()


def test_converted_tensors_and_known_ones_meet() -> None:
    mode = FakeTensorMode(known_values=True)
    x = fake_ones(mode, 3)
    with mode:
        t = torch.arange(3)
        assert known(x + t) is None
        x.add_(t)
        assert known(t) is not None


PROGRAMS_AT_RANDOM = st.lists(
    st.builds(
        Instruction,
        operation=st.sampled_from(sorted(OPERATIONS)),
        operands=st.tuples(*[st.integers(0, 40)] * 2),
        parameters=st.tuples(*[st.integers(0, 7)] * 3),
    ),
    max_size=20,
)


def compare_with_eager(program: list[Instruction]) -> None:
    def start() -> list[torch.Tensor]:
        return [torch.arange(math.prod(shape), dtype=torch.float32).view(shape) + 1 for shape in START_SHAPES]

    real_start = start()
    real = pytree.tree_leaves((real_start, execute(program, real_start)))
    with FakeTensorMode(known_values=True):
        fake_start = start()
        fake = pytree.tree_leaves((fake_start, execute(program, fake_start)))
    assert len(fake) == len(real)
    for number, (ours, theirs) in enumerate(zip(fake, real, strict=True)):
        value = known(ours) if isinstance(ours, torch.Tensor) else None
        if value is not None:
            torch.testing.assert_close(value, theirs, rtol=0, atol=0, equal_nan=True, msg=f"leaf {number}")


@pytest.mark.parametrize(
    "examples", [40, pytest.param(500, marks=pytest.mark.exhaustive), pytest.param(2000, marks=pytest.mark.nightly)]
)
def test_random_programs_have_the_values_of_the_eager_run_as_far_as_they_are_known(examples: int) -> None:
    settings(max_examples=examples)(given(PROGRAMS_AT_RANDOM)(compare_with_eager))()


def test_what_is_received_from_other_processes_is_not_known() -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    communications: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "recv": lambda t: torch.distributed.recv(t, src=1) and t,
        "broadcast": lambda t: torch.distributed.broadcast(t, src=1) or t,
        "all_reduce": lambda t: torch.distributed.all_reduce(t) or t,
        "functional all_reduce": lambda t: torch.ops._c10d_functional.all_reduce(
            t, "sum", torch.distributed.group.WORLD.group_name
        ),
    }
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        with FakeTensorMode(known_values=True, unknown_items=7):
            for name, communicate in communications.items():
                assert communicate(torch.zeros(1)).item() == 7, name
    finally:
        torch.distributed.destroy_process_group()
