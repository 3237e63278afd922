"""Programs of many operators give on our FakeTensor what they give on torch's, the first time and from the cache."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch._subclasses.fake_tensor as fake_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from opinfo.compare import ONLY_BETWEEN_FAKES, differences, with_significant_places
from opinfo.programs import attempt, error_of, same_as_torch
from opinfo.random_programs import OPERATIONS, START_SHAPES, Instruction, execute
from opinfo.record import record_call
from opinfo.sides import clear_cache, ours, torchs_own
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("quiet_fake_tensor_log")


def keys_of(tensor: torch.Tensor) -> str:
    return str(torch._C._dispatch_keys(tensor))


def with_grads(module: nn.Module) -> list[torch.Tensor]:
    """The parameters; a record follows them to their gradients."""
    return list(module.parameters())


# Modules


@same_as_torch
def test_linear_layers_and_activations_run_forward_and_backward(mode):
    with mode:
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4), nn.Softmax(-1))
        result = model(torch.randn(3, 8))
        result.sum().backward()
    return [result, with_grads(model)]


@pytest.mark.parametrize("channels_last", [False, True])
def test_convolutions_and_pooling_keep_the_memory_format(channels_last):
    def program(mode):
        with mode:
            model = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.ConvTranspose2d(8, 4, 2)
            )
            images = torch.randn(2, 3, 16, 16)
            if channels_last:
                images = images.to(memory_format=torch.channels_last)
            steps = [images]
            for layer in model:
                steps.append(layer(steps[-1]))
            steps[-1].square().mean().backward()
        return [steps, with_grads(model)]

    same_as_torch(program)()


@same_as_torch
def test_grouped_and_dilated_convolutions_of_one_and_three_dimensions_agree(mode):
    with mode:
        one = nn.Conv1d(4, 8, 3, groups=2, dilation=2)(torch.randn(2, 4, 20))
        three = nn.Conv3d(2, 4, 3, stride=2, bias=False)(torch.randn(1, 2, 9, 9, 9))
        one.sum().backward()
    return [one, three]


# A gradient of torch's has version 1 when nothing is cached, 0 from the cache, and 0 in eager.
@functools.partial(same_as_torch, ignored_fields=frozenset({"version"}))
def test_lstm_and_gru_run_forward_and_backward(mode):
    with mode:
        lstm = nn.LSTM(5, 7, num_layers=2, batch_first=True, bidirectional=True)
        output, (hidden, cell) = lstm(torch.randn(3, 6, 5))
        gru_output, gru_hidden = nn.GRU(5, 4)(torch.randn(6, 3, 5))
        (output.sum() + hidden.sum() + cell.sum()).backward()
    return [output, hidden, cell, gru_output, gru_hidden, with_grads(lstm)]


@same_as_torch
def test_multihead_attention_with_and_without_weights(mode):
    with mode:
        attention = nn.MultiheadAttention(16, 4, batch_first=True)
        x = torch.randn(2, 5, 16, requires_grad=True)
        with_weights = attention(x, x, x)
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
        without_weights = attention(x, x, x, need_weights=False, attn_mask=mask)
        (with_weights[0].sum() + without_weights[0].sum()).backward()
    return [x, with_weights, without_weights, with_grads(attention)]


@same_as_torch
def test_transformer_encoder_layer_in_training_and_in_evaluation(mode):
    with mode:
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        x = torch.randn(2, 5, 16)
        trained = layer(x)
        trained.sum().backward()
        layer.eval()
        evaluated = layer(x)
        with torch.no_grad():
            # The fast path: one fused operator.
            fused = layer(x)
    return [trained, evaluated, fused, with_grads(layer)]


@same_as_torch
def test_scaled_dot_product_attention_takes_masks_and_causality(mode):
    with mode:
        query = torch.randn(2, 4, 8, 16, requires_grad=True)
        causal = nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
        masked = nn.functional.scaled_dot_product_attention(query, query, query, torch.ones(8, 8, dtype=torch.bool))
        (causal + masked).sum().backward()
    return [query, causal, masked]


@same_as_torch
def test_batch_norm_counts_in_training_and_keeps_its_statistics_in_evaluation(mode):
    with mode:
        norm = nn.BatchNorm2d(4)
        x = torch.randn(2, 4, 3, 3, requires_grad=True)
        trained = norm(x)
        trained.sum().backward()
        norm.eval()
        evaluated = norm(x)
    return [x, trained, evaluated, with_grads(norm), dict(norm.state_dict())]


@same_as_torch
def test_embeddings_take_padding_and_bags(mode):
    with mode:
        embedding, bag = nn.Embedding(10, 4, padding_idx=0), nn.EmbeddingBag(10, 4, mode="mean")
        tokens = torch.zeros(2, 3, dtype=torch.int64)
        embedded, bagged = embedding(tokens), bag(tokens)
        (embedded.sum() + bagged.sum()).backward()
    return [embedded, bagged, with_grads(embedding), with_grads(bag)]


@same_as_torch
def test_sparse_embedding_gradients_are_sparse(mode):
    with mode:
        embedding = nn.Embedding(10, 4, sparse=True)
        embedding(torch.zeros(2, 3, dtype=torch.int64)).sum().backward()
    return with_grads(embedding)


@same_as_torch
def test_dropout_is_identity_in_evaluation_and_a_new_tensor_in_training(mode):
    with mode:
        x = torch.randn(4, 4)
        dropout = nn.Dropout(0.3)
        trained, in_place = dropout(x), nn.functional.dropout(x.clone(), 0.3, inplace=True)
        evaluated = dropout.eval()(x)
    return [x, trained, in_place, evaluated]


@same_as_torch
def test_losses_reduce_in_every_way(mode):
    with mode:
        logits = torch.randn(6, 5, requires_grad=True)
        target = torch.zeros(6, dtype=torch.int64)
        losses = [
            nn.functional.cross_entropy(logits, target, reduction=reduction) for reduction in ("none", "mean", "sum")
        ]
        losses += [nn.functional.binary_cross_entropy_with_logits(logits, torch.rand(6, 5))]
        losses[1].backward()
    return [logits, losses]


# Autograd


@same_as_torch
def test_double_backward_keeps_the_graph(mode):
    with mode:
        x = torch.randn(3, 3, requires_grad=True)
        (first,) = torch.autograd.grad((x.sin() @ x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
    return [x, first, second]


@same_as_torch
def test_autograd_functions_save_and_mark_their_tensors(mode):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x)
            ctx.mark_dirty(y)
            return x * 2, y.add_(1)

        @staticmethod
        def backward(ctx, grad, other):
            (x,) = ctx.saved_tensors
            return grad * x, other

    with mode:
        x = torch.randn(4, requires_grad=True)
        y = torch.randn(4)
        doubled, dirty = Double.apply(x, y)
        (doubled + dirty).sum().backward()
    return [x, y, doubled, dirty]


@same_as_torch
def test_hooks_and_retained_gradients_see_fake_tensors(mode):
    seen = []
    with mode:
        x = torch.randn(2, 3, requires_grad=True)
        middle = x.exp()
        middle.register_hook(seen.append)
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
            result = middle.tanh()
        result.sum().backward()
    return [x, middle, result, seen]


@same_as_torch
def test_gradients_accumulate_over_two_backward_calls(mode):
    with mode:
        x = torch.randn(2, 3, requires_grad=True)
        (x * 2).sum().backward()
        first = x.grad
        (x * 3).sum().backward()
    return [x, first]


@same_as_torch
def test_writing_to_a_saved_tensor_is_an_error(mode):
    with mode:
        x = torch.randn(3, requires_grad=True)
        y = x.exp()
        y.add_(1)
        error = error_of(lambda: y.sum().backward())
    return [x, y, error]


@same_as_torch
def test_writing_to_a_leaf_that_requires_grad_is_an_error(mode):
    with mode:
        x = torch.randn(3, requires_grad=True)
        error = error_of(lambda: x.add_(1))
    return [x, error]


@same_as_torch
def test_checkpointed_blocks_recompute(mode):
    with mode:
        block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        x = torch.randn(2, 4, requires_grad=True)
        result = checkpoint(block, x, use_reentrant=False) + checkpoint(block, x, use_reentrant=True)
        result.sum().backward()
    return [x, result, with_grads(block)]


@same_as_torch
def test_no_grad_and_enable_grad_decide_over_requires_grad(mode):
    with mode:
        x = torch.randn(2, requires_grad=True)
        with torch.no_grad():
            without = x * 2
            view = x[0]
            with torch.enable_grad():
                again = x * 2
        detached = x.detach()
    return [x, without, view, again, detached]


@same_as_torch
def test_inference_mode_makes_inference_tensors(mode):
    with mode:
        before = torch.randn(3, 3)
        with torch.inference_mode():
            inside = torch.randn(3, 3)
            mixed = before @ inside
            view = before.t()
            written = inside.add_(1)
        after = inside + 1
        error = error_of(lambda: inside.add_(1))
    return [before, inside, mixed, view, written, after, error]


@same_as_torch
def test_the_cache_keeps_normal_and_inference_tensors_apart(mode):
    results = []
    with mode:
        x = torch.randn(2, 3)
        for inference in (False, True, False, True):
            with torch.inference_mode(inference):
                results += [x + 1, x.t(), x.unsqueeze(0)]
    return results


@same_as_torch
def test_forward_derivatives_flow_through_dual_tensors(mode):
    with mode, torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.randn(3), torch.randn(3))
        result = torch.autograd.forward_ad.unpack_dual(dual.sin() * 2)
        return [result.primal, result.tangent]


# Autocast


@same_as_torch
def test_autocast_of_cpu_and_of_absent_devices_chooses_dtypes(mode):
    results = []
    with mode:
        for device, dtype in (("cpu", torch.bfloat16), ("cuda", torch.float16), ("cuda", torch.bfloat16)):
            x = torch.randn(4, 4, device=device)
            with torch.autocast(device, dtype=dtype):
                product = x @ x
                results += [product, product.softmax(-1), product + x, nn.functional.layer_norm(product, (4,))]
    return results


@same_as_torch
def test_autocast_modules_train_in_mixed_precision(mode):
    with mode:
        model = nn.Linear(4, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = model(torch.randn(2, 4))
        result.float().sum().backward()
    return [result, with_grads(model)]


# torch.func


@same_as_torch
def test_grad_and_its_nesting_take_fake_tensors(mode):
    with mode:
        x = torch.randn(3)
        first = torch.func.grad(lambda t: t.sin().sum())(x)
        second = torch.func.grad(lambda t: torch.func.grad(lambda u: (u**3).sum())(t).sum())(x)
        both = torch.func.grad_and_value(lambda t: t.exp().sum())(x)
    return [x, first, second, both]


@same_as_torch
def test_vmap_batches_fake_tensors(mode):
    with mode:
        x, y = torch.randn(5, 3, 4), torch.randn(4, 5)
        batched = torch.func.vmap(torch.mv, in_dims=(0, 1))(x, y)
        nested = torch.func.vmap(torch.func.vmap(torch.sum))(x)
        samples = torch.func.vmap(torch.func.grad(lambda t: (t * t).sum()))(x)
    return [batched, nested, samples]


@same_as_torch
def test_jvp_vjp_and_jacobians_take_fake_tensors(mode):
    with mode:
        x = torch.randn(3)
        forward = torch.func.jvp(torch.sin, (x,), (torch.ones(3),))
        value, pull = torch.func.vjp(torch.cos, x)
        jacobians = [torch.func.jacrev(torch.sin)(x), torch.func.jacfwd(torch.sin)(x)]
        hessian = torch.func.hessian(lambda t: t.pow(3).sum())(x)
    return [forward, value, pull(x), jacobians, hessian]


@same_as_torch
def test_functional_call_uses_the_given_parameters(mode):
    with mode:
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        x = torch.randn(5, 3)
        gradients = torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).sum())(parameters)
    return [parameters, gradients]


@same_as_torch
def test_functionalize_replaces_writes(mode):
    with mode:
        x = torch.randn(4)
        result = torch.func.functionalize(lambda t: t.clone().view(2, 2).add_(1))(x)
    return [x, result]


# Views, writes, storages


@same_as_torch
def test_writes_through_a_chain_of_views_count_versions_of_all(mode):
    with mode:
        base = torch.zeros(4, 6)
        rows = base[1:3]
        columns = rows.t()
        picked = columns.select(0, 2)
        flat = base.view(-1)
        picked.add_(1)
        flat[::2].mul_(2)
        base[:, 0] = 5
        base[torch.zeros(4, 6, dtype=torch.bool)] = 1
        diagonal = base.diagonal().fill_(3)
        unfolded = base.unfold(1, 3, 2)
        expanded = rows.unsqueeze(0).expand(3, 2, 6)
    return [base, rows, columns, picked, flat, diagonal, unfolded, expanded]


@same_as_torch
def test_in_place_views_change_the_tensor_itself(mode):
    with mode:
        x = torch.zeros(2, 3, 1)
        other = x.view(6)
        results = [x.transpose_(0, 1), x.squeeze_(), x.unsqueeze_(0), x.t_() if x.dim() < 3 else x.swapaxes_(0, 1)]
        y = torch.zeros(2, 3)
        y.as_strided_((3,), (2,))
        z = torch.zeros(3, requires_grad=True).clone().detach_()
    return [x, other, results, y, z]


@same_as_torch
def test_out_arguments_are_resized_and_returned(mode):
    with mode:
        x, y = torch.randn(3, 4), torch.randn(4, 5)
        empty, fitting, strided = torch.empty(0), torch.empty(3, 5), torch.empty(5, 3).t()
        results = [torch.mm(x, y, out=out) for out in (empty, fitting, strided)]
        values, indices = torch.empty(0), torch.empty(0, dtype=torch.int64)
        maxima = torch.max(x, 1, out=(values, indices))
        view = torch.zeros(2, 3, 5)[1]
        torch.mm(x, y, out=view)
        error = error_of(lambda: torch.mm(x, y, out=torch.empty(3, 5, dtype=torch.int64)))
    return [empty, fitting, strided, results, values, indices, list(maxima), view, error]


@same_as_torch
def test_set_and_resize_change_storage_and_shape(mode):
    with mode:
        x, y = torch.zeros(4), torch.zeros(10)
        view = x[1:]
        x.resize_(3, 5)
        y.set_(x)
        z = torch.empty(0).set_(x.untyped_storage(), 2, (2, 2), (3, 1))
        grown = torch.empty(2).resize_as_(x)
        storage_sizes = [x.untyped_storage().nbytes()]
        y.untyped_storage().resize_(0)
        storage_sizes.append(x.untyped_storage().nbytes())
    return [x, y, z, view, grown, storage_sizes]


@same_as_torch
def test_data_assignment_swaps_the_storage(mode):
    with mode:
        x, y = torch.zeros(2, 3), torch.ones(4)
        x.data = y
        data = x.data
    return [x, y, data]


@same_as_torch
def test_the_same_tensor_twice_is_no_copy(mode):
    with mode:
        x = torch.randn(2, 2)
        results = [x + x, x.addmm_(x, x), x.to(torch.float32), x.contiguous(), x.cpu(), x.expand(2, 2), x.reshape(2, 2)]
        results += [torch.mul(x, x, out=x), torch.cat([x, x]), x.view_as(x), x.type_as(x)]
    return [x, results]


@same_as_torch
def test_reshape_is_a_view_only_where_strides_allow(mode):
    with mode:
        x = torch.randn(2, 3, 4)
        results = [x.reshape(6, 4), x.transpose(0, 1).reshape(6, 4), x.flatten(), x.mT.flatten(1), x.movedim(0, 2)]
        results += [torch.ops.aten._unsafe_view(x, (24,)), x.T.reshape(-1), x.permute(2, 0, 1).contiguous().view(4, 6)]
    return [x, results]


@same_as_torch
def test_tensors_without_elements_keep_their_strides_and_aliases(mode):
    with mode:
        x = torch.randn(0, 3)
        results = [x.t(), x[0:0], x + 1, x.view(3, 0), x.sum(0), torch.cat([x, x]), x.clone(), x.unsqueeze(1)]
    return [x, results]


@same_as_torch
def test_lists_of_tensors_go_in_and_come_out(mode):
    with mode:
        x = torch.randn(4, 6)
        parts = [x.split(2), x.chunk(3, 1), x.unbind(0), torch.tensor_split(x, 3), torch.split_with_sizes(x, [1, 3])]
        joined = [torch.cat(parts[0]), torch.stack(parts[2]), torch.block_diag(x, x), *torch.broadcast_tensors(x[0], x)]
        meshed = torch.meshgrid(x[0], x[:, 0], indexing="ij")
        einsum = torch.einsum("ij,kj->ik", x, x)
    return [x, parts, joined, meshed, einsum]


@same_as_torch
def test_foreach_operators_write_to_each_tensor(mode):
    with mode:
        left, right = [torch.randn(2), torch.randn(3, 2)], [torch.randn(2), torch.randn(3, 2)]
        added = torch._foreach_add(left, right, alpha=2)
        torch._foreach_mul_(left, 3.0)
        torch._foreach_addcdiv_(left, right, right, 0.5)
        torch._foreach_copy_(right, left)
        norms = torch._foreach_norm(left)
        maxima = torch._foreach_max(left)
    return [left, right, added, norms, maxima]


@same_as_torch
def test_indexing_and_scatter_forms_agree(mode):
    with mode:
        x = torch.randn(4, 5)
        index = torch.zeros(3, dtype=torch.int64)
        results = [x[index], x[:, index], x[index, index], x[None, ..., 0], x[1:, None, index], x.take(index)]
        results += [x.gather(1, index.view(1, 3)), x.index_select(0, index), x.scatter_add(0, index.view(1, 3), x)]
        x.index_add_(0, index, torch.randn(3, 5))
        x.index_put_((index, index), torch.randn(3), accumulate=True)
        x[index] = 0
    return [x, results]


@same_as_torch
def test_setting_a_scalar_at_an_index_of_a_tensor_that_requires_grad(mode):
    with mode:
        x = torch.randn(3, 3, requires_grad=True)
        y = x * 1
        y[0, 1] = 2.0
        y[1] = torch.zeros(3)
        y.sum().backward()
    return [x, y]


# Dtypes, scalars, complex


@same_as_torch
def test_scalars_of_each_type_promote_as_in_torch(mode):
    with mode:
        tensors = [torch.ones(2, dtype=dtype) for dtype in (torch.bool, torch.int32, torch.float16, torch.complex64)]
        zero_dim = [torch.ones((), dtype=dtype) for dtype in (torch.int64, torch.float64)]
        scalars = (True, 1, 1.0, 1j)
        results = [tensor + scalar for tensor in tensors for scalar in scalars]
        results += [tensor * other for tensor in tensors for other in zero_dim]
        results += [torch.where(tensors[0], scalar, tensors[2]) for scalar in (1, 1.0)]
    return results


@same_as_torch
def test_the_default_dtype_decides_factories_and_divisions(mode):
    results = []
    for dtype in (torch.float32, torch.float64, torch.float32, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            with mode:
                integers = torch.ones(3, dtype=torch.int64)
                results += [
                    torch.zeros(2),
                    integers / 2,
                    integers.mean(dtype=dtype),
                    torch.arange(0.0, 3.0),
                    integers + 1.5,
                ]
        finally:
            torch.set_default_dtype(torch.float32)
    return results


@same_as_torch
def test_dtype_conversions_and_bit_views_change_width(mode):
    with mode:
        x = torch.randn(4, 6)
        results = [x.double(), x.half(), x.to(torch.int8), x.bool(), x.to(torch.complex128), x.float()]
        results += [x.view(torch.int32), x.view(torch.float16), x.view(torch.float64), x.view(torch.uint8)]
        error = error_of(lambda: x[:, :3].view(torch.float64))
    return [x, results, error]


@same_as_torch
def test_conjugate_and_negative_views_stay_lazy(mode):
    with mode:
        x = torch.randn(3, 2, dtype=torch.complex64)
        conjugated = x.conj()
        imaginary = conjugated.imag
        results = [conjugated, imaginary, x.real, torch.view_as_real(x), x.mH, conjugated.resolve_conj()]
        results += [
            imaginary.resolve_neg(),
            conjugated + 1,
            conjugated.clone(),
            imaginary * 2,
            conjugated.conj(),
            x.adjoint(),
        ]
        results += [torch.view_as_complex(torch.randn(3, 2)), x.abs(), x.angle(), conjugated.t(), imaginary.view(-1)]
        conjugated.mul_(2)
    return [x, results]


# Devices


@same_as_torch
def test_factories_make_tensors_of_absent_devices(mode):
    results = []
    with mode:
        for device in ("cpu", "cuda", "cuda:1", "xpu", "mps", torch.device("cuda", 2)):
            x = torch.empty(2, 3, device=device)
            results += [x, torch.zeros_like(x), x.new_ones(2), torch.full((2,), 1, device=device), x + 1, x.t()]
            results += [torch.arange(3, device=device), torch.eye(2, device=device), x.cpu(), x.is_cuda, x.device]
            results += [torch.rand(2, device=device), torch.randint(0, 5, (2,), device=device)]
    return results


@same_as_torch
def test_a_default_device_reaches_the_factories(mode):
    with mode, torch.device("cuda"):
        calls = [
            lambda: torch.zeros(2),
            lambda: torch.arange(3),
            lambda: nn.Linear(2, 2).weight,
            lambda: torch.tensor([1.0]),
        ]
        return [attempt(call) for call in calls]


@same_as_torch
def test_dispatch_keys_follow_the_fake_device(mode):
    with mode:
        tensors = [torch.empty(2, device=device) for device in ("cpu", "cuda", "xpu", "mps")]
        tensors += [tensors[1] + 1, tensors[1].t(), tensors[1].cpu()]
        with torch.inference_mode():
            tensors += [tensors[0] + 1]
        keys = [keys_of(tensor) for tensor in tensors]
    return [tensors, keys]


@same_as_torch
def test_tensors_move_between_devices(mode):
    with mode:
        x, there = torch.randn(2, 3), torch.randn(2, 3, device="cuda")
        calls = [
            lambda: x.to("cuda"), lambda: there.to("cuda"), there.cpu, lambda: there.to("cpu", torch.float64),
            lambda: torch.empty(2, 3).copy_(there), lambda: there.copy_(x), lambda: x.to("xpu"), x.cuda,
            lambda: x.to(there), lambda: there.type_as(x),
        ]  # fmt: skip
        moved = [attempt(call) for call in calls for _ in range(2)]
    return [x, there, moved]


def test_a_module_moves_to_another_device_where_torchs_own_fake_tensor_fails():
    def moved() -> torch.device:
        with fake_tensor.FakeTensorMode():
            return nn.Linear(3, 2).to("cuda").weight.device

    # torch's memo of a fresh result holds a weak reference to it, and tensors with weak references do not swap.
    with torchs_own():
        clear_cache()
        assert "Couldn't swap Linear.weight" in str(error_of(moved))
    with ours():
        clear_cache()
        for _ in range(3):
            assert moved() == torch.device("cuda", 0)


def test_a_copied_module_stays_in_its_mode_where_torchs_own_fake_tensor_leaves_it():
    def run_copies() -> object:
        with fake_tensor.FakeTensorMode():
            # Makes deep copies of the layer.
            encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
            return encoder(torch.randn(3, 4, 8)).shape

    with torchs_own():
        assert "Mixing fake modes NYI" in error_of(run_copies).text
    with ours():
        assert run_copies() == (3, 4, 8)


@same_as_torch
def test_cpu_scalars_mix_with_tensors_of_another_device(mode):
    with mode:
        scalar = torch.ones(())
        x = torch.ones(2, device="cuda")
        results = [scalar + x, x * scalar, torch.where(x > 0, x, scalar), x.add_(scalar), torch.add(scalar, x, alpha=2)]
        results += [attempt(lambda: x[torch.zeros(1, dtype=torch.int64)])]
        gpu_scalar = torch.ones((), device="cuda")
        error = error_of(lambda: gpu_scalar + torch.ones(2))
        foreach = torch._foreach_mul([x], scalar)
    return [x, results, error, foreach]


@same_as_torch
def test_tensors_of_two_devices_are_refused(mode):
    with mode:
        x, y = torch.ones(2, device="cuda"), torch.ones(2)
        errors = [error_of(lambda: x + y), error_of(lambda: torch.cat([x, y])), error_of(lambda: y.add_(x))]
        errors += [error_of(lambda: nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2, device="cuda:1")))]
        # Again, since an error must not be answered from the cache.
        errors += [error_of(lambda: x + y), error_of(lambda: torch.nextafter(x, torch.ones(())))]
    return [x, y, errors]


@same_as_torch
def test_meta_tensors_are_taken_or_refused_as_in_torch(mode):
    real = torch.empty(2, device="meta")
    with mode:
        error = attempt(lambda: torch.empty(2, device="meta"))
    return [error, attempt(lambda: mode.from_tensor(real))]


# Real tensors and constants


@same_as_torch
def test_a_real_tensor_is_refused_in_a_fake_operation(mode):
    real = torch.ones(2)
    with mode:
        fake = torch.ones(2)
        errors = [error_of(lambda: fake + real), error_of(lambda: real + 1), error_of(lambda: real.t_())]
        errors += [error_of(lambda: torch.cat([fake, real]))]
    return [real, fake, errors]


@same_as_torch
def test_allowed_real_tensors_are_converted_once(_mode):
    mode = fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    real, weight = torch.ones(2), nn.Parameter(torch.ones(2))
    with mode:
        fake = torch.ones(2)
        results = [fake + real, real * 2, real.view(2, 1), weight * fake, torch.cat([real, fake])]
        error = error_of(lambda: real.t_())
    return [real, weight, results, mode.from_tensor(real), mode.from_tensor(weight), error]


@same_as_torch
def test_tensor_constants_know_their_value(mode):
    with mode:
        x = torch.tensor(3)
        y = torch.tensor(2.5)
        values = [x.item(), y.item(), int(x), float(y), (x + 1).item(), bool(x > 2), (x * y).item(), x.tolist()]
        big = torch.tensor([1, 2, 3])
        lifted = torch.ops.aten.lift_fresh(torch.ops.aten.lift(x))
        view = big[1]
        scalar = torch.ops.aten.add.Tensor(torch.tensor(1), torch.tensor(2))
    return [x, y, values, big, lifted, view, scalar]


@same_as_torch
def test_constants_are_forgotten_after_a_write(mode):
    with mode:
        x = torch.tensor(1.0)
        y = x.view(1)
        known = x.item()
        x.add_(1)
        updated = x.item()
        x.uniform_()
        errors = [error_of(x.item), error_of(y.item)]
        z = torch.tensor(1.0)
        z.add_(torch.ones(()))
        errors += [error_of(z.item)]
        w = torch.tensor(4)
        w.copy_(torch.tensor(5))
        copied = w.item()
    return [x, y, z, w, known, updated, copied, errors]


@same_as_torch
def test_constants_of_an_absent_device_agree(mode):
    with mode:
        x = torch.tensor(2.0, device="cuda")
        y = attempt(lambda: torch.tensor(2.0).to("cuda"))
        value = attempt(x.item)
        indexed = attempt(lambda: torch.ones(3, device="cuda")[torch.tensor(1)])
    return [x, y, value, indexed]


@same_as_torch
def test_operators_that_need_data_are_refused(mode):
    with mode:
        x = torch.ones(3)
        mask = x > 0
        calls = [
            x.nonzero, lambda: x[mask], x.sum().item, lambda: torch.masked_select(x, mask), lambda: x.unique(),
            lambda: bool(x.sum()), lambda: torch.equal(x, x), lambda: torch.repeat_interleave(x.long()),
            lambda: torch.allclose(x, x), lambda: x.long().bincount(), lambda: torch.arange(x.sum()), x.numpy,
            x.tolist, lambda: x.data_ptr(), x.storage().tolist,
        ]  # fmt: skip
        first = [attempt(call) for call in calls]
        again = [attempt(call) for call in calls]
    return [x, mask, first, again]


@same_as_torch
def test_wrong_arguments_raise_the_errors_of_torch_each_time(mode):
    with mode:
        x, y = torch.ones(2, 3), torch.ones(4, 5)
        calls = [
            lambda: x + y, lambda: x @ y, lambda: x.view(5), lambda: x.expand(3, 3), lambda: x.sum(4),
            lambda: x.squeeze(7),
            lambda: torch.cat([x, y]), lambda: x.add_(torch.ones(5, 2, 3)), lambda: x.reshape(-1, 4),
            lambda: x.transpose(0, 9),
            lambda: nn.functional.conv2d(x, y), lambda: torch.stack([x, y]), lambda: x.index_select(3,
            torch.zeros(1).long()),
            lambda: torch.zeros(-1), lambda: x.bitwise_and(1), lambda: x.fill_(torch.ones(2)),
        ]  # fmt: skip
        errors = [attempt(call) for call in calls for _ in range(2)]
    return [x, y, errors]


# Conversion


@same_as_torch
def test_parameters_bring_their_gradient_and_their_ties(mode):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model(torch.randn(2, 3)).sum().backward()
    fakes = [mode.from_tensor(parameter) for parameter in (model[0].weight, model[1].weight, model[0].bias)]
    buffer = mode.from_tensor(nn.Buffer(torch.zeros(2)))
    return [fakes, [isinstance(fake, nn.Parameter) for fake in fakes], buffer]


@same_as_torch
def test_converted_views_share_their_storage(mode):
    base = torch.zeros(4, 6)
    tensors = [base, base[1:], base.t(), base.view(-1)[3:7], base.detach(), base[0]]
    fakes = [mode.from_tensor(tensor) for tensor in tensors]
    other_order = fake_tensor.FakeTensorMode()
    reversed_fakes = [other_order.from_tensor(tensor) for tensor in reversed(tensors)]
    again = mode.from_tensor(base)
    with mode:
        fakes[1].add_(1)
    return [fakes, reversed_fakes, again]


@same_as_torch
def test_converted_views_of_graphs_stay_differentiable(mode):
    leaf = torch.zeros(4, 6, requires_grad=True)
    inner = leaf * 2
    tensors = [leaf, leaf[1:], inner, inner.t(), leaf.detach()]
    fakes = [mode.from_tensor(tensor) for tensor in tensors]
    with mode:
        result = fakes[1].sum()
        result.backward()
    return [fakes, result]


@same_as_torch
def test_every_kind_of_tensor_converts(mode):
    with torch.inference_mode():
        inference = torch.ones(2)
    tensors = [
        inference, torch.zeros(3, dtype=torch.complex64).conj(), torch.zeros(3, dtype=torch.complex64).conj().imag,
        torch.zeros(2, 3).expand(4, 2, 3), torch.zeros(5).as_strided((2, 2), (1, 2), 1), torch.zeros(()),
        torch.zeros(0, 2),
        torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.zeros(2, 3, 4,
        5).to(memory_format=torch.channels_last),
        torch.zeros(2, dtype=torch.float8_e4m3fn), torch.zeros(2, dtype=torch.uint16),
        torch.eye(3).to_sparse().requires_grad_(),
    ]  # fmt: skip
    return [mode.from_tensor(tensor) for tensor in tensors]


@same_as_torch
def test_quantized_tensors_are_refused(mode):
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)
    return [error_of(lambda: mode.from_tensor(quantized))]


@same_as_torch
def test_a_model_and_its_state_convert_with_one_mode(mode):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    fake_state = {name: mode.from_tensor(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    with mode:
        result = torch.func.functional_call(model, fake_state, (torch.randn(5, 3),))
        result.sum().backward()
    return [fake_state, result]


@same_as_torch
def test_copies_of_tensors_and_modules_are_independent_fakes(mode):
    with mode:
        x = torch.randn(3, requires_grad=True)
        view = torch.zeros(4)[1:3]
        model = nn.Linear(2, 2)
        copies = [copy.deepcopy(x), copy.deepcopy([view, view]), copy.copy(view), copy.deepcopy(view)]
        copied_model = copy.deepcopy(model)
    return [x, view, copies, with_grads(model), with_grads(copied_model)]


@same_as_torch
def test_modules_are_built_and_loaded_under_the_mode(mode):
    with mode:
        source, target = nn.Linear(3, 2), nn.Linear(3, 2)
        loaded = target.load_state_dict(source.state_dict())
        shared = [p.data.untyped_storage().nbytes() for p in target.parameters()]
    return [with_grads(source), with_grads(target), str(loaded), shared]


# The mode itself


@same_as_torch
def test_fake_tensors_work_outside_of_their_mode(mode):
    with mode:
        x = torch.randn(3, requires_grad=True)
    y = x * 2
    y.sum().backward()
    combined = y + x.detach().t()
    mixed = error_of(lambda: x + torch.ones(3))
    return [x, y, combined, mixed, y.fake_mode is mode]


@same_as_torch
def test_entering_the_mode_again_changes_nothing(mode):
    with mode:
        with mode:
            x = torch.ones(2)
        y = torch.ones(2)
    real = torch.ones(2)
    return [x, y, real, mode.is_our_fake(x), mode.is_our_fake(real)]


@same_as_torch
def test_the_inner_of_two_modes_makes_the_tensors_and_refuses_the_outers(mode):
    other = fake_tensor.FakeTensorMode()
    with mode:
        outer = torch.ones(2)
        with other:
            inner = torch.ones(2)
            error = error_of(lambda: inner + outer)
        restored = torch.ones(2)
    owners = [tensor.fake_mode is mode for tensor in (outer, inner, restored)]
    return [outer, inner, restored, owners, error]


@same_as_torch
def test_modes_are_left_in_order_after_an_error(mode):
    def raise_inside():
        with mode:
            raise ValueError("inside")

    error = error_of(raise_inside)
    return [error, torch.ones(2), type(torch.ones(2)) is torch.Tensor]


@same_as_torch
def test_unsetting_the_mode_for_a_while_gives_real_tensors(mode):
    with mode:
        x = torch.ones(2)
        with fake_tensor.unset_fake_temporarily() as unset:
            real = torch.ones(2)
        y = torch.ones(2)
    return [x, real, y, unset is mode]


@same_as_torch
def test_detecting_modes_and_fakes_agrees(mode):
    with mode:
        x = torch.ones(2)
    real = torch.ones(2)
    detected = [fake_tensor.is_fake(x), fake_tensor.is_fake(real), isinstance(x, torch.Tensor)]
    return [x, detected, torch._guards.detect_fake_mode([x]) is mode, fake_tensor.maybe_get_fake_mode(x) is mode]


@same_as_torch
def test_printed_fake_tensors_read_the_same(mode):
    with mode:
        x = torch.randn(2, 3, requires_grad=True)
        tensors = [x, x * 2, torch.ones((), device="cuda"), torch.ones(2, dtype=torch.int64), nn.Parameter(x.detach())]
        inside = [repr(tensor) for tensor in tensors] + [str([tensors[0]])]
        model = repr(nn.Linear(2, 2))
    return [inside, [repr(tensor) for tensor in tensors], model, f"{tensors[2]}"]


@same_as_torch
def test_the_cache_reports_its_size_after_clearing(mode):
    clear_cache()
    info = fake_tensor.FakeTensorMode.cache_info()
    return [info.hits, info.misses, dict(info.bypasses), info.size]


# Sparse, optimisers, other operators


@same_as_torch
def test_sparse_coordinate_tensors_are_made_and_used(mode):
    with mode:
        indices, values = torch.zeros(2, 3, dtype=torch.int64), torch.ones(3)
        x = torch.sparse_coo_tensor(indices, values, (4, 5))
        results = [x, x.is_sparse, x.coalesce(), x * 2, x.t(), x.sparse_dim(), torch.sparse.mm(x, torch.ones(5, 2))]
        results += [x.to_dense(), x._values(), x._indices()]
    return results


@same_as_torch
def test_converted_sparse_tensors_compute(mode):
    x = mode.from_tensor(torch.eye(3).to_sparse())
    with mode:
        return [x, x + x, x @ torch.ones(3, 2), x.to_dense(), x.float()]


def optimizer_test(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[Any], object]:
    def program(mode):
        with mode:
            model = nn.Linear(3, 2)
            optimizer = make(list(model.parameters()))
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.randn(4, 3)).square().mean().backward()
                optimizer.step()
        return [with_grads(model), [dict(state) for state in optimizer.state.values()]]

    return program


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimizers_step_as_in_torch(name, foreach):
    options = {"momentum": 0.9} if name == "SGD" else {}
    same_as_torch(
        optimizer_test(lambda params: getattr(torch.optim, name)(params, lr=0.1, foreach=foreach, **options))
    )()


@same_as_torch
def test_gradient_clipping_and_scaling_read_no_data(mode):
    with mode:
        model = nn.Linear(3, 2)
        model(torch.randn(4, 3)).sum().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return [norm, with_grads(model)]


@same_as_torch
def test_linear_algebra_decompositions_return_named_tuples(mode):
    with mode:
        x = torch.randn(2, 4, 4)
        return [
            torch.linalg.svd(x), torch.linalg.qr(x), torch.linalg.eigh(x), torch.linalg.slogdet(x), torch.linalg.inv(x),
            torch.linalg.lu_factor(x), torch.linalg.solve(x, x[..., 0]), x.max(-1), x.topk(2), x.sort(),
            torch.fft.rfft(x),
        ]  # fmt: skip


@same_as_torch
def test_random_operators_take_generators(mode):
    generator = torch.Generator().manual_seed(0)
    with mode:
        x = torch.empty(3)
        results = [
            torch.rand(2, generator=generator),
            x.normal_(generator=generator),
            torch.randperm(4),
            torch.randn_like(x),
        ]
        results += [
            torch.bernoulli(x),
            torch.multinomial(torch.ones(4), 2),
            x.uniform_(0, 1),
            torch.normal(0.0, 1.0, (2,)),
        ]
    return [x, results]


@same_as_torch
def test_custom_operators_use_their_fake_implementation(mode):
    with torch.library._scoped_library("fastfake_programs", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.define("fill(Tensor(a!) x) -> ()")
        library.define("without_fake(Tensor x) -> Tensor")
        torch.library.register_fake("fastfake_programs::twice", lambda x: x.new_empty(x.shape[0] * 2), lib=library)
        ops = torch.ops.fastfake_programs
        with mode:
            x = torch.ones(3)
            results = [ops.twice(x), ops.twice(x), ops.fill(x), error_of(lambda: ops.without_fake(x))]
    return [x, results]


@same_as_torch
def test_threads_of_one_mode_each_enter_it(mode):
    from concurrent.futures import ThreadPoolExecutor

    def work(size: int) -> list[torch.Tensor]:
        with mode:
            x = torch.ones(size, requires_grad=True)
            (x * 2).sum().backward()
        return [x, x * 2]

    with ThreadPoolExecutor(1) as pool:
        return list(pool.map(work, range(1, 5)))


INSTRUCTIONS = st.builds(
    Instruction,
    operation=st.sampled_from(sorted(OPERATIONS)),
    operands=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    parameters=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
)
RANDOM_PROGRAMS = st.lists(INSTRUCTIONS, min_size=5, max_size=30)


def compare_with_eager(steps: list[Instruction]) -> None:
    real = [torch.zeros(shape) for shape in START_SHAPES]
    # Converted before the eager run changes them.
    mode = fake_tensor.FakeTensorMode()
    fakes = [mode.from_tensor(tensor) for tensor in real]
    actual = record_call(lambda start: execute(steps, start), (fakes,), {}, mode)
    expected = record_call(lambda start: execute(steps, start), (real,), {}, nullcontext())
    expected, actual = with_significant_places(expected), with_significant_places(actual)
    found = differences(expected, actual, ONLY_BETWEEN_FAKES)
    assert not found, "\n  ".join(map(str, found))


@pytest.mark.parametrize(
    "examples",
    [200, pytest.param(2_000, marks=pytest.mark.exhaustive), pytest.param(10_000, marks=pytest.mark.nightly)],
)
def test_random_programs_have_the_metadata_and_aliases_of_the_eager_run(examples: int) -> None:
    # Exchanged once for all examples, since that takes longer than an example.
    with ours():
        settings(max_examples=examples)(given(RANDOM_PROGRAMS)(compare_with_eager))()
