"""Real tensors beside fake ones, where the mode takes them: converted once, then arguments like others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import both_sides
import pytest
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils import _pytree as pytree

from fastfake import FakeTensorMode
from fastfake.torch_version import AT_LEAST_2_14

aten = torch.ops.aten


def real_tensors() -> dict[str, torch.Tensor]:
    with unset_fake_temporarily():
        base = torch.arange(6.0)
        return {
            "vector": torch.ones(3),
            "scalar": torch.tensor(2.0),
            "integer": torch.tensor(2),
            "indices": torch.tensor([2, 1]),
            "first half": base[:3],
            "second half": base[3:],
            "rows": torch.ones(2, 3),
            "columns": torch.ones(3, 2).t(),
            "parameter": torch.nn.Parameter(torch.ones(3)),
            "grad": torch.ones(3, requires_grad=True),
        }


# Each takes a fake vector of three and the real tensors.
CALLS: dict[str, Callable[[torch.Tensor, dict[str, torch.Tensor]], Any]] = {
    "one": lambda fake, real: fake + real["vector"],
    "first": lambda fake, real: real["vector"] + fake,
    "scalar": lambda fake, real: fake * real["scalar"],
    "integer": lambda fake, real: fake * real["integer"],
    "parameter": lambda fake, real: (fake * real["parameter"]).detach(),
    "in a list": lambda fake, real: torch.cat([fake, real["vector"], real["first half"], fake]),
    "twice": lambda fake, real: torch.addcmul(fake, real["vector"], real["vector"]),
    "on one storage": lambda fake, real: torch.addcmul(fake, real["first half"], real["second half"]),
    "strided": lambda fake, real: torch.add(fake, real["rows"]) + torch.add(fake, real["columns"]),
    "index": lambda fake, real: fake[real["indices"]],
    "in place": lambda fake, real: real["vector"].add_(fake),
    "written to": lambda fake, real: aten.add.out(fake, fake, out=real["vector"]),
    "lists": lambda fake, real: torch._foreach_add([fake, real["vector"]], [real["second half"], fake]),
}


def described(mode: Any, fake: torch.Tensor, real: dict[str, torch.Tensor], results: Any) -> Any:
    """The results, and which of them are, or share the storage of, what the real tensors were converted to."""
    with unset_fake_temporarily():
        converted = [mode.from_tensor(tensor) for tensor in real.values()]

    def describe(result: torch.Tensor) -> Any:
        storage = result.untyped_storage()._cdata
        return (
            both_sides.describe(result),
            [result is other for other in (fake, *converted)],
            [storage == other.untyped_storage()._cdata for other in (fake, *converted)],
        )

    return pytree.tree_map_only(torch.Tensor, describe, results)


def test_answers_from_the_cache_are_what_torch_computes() -> None:
    def several_times(call: Callable[..., Any]) -> Callable[[Any], Any]:
        def program(fakes: Any) -> Any:
            found = []
            with torch.no_grad(), fakes.FakeTensorMode(allow_non_fake_inputs=True) as mode:
                real = real_tensors()
                for tensors in (real, real, real_tensors()):
                    fake = torch.empty(3)
                    found.append(described(mode, fake, tensors, call(fake, tensors)))
            return found

        return program

    both_sides.assert_all_same({name: several_times(call) for name, call in CALLS.items()})


# Since torch 2.14 a fake tensor made of a whole number remembers it, which calls may ask for.
COMPUTED = {"strided", "integer"} if AT_LEAST_2_14 else {"strided"}


@pytest.mark.parametrize("name", sorted(set(CALLS) - COMPUTED))
def test_only_the_first_call_is_computed(name: str) -> None:
    call = CALLS[name]
    FakeTensorMode.cache_clear()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        real = real_tensors()
        call(torch.empty(3), real)
        before = FakeTensorMode.cache_info()
        call(torch.empty(3), real_tensors())
        after = FakeTensorMode.cache_info()
    assert (after.misses, after.bypasses) == (before.misses, {})
    assert after.hits > before.hits


def test_real_tensors_of_other_shapes_are_other_arguments() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        real = real_tensors()
        fake = torch.empty(2, 3)
        for _ in range(2):
            assert (fake + real["rows"]).stride() == (3, 1)
            assert (real["columns"] + torch.empty(2, 1)).stride() == (1, 2)
            assert (fake + real["vector"].double()).dtype == torch.float64
            assert torch.cat([fake, real["rows"]]).shape == (4, 3)
            assert torch.cat([fake, real["rows"][:1]]).shape == (3, 3)
            assert (fake * real["grad"]).requires_grad
            assert not (fake * real["vector"]).requires_grad


def test_a_mode_that_takes_no_real_tensors_refuses_them_also_when_the_answer_is_known() -> None:
    def program(fakes: Any) -> Any:
        real = real_tensors()["vector"]
        with fakes.FakeTensorMode(allow_non_fake_inputs=True):
            shapes = [(torch.empty(3) + real).shape for _ in range(2)]
        errors = []
        with fakes.FakeTensorMode():
            for _ in range(2):
                try:
                    torch.empty(3) + real
                except AssertionError as error:
                    errors.append(str(error)[:60])
        return shapes, errors

    assert len(both_sides.assert_same(program)[1]) == 2


def test_what_cannot_be_converted_is_refused_each_time_as_by_torch() -> None:
    # torch warns of such tensors once in a process, which another test expects.
    torch.set_warn_always(True)
    quantized = torch._empty_affine_quantized([3], scale=0.1, zero_point=0, dtype=torch.qint8)
    torch.set_warn_always(False)

    def program(fakes: Any) -> Any:
        errors = []
        with fakes.FakeTensorMode(allow_non_fake_inputs=True):
            for _ in range(2):
                try:
                    aten.mul.Tensor(torch.empty(3), quantized)
                except Exception as error:
                    errors.append((type(error).__name__, str(error)))
        return errors

    assert len(both_sides.assert_same(program)) == 2


def test_without_a_fake_tensor_among_them_values_are_computed_with() -> None:
    def program(fakes: Any) -> Any:
        real = real_tensors()["scalar"]
        with fakes.FakeTensorMode(allow_non_fake_inputs=True):
            return [(real + real).item() for _ in range(3)]

    assert both_sides.assert_same(program) == [4.0] * 3


def test_tensors_of_other_classes_are_not_converted_beforehand() -> None:
    class Marked(torch.Tensor):
        pass

    real = torch.ones(3).as_subclass(Marked)

    def program(fakes: Any) -> Any:
        errors = []
        with fakes.FakeTensorMode(allow_non_fake_inputs=True), torch._C.DisableTorchFunctionSubclass():
            for _ in range(2):
                try:
                    torch.empty(3) + real
                except TypeError as error:
                    errors.append(type(error).__name__)
        return errors

    assert len(both_sides.assert_same(program)) == 2


def test_whether_real_tensors_are_taken_decides_what_a_convolution_of_two_dtypes_gives() -> None:
    def program(fakes: Any) -> Any:
        outcomes = []
        for allowed in (True, False):
            with fakes.FakeTensorMode(allow_non_fake_inputs=allowed):
                x, weight = torch.empty(1, 1, 4), torch.empty(1, 1, 2, dtype=torch.float64)
                try:
                    outcomes.append(aten.convolution.default(x, weight, None, [1], [0], [1], False, [0], 1).shape)
                except RuntimeError as error:
                    outcomes.append(str(error))
        return outcomes

    torchs, ours = both_sides.on_torch(program), both_sides.on_ours(program)
    assert torchs == [(1, 1, 3), (1, 1, 3)]
    assert ours[0] == (1, 1, 3)
    assert "should be the same" in ours[1]
