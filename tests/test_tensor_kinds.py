"""Every kind of tensor converts, computes, loads and saves on our FakeTensor as on torch's."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import both_sides
import pytest
import torch
import torch._functorch.config as functorch_config
import torch._subclasses.fake_tensor as fake_tensor
from opinfo.programs import attempt, error_of, same_as_torch
from opinfo.record import ErrorRecord
from torch import nn
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.testing._internal.two_tensor import TwoTensor

from fastfake.torch_version import AT_LEAST_2_14

pytestmark = pytest.mark.usefixtures("quiet_fake_tensor_log", "device_guards")

Make = Callable[[], torch.Tensor]


def inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(3, 4)


def complex_matrix() -> torch.Tensor:
    return torch.zeros(3, 4, dtype=torch.complex64)


def with_grad() -> torch.Tensor:
    tensor = torch.zeros(3, 4, requires_grad=True)
    tensor.grad = torch.ones(3, 4)
    return tensor


def with_hook() -> torch.Tensor:
    tensor = torch.zeros(3, 4, requires_grad=True)
    tensor.register_hook(lambda grad: grad * 2)
    return tensor


def part_of_a_graph() -> torch.Tensor:
    return torch.zeros(3, 4, requires_grad=True).sin().t()


DENSE: dict[str, Make] = {
    "matrix": lambda: torch.zeros(3, 4),
    "0-dim": lambda: torch.zeros(()),
    "zero-size": lambda: torch.zeros(0, 4),
    "zero-size view": lambda: torch.zeros(3, 4)[3:],
    "expanded": lambda: torch.zeros(1, 4).expand(3, 4),
    "partly expanded": lambda: torch.zeros(3, 1).expand(3, 4)[1:],
    "transposed": lambda: torch.zeros(4, 3).t(),
    "channels last": lambda: torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels last, three dimensional": lambda: torch.zeros(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "offset": lambda: torch.zeros(20)[5:17].view(3, 4),
    "view of a view of a view": lambda: torch.zeros(4, 6, 8)[1].t()[::2, 1:5],
    "overlapping": lambda: torch.zeros(8).as_strided((3, 4), (1, 1), 2),
    "on a storage of its own making": lambda: torch.tensor([]).set_(torch.zeros(20).untyped_storage(), 3, (3, 4)),
    "larger storage than needed": lambda: torch.zeros(100).resize_(3, 4),
    "conjugate": lambda: complex_matrix().conj(),
    "negative": lambda: complex_matrix().conj().imag,
    "negative of a view": lambda: complex_matrix().t()[1:].conj().imag,
    "conjugate and negative": lambda: torch._neg_view(complex_matrix().conj()),
    "real part": lambda: complex_matrix().real,
    "viewed as real": lambda: torch.view_as_real(complex_matrix()),
    "inference": inference_tensor,
    "inference view": lambda: inference_tensor().t(),
    "view in inference mode": lambda: torch.inference_mode()(lambda: torch.zeros(3, 4).t())(),
    "parameter": lambda: nn.Parameter(torch.zeros(3, 4)),
    "frozen parameter": lambda: nn.Parameter(torch.zeros(3, 4), requires_grad=False),
    "parameter on a view": lambda: nn.Parameter(torch.zeros(4, 3).t()),
    "buffer": lambda: nn.Buffer(torch.zeros(3, 4)),
    "buffer left out of the state": lambda: nn.Buffer(torch.zeros(3, 4), persistent=False),
    "with grad": with_grad,
    "with hook": with_hook,
    "part of a graph": part_of_a_graph,
    "view of a leaf": lambda: torch.zeros(3, 4, requires_grad=True)[1:],
    "view made without grad": lambda: torch.no_grad()(lambda: torch.zeros(3, 4, requires_grad=True)[1:])(),
    "one of several views": lambda: torch.zeros(6, 4, requires_grad=True).split(3)[1],
    "detached": lambda: torch.zeros(3, 4, requires_grad=True).detach(),
    "written to": lambda: torch.zeros(3, 4).add_(1),
    "on meta": lambda: torch.zeros(3, 4, device="meta"),
    "view on meta": lambda: torch.zeros(4, 3, device="meta").t(),
    "class of a user": lambda: torch.zeros(3, 4).as_subclass(type("Marked", (torch.Tensor,), {})),
    "mkldnn": lambda: torch.ones(3, 4).to_mkldnn(),
    "in shared memory": lambda: torch.zeros(3, 4).share_memory_(),
}

WRAPPERS: dict[str, Make] = {
    "two tensors": lambda: TwoTensor(torch.zeros(3, 4), torch.zeros(3, 4)),
    "two views": lambda: TwoTensor(torch.zeros(4, 3).t(), torch.zeros(4, 3).t()),
    "two tensors that require grad": lambda: TwoTensor(
        torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    ),
    "parameter of two tensors": lambda: nn.Parameter(TwoTensor(torch.zeros(3, 4), torch.zeros(3, 4))),
    "two tensors of two tensors": lambda: TwoTensor(
        TwoTensor(torch.zeros(3, 4), torch.zeros(3, 4)), TwoTensor(torch.zeros(3, 4), torch.zeros(3, 4))
    ),
    "view of two tensors": lambda: TwoTensor(torch.zeros(3, 4), torch.zeros(3, 4)).t()[1:],
    "two tensors that share": lambda: TwoTensor(*2 * [torch.zeros(3, 4)]),
}

SPARSE: dict[str, Make] = {
    "coo": lambda: torch.eye(4).to_sparse(),
    "coo, hybrid": lambda: torch.zeros(3, 4, 5).to_sparse(2),
    "coo, not coalesced": lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (3, 4)),
    "coo, that requires grad": lambda: torch.eye(4).to_sparse().requires_grad_(),
    "coo, empty": lambda: torch.sparse_coo_tensor(size=(3, 4)),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "csc": lambda: torch.eye(4).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "csr, in batches": lambda: torch.eye(4).repeat(2, 1, 1).to_sparse_csr(),
    "csr, that requires grad": lambda: torch.eye(4).to_sparse_csr().requires_grad_(),
}


def inner_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor, and those that it wraps; the record looks at the outermost only."""
    if not isinstance(tensor, TwoTensor):
        return [tensor]
    return [tensor, *inner_tensors(tensor.a), *inner_tensors(tensor.b)]


def computed_with(tensor: torch.Tensor) -> list[object]:
    """What operators of several sorts make of a tensor, or why they refuse it."""
    calls: list[Callable[[], object]] = [
        lambda: tensor + 1,
        lambda: tensor * tensor,
        lambda: tensor.sum(),
        lambda: tensor.clone(),
        lambda: tensor.detach(),
        lambda: tensor.view(-1),
        lambda: tensor.reshape(-1),
        lambda: tensor.t(),
        lambda: tensor[:1],
        lambda: torch.empty_like(tensor),
        lambda: tensor.new_zeros(2),
        lambda: tensor.to(torch.float64),
        lambda: tensor.to("cuda"),
        lambda: tensor.contiguous(),
        lambda: torch.cat([tensor, tensor]),
        lambda: tensor.is_leaf,
        lambda: tensor.resolve_conj(),
        lambda: tensor.resolve_neg(),
        lambda: tensor.add_(1),
        lambda: tensor.detach().mul_(2),
    ]
    results = [attempt(call) for call in calls]
    return [inner_tensors(result) if isinstance(result, torch.Tensor) else result for result in results]


def test_tensors_with_a_storage_convert_and_compute() -> None:
    tensors = {name: make() for name, make in {**DENSE, **WRAPPERS}.items()}

    def seen_of(mode: Any, tensor: torch.Tensor) -> list[object]:
        fake = mode.from_tensor(tensor)
        again = mode.from_tensor(tensor)
        with mode:
            results = computed_with(fake)
        outside = attempt(lambda: inner_tensors(fake.cos()))
        return [inner_tensors(fake), again is fake, results, outside]

    same_as_torch(lambda mode: [[name, *seen_of(mode, tensor)] for name, tensor in tensors.items()])()


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in SPARSE.items()])
def test_sparse_tensors_convert_and_compute(make: Make) -> None:
    tensor = make()

    def program(mode: Any) -> object:
        fake = mode.from_tensor(tensor)
        with mode:
            results = computed_with(fake)
            results += [
                attempt(call)
                for call in (
                    fake.to_dense, fake.values, fake.indices, fake._values, fake._indices, fake._nnz, fake.coalesce,
                    fake.crow_indices, fake.col_indices, fake.ccol_indices, fake.row_indices, fake.sparse_dim,
                    fake.dense_dim, fake.is_coalesced, lambda: fake @ torch.ones(4, 2), lambda: fake.to_sparse_csr(),
                    lambda: fake.to_sparse(), lambda: fake.to_dense().to_sparse(),
                )
            ]  # fmt: skip
        return [fake, mode.from_tensor(tensor) is fake, results]

    same_as_torch(program)()


DTYPES = (
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    torch.float4_e2m1fn_x2, torch.bits8, torch.bits16, torch.bits1x8, torch.bits2x4, torch.bits4x2, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64, torch.int4, torch.uint1, torch.complex32, torch.complex128,
    torch.bfloat16, torch.float16, torch.bool,
)  # fmt: skip


def test_tensors_of_every_dtype_convert_and_compute() -> None:
    tensors = [torch.empty(3, 4, dtype=dtype) for dtype in DTYPES]

    def seen_of(mode: Any, tensor: torch.Tensor) -> list[object]:
        fake = mode.from_tensor(tensor)
        with mode:
            made = torch.empty(2, dtype=tensor.dtype)
            views = [attempt(lambda: fake.view(torch.uint8)), attempt(lambda: fake.view(torch.int16))]
            conversions = [attempt(lambda: made.to(torch.float32)), attempt(lambda: torch.ones(2).to(tensor.dtype))]
            return [fake, made, views, conversions, computed_with(fake)]

    same_as_torch(lambda mode: [seen_of(mode, tensor) for tensor in tensors])()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_tensors_are_refused_without_symbolic_shapes(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout)

    @same_as_torch
    def program(mode: Any) -> object:
        def make() -> torch.Tensor:
            with mode:
                return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout)

        return [error_of(lambda: mode.from_tensor(nested)), error_of(make)]

    program()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_jagged_tensors_convert_and_compute_with_symbolic_shapes(requires_grad: bool) -> None:
    rows = [torch.ones(2, 3), torch.ones(4, 3)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=requires_grad)

    @same_as_torch
    def program(_mode: Any) -> object:
        mode = fake_tensor.FakeTensorMode(shape_env=ShapeEnv())
        fake = mode.from_tensor(nested)
        with mode:
            computed = [fake * 2, (fake + fake).sin(), torch.nn.functional.relu(fake)]
            total = computed[0].values().sum()
            if requires_grad:
                total.backward()
        shapes = [str((t.shape, t._values.shape, t._offsets.shape, t.dtype)) for t in (fake, *computed)]
        equal = [t.shape == fake.shape for t in computed]
        grad = None if fake.grad is None else (type(fake.grad).__name__, str(fake.grad.shape))
        kinds = [type(fake).__name__, type(fake._values).__name__, type(computed[0]._values).__name__]
        return [total, shapes, equal, grad, kinds, mode.from_tensor(nested) is fake]

    program()


@pytest.mark.filterwarnings("ignore:torch.quantize_per:UserWarning")
@same_as_torch
def test_quantised_tensors_of_every_scheme_are_refused(mode: Any) -> object:
    per_tensor = torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8)
    per_channel = torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint8)
    errors = [error_of(lambda t=t: mode.from_tensor(t)) for t in (per_tensor, per_channel)]
    with mode:
        x = torch.ones(2, 3)
        made = attempt(lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8).shape)
    return [errors, made]


@same_as_torch
def test_an_uninitialised_parameter_is_refused(mode: Any) -> object:
    return [error_of(lambda: mode.from_tensor(nn.UninitializedParameter()))]


def described(tensor: torch.Tensor) -> str:
    """A wrapper of functorch outlives its level, but what can be asked of it then is what it prints."""
    return str((type(tensor).__name__, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad))


@same_as_torch
def test_tensors_inside_vmap_and_grad_convert_to_wrapped_fakes(mode: Any) -> object:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        fake = attempt(lambda: mode.from_tensor(x))
        if isinstance(fake, ErrorRecord):
            # Views and some nestings are refused; the text holds a description of everything about the tensor.
            seen.append(fake.types)
            return x.sum()
        seen.extend([described(fake), fake_tensor.is_fake(fake), fake_tensor.maybe_get_fake_mode(fake) is mode])
        with mode:
            seen.extend(described(t) for t in (fake + 1, fake.sum(), fake * fake))
        seen.append(mode.from_tensor(x) is fake)
        return x.sum()

    torch.vmap(look)(torch.ones(3, 4))
    torch.vmap(look, in_dims=1)(torch.ones(3, 4))
    torch.vmap(torch.vmap(look))(torch.ones(2, 3, 4))
    torch.func.grad(look)(torch.ones(3, 4))
    torch.vmap(torch.func.grad(look))(torch.ones(3, 4))
    torch.func.grad(lambda x: torch.vmap(look)(x).sum())(torch.ones(3, 4))
    torch.func.jvp(look, (torch.ones(3),), (torch.ones(3),))
    torch.func.functionalize(look)(torch.ones(3))
    return seen


@same_as_torch
def test_functional_tensors_convert_to_fakes_of_what_they_wrap(mode: Any) -> object:
    with FunctionalTensorMode():
        plain = FunctionalTensor.to_functional(torch.ones(3, 4))
        leaf = FunctionalTensor.to_functional(torch.ones(3, 4, requires_grad=True))
        fakes = [mode.from_tensor(t) for t in (plain, leaf)] + [attempt(lambda: mode.from_tensor(plain[0]))]
    wrapped = mode.from_tensor(torch._to_functional_tensor(torch.ones(2)))
    return [fakes, described(wrapped), fake_tensor.is_fake(wrapped), fake_tensor.maybe_get_fake_mode(wrapped) is mode]


@same_as_torch
def test_functionalising_fake_tensors_computes_with_fake_tensors(mode: Any) -> object:
    with mode:
        x = torch.ones(3, 4)
        with FunctionalTensorMode():
            functional = FunctionalTensor.to_functional(x)
            functional.add_(1)
            functional[0].mul_(2)
            view = functional.view(-1)
        inner = [torch._from_functional_tensor(t.elem) for t in (functional, view)]
        replaced = torch.func.functionalize(lambda t: t.add_(1).view(-1).sin_())(x)
    return [x, inner, replaced, fake_tensor.is_fake(functional), fake_tensor.maybe_get_fake_mode(functional) is mode]


@same_as_torch
def test_wrappers_make_and_mix_with_fake_tensors(mode: Any) -> object:
    with mode:
        x = torch.ones(3, 4)
        two = TwoTensor(x, x.clone())
        nested = TwoTensor(two, two + 1)
        results = [two + 1, two * two, two @ torch.ones(4, 2), nested.sum(), nested.t()[1:], two.add_(x)]
        leaf = TwoTensor(torch.ones(2), torch.ones(2)).requires_grad_()
        (leaf * 3).sum().backward()
    tensors = [inner_tensors(t) for t in (two, nested, *results)]
    detected = [fake_tensor.is_fake(t) for t in (two, nested)]
    detected += [fake_tensor.maybe_get_fake_mode(nested) is mode, torch._guards.detect_fake_mode([nested]) is mode]
    plain = fake_tensor.get_plain_tensors(nested, out=[])
    mixed = TwoTensor(torch.ones(2), two.a[0, :2])
    return [tensors, inner_tensors(leaf.grad), detected, plain, error_of(lambda: fake_tensor.is_fake(mixed))]


@same_as_torch
def test_two_modes_in_one_wrapper_are_an_error(mode: Any) -> object:
    other = fake_tensor.FakeTensorMode()
    wrapper = TwoTensor(mode.from_tensor(torch.ones(2)), other.from_tensor(torch.ones(2)))
    return [error_of(lambda: fake_tensor.maybe_get_fake_mode(wrapper)), fake_tensor.is_fake(wrapper)]


@same_as_torch
def test_tied_weights_and_views_of_them_stay_tied(mode: Any) -> object:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    half = model[0].weight[2:]
    data = model[0].weight.data
    untied = nn.Parameter(model[0].weight.data)
    fakes = [mode.from_tensor(t) for t in (half, model[0].weight, model[1].weight, data, untied)]
    with mode:
        fakes[1].sum().backward()
        with torch.no_grad():
            fakes[3].add_(1)
    return [fakes, fakes[1] is fakes[2]]


@same_as_torch
def test_a_module_of_parameter_subclasses_converts(mode: Any) -> object:
    linear = nn.Linear(3, 2)
    linear.weight = nn.Parameter(TwoTensor(torch.ones(2, 3), torch.ones(2, 3)))
    state = {name: mode.from_tensor(tensor) for name, tensor in linear.named_parameters()}
    with mode:
        result = torch.func.functional_call(linear, state, (torch.ones(4, 3),))
        result.sum().backward()
    weight = state["weight"]
    return [inner_tensors(weight), state["bias"], inner_tensors(result), inner_tensors(weight.grad)]


@same_as_torch
def test_the_gradients_of_converted_leaves_convert_too(mode: Any) -> object:
    leaf = torch.zeros(3, 4, requires_grad=True)
    leaf.grad = torch.zeros(4, 3).t()
    fake = mode.from_tensor(leaf)
    shared = mode.from_tensor(leaf.grad)
    with mode:
        (fake * 2).sum().backward()
    return [fake, shared, fake.grad is shared]


@same_as_torch
def test_meta_tensors_are_refused_where_the_mode_forbids_them(_mode: Any) -> object:
    meta = torch.zeros(3, 4, device="meta")
    with functorch_config.patch(fake_tensor_allow_meta=False):
        strict = fake_tensor.FakeTensorMode()
    with strict:
        errors = [error_of(lambda: torch.empty(2, device="meta")), error_of(lambda: torch.ones(2).to("meta"))]
    return [error_of(lambda: strict.from_tensor(meta)), errors]


# Files


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 3)
        self.second.weight = nn.Parameter(self.first.weight.detach().t())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("reduced", torch.zeros(8, dtype=torch.bfloat16)[4:])
        self.register_buffer("conjugate", torch.zeros(2, dtype=torch.complex64).conj())


def checkpoint_of(**values: object) -> bytes:
    file = io.BytesIO()
    torch.save({**Model().state_dict(), "numbers": [1, 2.5], **values}, file)
    return file.getvalue()


@pytest.mark.parametrize("map_location", [None, "cpu", "cuda", "cuda:1", "meta", torch.device("cpu")], ids=str)
@pytest.mark.parametrize("weights_only", [True, False])
def test_loading_under_the_mode_gives_fake_tensors(weights_only: bool, map_location: Any) -> None:
    # Since torch 2.14, loading weights alone looks at the indices of sparse tensors, which fake ones do not have.
    sparse_can_be_loaded = not (weights_only and AT_LEAST_2_14)
    checkpoint = checkpoint_of(**({"sparse": torch.eye(3).to_sparse()} if sparse_can_be_loaded else {}))

    @same_as_torch
    def program(mode: Any) -> object:
        with mode:
            state = torch.load(io.BytesIO(checkpoint), weights_only=weights_only, map_location=map_location)
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        with mode:
            computed = [attempt(lambda t=t: t + 1) for t in tensors.values()]
        return [state, computed]

    program()


@pytest.mark.skipif(not AT_LEAST_2_14, reason="torch's fake tensors did not know of MKLDNN's layout before 2.14")
def test_tensors_in_the_layout_of_mkldnn_convert_and_compute() -> None:
    tensor = torch.ones(2, 3).to_mkldnn()

    def program(fakes: Any) -> object:
        mode = fakes.FakeTensorMode()
        fake = mode.from_tensor(tensor)
        with mode:
            made = torch.empty(4, 5).to_mkldnn()
            calls = (
                fake.to_dense, fake.detach, fake.clone, lambda: fake.to_dense(torch.bfloat16), lambda: fake + fake,
                lambda: fake.view(3, 2), lambda: torch.ops.aten.alias(fake).to_dense(), made.to_dense, made.relu,
            )  # fmt: skip
            results = [attempt(call) for call in calls for _ in range(2)]
        kinds = [(t.is_mkldnn, str(t.layout)) for t in (fake, made, *results) if isinstance(t, torch.Tensor)]
        return kinds, [str(each) if isinstance(each, ErrorRecord) else each for each in results], made

    kinds, *_ = both_sides.assert_same(program)
    assert kinds[:2] == [(True, "torch._mkldnn")] * 2


@pytest.mark.skipif(not AT_LEAST_2_14, reason="torch did not look at the indices of what it loads before 2.14")
def test_loading_weights_that_are_sparse_fails_as_in_torch() -> None:
    checkpoint = checkpoint_of(sparse=torch.eye(3).to_sparse())

    def program(fakes: Any) -> object:
        with fakes.FakeTensorMode():
            return attempt(lambda: torch.load(io.BytesIO(checkpoint), weights_only=True))

    theirs = both_sides.on_torch(program)
    assert isinstance(theirs, ErrorRecord)
    assert both_sides.on_ours(program) == theirs


@pytest.mark.parametrize("mmap", [False, True])
def test_loading_a_file_of_a_model_under_the_mode_gives_its_fake_parameters(tmp_path: Path, mmap: bool) -> None:
    torch.save(Model(), tmp_path / "model.pt")

    @same_as_torch
    def program(mode: Any) -> object:
        with mode:
            model = torch.load(tmp_path / "model.pt", weights_only=False, mmap=mmap)
            result = model.second(model.first(torch.ones(2, 3)))
            result.sum().backward()
        return [list(model.parameters()), list(model.buffers()), result]

    program()


@same_as_torch
def test_loading_a_state_into_a_fake_model_keeps_or_takes_its_tensors(mode: Any) -> object:
    file = io.BytesIO()
    torch.save(Model().state_dict(), file)
    with mode:
        copied, assigned = Model(), Model()
        kept = list(copied.parameters())
        results = [
            str(model.load_state_dict(torch.load(io.BytesIO(file.getvalue())), assign=assign))
            for model, assign in ((copied, False), (assigned, True))
        ]
    same = [one is other for one, other in zip(kept, copied.parameters(), strict=True)]
    return [copied.state_dict(keep_vars=True), assigned.state_dict(keep_vars=True), same, results]


@same_as_torch
def test_fake_tensors_save_without_data_and_load_as_real_ones(mode: Any) -> object:
    file = io.BytesIO()
    with mode:
        state = {**Model().state_dict(), "cuda": torch.ones(2, device="cuda")}
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(state, file)
    del state["cuda"]
    loaded = torch.load(io.BytesIO(file.getvalue()), map_location="cpu")
    return [state, loaded]


def test_safetensors_load_under_the_mode_or_fail_alike(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"weight": torch.ones(2, 3, dtype=torch.bfloat16)}, path)

    @same_as_torch
    def program(mode: Any) -> object:
        permissive = fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
        results = []
        for active in (mode, permissive):
            with active:
                results += [attempt(lambda: safetensors.load_file(path))]
                results += [attempt(lambda: safetensors.load(path.read_bytes()))]
        return [results, mode.from_tensor(safetensors.load_file(path)["weight"])]

    program()


@pytest.fixture(autouse=True)
def no_beta_warnings() -> Any:
    """Sparse compressed layouts and inspecting non-leaf gradients warn on both sides alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
