from functools import partial

import pytest
import torch
from both_sides import assert_all_same, assert_same, fake_ones, new_mode, outcome, pending
from torch.fx.experimental.symbolic_shapes import ShapeEnv, compute_unbacked_bindings

import fastfake
from fastfake.torch_version import AT_LEAST_2_14

BOOL, INT = torch.bool, torch.int64

# Programs on a float vector x of four elements, a mask m, indices i and a matrix a.
PROGRAMS = {
    "item": lambda x, m, i, a: x[0].item(),
    "int-item": lambda x, m, i, a: i[0].item(),
    "bool-item": lambda x, m, i, a: m[0].item(),
    "int8-item": lambda x, m, i, a: i[0].to(torch.int8).item(),
    "tolist": lambda x, m, i, a: a.to(INT).tolist(),
    "int": lambda x, m, i, a: i.sum().item() * 2 + 1,
    "equal": lambda x, m, i, a: torch.equal(x, x + 1),
    "allclose": lambda x, m, i, a: torch.allclose(x, x),
    "is_nonzero": lambda x, m, i, a: torch.is_nonzero(x[0]),
    "bool": lambda x, m, i, a: bool(x[0] > 0),
    "nonzero": lambda x, m, i, a: x.nonzero(),
    "nonzero-twice": lambda x, m, i, a: (x.nonzero(), x.nonzero()),
    "nonzero-tuple": lambda x, m, i, a: a.nonzero(as_tuple=True),
    "nonzero-static": lambda x, m, i, a: torch.nonzero_static(x, size=3),
    "argwhere": lambda x, m, i, a: torch.argwhere(a),
    "where": lambda x, m, i, a: torch.where(m),
    "mask": lambda x, m, i, a: x[m],
    "mask-twice": lambda x, m, i, a: x[m] + (x * 2)[m],
    "mask-put": lambda x, m, i, a: x.index_put((m,), x.new_zeros(())),
    "masked_select": lambda x, m, i, a: torch.masked_select(x, m),
    "masked_select-out": lambda x, m, i, a: torch.masked_select(x, m, out=x.new_empty(0)),
    "unique": lambda x, m, i, a: torch.unique(x),
    "unique-all": lambda x, m, i, a: torch.unique(x, return_inverse=True, return_counts=True),
    "unique-dim": lambda x, m, i, a: torch.unique(a, dim=1, return_inverse=True),
    "unique-twice": lambda x, m, i, a: (torch.unique(x), torch.unique(x)),
    "unique_consecutive": lambda x, m, i, a: torch.unique_consecutive(x, return_counts=True),
    "repeat_interleave": lambda x, m, i, a: torch.repeat_interleave(i),
    "repeat_interleave-size": lambda x, m, i, a: torch.repeat_interleave(i, output_size=7),
    "repeat_interleave-self": lambda x, m, i, a: x.repeat_interleave(i),
    "bincount": lambda x, m, i, a: torch.bincount(i),
    "bincount-minlength": lambda x, m, i, a: torch.bincount(i, minlength=5),
    "bincount-weights": lambda x, m, i, a: torch.bincount(i, weights=x),
    "size": lambda x, m, i, a: x.new_zeros(i[0].item(), 3),
    "slice": lambda x, m, i, a: x[: i[0].item()],
    "select": lambda x, m, i, a: a[i[0].item()],
    "split": lambda x, m, i, a: x.split(i.tolist()),
    "expand": lambda x, m, i, a: x.expand(i[0].item(), 4),
    "view": lambda x, m, i, a: a[m].view(-1, 2),
    "cat": lambda x, m, i, a: torch.cat([x[m], x]),
    "matmul": lambda x, m, i, a: a[m] @ a,
    "sum": lambda x, m, i, a: a[m].sum(0),
    "arange": lambda x, m, i, a: torch.arange(i[0].item()),
    "full": lambda x, m, i, a: torch.full((2,), x[0].item()),
    "histc": lambda x, m, i, a: torch.histc(x, 4),
    "quantile": lambda x, m, i, a: torch.quantile(x, 0.5),
    "multinomial": lambda x, m, i, a: torch.multinomial(x, 2),
    "combinations": lambda x, m, i, a: torch.combinations(x),
    "check": lambda x, m, i, a: (n := i[0].item(), torch._check(n >= 2), x.new_zeros(n))[::2],
    "matrix_rank": lambda x, m, i, a: torch.linalg.matrix_rank(a),
    "one_hot": lambda x, m, i, a: torch.nn.functional.one_hot(i),
    "sparse": lambda x, m, i, a: a.to_sparse(),
    "local_scalar": lambda x, m, i, a: torch.ops.aten._local_scalar_dense(x),
    "segment_reduce": lambda x, m, i, a: torch.segment_reduce(x, "sum", lengths=i),
    "pack_sequence": lambda x, m, i, a: torch._pack_padded_sequence(a.unsqueeze(2), i, True),
    "mask-slice": lambda x, m, i, a: x[m][i[0].item() :],
}


def run_program(name, mode):
    x = fake_ones(mode, 4)
    arguments = (x, fake_ones(mode, 4, dtype=BOOL), fake_ones(mode, 4, dtype=INT), fake_ones(mode, 4, 4))
    with mode:
        return PROGRAMS[name](*arguments)


def test_with_unbacked_symbols_results_and_pending_symbols_are_torchs():
    def run(name, fakes):
        mode = new_mode(fakes)
        result = run_program(name, mode)
        waiting = pending(mode)
        bindings = compute_unbacked_bindings(mode.shape_env, result)
        return result, waiting, {str(symbol): str(path) for symbol, path in (bindings or {}).items()}, pending(mode)

    assert_all_same({name: partial(run, name) for name in PROGRAMS})


def test_where_symbols_are_not_allowed_the_error_is_torchs():
    def run(name, fakes):
        modes = {
            "no ShapeEnv": fakes.FakeTensorMode(),
            "no scalars": new_mode(fakes, allow_scalar_outputs=False),
            "no shapes": new_mode(fakes, allow_dynamic_output_shape_ops=False),
        }
        return {kind: outcome(lambda fakes, mode=mode: run_program(name, mode)) for kind, mode in modes.items()}

    assert_all_same({name: partial(run, name) for name in PROGRAMS})


def test_the_mode_may_allow_scalars_itself():
    def run(fakes):
        mode = new_mode(fakes, allow_scalar_outputs=False)
        mode.allow_scalar_outputs = True
        return run_program("item", mode)

    assert assert_same(run) == ("SymFloat", "zuf0")


MEMOIZED = {
    "nonzero_memo": lambda x: x.nonzero().shape[0],
    "unique_memo": lambda x: torch.unique(x).shape[0],
    "unique_consecutive_memo": lambda x: torch.unique_consecutive(x).shape[0],
    "item_memo": lambda x: x.view(-1)[0].item() if x.numel() > 1 else x.item(),
}


@pytest.mark.parametrize("memo", MEMOIZED)
def test_a_memo_holds_until_the_tensor_is_written_to_or_the_epoch_advances(memo):
    def run(fakes):
        mode = new_mode(fakes)
        x = fake_ones(mode, 1)
        ask = MEMOIZED[memo]
        with mode:
            asked = [ask(x), ask(x)]
            remembered = getattr(x, memo)
            x.add_(1)
            asked.append(ask(x))
            mode.epoch += 1
            asked.append(ask(x))
            setattr(x, memo, None)
            asked.append(ask(x))
        return asked, remembered

    asked, remembered = assert_same(run)
    assert asked[0] == asked[1]
    assert len({str(number) for number in asked[1:]}) == 4
    assert remembered == asked[0]


def test_the_memo_is_the_same_symbolic_number_each_time():
    with fastfake.install_temporarily():
        mode = new_mode(fastfake)
        x = fake_ones(mode, 3)
        with mode:
            first, second = x.nonzero().shape[0], x.nonzero().shape[0]
    assert first.node is second.node is x.nonzero_memo.node


def test_a_view_has_memos_of_its_own_but_shares_the_version():
    def run(fakes):
        mode = new_mode(fakes)
        x = fake_ones(mode, 4)
        with mode:
            view = x[:2]
            asked = [x.nonzero(), view.nonzero()]
            view.mul_(2)
            return [*asked, x.nonzero(), view.nonzero()]

    results = assert_same(run)
    assert len({str(described[5]) for described in results}) == 4


def test_an_inference_tensor_remembers_as_in_torch():
    def run(fakes):
        mode = new_mode(fakes)
        with torch.inference_mode(), mode:
            x = torch.empty(3)
            return x.nonzero(), x.nonzero(), x.nonzero_memo

    first, second, memo = assert_same(run)
    remembers = AT_LEAST_2_14
    assert (first == second, memo is not None) == (remembers, remembers)


def test_a_backed_item_survives_writes():
    from torch._dynamo.source import ConstantSource

    def run(fakes):
        mode = fakes.FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=True))
        real = torch.tensor(3.5, dtype=torch.float64)
        x = mode.from_tensor(real, source=ConstantSource("x"))
        with mode:
            before = x.item()
            mode.epoch += 1
            return before, x.item()

    before, after = assert_same(run)
    assert before == after


def test_an_item_of_an_integer_input_is_a_backed_symbol():
    from torch._dynamo.source import ConstantSource

    def run(fakes):
        mode = fakes.FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=True))
        x = mode.from_tensor(torch.tensor(7), source=ConstantSource("x"))
        with mode:
            number = x.item()
            return number, number.node.hint, pending(mode)

    assert assert_same(run)[1:] == (7, [])
