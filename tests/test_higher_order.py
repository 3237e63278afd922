from functools import partial

import pytest
import torch
import torch.testing._internal.hop_db as hop_db_module
from both_sides import assert_all_same, assert_same, new_mode, pending
from torch._higher_order_ops.utils import registered_hop_fake_fns
from torch._ops import HigherOrderOperator
from torch.utils import _pytree as pytree

import fastfake

# Also those that torch runs on a GPU only: fake tensors need none.
SAMPLED = hop_db_module.hop_db


@torch.library.custom_op("fastfake_hop::fill", mutates_args={"x"})
def fill(x: torch.Tensor) -> None:
    x.fill_(1)


def described_name(info):
    return f"{info.name}-{info.variant_test_name}"


def test_samples_have_the_results_or_the_error_that_torch_has():
    def run(info, fakes):
        torch.manual_seed(0)
        results = []
        for sample in info.sample_inputs("cpu", torch.float32):
            mode = fakes.FakeTensorMode()
            inputs = (sample.input, sample.args, sample.kwargs)
            x, args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, inputs)
            with mode:
                results.append(info.op(x, *args, **kwargs))
        return results

    assert_all_same({described_name(info): partial(run, info) for info in SAMPLED})


@pytest.mark.exhaustive
def test_samples_with_symbolic_sizes_have_the_results_or_the_error_that_torch_has():
    def run(info, fakes):
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        torch.manual_seed(0)
        results = []
        for sample in info.sample_inputs("cpu", torch.float32):
            mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
            inputs = (sample.input, sample.args, sample.kwargs)
            x, args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, inputs)
            with mode:
                results.append(info.op(x, *args, **kwargs))
        return results

    assert_all_same({described_name(info): partial(run, info) for info in SAMPLED})


def small_program(name):
    """Return a call of the operator ``name`` on a fake tensor."""
    ops = torch.ops.higher_order
    graph = torch.fx.symbolic_trace(lambda x: (x.sin(),))
    two = torch.fx.symbolic_trace(lambda x, y: (x + y,))
    step = torch.fx.symbolic_trace(lambda carry, x: (carry + x, carry * x))
    return {
        "cond": lambda x: ops.cond(x.sum() > 0, graph, graph, (x,)),
        "while_loop": lambda x: ops.while_loop(lambda x: x.sum() < 10, lambda x: (x + 1,), (x,), ()),
        "map_impl": lambda x: ops.map_impl(graph, (x,), ()),
        "scan": lambda x: ops.scan(step, [x[0]], [x], ()),
        "associative_scan": lambda x: ops.associative_scan(two, [x], ()),
        "invoke_subgraph": lambda x: ops.invoke_subgraph(graph, "graph", x),
        "hints_wrapper": lambda x: ops.hints_wrapper(graph, (x,), {}, hints={}),
        "strict_mode": lambda x: ops.strict_mode(graph, (x,)),
        "out_dtype": lambda x: ops.out_dtype(
            torch.ops.aten.mm.default, torch.float32, x.to(torch.int8), x.to(torch.int8)
        ),
        "wrap": lambda x: ops.wrap(lambda x: x.cos(), x),
        "run_const_graph": lambda x: ops.run_const_graph(graph, (x,)),
        "auto_functionalized": lambda x: ops.auto_functionalized(torch.ops.fastfake_hop.fill.default, x=x),
        "auto_functionalized_v2": lambda x: ops.auto_functionalized_v2(
            torch.ops.fastfake_hop.fill.default, _x_base_index=0, _all_bases=[x]
        ),
        "with_effects": lambda x: ops.with_effects(x.new_empty(0), torch.ops.aten.neg.default, x),
        "flex_attention": lambda x: ops.flex_attention(
            x.expand(1, 1, 4, 4), x.expand(1, 1, 4, 4), x.expand(1, 1, 4, 4), lambda s, *_: s, _block_mask(x), 1.0, {}
        ),
    }[name]


def _block_mask(x):
    from torch.nn.attention.flex_attention import _create_empty_block_mask

    query = x.expand(1, 1, 4, 4)
    return _create_empty_block_mask(query, query).as_tuple()


NAMES = [
    "cond",
    "while_loop",
    "map_impl",
    "scan",
    "associative_scan",
    "invoke_subgraph",
    "hints_wrapper",
    "strict_mode",
    "out_dtype",
    "wrap",
    "run_const_graph",
    "auto_functionalized",
    "auto_functionalized_v2",
    "with_effects",
    "flex_attention",
]


@pytest.mark.parametrize("name", NAMES)
def test_operators_called_directly_behave_as_under_torchs_mode(name):
    def run(fakes):
        mode = new_mode(fakes)
        with mode:
            result = small_program(name)(mode.from_tensor(torch.ones(4, 4)))
        return result, pending(mode)

    assert_same(run)


@pytest.mark.parametrize("name", NAMES)
def test_fake_tensors_bring_the_rule_along_without_their_mode(name):
    def run(fakes):
        mode = new_mode(fakes)
        x = mode.from_tensor(torch.ones(4, 4))
        return small_program(name)(x)

    assert_same(run)


def test_a_triton_kernel_writes_to_nothing():
    from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional

    def run(fakes):
        mode = new_mode(fakes)
        x = mode.from_tensor(torch.ones(4))
        with mode:
            return triton_kernel_wrapper_functional(
                kernel_idx=0,
                constant_args_idx=0,
                grid=[(1, 1, 1)],
                tma_descriptor_metadata={},
                kwargs={"x": x},
                tensors_to_clone=["x"],
            )

    assert_same(run)


class Unregistered(HigherOrderOperator):
    """An operator without a rule for fake tensors."""

    def __call__(self, *args, **kwargs):
        with torch._C._AutoDispatchBelowAutograd():
            return super().__call__(*args, **kwargs)


@pytest.fixture
def unregistered():
    operator = Unregistered("fastfake_unregistered")
    yield operator
    del torch._ops._higher_order_ops["fastfake_unregistered"]


def test_an_operator_without_rule_is_refused_with_torchs_error(unregistered):
    def run(fakes):
        mode = new_mode(fakes)
        with mode:
            return unregistered(mode.from_tensor(torch.ones(3)))

    failure = assert_same(run)
    assert failure.kind == "NotImplementedError"
    assert "and mode" in failure.text


def test_an_operator_that_only_redirects_to_the_mode_is_refused(unregistered):
    from torch._higher_order_ops.utils import redirect_to_mode

    with fastfake.install_temporarily():
        redirect_to_mode(unregistered, torch._subclasses.fake_tensor.FakeTensorMode)
        mode = fastfake.FakeTensorMode()
        x = mode.from_tensor(torch.ones(3))
        with mode, pytest.raises(NotImplementedError, match="fastfake_unregistered and FakeTensorMode"):
            unregistered(x)


def test_a_function_registered_while_installed_serves_both_sides(unregistered):
    from torch._higher_order_ops.utils import register_fake

    with fastfake.install_temporarily():
        register_fake(unregistered, lambda x: x.new_empty(5))

    def run(fakes):
        mode = new_mode(fakes)
        with mode:
            return unregistered(mode.from_tensor(torch.ones(3)))

    try:
        assert assert_same(run)[5] == ["5"]
    finally:
        del registered_hop_fake_fns[unregistered]


def test_symbols_made_in_a_body_do_not_wait_for_a_binding():
    def run(fakes):
        mode = new_mode(fakes)
        graph = torch.fx.symbolic_trace(lambda x: (x.nonzero(),))
        with mode:
            result = torch.ops.higher_order.invoke_subgraph(graph, "graph", mode.from_tensor(torch.ones(3)))
        return result, pending(mode)

    _, waiting = assert_same(run)
    assert not waiting


def test_a_real_tensor_among_the_arguments_is_refused_with_torchs_error():
    graph = torch.fx.symbolic_trace(lambda x: (x + 1,))

    def run(fakes):
        with new_mode(fakes):
            return torch.ops.higher_order.invoke_subgraph(graph, "graph", real)

    real = torch.ones(3)
    assert assert_same(run).kind == "AssertionError"
