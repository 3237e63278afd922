"""`torch.tensor` under a mode, whose tensors native code lifts where nothing is special about them."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import both_sides
import numpy as np
import pytest
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode

import fastfake
from fastfake import _C, FakeTensorConverter, FakeTensorMode

aten = torch.ops.aten

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex32, torch.complex64,
    torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (1, [1], [], [[1]], [[]], [0, 1, 1], [[0, 1], [1, 0]])


def lifts() -> int:
    return FakeTensorMode.cache_info().bypasses.get("lift", 0)


def bookkeeping(mode: Any) -> Any:
    """What a converter remembers, by number."""
    converter = mode.fake_tensor_converter
    meta = converter.meta_converter
    describer = meta.describer
    return {
        "conversions": (meta.hit, meta.miss),
        "next numbers": (int(describer.next_tensor_id), int(describer.next_storage_id)),
        "tensors": (sorted(describer.lookup_tensor.values()), sorted(meta.tensor_memo)),
        "storages": (sorted(describer.lookup_storage.values()), sorted(meta.storage_memo)),
        "constants": sum(map(len, converter.constant_storage_mapping.values())),
    }


def seen(t: Any) -> Any:
    """Everything that can be seen of a fake tensor without calling an operator."""
    if not hasattr(t, "item_memo"):
        return both_sides.describe(t)
    return (
        both_sides.describe(t),
        str(torch._C._dispatch_keys(t)),
        (
            t.is_inference() or t._version,
            t.is_leaf,
            t._is_view(),
            t.is_inference(),
            t.is_contiguous(),
            t.grad_fn is None,
        ),
        (t.untyped_storage().nbytes(), t.untyped_storage().resizable(), str(t.untyped_storage().device)),
        (t.item_memo, t.nonzero_memo, t.real_tensor, t.pytype, str(t.dispatch_keys)),
        t.constant is None
        or (t.is_inference() or t.constant._version, t.constant.stride(), t.constant.untyped_storage().nbytes()),
        type(t.constant).__name__,
    )


def made(*args: Any, **settings: Any) -> Callable[[Any], Any]:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        with mode:
            t = torch.tensor(*args, **settings)
        return seen(t), bookkeeping(mode)

    return program


def test_tensors_of_numbers_are_those_of_torch() -> None:
    programs = {f"{numbers} {dtype}": made(numbers, dtype=dtype) for numbers in NUMBERS for dtype in DTYPES}
    both_sides.assert_all_same({**programs, "infinite": made(float("inf")), "complex": made(1 + 2j)})


def test_settings_of_tensors_of_numbers_are_followed() -> None:
    array = np.arange(6.0).reshape(2, 3)
    sources: dict[str, Callable[[], Any]] = {
        "requires grad": lambda: torch.tensor(2.0, requires_grad=True),
        "many, requiring grad": lambda: torch.tensor([2.0, 3.0], requires_grad=True),
        "pinned": lambda: torch.tensor(2.0, pin_memory=False),
        "meta": lambda: torch.tensor(2.0, device="meta"),
        "an array": lambda: torch.tensor(array),
        "a transposed array": lambda: torch.tensor(array.T),
        "an array's memory": lambda: torch.as_tensor(array),
        "part of an array's memory": lambda: torch.as_tensor(array[1:, ::2]),
        "one element of it": lambda: torch.as_tensor(array[1:, 2:]),
        "memory": lambda: torch.from_numpy(array),
        "asarray": lambda: torch.asarray(3.0),
        "a class of old": lambda: torch.LongTensor([1, 2]),
        "new_tensor": lambda: torch.empty(2).new_tensor([1.0]),
        "a scalar": lambda: torch.scalar_tensor(3.0),
        "beside a default": lambda: torch.tensor(3.0).to(torch.bfloat16),
        "a bool": lambda: torch.tensor([True, False]),
        "without grad": lambda: torch.no_grad()(lambda: torch.tensor(1.0, requires_grad=True))(),
        "in inference": lambda: torch.inference_mode()(lambda: torch.tensor(1.0))(),
        "many in inference": lambda: torch.inference_mode()(lambda: torch.tensor([1.0, 2.0]))(),
    }

    def on(source: Callable[[], Any]) -> Callable[[Any], Any]:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode(allow_non_fake_inputs=True):
                source()  # the first call in a process of new_tensor numbers one more tensor, on either side
            mode = fakes.FakeTensorMode(allow_non_fake_inputs=True)
            with mode:
                t = source()
            return seen(t), bookkeeping(mode)

        return program

    both_sides.assert_all_same({name: on(source) for name, source in sources.items()})


# What is done with a lifted tensor. Each returns what can be seen of it.
PROGRAMS: dict[str, Callable[[Any, Any], Any]] = {
    "read": lambda mode, x: [x.tolist(), x.numel() == 1 and x.item()],
    "written": lambda mode, x: (x.add_(1), seen(x), x.numel() == 1 and x.item()),
    "written at random": lambda mode, x: (x.random_(), seen(x)),
    "through a view": lambda mode, x: (lambda view: (view.add_(1), seen(view), seen(x)))(x.view(-1)),
    "through a view at random": lambda mode, x: (lambda view: (view.random_(), seen(view), seen(x)))(x.view(-1)),
    "views share its storage": lambda mode, x: x.view(-1).untyped_storage()._cdata == x.untyped_storage()._cdata,
    "the value written": lambda mode, x: x.constant is not None and (x.constant.add_(1), seen(x)),
    "the value is its own": lambda mode, x: x.constant is not None and mode.from_tensor(x.constant) is x,
    "a view of the value": lambda mode, x: (
        x.constant is not None
        and mode.from_tensor(x.constant.view(-1)).untyped_storage()._cdata == x.untyped_storage()._cdata
    ),
    "resized": lambda mode, x: (x.resize_(5), both_sides.describe(x)),
    "its data": lambda mode, x: (x.data.zero_(), seen(x), seen(x.detach())),
    "given other data": lambda mode, x: (setattr(x, "data", torch.ones(3)), both_sides.describe(x)),
    "set": lambda mode, x: (x.set_(torch.empty(2, dtype=x.dtype)), both_sides.describe(x)),
    "gradients": lambda mode, x: (
        x.dtype.is_floating_point and (x.requires_grad_(), (x * 2).sum().backward(), both_sides.describe(x.grad))
    ),
    "a parameter": lambda mode, x: x.dtype.is_floating_point and both_sides.describe(torch.nn.Parameter(x)),
    "moved": lambda mode, x: [seen(x.to("meta")), seen(x.to(torch.float64))],
    "added": lambda mode, x: seen(x + torch.tensor(1)),
    "concatenated": lambda mode, x: seen(torch.cat([x.view(-1), torch.empty(3, dtype=x.dtype)])),
    "nothing": lambda mode, x: None,
}
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "no settings": dict,
    "real tensors allowed": lambda: {"allow_non_fake_inputs": True},
    "symbolic": lambda: {"shape_env": ShapeEnv()},
}


def test_what_becomes_of_lifted_tensors_is_what_becomes_of_torchs() -> None:
    def on(numbers: Any, name: str, settings: Callable[[], dict[str, Any]]) -> Callable[[Any], Any]:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode(**settings())
            with mode:
                first, x, other = torch.tensor(7), torch.tensor(numbers), torch.tensor(numbers)
                before = bookkeeping(mode)
                result = both_sides.outcome(lambda fakes: PROGRAMS[name](mode, x))
                rest = both_sides.describe([first, x, other])
            return before, result, rest

        return program

    both_sides.assert_all_same(
        {
            f"{name} {numbers} {kind}": on(numbers, name, settings)
            for name in PROGRAMS
            for numbers in (3, 2.5, [7], [], [1.0, 2.0])
            for kind, settings in SETTINGS.items()
        }
    )


def test_what_is_remembered_of_lifted_tensors_goes_with_them() -> None:
    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode() as mode:
            lifted = [torch.tensor(numbers) for numbers in NUMBERS]
            all_live = bookkeeping(mode)
            del lifted[1::2]
            gc.collect()
            return all_live, bookkeeping(mode)

    both_sides.assert_same(program)


def test_a_tensor_that_the_program_keeps_is_lifted_to_the_same_fake_tensor_each_time() -> None:
    def on(make: Callable[[], torch.Tensor], lift: Any) -> Callable[[Any], Any]:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            real = make()
            part_of_real = real[:2]
            with mode:
                lifted, again, converted = lift(real), lift(real), mode.from_tensor(real)
                part = lift(part_of_real)
            real.detach().fill_(0)
            return (
                [seen(t) for t in (lifted, again, converted, part)],
                [lifted is again, again is converted],
                lifted.untyped_storage()._cdata == part.untyped_storage()._cdata,
            )

        return program

    makes: dict[str, Callable[[], torch.Tensor]] = {
        "one": lambda: torch.tensor([3.0]),
        "many": lambda: torch.tensor([3.0, 4.0, 5.0]),
        "requiring grad": lambda: torch.tensor([3.0, 4.0], requires_grad=True),
        "a result": lambda: torch.ones(3, requires_grad=True) * 2,
        "a view": lambda: torch.ones(4)[1:],
        "conjugate": lambda: torch.ones(3, dtype=torch.complex64).conj(),
        "negative": lambda: torch.ones(3, dtype=torch.complex64).conj().imag,
        "expanded": lambda: torch.ones(1).expand(3),
        "a parameter": lambda: torch.nn.Parameter(torch.ones(3)),
        "sparse": lambda: torch.ones(3).to_sparse(),
    }
    operators = (aten.lift_fresh.default, aten.lift_fresh_copy.default)
    both_sides.assert_all_same({f"{name} {lift}": on(make, lift) for name, make in makes.items() for lift in operators})


def test_a_tensor_that_the_program_keeps_is_lifted_once_where_it_has_a_storage_of_its_own() -> None:
    def program(fakes: Any) -> Any:
        real, converted_before = torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0])
        with fakes.FakeTensorMode() as mode:
            lifted, again = aten.lift_fresh(real), aten.lift_fresh(real)
            before = mode.from_tensor(converted_before)
            of_data = aten.lift_fresh(converted_before.data)
        return (
            [lifted is again, before is lifted],
            of_data.untyped_storage()._cdata == before.untyped_storage()._cdata,
            bookkeeping(mode),
        )

    both_sides.assert_same(program)


def test_they_count_as_answered_and_run_no_python_dispatch(mode: FakeTensorMode, monkeypatch: Any) -> None:
    monkeypatch.setattr("fastfake.miss.pipeline.run", None)
    for numbers in NUMBERS:
        before = FakeTensorMode.cache_info()
        torch.tensor(numbers)
        after = FakeTensorMode.cache_info()
        assert after.bypasses == before.bypasses
        assert after.hits > before.hits


def test_without_the_cache_or_with_crosschecks_they_are_computed(mode: FakeTensorMode) -> None:
    mode.cache_crosscheck_enabled = True
    before = lifts()
    assert torch.tensor(3).item() == 3
    assert lifts() == before + 1


def test_a_converter_of_another_class_converts(mode: FakeTensorMode) -> None:
    asked = []

    class Asked(FakeTensorConverter):
        def from_real_tensor(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(args)
            return super().from_real_tensor(*args, **kwargs)

    mode.fake_tensor_converter = Asked()
    assert torch.tensor(3).item() == 3
    assert torch.tensor([3, 4]).constant is None
    assert len(asked) == 2


@pytest.mark.parametrize("is_allowed", [True, False])
def test_their_address_is_told_where_the_setting_allows_it(is_allowed: bool) -> None:
    def program(fakes: Any) -> Any:
        with torch._functorch.config.patch(fake_tensor_allow_unsafe_data_ptr_access=is_allowed):
            mode = fakes.FakeTensorMode()
        with mode:
            lifted = [torch.tensor(3), torch.tensor([1, 2])]
        return [both_sides.outcome(lambda fakes, t=t: t.data_ptr()) for t in lifted]

    both_sides.assert_same(program)


def test_real_tensors_are_propagated_from_them() -> None:
    def program(fakes: Any) -> Any:
        with torch._functorch.config.patch(fake_tensor_propagate_real_tensors=True):
            mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
        with mode:
            results = [torch.tensor([1, 2]), torch.tensor(3), torch.tensor([1, 2]) + 1]
        mode.propagate_real_tensors = False
        mode.cache_enabled = True
        with mode:
            later = torch.tensor([1, 2])
        return results, later

    both_sides.assert_same(program)


def test_the_limit_of_torch_is_asked_each_time() -> None:
    def program(fakes: Any) -> Any:
        results = []
        with fakes.FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
            for limit in (0, 1, 2):
                patch.setattr(torch._subclasses.fake_tensor, "CONSTANT_NUMEL_LIMIT", limit)
                results += [seen(torch.tensor(numbers)) for numbers in ([], 1, [1, 2], [1, 2, 3])]
        return results

    both_sides.assert_same(program)


def test_the_kernel_that_lifts_is_the_dispatchers(mode: FakeTensorMode) -> None:
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("lift_fresh", lambda t: torch.ops.aten.mul.Tensor(t, 2), "CPU")
        assert torch.tensor(3).item() == 6
    assert torch.tensor(3).item() == 3


def test_they_are_answered_under_the_python_dispatcher(mode: FakeTensorMode, monkeypatch: Any) -> None:
    monkeypatch.setattr("fastfake.miss.pipeline.run", None)
    with enable_python_dispatcher():
        before = lifts()
        tensors = [torch.tensor(()), torch.tensor(3), torch.tensor([1.0, 2.0])]
        assert lifts() == before
    assert [t.constant is not None for t in tensors] == [True, True, False]
    assert tensors[1].item() == 3


def test_under_the_python_dispatcher_they_are_those_of_torch() -> None:
    def on(numbers: Any) -> Callable[[Any], Any]:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            with mode, enable_python_dispatcher():
                t = torch.tensor(numbers)
                return seen(t), bookkeeping(mode)

        return program

    both_sides.assert_all_same({str(numbers): on(numbers) for numbers in NUMBERS})


def test_a_function_of_a_program_in_the_place_of_the_kernel_lifts_in_python(mode: FakeTensorMode) -> None:
    asked = []

    def lift(t: torch.Tensor) -> torch.Tensor:
        # Native code would have disabled the dispatch to modes.
        asked.append(torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.Python))
        return t * 2

    operator, key = aten.lift_fresh.default, torch._C.DispatchKey.CPU
    before = lifts()
    operator.py_impl(key)(lift)
    try:
        with enable_python_dispatcher():
            torch.tensor(3)
    finally:
        del operator.py_kernels[key]
        operator._dispatch_cache.clear()
        _C.note_registration()
    assert asked == [False]
    assert lifts() == before + 1


def test_transforms_of_functorch_lift_as_in_torch() -> None:
    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode():
            x = torch.empty(3, 2)
            return [
                torch.func.vmap(lambda row: row + torch.tensor(1.0))(x),
                torch.func.vmap(lambda row: row + torch.tensor([1.0, 2.0]))(x),
                torch.func.grad(lambda x: (x * torch.tensor(2.0)).sum())(x),
                torch.func.functionalize(lambda x: x.add_(torch.tensor(2.0)))(x),
                torch.func.jvp(lambda x: x * torch.tensor(2.0), (x,), (x,)),
            ]

    both_sides.assert_same(program)


def test_traces_have_the_same_constants() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode() as mode:
            x = torch.empty(3)
        traced = make_fx(lambda x: x * torch.tensor(2.0) + torch.tensor([1.0, 2.0, 3.0]), tracing_mode="fake")(x)
        del mode
        return traced.code

    both_sides.assert_same(program)


@pytest.mark.parametrize("numbers", [[3.0], [3.0, 4.0]], ids=str)
def test_what_is_written_to_memory_that_was_lifted_changes_no_value(numbers: list[float]) -> None:
    def program(fakes: Any) -> Any:
        array = np.array(numbers)
        with fakes.FakeTensorMode():
            lifted = torch.as_tensor(array), torch.from_numpy(array)
        array[:] = 5.0
        return [seen(t) for t in lifted]

    both_sides.assert_same(program)


def test_a_mode_of_the_program_sees_them() -> None:
    class Noted(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # From torch 2.15 on, torch asks its own fake tensors for their device so that modes see it.
            if func is not torch.ops.prim.device.default:
                self.calls.append(str(func))
            return func(*args, **(kwargs or {}))

    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode() as mode, Noted() as noted:
            t = torch.tensor(3.0)
        return noted.calls, seen(t), bookkeeping(mode)

    both_sides.assert_same(program)


def test_modes_within_modes_have_tensors_of_their_own() -> None:
    def program(fakes: Any) -> Any:
        outer, inner = fakes.FakeTensorMode(), fakes.FakeTensorMode()
        with outer:
            first = torch.tensor(1)
            with inner:
                second = torch.tensor(2)
            third = torch.tensor(3)
        owners = [t.fake_mode is mode for t, mode in ((first, outer), (second, inner), (third, outer))]
        return owners, [seen(t) for t in (first, second, third)], bookkeeping(outer), bookkeeping(inner)

    both_sides.assert_same(program)


def test_copies_keep_the_value(mode: FakeTensorMode) -> None:
    x = torch.tensor(3)
    assert copy.deepcopy(x).item() == 3
    assert copy.copy(x).item() == 3


def test_pickles_are_those_of_torch() -> None:
    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode():
            t = torch.tensor(3)
        return pickle.load(io.BytesIO(pickle.dumps(t.constant)))

    both_sides.assert_same(program)


def test_emptying_the_cache_forgets_no_value(mode: FakeTensorMode) -> None:
    x = torch.tensor(3)
    FakeTensorMode.cache_clear()
    assert x.add_(1).item() == 4
    assert torch.tensor(5).item() == 5


@pytest.mark.parametrize("known_values", [None, True, 2])
def test_values_are_followed_as_the_mode_has_it(known_values: Any) -> None:
    with FakeTensorMode(known_values=known_values) as mode:
        lifted = [torch.tensor(numbers) for numbers in ([], 3, [1, 2], [1, 2, 3])]
        known = [t.constant is not None for t in lifted]
        mode.known_values = None
        later = [torch.tensor(numbers).constant is not None for numbers in ([], 3, [1, 2], [1, 2, 3])]
    assert known == [True, True, known_values is not None, known_values is True]
    assert later == [True, True, False, False]


def test_values_that_nobody_has_any_more_take_no_memory(mode: FakeTensorMode) -> None:
    for _ in range(300):
        torch.tensor(3), torch.tensor([1, 2, 3])
    after = bookkeeping(mode)
    assert after["tensors"] == after["storages"] == ([], [])
    assert after["constants"] < 200


def test_a_debugged_tensor_tells_where_it_was_made(mode: FakeTensorMode) -> None:
    fastfake.FakeTensorConfig.debug = True
    try:
        assert "test_lifting" in str(torch.tensor(3)._debug_trace.summary())  # type: ignore[attr-defined]
    finally:
        fastfake.FakeTensorConfig.debug = False


def test_threads_lift_at_once() -> None:
    mode = FakeTensorMode()
    kept: list[list[Any]] = [[] for _ in range(4)]

    def lift(mine: list[Any]) -> None:
        with mode:
            mine.extend((torch.tensor(number), number) for number in range(200))

    threads = [threading.Thread(target=lift, args=(mine,)) for mine in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lifted = [pair for mine in kept for pair in mine]
    with mode:
        assert [t.item() for t, _ in lifted] == [number for _, number in lifted]
    converter = mode.fake_tensor_converter
    assert all(converter.known_fake(t.constant) is t for t, _ in lifted)
    assert len(converter.tensor_memo) == len(lifted) == 800
