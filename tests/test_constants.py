import pytest
import torch
from both_sides import assert_same, fake_ones

import fastfake
from fastfake.miss import constants

pytestmark = pytest.mark.usefixtures("device_guards")


def under_mode(program):
    def run(fakes):
        mode = fakes.FakeTensorMode()
        with mode:
            return program()

    return assert_same(run)


def value_of(described):
    """What is known of a described tensor: dtype and elements, or None."""
    return described[-2]


KNOWN = {
    "tensor": lambda: torch.tensor(3),
    "one element": lambda: torch.tensor([3.5]),
    "no element": lambda: torch.tensor([]),
    "bool": lambda: torch.tensor(True),
    "complex": lambda: torch.tensor(1 + 2j),
    "as_tensor": lambda: torch.as_tensor(3.0),
    "scalar_tensor-lifted": lambda: torch.tensor(2, dtype=torch.int16),
    "sum": lambda: torch.tensor(3) + torch.tensor(4),
    "with a number": lambda: torch.tensor(3) * 2 - 1,
    "comparison": lambda: torch.tensor(3) > 2,
    "cast": lambda: torch.tensor(3).to(torch.float64),
    "clone": lambda: torch.tensor(3).clone(),
    "view": lambda: torch.tensor([3]).view(()),
    "detach": lambda: torch.tensor(3.0).detach(),
    "detach_": lambda: torch.tensor(3.0).detach_(),
    "requires grad": lambda: torch.tensor(3.0, requires_grad=True) * 2,
    "numbers for tensors": lambda: torch.add(1, 2),
    "division of numbers": lambda: torch.div(7, 2),
    "several results": lambda: torch.tensor([3.0]).max(0),
    "list result": lambda: torch.tensor([3.0]).split(1),
    "in place": lambda: torch.tensor(3).add_(4),
    "copy_": lambda: torch.tensor(3).copy_(torch.tensor(5)),
    "out": lambda: torch.add(torch.tensor(1), torch.tensor(2), out=torch.tensor(0)),
    "empty slice": lambda: torch.tensor([3])[:0],
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_values_go_through_operators_as_in_torch(name):
    result = under_mode(KNOWN[name])
    assert any(value_of(leaf) is not None for leaf in ([result] if isinstance(result[0], str) else result))


UNKNOWN = {
    "many elements": lambda: torch.tensor([1, 2]),
    "factory": lambda: torch.ones(()),
    "expanded": lambda: torch.tensor(3).expand(4),
    "many results": lambda: torch.tensor([3]).repeat(3),
    "random": lambda: torch.bernoulli(torch.tensor(0.5)),
    "mixed with an unknown": lambda: torch.tensor(3) + torch.ones(()),
    "metadata in place": lambda: torch.tensor([3]).squeeze_(),
    "another device": lambda: torch.tensor(3, device="meta"),
    "sparse": lambda: torch.tensor([3.0]).to_sparse(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_values_are_unknown_where_torch_does_not_know_them(name):
    result = under_mode(UNKNOWN[name])
    assert not isinstance(result, list) or value_of(result) is None


READS = {
    "item": lambda: torch.tensor(3).item(),
    "float": lambda: torch.tensor(2.5).item(),
    "complex": lambda: torch.tensor(1 + 2j).item(),
    "computed": lambda: (torch.tensor(3) * 4 + 1).item(),
    "int()": lambda: int(torch.tensor(3)),
    "bool()": lambda: bool(torch.tensor(3) > 2),
    "branch": lambda: "yes" if torch.tensor(0) else "no",
    "tolist": lambda: torch.tensor([3]).tolist(),
    "index": lambda: [10, 20, 30][torch.tensor(1)],
    "size": lambda: torch.ones(torch.tensor(3), 2),
    "equal": lambda: torch.equal(torch.tensor(3), torch.tensor(3)),
    "unknown": lambda: torch.ones(()).item(),
    "unknown after write": lambda: torch.tensor(0.5).random_().item(),
    "nonzero": lambda: torch.tensor([3]).nonzero(),
    "unique": lambda: torch.tensor([3]).unique(),
    "repr": lambda: repr(torch.tensor(3)),
}


@pytest.mark.parametrize("name", READS)
def test_reading_a_value_gives_what_torch_gives(name):
    under_mode(READS[name])


def random_write(t):
    t.random_()


def write_through_view(t):
    t.view(-1).random_()


def write_unknown(t):
    t.add_(torch.ones(()))


def write_out(t):
    torch.add(torch.ones(()), 1, out=t)


def write_known(t):
    t.add_(1)


def write_foreach(t):
    torch._foreach_add_([t], [torch.ones(())])


def write_data(t):
    t.data.zero_()


def write_set(t):
    t.set_(torch.ones(()))


@pytest.mark.parametrize(
    "write",
    [random_write, write_through_view, write_unknown, write_out, write_known, write_foreach, write_data, write_set],
)
def test_writes_reach_every_alias_as_in_torch(write):
    def program():
        t = torch.tensor(3.0)
        view, copy = t.view(1), t.clone()
        write(t)
        return t, view, copy

    _, _, copy = under_mode(program)
    assert value_of(copy) == ("torch.float32", 3.0)


def test_a_write_that_cannot_be_computed_makes_all_aliases_unknown():
    def program():
        t = torch.tensor(3)
        view = t.view(1)
        view.random_()
        return t, view

    assert [value_of(leaf) for leaf in under_mode(program)] == [None, None]


def test_a_result_too_large_to_keep_makes_what_it_aliases_unknown():
    def program():
        t = torch.tensor([3])
        view = t.expand(5)
        return t, view

    assert [value_of(leaf) for leaf in under_mode(program)] == [None, None]


def test_the_value_is_a_copy_of_the_numbers_tensor():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        real = torch.tensor(3)
        with mode:
            lifted = torch.ops.aten.lift_fresh_copy(real)
        real.add_(1)
        return lifted

    assert value_of(assert_same(run)) == ("torch.int64", 3)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cpu"])
def test_conversion_to_a_device_keeps_the_value_where_torch_does(device):
    def run(fakes):
        mode = fakes.FakeTensorMode()
        with mode:
            t = torch.tensor(3.0)
            return [t.to(device), torch.tensor(3.0, device=device), torch.ops.prims.device_put(t, torch.device(device))]

    assert_same(run)


def test_numbers_with_a_symbol_are_not_folded():
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def run(fakes):
        mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
        x = fake_ones(mode, 5)
        with mode:
            return torch.add(x.shape[0], 1), torch.tensor(3) + x.shape[0]

    assert_same(run)


def test_a_lift_of_a_fake_tensor_is_an_ordinary_call():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        x = fake_ones(mode, 3)
        with mode:
            return torch.ops.aten.lift_fresh(x), torch.ops.aten.lift_fresh_copy(x)

    assert_same(run)


def test_folding_leaves_no_entries_in_the_cache():
    with fastfake.install_temporarily():
        fastfake.FakeTensorMode.cache_clear()
        with fastfake.FakeTensorMode():
            values = [(torch.tensor(number) + 1).item() for number in range(3)]
    assert values == [1, 2, 3]
    assert len(fastfake.FakeTensorMode.cache) == 0


def test_clearing_non_cpu_constants_keeps_those_on_the_cpu():
    class OnAccelerator(torch.Tensor):
        """A tensor that says it is on an accelerator."""

        @property
        def device(self):
            return torch.device("cuda:0")

    def run(fakes):
        mode = fakes.FakeTensorMode()
        converter = mode.fake_tensor_converter
        with mode:
            kept, dropped, alias = torch.tensor(1.0), torch.tensor(2.0), None
            alias = dropped.view(1)
        for t in (dropped, alias):
            t.constant = t.constant.as_subclass(OnAccelerator)
        converter.clear_non_cpu_constants()
        return kept, dropped, alias, len(converter.constant_storage_mapping)

    kept, dropped, alias, storages = assert_same(run)
    assert value_of(kept) is not None
    assert value_of(dropped) is value_of(alias) is None
    assert storages == 1


def test_dead_constants_leave_the_mapping_when_it_is_cleaned():
    def run(fakes):
        mode = fakes.FakeTensorMode()
        with mode:
            torch.tensor(1.0)
        mode.fake_tensor_converter.clear_non_cpu_constants()
        return len(mode.fake_tensor_converter.constant_storage_mapping)

    assert assert_same(run) == 0


def test_only_small_dense_real_tensors_may_be_remembered():
    with fastfake.install_temporarily():
        mode = fastfake.FakeTensorMode()
        candidates = [
            torch.ones(()),
            torch.ones(1, 1),
            torch.ones(2),
            torch.ones(1, device="meta"),
            torch.ones(1).to_sparse(),
            mode.from_tensor(torch.ones(1)),
        ]
        answers = [constants.may_be_remembered(mode, t) for t in candidates]
        assert answers == [mode.may_turn_const(t) for t in candidates]
    assert answers == [True, True, False, False, False, False]


def test_known_values_that_nobody_has_any_more_take_no_memory():
    with fastfake.FakeTensorMode() as mode:
        noted = mode.fake_tensor_converter.constant_storage_mapping
        kept = torch.tensor([3])
        for _ in range(1000):
            assert (torch.tensor(3) + 1).item() == 4
            # On the same storage each time, which lives as long as what is kept.
            assert kept.view(()).item() == 3
    assert len(noted) < 200
    assert sum(map(len, noted.values())) < 200
    aliases = [kept.view(()) for _ in range(200)]
    kept.random_()
    assert [alias.constant for alias in aliases] == [None] * 200


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch computes on a device that is there")
@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.full_like(torch.tensor(1.5), 2.0, device="cuda"),
        lambda: torch.tensor(1.5).new_zeros(3, device="cuda"),
        lambda: torch.empty_like(torch.tensor(1.5), device="xpu:1", dtype=torch.int8),
    ],
    ids=["full_like", "new_zeros", "empty_like"],
)
def test_what_is_like_a_known_value_can_be_made_on_an_absent_device(made):
    # torch's mode calls the operator for real, which raises.
    with fastfake.FakeTensorMode():
        result = made()
    assert result.device.type in ("cuda", "xpu")
    assert result.constant is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch pins memory where there is a device")
def test_what_is_like_a_known_value_can_be_pinned():
    with fastfake.FakeTensorMode():
        result = torch.ops.aten.new_zeros.default(torch.tensor(1.5), [2], pin_memory=True)
    assert result.shape == (2,)
