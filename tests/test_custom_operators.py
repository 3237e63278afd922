import itertools
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from both_sides import assert_all_same, assert_same, fake_ones, new_mode, outcome, pending
from torch._library.fake_profile import OpProfile, TensorMetadata, unsafe_generate_fake_kernels
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.library import _scoped_library
from torch.testing._internal.autograd_function_db import autograd_function_db
from torch.testing._internal.custom_op_db import custom_op_db
from torch.utils import _pytree as pytree

import fastfake


@contextmanager
def operator(schema, kernel=None, fake=None, meta=None, composite=None, tags=()):
    """Define an operator ``fastfake_custom::op`` for a while."""
    with _scoped_library("fastfake_custom", "FRAGMENT") as library:
        library.define(f"op{schema}", tags=tags)
        for key, function in (("CPU", kernel), ("Meta", meta), ("CompositeImplicitAutograd", composite)):
            if function is not None:
                library.impl("op", function, key)
        if fake is not None:
            torch.library.register_fake("fastfake_custom::op", fake, lib=library)
        yield


def call(*shapes, settings=None, then=lambda result: result):
    """Return a program that calls the operator on fake tensors and tells what came out and of the symbols."""

    def run(fakes):
        mode = new_mode(fakes, **(settings or {}))
        arguments = [fake_ones(mode, *shape) for shape in shapes]
        with mode:
            result = then(torch.ops.fastfake_custom.op(*arguments))
        same = [[leaf is t for t in arguments] for leaf in pytree.tree_leaves(result)]
        return result, same, pending(mode)

    return run


def info_name(info):
    return f"{info.name}-{info.variant_test_name}"


@pytest.mark.exhaustive
def test_samples_of_torchs_custom_operators_have_torchs_results():
    def run(info, fakes):
        torch.manual_seed(0)
        results = []
        kinds = (info.sample_inputs("cpu", torch.float32, requires_grad=kind) for kind in (False, True))
        for sample in itertools.chain.from_iterable(kinds):
            mode = new_mode(fakes)
            inputs = (sample.input, sample.args, sample.kwargs)
            x, args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, inputs)
            with mode:
                results.append((outcome(lambda fakes: info.op(x, *args, **kwargs)), pending(mode)))  # noqa: B023
        return results

    assert_all_same({info_name(info): partial(run, info) for info in custom_op_db + autograd_function_db})


def test_gradients_flow_through_a_custom_autograd_function():
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.save_for_backward(x)
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return (grad * ctx.factor * x.sign()), None

    def run(fakes):
        mode = new_mode(fakes)
        x = fake_ones(mode, 3, 2).requires_grad_()
        with mode:
            y = Scale.apply(x, 2.0)
            y.sum().backward()
        return y, x.grad

    y, grad = assert_same(run)
    assert y[4] and grad[5] == ["3", "2"]


def test_a_custom_op_without_fake_implementation_is_refused():
    with operator("(Tensor x) -> Tensor", kernel=lambda x: x + 1):
        failure = assert_same(call((3,)))
    assert failure.kind == "UnsupportedOperatorException"


def test_a_fake_implementation_is_used():
    with operator("(Tensor x) -> Tensor", kernel=lambda x: x + 1, fake=lambda x: x.new_empty(7)):
        (result, _, _) = assert_same(call((3,)))
    assert result[5] == ["7"]


def test_the_newest_fake_implementation_is_used():
    with (
        operator("(Tensor x) -> Tensor", fake=lambda x: x.new_empty(7)),
        _scoped_library("fastfake_custom", "FRAGMENT") as newer,
    ):
        torch.library.register_fake("fastfake_custom::op", lambda x: x.new_empty(8), lib=newer, allow_override=True)
        (result, _, _) = assert_same(call((3,)))
    assert result[5] == ["8"]


def test_a_fake_implementation_goes_before_the_meta_kernel_of_cpp_only_operators():
    with operator("(Tensor x) -> Tensor", kernel=lambda x: x + 1, meta=lambda x: x.new_empty(5)):
        (result, _, _) = assert_same(call((3,)))
    assert result[5] == ["5"]


def test_a_composite_operator_is_computed_through_its_parts():
    with operator("(Tensor x) -> Tensor", composite=lambda x: x.t().sum(0)):
        (result, _, _) = assert_same(call((3, 2)))
    assert result[5] == ["3"]


@pytest.mark.parametrize("settings", [{}, {"allow_dynamic_output_shape_ops": False}], ids=["allowed", "not allowed"])
@pytest.mark.parametrize("bounds", [{}, {"min": 2}, {"min": 2, "max": 9}, {"min": 5, "max": 3}], ids=str)
def test_the_context_makes_sizes_that_depend_on_data(settings, bounds):
    def fake(x):
        return x.new_empty(torch.library.get_ctx().new_dynamic_size(**bounds), 2)

    def bounds_of(result):
        size = result.shape[0]
        return result, str(size.node.shape_env.var_to_range[size.node.expr])

    with operator("(Tensor x) -> Tensor", fake=fake):
        assert_same(call((3,), settings=settings, then=bounds_of))


def test_the_context_needs_a_shape_env():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        x = fake_ones(mode, 3)
        with mode:
            return torch.ops.fastfake_custom.op(x)

    with operator("(Tensor x) -> Tensor", fake=lambda x: x.new_empty(torch.library.get_ctx().new_dynamic_size())):
        failure = assert_same(run)
    assert failure.kind == "DynamicOutputShapeException"


def test_the_context_is_gone_after_the_call():
    with operator("(Tensor x) -> Tensor", fake=lambda x: torch.empty_like(x)):
        assert_same(call((3,)))
    assert torch._library.fake_impl.global_ctx_getter() is None


@pytest.mark.parametrize(
    ("schema", "tags"),
    [
        ("(Tensor x) -> ()", ()),
        ("(Tensor(a!) x) -> ()", ()),
        ("(Tensor x, *, Tensor(a!) out) -> Tensor(a!)", ()),
        ("(Tensor x, *, Tensor(a!) out) -> Tensor(a!)", (torch.Tag.out,)),
        ("(Tensor(a!) x) -> Tensor(a!)", ()),
        ("(Tensor(a) x) -> Tensor(a)", ()),
        ("(Tensor x) -> int", ()),
    ],
    ids=["nothing", "nothing-writing", "out-untagged", "out", "in-place", "view", "number"],
)
def test_an_operator_that_has_nothing_to_compute_needs_no_fake_implementation(schema, tags):
    def run(fakes):
        mode = new_mode(fakes)
        x, out = fake_ones(mode, 3), fake_ones(mode, 3)
        with mode:
            result = torch.ops.fastfake_custom.op(x, **({"out": out} if "out" in schema else {}))
        return result, result is out, result is x

    with operator(schema, kernel=lambda *args, **kwargs: None, tags=tags):
        assert_same(run)


def test_an_operator_of_symbolic_sizes_without_fake_implementation_is_refused():
    def run(fakes):
        mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
        x = fake_ones(mode, 3, 4)
        with mode:
            return torch.ops.fastfake_custom.op(x)

    with operator("(Tensor x) -> Tensor", kernel=lambda x: x + 1):
        assert assert_same(run).kind == "UnsupportedOperatorException"


def test_an_error_in_a_fake_implementation_reaches_the_caller():
    def fake(x):
        raise ValueError("not so")

    with operator("(Tensor x) -> Tensor", fake=fake):
        failure = assert_same(call((3,)))
    assert (failure.kind, failure.text) == ("ValueError", "not so")


def profile(*ranks, out):
    def metadata(rank):
        return TensorMetadata(rank, torch.float32, torch.device("cpu"), torch.strided)

    outs = metadata(out) if isinstance(out, int) else tuple(metadata(rank) for rank in out)
    return {"fastfake_custom.op.default": {OpProfile(tuple(metadata(rank) for rank in ranks), outs)}}


@pytest.mark.parametrize("out", [2, (1, 3)])
def test_a_generated_fake_implementation_gives_results_of_the_profiled_rank(out):
    results = "Tensor" if isinstance(out, int) else "Tensor[]"
    with operator(f"(Tensor x) -> {results}", kernel=lambda x: x), unsafe_generate_fake_kernels(profile(1, out=out)):
        _, _, waiting = assert_same(call((3,)))
    assert waiting


def test_arguments_that_were_not_profiled_are_refused():
    with operator("(Tensor x) -> Tensor", kernel=lambda x: x), unsafe_generate_fake_kernels(profile(1, out=2)):
        failure = assert_same(call((3, 3)))
    assert failure.kind == "MissingOpProfile"


def test_a_configured_profile_goes_before_the_fake_implementation():
    class Profiles:
        def __init__(self, *operators):
            self.data = operators

        def generic_fake_kernel(self, func, mode, *args, **kwargs):
            with mode:
                return args[0].new_empty(9)

    def run(fakes):
        profiles = Profiles(torch.ops.fastfake_custom.op.default)
        with torch._dynamo.config.patch(_custom_ops_profile=profiles):
            return call((3,))(fakes)

    with operator("(Tensor x) -> Tensor", fake=lambda x: x.new_empty(7)):
        profiled, _, _ = assert_same(run)
        plain, _, _ = assert_same(call((3,)))
    assert (profiled[5], plain[5]) == (["9"], ["7"])


def test_calls_of_custom_operators_are_not_cached():
    with operator("(Tensor x) -> Tensor", fake=lambda x: x.new_empty(7)), fastfake.install_temporarily():
        fastfake.FakeTensorMode.cache_clear()
        for _ in range(2):
            call((3,))(fastfake)
    assert fastfake.FakeTensorMode.cache_info().bypasses["non-builtin"] == 2


def test_a_custom_operator_on_two_devices_is_the_business_of_its_fake_implementation():
    def run(fakes):
        mode = new_mode(fakes)
        x = fake_ones(mode, 3)
        with mode:
            return torch.ops.fastfake_custom.op(x, torch.empty(3, device="cuda"))

    with operator("(Tensor x, Tensor y) -> Tensor", fake=lambda x, y: torch.empty_like(y)):
        result = assert_same(run)
    assert result[2] == "cuda:0"
