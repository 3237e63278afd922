"""Autograd and torch.func over fake tensors: results, errors, hooks and version counters are torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._subclasses.fake_tensor as fake_tensor
import torch.autograd.forward_ad as forward_ad
from opinfo.programs import attempt, same_as_torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

pytestmark = [
    pytest.mark.usefixtures("quiet_fake_tensor_log"),
    # Anomaly mode says that it is slow; checkpointing without gradients and graphs made twice warn alike.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def attempts(*calls: Callable[[], object]) -> list[object]:
    """Each call twice: the second time from the cache where it can be."""
    return [attempt(call) for call in calls for _ in range(2)]


# torch.func


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_vmap_with_each_kind_of_randomness_agrees(randomness: str) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        def noisy(x: torch.Tensor) -> torch.Tensor:
            return x + torch.randn_like(x) * torch.rand(())

        def dropped(x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(x, 0.5)

        with mode:
            x = torch.ones(3, 4)
            return attempts(
                lambda: torch.vmap(noisy, randomness=randomness)(x),
                lambda: torch.vmap(dropped, randomness=randomness)(x),
                lambda: torch.vmap(lambda row: row.clone().uniform_(), randomness=randomness)(x),
                lambda: torch.vmap(lambda row: torch.bernoulli(row), randomness=randomness)(x),
                lambda: torch.vmap(lambda row: torch.randperm(4) + row, randomness=randomness)(x),
                lambda: torch.vmap(lambda row: torch.multinomial(row, 2), randomness=randomness)(x),
            )

    program()


@same_as_torch
def test_vmap_over_dimensions_lists_and_chunks_agrees(mode: Any) -> object:
    with mode:
        x, y, batch = torch.ones(3, 4), torch.ones(4, 3), torch.ones(3, 4, 4)
        return attempts(
            lambda: torch.vmap(torch.dot, in_dims=(0, 1))(x, y),
            lambda: torch.vmap(lambda a: (a, a.sum()), out_dims=(1, 0))(x),
            lambda: torch.vmap(torch.vmap(torch.mul, (0, None)), (None, 0))(x, x),
            lambda: torch.vmap(lambda d: d["a"] + d["b"], in_dims=({"a": 0, "b": None},))({"a": x, "b": y[:, 0]}),
            lambda: torch.vmap(torch.sin, chunk_size=2)(x),
            lambda: torch.vmap(torch.linalg.inv)(batch),
            lambda: torch.vmap(lambda a: a.clone().add_(1))(x),
            lambda: torch.vmap(lambda a: a.nonzero())(x),
            lambda: torch.vmap(lambda a: a.sum().item())(x),
            lambda: torch.vmap(torch.add, in_dims=(0, 0))(x, y),
            lambda: torch.vmap(lambda a: y.add_(a))(x),
            lambda: torch.vmap(lambda a: nn.functional.conv1d(a[None, None], torch.ones(1, 1, 2)))(x),
            lambda: torch.vmap(lambda i: x[i])(torch.tensor([0, 1])),
        )


@same_as_torch
def test_transforms_nest_as_in_torch(mode: Any) -> object:
    func = torch.func
    with mode:
        x, v = torch.randn(3), torch.randn(3)
        weight = torch.randn(3, 3)

        def scalar(t: torch.Tensor) -> torch.Tensor:
            return (t @ weight @ t).sin() + (t**3).sum()

        def vector(t: torch.Tensor) -> torch.Tensor:
            return (weight @ t).tanh() * t

        return attempts(
            lambda: func.grad(scalar)(x),
            lambda: func.grad_and_value(scalar)(x),
            lambda: func.grad(lambda t: func.grad(scalar)(t).sum())(x),
            lambda: func.grad(func.grad(func.grad(torch.sin)))(x[0]),
            lambda: func.jacrev(vector)(x),
            lambda: func.jacfwd(vector)(x),
            lambda: func.jacrev(vector, chunk_size=2)(x),
            lambda: func.hessian(scalar)(x),
            lambda: func.jacfwd(func.jacrev(scalar))(x),
            lambda: func.jacrev(func.jacfwd(scalar))(x),
            lambda: func.vjp(vector, x)[1](v),
            lambda: func.jvp(vector, (x,), (v,)),
            lambda: func.jvp(func.grad(scalar), (x,), (v,)),
            lambda: func.linearize(vector, x)[1](v),
            lambda: torch.vmap(func.grad(scalar))(weight),
            lambda: func.grad(scalar, argnums=1)(x),
            lambda: func.grad(vector)(x),
            lambda: func.vjp(vector, x)[1](v[:2]),
            lambda: func.functionalize(lambda t: t.add_(1).mul(2))(x.clone()),
            lambda: func.grad(lambda t: scalar(t.detach() + t))(x),
            lambda: func.vjp(lambda t: (t, {"twice": t * 2}), x)[0],
            lambda: func.grad(lambda t: (scalar(t), t * 2), has_aux=True)(x),
        )


@same_as_torch
def test_gradients_for_each_sample_of_a_module_agree(mode: Any) -> object:
    with mode:
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}

        def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(model, parameters, (x,)).square().sum()

        models = [nn.Linear(3, 2) for _ in range(3)]
        stacked, buffers = torch.func.stack_module_state(models)
        ensemble = torch.vmap(lambda p, b, x: torch.func.functional_call(models[0], (p, b), (x,)), (0, 0, None))
        return [
            torch.vmap(torch.func.grad(loss), (None, 0))(parameters, torch.ones(5, 3)),
            torch.func.jacrev(loss)(parameters, torch.ones(3)),
            ensemble(stacked, buffers, torch.ones(4, 3)),
        ]


@same_as_torch
def test_forward_mode_with_dual_numbers_agrees(mode: Any) -> object:
    with mode:
        x, tangent = torch.randn(3), torch.randn(3)
        results: list[object] = []
        for _ in range(2):
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(x, tangent)
                for call in (
                    torch.sin,
                    lambda t: t * t,
                    lambda t: t.view(3, 1)[1:],
                    lambda t: t.clone().mul_(2),
                    lambda t: t.detach(),
                    lambda t: t @ torch.ones(3, 2),
                    lambda t: torch.cat([t, t]),
                    lambda t: t.sort().values,
                ):
                    result = attempt(lambda call=call, dual=dual: call(dual))
                    unpacked = forward_ad.unpack_dual(result) if isinstance(result, torch.Tensor) else result
                    results.append(unpacked)
                results.append(attempt(lambda: forward_ad.make_dual(x, tangent[:2])))
                results.append(attempt(lambda: forward_ad.make_dual(x, tangent.double())))
                with torch.no_grad():
                    results.append(forward_ad.unpack_dual(dual * 3))
            results.append(forward_ad.unpack_dual(dual) if forward_ad._current_level >= 0 else None)
    return [x, tangent, results]


# Graphs, hooks and saved tensors


@same_as_torch
def test_backward_passes_repeat_only_with_a_retained_graph(mode: Any) -> object:
    with mode:
        x = torch.ones(3, requires_grad=True)
        y = (x.exp() * x).sum()
        y.backward(retain_graph=True)
        y.backward()
        again = attempt(y.backward)
        linear = (x * 2).sum()
        linear.backward()
        z = x.sin()
        return [
            x, y, again,
            attempts(lambda: z.backward(), lambda: z.backward(torch.ones(2))),
            attempts(lambda: torch.autograd.grad(z.sum(), torch.ones(3)), lambda: x.detach().sum().backward()),
            attempts(lambda: torch.autograd.grad(z, [x, z], torch.ones(3), retain_graph=True)),
            attempts(lambda: torch.autograd.grad(z.sum(), x.detach().requires_grad_(), allow_unused=True)),
            attempts(lambda: torch.autograd.grad(z, x, torch.ones(4, 3), is_grads_batched=True, retain_graph=True)),
        ]  # fmt: skip


@same_as_torch
def test_second_and_third_derivatives_agree(mode: Any) -> object:
    with mode:
        x, weight = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
        results: list[object] = []
        for function in (
            lambda: (x.sin() * x**3).sum(),
            lambda: nn.functional.linear(x, weight).tanh().square().sum(),
            lambda: nn.functional.softmax(x @ weight.t(), -1).log().sum(),
            lambda: nn.functional.layer_norm(x, (3,)).exp().sum(),
            lambda: torch.linalg.norm(x @ weight.t()),
        ):
            first = torch.autograd.grad(function(), x, create_graph=True)[0]
            second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
            third = torch.autograd.grad(second.sum(), x)[0]
            results.append([first.detach(), second.detach(), third, first.requires_grad])
        functional = torch.autograd.functional
        results.append(functional.hessian(lambda t: t.exp().sum(), torch.ones(2)))
        results.append(functional.jacobian(torch.tanh, torch.ones(2), vectorize=True))
        results.append(functional.hvp(lambda t: (t**3).sum(), torch.ones(2), torch.ones(2)))
        results.append(functional.vhp(lambda t: (t**3).sum(), torch.ones(2), torch.ones(2)))
    return [x, weight, results]


@same_as_torch
def test_hooks_on_tensors_nodes_and_accumulated_gradients_agree(mode: Any) -> object:
    seen: list[object] = []

    def note(name: str, change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Callable[..., object]:
        def hook(grad: torch.Tensor) -> torch.Tensor | None:
            seen.append([name, str(grad.shape), str(grad.device), grad.requires_grad, type(grad).__name__[-10:]])
            return None if change is None else change(grad)

        return hook

    with mode:
        x = torch.ones(3, requires_grad=True)
        y = x.sin()
        y.retain_grad()
        x.register_hook(note("leaf", lambda grad: grad * 2))
        y.register_hook(note("inner", lambda grad: grad.clone()))
        x.register_post_accumulate_grad_hook(lambda leaf: seen.append(["accumulated", str(leaf.grad.shape)]))
        z = (y * 3).sum()
        z.grad_fn.register_prehook(lambda grads: seen.append(["before", len(grads)]))
        z.grad_fn.register_hook(lambda given, taken: seen.append(["after", len(given), len(taken)]))
        z.backward()
        wrong = torch.ones(3, requires_grad=True)
        wrong.register_hook(lambda grad: grad[:2])
        error = attempt((wrong * 2).sum().backward)

        model = nn.Linear(3, 2)
        model.register_forward_pre_hook(lambda module, args: seen.append(["pre", str(args[0].shape)]))
        model.register_forward_hook(lambda module, args, out: out + 1)
        model.register_full_backward_hook(lambda module, given, taken: seen.append(["full", str(taken[0].shape)]))
        out = model(torch.ones(4, 3, requires_grad=True))
        out.sum().backward()
        several = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        handle = torch.autograd.graph.register_multi_grad_hook(several, lambda grads: seen.append(len(grads)))
        (several[0] * several[1]).sum().backward()
        handle.remove()
    return [x, y, z, error, out, list(model.parameters()), several, seen]


@same_as_torch
def test_saved_tensors_pass_through_the_hooks(mode: Any) -> object:
    packed: list[object] = []

    def pack(t: torch.Tensor) -> object:
        packed.append([str(t.shape), t.requires_grad, type(t).__name__])
        return t.detach() * 1

    def unpack(t: Any) -> torch.Tensor:
        packed.append("unpacked")
        return t

    with mode:
        x = torch.randn(3, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = (x.exp() * x.sigmoid()).sum()
        y.backward()
        with torch.autograd.graph.save_on_cpu():
            z = (x.sin() * x).sum()
        z.backward()
        with torch.autograd.graph.disable_saved_tensors_hooks("not now"):
            error = attempt(lambda: torch.autograd.graph.saved_tensors_hooks(pack, unpack).__enter__())
        node = (x * x.detach()).grad_fn
        saved = [node._saved_self, node._saved_other]
    return [x, y, z, packed, error, saved]


class Doubled(torch.autograd.Function):
    """Saves an input, an output, a tensor of its own and a plain value."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        out, count = x * factor, x.new_zeros((), dtype=torch.int64)
        ctx.save_for_backward(x, out, count)
        ctx.mark_non_differentiable(count)
        ctx.factor = factor
        return out, count

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _count: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, out, _ = ctx.saved_tensors
        return grad * ctx.factor + (x - out) * 0, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: torch.Tensor, factor: float) -> Any:
        return Doubled.apply(x, factor), (in_dims[0], None)


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.add_(1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        raise ValueError("on purpose")


@same_as_torch
def test_functions_of_users_agree(mode: Any) -> object:
    with mode:
        x = torch.randn(3, requires_grad=True)
        out, count = Doubled.apply(x, 2.0)
        out.sum().backward()
        inner = torch.randn(3, requires_grad=True) * 1
        changed = InPlace.apply(inner)
        errors = attempts(
            lambda: InPlace.apply(x),
            lambda: Fails.apply(x).sum().backward(),
            lambda: Doubled.apply(x.detach(), 1.0),
        )
        second = torch.autograd.grad(Doubled.apply(x, 3.0)[0].square().sum(), x, create_graph=True)[0]
        third = torch.autograd.grad(second.sum(), x)[0]
        saved = Doubled.apply(x, 2.0)[0]
        with torch.no_grad():
            x.add_(1)
        stale = attempt(saved.sum().backward)
    return [x, out, count, inner, changed, inner is changed, errors, second, third, stale]


@same_as_torch
def test_anomaly_mode_agrees(mode: Any) -> object:
    with mode, torch.autograd.detect_anomaly(check_nan=False):
        x = torch.ones(3, requires_grad=True)
        (x.exp() * 2).sum().backward()
        error = attempt(Fails.apply(x).sum().backward)
    with mode, torch.autograd.detect_anomaly(check_nan=True):
        checked = attempts(lambda: (x.exp() * 2).sum().backward())
    return [x, error, checked]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("keep_random_state", [False, True])
def test_checkpoints_recompute_as_in_torch(reentrant: bool, keep_random_state: bool) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        options = {"use_reentrant": reentrant, "preserve_rng_state": keep_random_state}
        calls: list[str] = []

        def block(t: torch.Tensor) -> torch.Tensor:
            calls.append(str(t.shape))
            return nn.functional.dropout(t.sin() @ t.t(), 0.5) * 2

        with mode:
            x = torch.randn(3, 3, requires_grad=True)
            y = checkpoint(block, x, **options)
            checkpoint(block, y, **options).sum().backward()
            layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
            checkpoint_sequential(layers, 2, x, **options).sum().backward()
            no_grad = attempt(lambda: checkpoint(block, x.detach(), **options))
            fails = checkpoint(lambda t: Fails.apply(t.exp()), x, **options).sum()
            error = attempt(fails.backward)
        return [x, y, list(layers.parameters()), no_grad, error, calls]

    program()


# Versions and views


@same_as_torch
def test_writes_to_saved_tensors_are_noticed(mode: Any) -> object:
    with mode:
        x = torch.ones(3, requires_grad=True)
        saved = x.exp()
        loss = (saved * 2).exp().sum()
        saved.add_(1)
        versions = [saved._version, saved.detach()._version, saved.view(3, 1)._version, saved.data._version]
        error = attempt(loss.backward)
        other = x.sin()
        product = (other * other).sum()
        with torch.no_grad():
            other.mul_(0)
        errors = [attempt(product.backward), attempt(lambda: x.add_(1)), attempt(lambda: x[0].zero_())]
        base = torch.zeros(4)
        view = base[1:]
        view.mul_(x)
        bumped = [base._version, view._version]
        with torch.autograd._unsafe_preserve_version_counter(base):
            base.add_(1)
        bumped += [base._version, view._version]
        data = base.data
        data.add_(1)
        bumped += [base._version, data._version]
    return [x, saved, versions, error, errors, base, view, data, bumped]


@same_as_torch
def test_views_made_without_grad_or_in_inference_mode_may_not_be_written_to(mode: Any) -> object:
    with mode:
        x = torch.ones(4, requires_grad=True)
        base = x * 1
        with torch.no_grad():
            view = base[1:]
            own = x[:2]
        with torch.inference_mode():
            inference = torch.ones(4)
            inference_view = inference[1:]
            normal_view = base[2:]
            computed = base * 2
        return [
            x, base, view, own, inference, inference_view, normal_view, computed,
            attempts(
                lambda: view.add_(1),
                lambda: own.add_(1),
                lambda: inference.add_(1),
                lambda: inference_view.add_(1),
                lambda: normal_view.add_(1),
                lambda: normal_view + 1,
                lambda: inference[1:].add_(1),
                lambda: inference * x,
                lambda: (inference + x).sum().backward(),
                lambda: inference.requires_grad_(),
                lambda: inference.clone().requires_grad_(),
                lambda: inference._version,
                lambda: computed.sum().backward(),
                lambda: base.split(2)[0].mul_(2),
                lambda: base.unbind()[0].mul_(2),
                lambda: base.detach().mul_(2),
                lambda: base.detach_(),
                lambda: base[1:].detach_(),
            ),
        ]  # fmt: skip


@same_as_torch
def test_writes_through_views_reach_the_graph_of_the_base(mode: Any) -> object:
    with mode:
        x = torch.randn(4, 4, requires_grad=True)
        base = x * 2
        base[0].zero_()
        base.t()[1].mul_(3)
        base.view(-1)[::2].add_(x.view(-1)[1::2])
        base.diagonal().copy_(x[0])
        names = [type(base.grad_fn).__name__, base._version]
        base.square().sum().backward()
        fresh = torch.zeros(3)
        fresh[1:] = torch.randn(2, requires_grad=True)
        fresh.requires_grad_()
        chained = fresh.expand(2, 3)[0].unsqueeze(0).squeeze(0)
        again = attempt(lambda: chained.add_(1))
    return [x, base, names, fresh, chained, again, chained._base is fresh]


@same_as_torch
def test_gradients_take_the_layout_and_accumulate_as_in_torch(mode: Any) -> object:
    with mode:
        x = torch.randn(3, 4, requires_grad=True)
        transposed = torch.randn(4, 3).t().requires_grad_()
        (x * 2).t().contiguous().sum().backward()
        first = x.grad
        (x * transposed).sum().backward()
        x.grad.add_(1)
        kept = x.grad is first
        x.grad = None
        x.sum().backward(create_graph=True)
        assigned = attempts(lambda: setattr(x, "grad", torch.ones(2)), lambda: setattr(x, "grad", torch.ones(3, 4)))
        x.sum().backward(inputs=[x])
        set_dtype = torch.ones(2, requires_grad=True)
        typed = attempt(lambda: setattr(set_dtype, "grad_dtype", torch.float64))
    return [x, transposed, first, kept, assigned, set_dtype, typed]


@same_as_torch
def test_backward_outside_of_the_mode_and_in_another_agrees(mode: Any) -> object:
    with mode:
        x = torch.ones(3, requires_grad=True)
        losses = [(x.exp() * x).sum() for _ in range(3)]
    losses[0].backward()
    other = fake_tensor.FakeTensorMode()
    with other:
        foreign = attempt(losses[1].backward)
    with mode:
        losses[2].backward()
    return [x, foreign, x.grad.fake_mode is mode]
