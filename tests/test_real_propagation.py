import logging
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
import torch._functorch.config as functorch_config
from both_sides import assert_same, new_mode, on_ours, on_torch, pending
from torch.library import _scoped_library

import fastfake


def propagating(fakes, **settings):
    with functorch_config.patch(fake_tensor_propagate_real_tensors=True):
        return new_mode(fakes, **settings)


def same_with_real_tensors(program, *values, infer=False):
    """Compare ``program(*fakes)`` on both sides, with its results, known symbols and pending symbols."""

    def run(fakes):
        mode = propagating(fakes)
        inputs = [mode.from_tensor(value.clone()) for value in values]
        with functorch_config.patch(generate_fake_kernels_from_real_mismatches=infer), mode:
            result = program(*inputs)
        known = {str(k): v for k, v in mode.shape_env.real_tensor_prop_unbacked_vals.items()}
        return result, known, pending(mode), [value.real_tensor for value in inputs]

    return assert_same(run)


@contextmanager
def operator(schema, kernel, fake=None):
    """Define an operator ``fastfake_real::op`` for a while."""
    with _scoped_library("fastfake_real", "FRAGMENT") as library:
        library.define(f"op{schema}")
        library.impl("op", kernel, "CPU")
        if fake is not None:
            torch.library.register_fake("fastfake_real::op", fake, lib=library)
        yield torch.ops.fastfake_real.op


@contextmanager
def structured_events():
    """Collect what goes to torch's structured trace, as (name, payload) pairs."""
    events = []

    class Collector(logging.Handler):
        def emit(self, record):
            events.extend(
                (name, record.metadata[name])
                for name in ("missing_fake_kernel", "mismatched_fake_kernel")
                if name in record.metadata
            )

    trace_log = logging.getLogger("torch.__trace")
    handler, level = Collector(), trace_log.level
    trace_log.addHandler(handler)
    trace_log.setLevel(logging.DEBUG)
    try:
        with patch.object(torch._logging._internal, "GET_DTRACE_STRUCTURED", True):
            yield events
    finally:
        trace_log.removeHandler(handler)
        trace_log.setLevel(level)


X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])


def test_results_carry_the_real_tensors_of_operators_run_by_every_step():
    result, *_ = same_with_real_tensors(
        lambda x: [x + 1, x.t(), x @ x.t(), torch.nn.functional.silu(x), x.reshape(-1), torch.ops.prims.neg(x)],
        X,
    )
    assert all(described[-1] is not None for described in result)


def test_writing_to_a_fake_tensor_writes_to_its_real_tensor_once():
    def program(x):
        x.add_(1)
        x.mul_(2)
        return x

    *_, (real,) = same_with_real_tensors(program, X)
    assert real[-3:] != X.tolist()


def test_the_real_tensor_of_a_converted_tensor_is_a_copy():
    with fastfake.install_temporarily(), functorch_config.patch(fake_tensor_propagate_real_tensors=True):
        mode = fastfake.FakeTensorMode()
        x = torch.ones(3)
        fake = mode.from_tensor(x)
        with mode:
            fake.add_(1)
    assert fake.real_tensor.tolist() == [2.0, 2.0, 2.0]
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_factories_know_their_real_result():
    result, *_ = same_with_real_tensors(lambda: [torch.ones(2), torch.arange(3), torch.full((2,), 4)])
    assert result[1][-1] == ("torch.int64", [0, 1, 2])


@pytest.mark.parametrize(
    "program",
    [
        lambda x: x.nonzero(),
        lambda x: x[0, 2].item(),
        lambda x: x.sum().to(torch.int64).item() + 1,
        lambda x: x.masked_select(x > 0),
        lambda x: x.flatten().unique(),
        lambda x: torch.bincount(x.flatten().to(torch.int64)),
        lambda x: x.flatten().repeat_interleave(torch.tensor([1, 0, 2, 1, 1, 1])),
        lambda x: x[x > 0] * 2,
        lambda x: x.new_ones(x.sum().to(torch.int64).item()),
        lambda x: (x > 0).any().item(),
    ],
    ids=["nonzero", "item", "int", "masked_select", "unique", "bincount", "repeat", "mask", "size", "bool"],
)
def test_data_dependent_results_have_symbols_of_known_value(program):
    _, known, _, _ = same_with_real_tensors(program, X)
    assert known


def test_a_symbol_of_known_value_decides_a_branch():
    def program(x):
        count = x.nonzero().shape[0]
        return "many" if count > 2 else "few"

    result, *_ = same_with_real_tensors(program, X)
    assert result == "many"


def test_division_by_zero_leaves_results_without_real_tensors():
    def kernel(x):
        raise ZeroDivisionError

    with operator("(Tensor x) -> Tensor", kernel, lambda x: x.new_zeros(2)):
        result, *_ = same_with_real_tensors(lambda x: torch.ops.fastfake_real.op(x), X)
    # What is left is the real tensor that the fake implementation itself made.
    assert result[-1] == ("torch.float32", [0.0, 0.0])


def test_an_argument_without_real_tensor_stops_propagation():
    def run(fakes):
        plain = new_mode(fakes)
        x = plain.from_tensor(X)
        plain.propagate_real_tensors, plain.cache_enabled = True, False
        with plain:
            return x + 1

    assert assert_same(run)[-1] is None


def test_an_operator_without_fake_implementation_gets_an_inferred_one():
    with operator("(Tensor x) -> (Tensor, Tensor)", lambda x: (x.t().contiguous().t() * 2, x[x > 0])):
        result, known, waiting, _ = same_with_real_tensors(lambda x: torch.ops.fastfake_real.op(x), X)
    assert [described[5] for described in result] == [["u0", "u1"], ["u2"]]
    assert known == {"u0": 2, "u1": 3, "u2": 3}
    assert waiting == ["u0", "u1", "u2"]


@pytest.mark.parametrize(
    ("schema", "kernel"),
    [
        ("(Tensor x) -> int", lambda x: 3),
        ("(Tensor x) -> Tensor", lambda x: x.repeat(2, 2)[:, ::2]),
        ("(Tensor x) -> Tensor", lambda x: x.clone()[1:]),
        ("(Tensor x) -> Tensor", lambda x: x.clone().add_(x.mul_(2))),
        ("(Tensor x) -> (Tensor, Tensor)", lambda x: (y := x + 1, y.view(-1))),
    ],
    ids=["number", "gaps", "offset", "undeclared-write", "aliasing-results"],
)
def test_kernels_from_which_nothing_can_be_inferred_raise_torchs_error(schema, kernel):
    with operator(schema, kernel):
        failure = assert_same(lambda fakes: _call_operator(fakes, X))
    assert failure.kind == "RuntimeError"


def _call_operator(fakes, value):
    mode = propagating(fakes)
    x = mode.from_tensor(value.clone())
    with mode:
        return torch.ops.fastfake_real.op(x)


MISMATCHES = {
    "dtype": lambda x: torch.empty_like(x, dtype=torch.float64),
    "rank": lambda x: x.new_empty(6),
    "size": lambda x: x.new_empty(2, 4),
    "offset": lambda x: x.new_empty(9).as_strided((2, 3), (3, 1), 1),
    "alias": lambda x: x.view(2, 3),
    "same tensor": lambda x: x,
}


@pytest.mark.parametrize("fake", MISMATCHES.values(), ids=MISMATCHES)
def test_a_wrong_fake_implementation_raises_torchs_error(fake):
    with operator("(Tensor x) -> Tensor", lambda x: x * 2, fake):
        failure = assert_same(lambda fakes: _call_operator(fakes, X))
    assert failure.kind == "MetadataMismatchError"


@pytest.mark.parametrize("fake", MISMATCHES.values(), ids=MISMATCHES)
def test_a_wrong_fake_implementation_is_overridden_where_the_user_wants_so(fake):
    with operator("(Tensor x) -> Tensor", lambda x: x * 2, fake):
        result, *_ = same_with_real_tensors(lambda x: torch.ops.fastfake_real.op(x), X, infer=True)
    assert result[5] == ["u0", "u1"]


def test_a_wrong_number_raises_torchs_error():
    with operator("(Tensor x) -> int", lambda x: 3, lambda x: 4):
        failure = assert_same(lambda fakes: _call_operator(fakes, X))
    assert "output value mismatch" in failure.text


def test_overriding_drops_the_symbols_of_the_overridden_result():
    def fake(x):
        return x.new_empty(torch.library.get_ctx().new_dynamic_size(), 3, dtype=torch.float64)

    with operator("(Tensor x) -> Tensor", lambda x: x * 2, fake):
        _, _, waiting, _ = same_with_real_tensors(lambda x: (x.nonzero(), torch.ops.fastfake_real.op(x)), X, infer=True)
    assert waiting


@pytest.mark.parametrize("fake", [None, *MISMATCHES.values()], ids=["missing", *MISMATCHES])
def test_the_structured_trace_tells_of_inferred_results_as_torchs_does(fake):
    def run(fakes):
        mode = propagating(fakes)
        x = mode.from_tensor(X.clone())
        inferring = functorch_config.patch(generate_fake_kernels_from_real_mismatches=True)
        with structured_events() as events, inferring, mode:
            torch.ops.fastfake_real.op(x)
        return events

    with operator("(Tensor x) -> Tensor", lambda x: x * 2, fake):
        events = assert_same(run)
    assert len(events) == 1


def test_results_by_operator_profile_are_not_propagated():
    class Profiles:
        data = ()

        @staticmethod
        def generic_fake_kernel(func, mode, x):
            return x.new_zeros(7)

    def run(fakes):
        Profiles.data = {torch.ops.fastfake_real.op.default}
        with torch._dynamo.config.patch(_custom_ops_profile=Profiles):
            return _call_operator(fakes, X)

    with operator("(Tensor x) -> Tensor", lambda x: x * 2):
        result = assert_same(run)
    # The profile's own tensor knows its data; the result of the call is not put over it.
    assert result[-1] == ("torch.float32", [0.0] * 7)


def test_arguments_that_no_profile_matches_are_inferred_from_the_real_result():
    from torch._library.fake_profile import MissingOpProfile

    def fake(x):
        raise MissingOpProfile("none fits")

    with operator("(Tensor x) -> Tensor", lambda x: x * 2, fake):
        result, *_ = same_with_real_tensors(lambda x: torch.ops.fastfake_real.op(x), X)
        failure = assert_same(lambda fakes: _call_without_real_tensors(fakes))
    assert result[5] == ["u0", "u1"]
    assert failure.kind == "MissingOpProfile"


def _call_without_real_tensors(fakes):
    mode = new_mode(fakes)
    with mode:
        return torch.ops.fastfake_real.op(mode.from_tensor(X))


def test_the_cache_is_off_under_propagation():
    with fastfake.install_temporarily():
        assert not propagating(fastfake).cache_enabled


def test_module_functions_and_methods_are_ours_while_installed():
    def names(fakes):
        mode = propagating(fakes)
        inferred = fakes._infer_fake_from_real_tensor(mode, torch.ops.aten.neg.default, X)
        pair = fakes.inferred_fake_kernel_from_real_out(mode, torch.ops.aten.neg.default, (X, X))
        x = mode.from_tensor(X)
        checked = mode._maybe_infer_fake(torch.ops.aten.neg.default, (), x, X)
        whole = mode._maybe_infer_fake_kernel_from_pytree_out(torch.ops.aten.neg.default, (x,), (X,), (x,), (X,))
        return type(inferred).__module__.startswith("torch"), [inferred, pair, checked, whole]

    theirs, ours = on_torch(names), on_ours(names)
    assert theirs[0] and not ours[0]
    assert theirs[1] == ours[1]
