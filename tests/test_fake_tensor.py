"""A fake tensor as an object: made, printed, copied, pickled and derived from as torch's is."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import operator
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
from both_sides import NOT_PICKLED, Failure, assert_same, on_ours
from torch.fx._graph_pickler import GraphPickler
from torch.overrides import TorchFunctionMode
from torch.utils._traceback import CapturedTraceback

import fastfake


def empty(fakes: Any, *size: int, **options: Any) -> Any:
    with fakes.FakeTensorMode():
        return torch.empty(*size, **options)


def with_warnings(function: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    return result, [str(warning.message) for warning in caught]


@pytest.fixture
def every_warning() -> Iterator[None]:
    """By default a warning of torch's C++ code comes once a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


class TestConstruction:
    def meta(self, **options: Any) -> torch.Tensor:
        return torch.empty(2, 3, device="meta", **options)

    @pytest.mark.parametrize(
        "keywords",
        [
            {"device": "cpu"},
            {"device": "cuda"},
            {"fake_device": "cuda:1"},
            {"_fake_device": torch.device("cpu")},
            {"device": "cuda", "fake_device": "cuda:0"},
            {"device": "cuda", "fake_device": "cpu"},
            {},
            {"device": "cpu", "requires_grad": True},
            {"device": "cpu", "unknown": 1},
            {"device": "cpu", "_item_memo": 1, "_nested_int_memo_epoch": 2, "_debug_trace": 3},
        ],
        ids=str,
    )
    def test_keywords_mean_what_they_mean_in_torch(self, keywords: dict[str, Any]) -> None:
        assert_same(lambda fakes: fakes.FakeTensor(fakes.FakeTensorMode(), self.meta(), **keywords))

    def test_the_mode_may_come_by_keyword(self) -> None:
        assert_same(lambda fakes: fakes.FakeTensor(self.meta(), fake_mode=fakes.FakeTensorMode(), device="cpu"))

    def test_two_modes_are_refused(self) -> None:
        def program(fakes: Any) -> Any:
            return fakes.FakeTensor(fakes.FakeTensorMode(), self.meta(), "cpu", fake_mode=fakes.FakeTensorMode())

        assert_same(program)

    def test_two_meta_tensors_are_refused(self) -> None:
        assert_same(lambda fakes: fakes.FakeTensor(self.meta(), self.meta(), "cpu", fake_mode=fakes.FakeTensorMode()))

    @pytest.mark.parametrize("arguments", [(), (1,), ("cpu",)], ids=str)
    def test_arguments_that_are_no_mode_and_tensor_are_refused(self, arguments: tuple[Any, ...]) -> None:
        assert_same(lambda fakes: fakes.FakeTensor(*arguments))

    def test_a_tensor_with_data_is_refused(self) -> None:
        assert_same(lambda fakes: fakes.FakeTensor(fakes.FakeTensorMode(), torch.ones(2), "cpu"))

    @pytest.mark.parametrize("allowed", [True, False])
    def test_imitating_a_meta_tensor_needs_permission(self, allowed: bool) -> None:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            mode.allow_meta = allowed
            return fakes.FakeTensor(mode, self.meta(), "meta")

        assert_same(program)

    def test_a_fake_real_tensor_is_refused(self) -> None:
        def program(fakes: Any) -> Any:
            return fakes.FakeTensor(fakes.FakeTensorMode(), self.meta(), "cpu", real_tensor=empty(fakes, 2))

        assert_same(program)

    def test_it_can_be_marked_as_a_parameter(self) -> None:
        def program(fakes: Any) -> Any:
            fake = fakes.FakeTensor(fakes.FakeTensorMode(), self.meta(), "cpu", _is_param=True, requires_grad=True)
            return fake, isinstance(fake, torch.nn.Parameter)

        assert assert_same(program)[1] is True

    def test_a_recorded_type_and_keys_stay_with_the_tensor_and_do_not_go_to_results(self) -> None:
        keys = torch._C._dispatch_keys(torch.empty(2))

        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            fake = fakes.FakeTensor(mode, self.meta(), "cuda", pytype=torch.nn.Parameter, dispatch_keys=keys)
            result = fake + 1
            return fake.pytype is torch.nn.Parameter, fake.dispatch_keys == keys, result.pytype, result.dispatch_keys

        assert assert_same(program) == (True, True, None, None)

    @pytest.mark.parametrize("name", ["Tensor", "as_tensor", "tensor", "nn.Parameter", "nn.Buffer"])
    def test_torchs_constructors_take_a_fake_tensor_under_its_mode(self, name: str) -> None:
        build = operator.attrgetter(name)(torch)

        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode() as mode:
                built = build(torch.empty(2, 3))
            kinds = isinstance(built, torch.nn.Parameter), getattr(built, "_is_buffer", False)
            return built, kinds, built.fake_mode is mode

        assert_same(program)

    @pytest.mark.parametrize("build", [torch.Tensor, torch.nn.Parameter, torch.nn.Buffer])
    def test_torchs_constructors_take_a_fake_tensor_outside_of_its_mode(self, build: Any) -> None:
        assert_same(lambda fakes: build(empty(fakes, 2, 3)))

    @pytest.mark.parametrize("arguments", [([1, 2],), (3,), (), (2, 3), (torch.Size([4]),)], ids=str)
    def test_the_legacy_constructor_makes_fake_tensors_under_a_mode(self, arguments: tuple[Any, ...]) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                return torch.Tensor(*arguments)

        assert assert_same(program)[0] == "FakeTensor"

    def test_a_similar_tensor_is_made_from_the_fields_in_the_dictionary(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode() as mode:
                fake = torch.empty(2, 3, device="cuda")
            similar = type(fake)(self.meta(), **fake.__dict__)
            return similar, similar.fake_mode is mode

        assert_same(program)

    def test_empty_weights_are_made_the_way_in_which_accelerate_does(self) -> None:
        """It writes an argument into the parameter's own dictionary and passes that on."""

        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                parameter = torch.nn.Parameter(torch.empty(2, 3))
                keywords = parameter.__dict__
                keywords["requires_grad"] = parameter.requires_grad
                return type(parameter)(parameter.to(torch.device("meta")), **keywords)

        assert_same(program)


class TestDictionary:
    def test_it_has_the_fields_that_make_a_tensor(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2)
            names = {name for name in vars(fake) if "memo" not in name}
            return names, fake.__dict__["fake_mode"] is fake.fake_mode, fake.__dict__["_fake_device"]

        assert_same(program)

    def test_attributes_set_on_the_tensor_are_in_it_and_the_other_way_round(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2)
            fake.one = 1
            fake.__dict__["two"] = 2
            fake.__dict__.update(three=3)
            return fake.__dict__["one"], fake.two, fake.three

        assert assert_same(program) == (1, 2, 3)

    def test_assigning_it_assigns_what_the_user_set(self) -> None:
        def program(fakes: Any) -> Any:
            one, other = empty(fakes, 2), empty(fakes, 2)
            one.one, other.two = 1, 2
            one.__dict__ = other.__dict__
            return hasattr(one, "one"), one.two

        assert assert_same(program) == (False, 2)

    def test_assigning_it_assigns_the_fields(self) -> None:
        def program(fakes: Any) -> Any:
            one, other = empty(fakes, 2), empty(fakes, 2, device="cuda")
            one.__dict__ = other.__dict__
            return one.fake_device, one.fake_mode is other.fake_mode

        assert_same(program)

    def test_two_tensors_can_be_swapped(self) -> None:
        def program(fakes: Any) -> Any:
            one, other = empty(fakes, 2), empty(fakes, 3, device="cuda")
            one.label, modes = "one", (one.fake_mode, other.fake_mode)
            torch.utils.swap_tensors(one, other)
            return one, other, other.label, hasattr(one, "label"), (other.fake_mode, one.fake_mode) == modes

        assert_same(program)

    def test_a_field_set_later_wins_over_what_the_dictionary_had(self) -> None:
        fake = fastfake.FakeTensorMode().from_tensor(torch.ones(2))
        assert vars(fake)["constant"] is None
        fake.constant = torch.ones(2)
        assert vars(fake)["constant"] is fake.constant


class TestDevice:
    def test_it_is_the_imitated_one_outside_of_kernels(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2, device="cuda")
            return fake.device, fake.fake_device, fake.is_cuda, fake.is_cpu, fake.is_meta, fake.get_device()

        assert_same(program)

    def test_it_is_meta_in_kernels(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2, device="cuda")
            with fakes.in_kernel_invocation_manager(fake.fake_mode):
                return fake.device, fake.fake_device, fake.is_meta

        assert_same(program)

    def test_it_cannot_be_set(self) -> None:
        def program(fakes: Any) -> Any:
            empty(fakes, 2).device = torch.device("cuda")

        assert assert_same(program).kind == "NotImplementedError"

    def test_it_cannot_be_deleted(self) -> None:
        def program(fakes: Any) -> Any:
            del empty(fakes, 2).device

        with pytest.raises(AttributeError):
            program(torch._subclasses.fake_tensor)

    def test_setting_the_imitated_device_moves_the_tensor(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2)
            fake.fake_device = torch.device("cuda")
            return fake.device, fake

        assert_same(program)

    def test_a_tensor_made_around_its_constructor_has_none(self) -> None:
        fake = torch.Tensor._make_subclass(fastfake.FakeTensor, torch.empty(2, device="meta"))
        with pytest.raises(AttributeError):
            fastfake.FakeTensor.__dict__["device"].__get__(fake)


class TestRepresentation:
    @pytest.mark.parametrize("under_mode", [True, False])
    def test_it_reads_as_torchs(self, under_mode: bool) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode() as mode:
                leaf = torch.empty(2, 3, requires_grad=True)
                tensors = [
                    leaf,
                    leaf + 1,
                    torch.nn.Parameter(torch.empty(2)),
                    torch.nn.Buffer(torch.empty(2)),
                    torch.tensor(3.0),
                    torch.empty(0),
                    torch.empty(2, dtype=torch.int64, device="cuda:1"),
                    torch.empty(2).to_sparse(),
                ]
                if under_mode:
                    return [repr(t) for t in tensors]
            del mode
            return [repr(t) for t in tensors] + [str(t) for t in tensors]

        assert_same(program)

    def test_names_can_be_read_and_set(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2, 3)
            before = fake.names
            fake.names = ("rows", "columns")
            return before, fake.names

        assert_same(lambda fakes: with_warnings(lambda: program(fakes)))


class TestCopies:
    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    @pytest.mark.parametrize("under_mode", [True, False])
    def test_a_copy_is_like_the_original(self, duplicate: Any, under_mode: bool) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode() as mode:
                fake = torch.empty(2, 3, device="cuda")
                fake.label = ["of the user"]
                duplicated = duplicate(fake) if under_mode else None
            del mode
            duplicated = duplicate(fake) if duplicated is None else duplicated
            same_storage = duplicated.untyped_storage()._cdata == fake.untyped_storage()._cdata
            return duplicated, duplicated is fake, duplicated.label, duplicated.label is fake.label, same_storage

        assert_same(program)

    def test_a_module_of_fake_parameters_can_be_copied(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                copied = copy.deepcopy(torch.nn.Linear(3, 2))
            parameters = [isinstance(p, torch.nn.Parameter) for p in copied.parameters()]
            return list(copied.state_dict().values()), parameters

        assert_same(program)

    @pytest.mark.parametrize("under_mode", [True, False])
    def test_a_deep_copy_of_a_constant_has_a_copy_of_its_value(self, under_mode: bool) -> None:
        mode = fastfake.FakeTensorMode()
        with mode:
            constant = torch.tensor(3)
        with mode if under_mode else nullcontext():
            copied = copy.deepcopy(constant)
        assert copied.item() == 3
        assert type(copied.constant) is torch.Tensor
        assert copied.constant is not constant.constant

    def test_a_result_cannot_be_copied_deeply(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                return copy.deepcopy(torch.empty(2, requires_grad=True) + 1)

        assert assert_same(program).kind == "RuntimeError"

    def test_a_deep_copy_keeps_the_mode_so_that_it_can_meet_the_original(self) -> None:
        with fastfake.FakeTensorMode() as mode:
            layer = torch.nn.Linear(2, 2)
            copied = copy.deepcopy(layer)
            assert copied.weight.fake_mode is mode
            assert copied(layer.weight).shape == (2, 2)

    def test_a_deep_copy_together_with_the_mode_belongs_to_the_copy_of_the_mode(self) -> None:
        mode = fastfake.FakeTensorMode()
        fake = mode.from_tensor(torch.ones(2))
        copied_mode, copied = copy.deepcopy([mode, fake])
        assert copied_mode is not mode
        assert copied.fake_mode is copied_mode

    def test_writing_to_a_deep_copy_of_a_constant_makes_the_copys_value_unknown(self) -> None:
        with fastfake.FakeTensorMode():
            constant = torch.tensor(3)
            copied = copy.deepcopy(constant)
            copied.random_()
        assert copied.constant is None
        assert constant.item() == 3

    @pytest.mark.parametrize("duplicate", [copy.copy, lambda fake: _rebuilt(fake.__reduce_ex__(2))])
    def test_operators_can_run_on_a_copy_whose_data_torch_would_read_from_a_null_pointer(self, duplicate: Any) -> None:
        with fastfake.FakeTensorMode():
            original = torch.empty(4, 6)[1:, ::2].requires_grad_()
        copied = duplicate(original)
        # First, as operators would end the process without it.
        assert copied.untyped_storage().device.type == "meta"
        # As with torch, its storage ends with its last element, which is number 22.
        metadata = dataclasses.replace(fastfake.extract_tensor_metadata(original), storage_bytes=23 * 4)
        assert fastfake.extract_tensor_metadata(copied) == metadata
        assert copied.clone().shape == (3, 3)
        copied.sum().backward()
        assert copied.grad.shape == (3, 3)
        assert original.grad is None

    def test_a_copy_of_a_derived_class_does_not_call_its_constructor(self) -> None:
        class Refusing(fastfake.FakeTensor):
            def __new__(cls, *args: Any) -> Any:
                raise AssertionError("not for copies")

        fake = fastfake.FakeTensor.__new__(Refusing, fastfake.FakeTensorMode(), torch.empty(2, device="meta"), "cpu")
        copied = copy.copy(fake)
        assert type(copied) is Refusing
        assert copied.clone().shape == (2,)

    def test_writing_to_a_copy_of_a_constant_makes_both_values_unknown(self) -> None:
        with fastfake.FakeTensorMode():
            constant = torch.tensor(3)
            copied = copy.copy(constant)
            assert copied.item() == 3
            copied.random_()
        assert copied.constant is None
        assert constant.constant is None

    def test_a_copy_does_not_share_memos_that_come_later(self) -> None:
        mode = fastfake.FakeTensorMode()
        fake = mode.from_tensor(torch.ones(2))
        fake.item_memo = 1
        copied = copy.copy(fake)
        assert copied.item_memo == 1
        copied.nonzero_memo = 2
        assert fake.nonzero_memo is None

    def test_slots_of_derived_classes_are_copied(self) -> None:
        class Labelled(fastfake.FakeTensor):
            __slots__ = ("label",)

        fake = Labelled(fastfake.FakeTensorMode(), torch.empty(2, device="meta"), "cpu")
        fake.label = "mine"
        assert copy.copy(fake).label == "mine"


def _rebuilt(reduced: tuple[Any, tuple[Any, ...]]) -> Any:
    rebuild, arguments = reduced
    return rebuild(*arguments)


class TestPickling:
    @pytest.mark.parametrize("under_mode", [True, False])
    @pytest.mark.parametrize("dump", [lambda t: pickle.dumps(t), lambda t: torch.save(t, io.BytesIO())])
    def test_what_torch_refuses_is_refused_alike(self, dump: Any, under_mode: bool) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode() as mode:
                fake = torch.empty(2, 3)
                if under_mode:
                    dump(fake)
            dump(fake)
            return mode

        assert assert_same(program).kind == NOT_PICKLED

    def test_it_reduces_to_its_class_and_its_state_as_torchs_does(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2, 3)
            rebuild, (_, kind, _, state) = fake.__reduce_ex__(2)
            return rebuild.__name__, kind is type(fake), type(state).__name__

        assert_same(program)

    def test_saved_without_data_it_loads_as_a_tensor(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                whole = torch.empty(4, 5, device="cuda")
                parts = {"whole": whole, "transposed": whole.t(), "parameter": torch.nn.Parameter(whole)}
            file = io.BytesIO()
            with torch.serialization.skip_data(materialize_fake_tensors=True):
                torch.save(parts, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=True, map_location="cpu")
            return loaded, len({t.untyped_storage()._cdata for t in loaded.values()})

        assert_same(program)

    def test_without_materialising_it_cannot_be_saved(self) -> None:
        def program(fakes: Any) -> Any:
            with torch.serialization.skip_data():
                torch.save(empty(fakes, 2), io.BytesIO())

        assert assert_same(program).kind == NOT_PICKLED

    @pytest.mark.parametrize("location", [None, "cuda", "meta"])
    def test_loading_under_a_mode_gives_fake_tensors(self, location: str | None) -> None:
        def program(fakes: Any) -> Any:
            file = io.BytesIO()
            torch.save({"tensor": torch.ones(2, 3), "parameter": torch.nn.Parameter(torch.ones(2))}, file)
            file.seek(0)
            with fakes.FakeTensorMode():
                loaded = torch.load(file, weights_only=True, map_location=location)
            return loaded, isinstance(loaded["parameter"], torch.nn.Parameter)

        assert_same(program)

    def test_torchs_graph_pickler_moves_it_to_another_mode(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 3, requires_grad=True)
            other = fakes.FakeTensorMode()
            loaded = GraphPickler.loads(GraphPickler.dumps([fake, fake]), other)
            return loaded, loaded[0] is loaded[1], loaded[0].fake_mode is other

        assert_same(program)


class TestDataPointer:
    @pytest.mark.parametrize("allowed", [True, False])
    @pytest.mark.parametrize("read", [lambda t: t.data_ptr(), lambda t: t.untyped_storage().data_ptr()])
    def test_it_warns_or_raises_as_configured_also_on_tensors_from_the_cache(
        self, read: Any, allowed: bool, every_warning: None
    ) -> None:
        def program(fakes: Any) -> Any:
            with functorch_config.patch(fake_tensor_allow_unsafe_data_ptr_access=allowed):
                mode = fakes.FakeTensorMode()
            with mode:
                tensors = [torch.empty(2, 3) for _ in range(3)]
            tensors.append(mode.from_tensor(torch.ones(2)))
            answers = []
            for tensor in tensors:
                try:
                    answers.append(str(with_warnings(lambda tensor=tensor: read(tensor))))
                except RuntimeError as error:
                    answers.append(str(error))
            return answers

        assert_same(program)

    @pytest.mark.parametrize("method", ["numpy", "tolist", "item", "__bool__", "__array__"])
    def test_data_that_does_not_exist_is_refused_alike(self, method: str) -> None:
        assert isinstance(assert_same(lambda fakes: getattr(empty(fakes, 1), method)()), Failure)


class TestDerivedClasses:
    def test_results_are_of_the_class_that_torch_gives_them(self) -> None:
        def program(fakes: Any) -> Any:
            class Derived(fakes.FakeTensor):
                pass

            def results(fake: Any) -> list[str]:
                made = [fake + 1, fake[0], fake.detach(), torch.relu(fake), fake.add_(1)]
                return [type(result).__name__ for result in made]

            mode = fakes.FakeTensorMode()
            fake = Derived(mode, torch.empty(2, device="meta"), "cpu")
            outside = [results(fake) for _ in range(2)]
            with mode:
                return outside, [results(fake) for _ in range(2)]

        assert_same(program)

    @pytest.mark.parametrize("under_mode", [True, False])
    def test_an_override_of_dispatch_sees_the_calls_that_torchs_sees(self, under_mode: bool) -> None:
        def program(fakes: Any) -> Any:
            calls = []

            class Derived(fakes.FakeTensor):
                @classmethod
                def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                    calls.append(str(func))
                    return super().__torch_dispatch__(func, types, args, kwargs or {})

            mode = fakes.FakeTensorMode()
            fake = Derived(mode, torch.empty(2, device="meta"), "cpu")
            kinds = []
            for _ in range(2):
                if under_mode:
                    with mode:
                        made = [fake + 1, fake.detach()]
                else:
                    made = [fake + 1, (fake + 1) + fake, fake.detach()]
                kinds += [type(result).__name__ for result in made]
            return calls, kinds

        assert_same(program)

    def test_an_override_of_torch_function_sees_the_calls_that_torchs_sees(self) -> None:
        def program(fakes: Any) -> Any:
            calls = []

            class Derived(fakes.FakeTensor):
                @classmethod
                def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                    calls.append(func.__name__)
                    return super().__torch_function__(func, types, args, kwargs or {})

            fake = Derived(fakes.FakeTensorMode(), torch.empty(2, device="meta"), "cpu")
            return [type(torch.relu(fake)).__name__, type(fake + 1).__name__], calls

        assert_same(program)

    def test_it_can_be_seen_as_another_subclass(self) -> None:
        def program(fakes: Any) -> Any:
            class Other(torch.Tensor):
                pass

            return type(empty(fakes, 2).as_subclass(Other)).__name__

        assert_same(program)


class TestTorchFunctionModes:
    def test_a_mode_of_the_user_sees_the_calls_that_it_sees_with_torchs(self) -> None:
        def program(fakes: Any) -> Any:
            seen = []

            class Listening(TorchFunctionMode):
                def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                    seen.append(func.__name__)
                    return func(*args, **(kwargs or {}))

            fake = empty(fakes, 2)
            with Listening():
                torch.relu(fake)
                _ = fake.shape, fake.device, fake.is_cuda, fake.fake_device, fake.dtype
                fake.add_(fake + 1)
            return seen

        assert_same(program)


class TestIdentity:
    def test_weak_references_end_with_the_tensor(self) -> None:
        def program(fakes: Any) -> Any:
            fake = empty(fakes, 2)
            reference = weakref.ref(fake)
            before = reference() is fake
            del fake
            gc.collect()
            return before, reference()

        assert assert_same(program) == (True, None)

    def test_the_object_survives_while_only_c_plus_plus_refers_to_it(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                leaf = torch.empty(2, requires_grad=True)
                leaf.label = "mine"
                result = leaf * 2
                del leaf
                gc.collect()
                return result.grad_fn.next_functions[0][0].variable.label

        assert assert_same(program) == "mine"

    def test_it_is_hashed_by_identity(self) -> None:
        fake = empty(torch._subclasses.fake_tensor, 2)
        assert {fake: 1}[fake] == 1

    def test_replacing_the_data_takes_over_the_metadata(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                fake = torch.empty(2, 3)
                fake.data = torch.empty(4, dtype=torch.float64)
                return fake, fake.data

        assert_same(program)


class TestDebugTrace:
    def trace_is_there(self) -> list[bool]:
        with fastfake.FakeTensorMode() as mode:
            computed, cached = torch.empty(2, 3) + 1, torch.empty(2, 3) + 1
            made = [computed, cached, cached.detach(), mode.from_tensor(torch.ones(2))]
        return [isinstance(getattr(fake, "_debug_trace", None), CapturedTraceback) for fake in made]

    def test_every_fake_tensor_has_one_while_debugging(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fastfake.FakeTensorConfig, "debug", True)
        assert self.trace_is_there() == [True] * 4

    def test_no_fake_tensor_has_one_otherwise(self) -> None:
        assert self.trace_is_there() == [False] * 4

    def test_it_names_the_line_that_made_a_tensor_from_the_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fastfake.FakeTensorConfig, "debug", True)
        with fastfake.FakeTensorMode():
            fake = [torch.empty(2, 3) for _ in range(2)][-1]
        assert "test_it_names_the_line_that_made_a_tensor_from_the_cache" in "".join(fake._debug_trace.format())

    def test_debugging_does_not_disable_the_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fastfake.FakeTensorConfig, "debug", True)
        fastfake.FakeTensorMode.cache_clear()
        with fastfake.FakeTensorMode():
            _ = [torch.empty(2, 3) for _ in range(2)]
        assert fastfake.FakeTensorMode.cache_hits == 1

    @pytest.mark.exhaustive
    def test_the_environment_turns_it_on(self) -> None:
        program = (
            "import torch, fastfake\n"
            "with fastfake.FakeTensorMode(): made = [torch.empty(2) for _ in range(2)]\n"
            "assert fastfake.FakeTensorConfig.debug and all(hasattr(fake, '_debug_trace') for fake in made)\n"
        )
        environment = os.environ | {"TORCH_FAKE_TENSOR_DEBUG": "1"}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)

    def test_a_setting_made_on_torchs_class_is_kept_when_ours_is_installed(self) -> None:
        fastfake.uninstall()
        torch._subclasses.fake_tensor.FakeTensorConfig.debug = True
        try:
            with fastfake.install_temporarily():
                assert fastfake.FakeTensorConfig.debug is True
                torch._subclasses.fake_tensor.FakeTensorConfig.debug = False
            assert torch._subclasses.fake_tensor.FakeTensorConfig.debug is False
        finally:
            torch._subclasses.fake_tensor.FakeTensorConfig.debug = False


class TestConstants:
    def test_lists_of_known_values_are_told(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                return torch.tensor(3).tolist(), torch.tensor(3.5).item(), torch.tensor([4]).tolist()

        assert assert_same(program) == (3, 3.5, [4])

    def test_the_size_limit_is_the_variable_of_torchs_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def program(fakes: Any) -> Any:
            monkeypatch.setattr(fakes, "CONSTANT_NUMEL_LIMIT", 2)
            with fakes.FakeTensorMode():
                return torch.tensor([1, 2]).tolist(), torch.tensor([1, 2, 3])

        assert on_ours(program)[0] == [1, 2]
        assert_same(program)
