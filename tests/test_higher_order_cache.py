import gc
import weakref

import pytest
import torch
from both_sides import assert_same, fake_ones
from torch._higher_order_ops.utils import FunctionalizeCtxWrapper, SubgraphCallableWrapper
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv, StatelessSymbolicContext

import fastfake
from fastfake.miss import higher_order_cache

invoke_subgraph = torch.ops.higher_order.invoke_subgraph


def counted(run):
    """Compare ``run(fakes)`` on both sides, together with the hits, misses and bypasses that it causes."""

    def program(fakes):
        fakes.FakeTensorMode.cache_clear()
        result = run(fakes)
        info = fakes.FakeTensorMode.cache_info()
        return result, info.hits, info.misses, info.bypasses

    return assert_same(program)


@pytest.fixture
def ours():
    with fastfake.install_temporarily():
        fastfake.FakeTensorMode.cache_clear()
        yield fastfake


def graph_of(function):
    return torch.fx.symbolic_trace(function)


GRAPH = graph_of(lambda x, y: (torch.matmul(x, y), y.sin()))


def test_the_same_graph_on_like_arguments_is_answered_from_the_cache():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        results = []
        with mode:
            for _ in range(3):
                x, y = fake_ones(mode, 6, 4), fake_ones(mode, 4, 6)
                results.append(invoke_subgraph(GRAPH, "graph", x, y))
        return results

    _, hits, misses, _ = counted(run)
    assert hits == 2
    assert misses > 1


def test_modes_share_the_entries(ours):
    for _ in range(2):
        mode = ours.FakeTensorMode()
        with mode:
            result = invoke_subgraph(GRAPH, "graph", fake_ones(mode, 6, 4), fake_ones(mode, 4, 6))
    assert higher_order_cache.statistics().hits == 1
    assert all(t.fake_mode is mode for t in result)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.to(torch.float64),
        lambda x: x.t().contiguous().t(),
        lambda x: x.new_ones(3, 4),
        lambda x: x.requires_grad_(),
        lambda x: x.to("meta"),
    ],
    ids=["dtype", "strides", "size", "requires_grad", "device"],
)
def test_other_arguments_make_another_entry(ours, change):
    import torch._functorch.config as functorch_config

    graph = graph_of(lambda x: (x.sin(),))
    with functorch_config.patch(fake_tensor_allow_meta=True):
        mode = ours.FakeTensorMode()
    with mode:
        x = fake_ones(mode, 4, 4)
        first = invoke_subgraph(graph, "graph", x)[0]
        second = invoke_subgraph(graph, "graph", change(fake_ones(mode, 4, 4)))[0]
    assert higher_order_cache.statistics().misses == 2
    assert (first.dtype, first.shape, first.stride(), first.requires_grad, first.device) != (
        (second.dtype, second.shape, second.stride(), second.requires_grad, second.device)
    )


def test_the_number_type_belongs_to_the_key(ours):
    graph = graph_of(lambda x, n: (x * n,))
    mode = ours.FakeTensorMode()
    with mode:
        x = fake_ones(mode, 3, dtype=torch.int64)
        dtypes = [invoke_subgraph(graph, "graph", x, n)[0].dtype for n in (1, True, 1)]
    assert dtypes == [torch.int64] * 3
    statistics = higher_order_cache.statistics()
    assert (statistics.hits, statistics.misses) == (1, 2)


def test_a_plain_function_is_not_cached():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        with mode:
            for _ in range(2):
                invoke_subgraph(lambda x: (x.sin(),), "function", fake_ones(mode, 3))

    *_, bypasses = counted(run)
    assert bypasses == {"function argument": 2}


def test_wrappers_of_a_graph_count_as_the_graph():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        with mode:
            for _ in range(2):
                wrapped = SubgraphCallableWrapper(GRAPH.forward, GRAPH)
                invoke_subgraph(wrapped, "graph", *(fake_ones(mode, 4, 4) for _ in range(2)))

    _, hits, _, _ = counted(run)
    assert hits == 1


def test_a_wrapper_and_its_graph_have_entries_of_their_own(ours):
    class Context:
        def functionalize(self, function):
            return function

    mode = ours.FakeTensorMode()
    with mode:
        x = fake_ones(mode, 4, 4)
        invoke_subgraph(GRAPH, "graph", x, x)
        invoke_subgraph(FunctionalizeCtxWrapper(Context(), GRAPH), "graph", x, x)
    assert higher_order_cache.statistics().misses == 2


@pytest.mark.parametrize(
    ("reason", "argument"),
    [
        ("constant attribute", lambda mode: torch.tensor(3.0)),
        ("torch.sparse_coo tensor", lambda mode: mode.from_tensor(torch.eye(2).to_sparse())),
    ],
)
def test_arguments_that_cannot_stand_in_a_key_are_counted_by_torchs_reason(reason, argument):
    def run(fakes):
        mode = fakes.FakeTensorMode()
        graph = graph_of(lambda x: (x * 2,))
        with mode:
            return invoke_subgraph(graph, "graph", argument(mode))

    def program(fakes):
        fakes.FakeTensorMode.cache_clear()
        run(fakes)
        return fakes.FakeTensorMode.cache_info().bypasses.get(reason, 0) > 0

    assert assert_same(program) is True


def test_operators_that_torch_leaves_out_are_counted_each_time(ours):
    mode = ours.FakeTensorMode()
    with mode:
        x = fake_ones(mode, 3)
        for _ in range(2):
            torch.ops.higher_order.strict_mode(graph_of(lambda x: (x.sin(),)), (x,))
    assert list(higher_order_cache.statistics().bypasses.values()) == [2]


def test_a_result_with_a_new_symbol_is_computed_each_time(ours):
    graph = graph_of(lambda x: (x.nonzero(),))
    mode = ours.FakeTensorMode(shape_env=ShapeEnv(allow_dynamic_output_shape_ops=True), static_shapes=True)
    with mode:
        x = fake_ones(mode, 3)
        first = invoke_subgraph(graph, "graph", x)[0]
        x.nonzero_memo = None
        second = invoke_subgraph(graph, "graph", x)[0]
    assert higher_order_cache.statistics().bypasses == {"unbacked symbol in HOP invoke_subgraph output": 2}
    assert str(first.shape[0]) != str(second.shape[0])


def test_an_argument_that_is_a_result_is_returned_itself(ours):
    graph = graph_of(lambda x, y: (y, x.sin()))
    mode = ours.FakeTensorMode()
    with mode:
        x, y = (fake_ones(mode, 3) for _ in range(2))
        assert all(invoke_subgraph(graph, "graph", x, y)[0] is y for _ in range(2))
        assert invoke_subgraph(graph, "graph", x, x)[0] is x
    statistics = higher_order_cache.statistics()
    assert (statistics.hits, statistics.misses) == (1, 2)


def test_views_of_arguments_are_not_remembered(ours):
    graph = graph_of(lambda x: (x.t(),))
    mode = ours.FakeTensorMode()
    with mode:
        x = fake_ones(mode, 3, 2)
        results = [invoke_subgraph(graph, "graph", x)[0] for _ in range(2)]
    assert all(t.untyped_storage()._cdata == x.untyped_storage()._cdata for t in results)
    assert higher_order_cache.statistics().bypasses == {"aliasing output": 2}


def test_a_result_that_is_a_part_of_its_storage_is_not_remembered(ours):
    graph = graph_of(lambda x: ((x + 1)[1:],))
    mode = ours.FakeTensorMode()
    with mode:
        x = fake_ones(mode, 3, 2)
        offsets = [invoke_subgraph(graph, "graph", x)[0].storage_offset() for _ in range(2)]
    assert offsets == [2, 2]
    assert higher_order_cache.statistics().bypasses == {"metadata mismatch": 2}


def dynamic(mode, *shape):
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(shape))
    return fake_ones(mode, *shape, symbolic_context=context)


def test_symbolic_sizes_are_answered_with_the_arguments_own_symbols():
    def run(fakes):
        mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
        graph = graph_of(lambda x, y: (x + y, torch.cat([x, y])))
        with mode:
            x = dynamic(mode, 6, 4)
            return [invoke_subgraph(graph, "graph", x, x) for _ in range(2)]

    results = assert_same(run)
    assert results[0] == results[1]


def test_entries_with_symbols_die_with_their_shape_env(ours):
    graph = graph_of(lambda x: (x.sin(),))
    mode = ours.FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        x = dynamic(mode, 6, 4)
        first, second = (invoke_subgraph(graph, "graph", x)[0] for _ in range(2))
    assert first.shape[0].node.expr == second.shape[0].node.expr == x.shape[0].node.expr
    assert higher_order_cache.statistics().hits == 1
    assert higher_order_cache.statistics().size == 0
    dead = weakref.ref(mode.shape_env)
    del mode, x, first, second
    # torch remembers what it simplified, and with it the ShapeEnv.
    for method in vars(ShapeEnv).values():
        getattr(method, "cache_clear", lambda: None)()
    gc.collect()
    assert dead() is None


def test_the_epoch_separates_entries_with_symbols(ours):
    graph = graph_of(lambda x: (x.sin(),))
    mode = ours.FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        x = dynamic(mode, 6, 4)
        invoke_subgraph(graph, "graph", x)
        mode.epoch += 1
        invoke_subgraph(graph, "graph", x)
    assert higher_order_cache.statistics().misses == 2


def test_tracing_sees_symbolic_results_made(ours):
    graph = graph_of(lambda x: (x.sin(),))
    mode = ours.FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        x = dynamic(mode, 6, 4)
    make_fx(lambda x: invoke_subgraph(graph, "graph", x)[0], tracing_mode="symbolic")(torch.ones(6, 4))
    assert higher_order_cache.statistics().hits == 0
    assert x.shape[0] == 6


def test_entries_die_with_their_graph(ours):
    graph = graph_of(lambda x: (x.sin(),))
    mode = ours.FakeTensorMode()
    with mode:
        invoke_subgraph(graph, "graph", fake_ones(mode, 3))
    assert higher_order_cache.statistics().size == 1
    del graph
    gc.collect()
    assert higher_order_cache.statistics().size == 0


def test_statistics_join_the_native_ones_and_clearing_clears_both(ours):
    graph = graph_of(lambda x: (x.sin(),))
    mode = ours.FakeTensorMode()
    with mode:
        invoke_subgraph(graph, "graph", fake_ones(mode, 3))
    info = ours.FakeTensorMode.cache_info()
    assert (info.misses, info.size) == (2, 2)
    ours.FakeTensorMode.cache_clear()
    assert ours.FakeTensorMode.cache_info() == ours.DispatchCacheInfo(0, 0, {}, 0)


def test_crosschecking_finds_a_graph_that_changed(ours):
    graph = graph_of(lambda x: (x.sin(),))
    mode = ours.FakeTensorMode()
    mode.cache_crosscheck_enabled = True
    with mode:
        x = fake_ones(mode, 3)
        invoke_subgraph(graph, "graph", x)
        invoke_subgraph(graph, "graph", x)
        graph.forward = lambda x: (x.to(torch.float64),)
        with pytest.raises(RuntimeError, match="crosscheck failure"):
            invoke_subgraph(graph, "graph", x)
    assert mode.cache_enabled


def test_a_mode_without_cache_computes_each_time(ours):
    graph = graph_of(lambda x: (x.sin(),))
    mode = ours.FakeTensorMode()
    mode.cache_enabled = False
    with mode:
        invoke_subgraph(graph, "graph", fake_ones(mode, 3))
    assert higher_order_cache.statistics() == higher_order_cache.Statistics()
