from contextlib import contextmanager

import pytest
import torch
from both_sides import assert_same, fake_ones, new_mode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.library import _scoped_library
from torch.utils import _pytree as pytree

import fastfake
from fastfake.miss import fallback_kernel


@contextmanager
def operator(kernel, schema="(Tensor x) -> Tensor", namespace="quantized", tags=()):
    """Define an operator without a meta kernel, in a namespace whose kernels may run on zeros."""
    with _scoped_library(namespace, "FRAGMENT") as library:
        library.define(f"fastfake_op{schema}", tags=tags)
        library.impl("fastfake_op", kernel, "CPU")
        yield


def program(*shapes, namespace="quantized", allowed=True):
    def run(fakes):
        mode = fakes.FakeTensorMode(allow_fallback_kernels=allowed)
        arguments = [fake_ones(mode, *shape) for shape in shapes]
        with mode:
            result = getattr(torch.ops, namespace).fastfake_op(*arguments)
        return result, [[leaf is t for t in arguments] for leaf in pytree.tree_leaves(result)]

    return run


def test_the_result_is_that_of_zeros():
    seen = []

    def kernel(x):
        seen.append(x.tolist())
        return x.new_ones(2, x.shape[0])

    with operator(kernel):
        result, _ = assert_same(program((3,)))
    assert result[5] == ["2", "3"]
    assert seen == [[0.0] * 3] * 2


@pytest.mark.parametrize("namespace", ["aten", "prims", "quantized", "vision", "torchaudio", "xla", "fastfake_other"])
def test_only_torchs_own_namespaces_may_run_on_zeros(namespace):
    with operator(lambda x: x + 1, namespace=namespace):
        outcome = assert_same(program((3,), namespace=namespace))
    assert (getattr(outcome, "kind", None) == "UnsupportedOperatorException") == (namespace == "fastfake_other")


def test_a_mode_may_forbid_it():
    with operator(lambda x: x + 1):
        failure = assert_same(program((3,), allowed=False))
    assert failure.kind == "UnsupportedOperatorException"


def test_symbolic_sizes_forbid_it():
    def run(fakes):
        mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
        x = fake_ones(mode, 3, 5)
        with mode:
            return torch.ops.quantized.fastfake_op(x)

    with operator(lambda x: x + 1):
        assert assert_same(run).kind == "UnsupportedOperatorException"


def test_an_operator_that_changes_metadata_in_place_is_refused():
    with operator(lambda x: x.t_(), "(Tensor(a!) x) -> Tensor(a!)", tags=(torch.Tag.inplace_view,)):
        failure = assert_same(program((3, 2)))
    assert failure.kind == "NotImplementedError"


def test_a_result_that_is_an_argument_is_the_fake_argument():
    with operator(lambda x: x.add_(1), "(Tensor(a!) x) -> Tensor(a!)"):
        _, same = assert_same(program((3,)))
    assert same == [[True]]


def test_a_result_that_is_a_view_of_an_argument_is_refused():
    with operator(lambda x: x[1:], "(Tensor(a) x) -> Tensor(a)"):
        failure = assert_same(program((3,)))
    assert failure.kind == "NotImplementedError"


def test_several_results_and_numbers_come_back_nested_as_they_are():
    with operator(lambda x, y: (x * 2, [y, y + 1], 5), "(Tensor x, Tensor y) -> (Tensor, Tensor[], int)"):
        result, _ = assert_same(program((3,), (2,)))
    assert result[2] == 5


def test_a_sparse_argument_becomes_sparse_zeros():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        x = mode.from_tensor(torch.eye(3).to_sparse().coalesce())
        with mode:
            return torch.ops.quantized.fastfake_op(x)

    with _scoped_library("quantized", "FRAGMENT") as library:
        library.define("fastfake_op(Tensor x) -> Tensor")
        library.impl("fastfake_op", lambda x: x.to_dense() if x.is_coalesced() else x, "SparseCPU")
        result = assert_same(run)
    assert result[3] == "torch.strided"


def test_the_error_of_the_kernel_reaches_the_caller():
    def kernel(x):
        raise ZeroDivisionError("zeros")

    with operator(kernel):
        failure = assert_same(program((3,)))
    assert (failure.kind, failure.text) == ("ZeroDivisionError", "zeros")


def test_on_a_device_that_is_not_there_an_operator_that_the_cpu_lacks_is_refused_as_by_torch():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        image, weight = (fakes.FakeTensor(mode, torch.empty(1, 2, 3, 3, device="meta"), "cuda") for _ in range(2))
        return torch.ops.aten.miopen_convolution(image, weight, None, [1, 1], [1, 1], [1, 1], 1, False, False)

    assert "miopen" not in assert_same(run).text


def test_a_kernel_that_runs_on_zeros_leaves_no_mode_off():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        x = fake_ones(mode, 3)
        with mode:
            torch.ops.quantized.fastfake_op(x)
            return torch.ones(2)

    with operator(lambda x: torch.ones(3) + x):
        assert assert_same(run)[0] == "FakeTensor"


def test_operators_of_torch_without_meta_kernel_run_on_zeros():
    def run(fakes):
        mode = new_mode(fakes)
        x = fake_ones(mode, 4, 4)
        with mode:
            return torch._C._nn.thnn_conv2d(x[None, None], x[None, None, :2, :2], (2, 2)), torch.geqrf(x)

    assert_same(run)


def test_the_function_raises_the_given_error_where_it_cannot_tell():
    class MyError(RuntimeError):
        pass

    with fastfake.install_temporarily():
        mode = fastfake.FakeTensorMode()
        x = mode.from_tensor(torch.ones(3))
        leaves, spec = pytree.tree_flatten(((x,), {}))
        with pytest.raises(MyError):
            fallback_kernel.run_fallback_kernel(mode, torch.ops.aten.alias.default, leaves, spec, MyError())
        with pytest.raises(MyError):
            fallback_kernel.run_fallback_kernel(mode, torch.ops.aten.t_.default, leaves, spec, MyError())
        result = fallback_kernel.run_fallback_kernel(mode, torch.ops.aten.neg.default, leaves, spec, MyError())
    assert result.shape == (3,)
    assert isinstance(result, fastfake.FakeTensor)


def test_the_mode_tells_who_may():
    def run(fakes):
        ops = torch.ops
        candidates = [
            ops.aten.add.Tensor,
            ops.prims.neg.default,
            ops.quantized.add.default,
            ops.profiler._record_function_exit.default,
        ]
        return [
            fakes.FakeTensorMode(allow_fallback_kernels=allowed).can_run_unsafe_fallback(op)
            for op in candidates
            for allowed in (True, False)
        ]

    assert assert_same(run) == [True, False, True, False, True, False, False, False]
