"""The mode as an object: its flags, copies and pickles."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any
from unittest import mock

import pytest
import torch
import torch._functorch.config as functorch_config
from both_sides import NOT_PICKLED, Failure, assert_same
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import fastfake

FLAGS = [
    "_allow_unsafe_data_ptr_access",
    "allow_fallback_kernels",
    "allow_meta",
    "allow_non_fake_inputs",
    "allow_scalar_outputs",
    "cache_crosscheck_enabled",
    "cache_enabled",
    "propagate_real_tensors",
    "static_shapes",
]


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"allow_fallback_kernels": False},
        {"allow_non_fake_inputs": True},
        {"static_shapes": False},
        {"export": True},
    ],
    ids=str,
)
def test_flags_start_as_torchs_do(keywords: dict[str, bool]) -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode(**keywords)
        return {name: getattr(mode, name) for name in FLAGS}, mode.epoch, mode.fake_tensor_converter.export

    assert_same(program)


@pytest.mark.parametrize("flag", ["allow_meta", "allow_unsafe_data_ptr_access", "propagate_real_tensors"])
@pytest.mark.parametrize("value", [True, False])
def test_flags_come_from_torchs_configuration(flag: str, value: bool) -> None:
    def program(fakes: Any) -> Any:
        with functorch_config.patch({f"fake_tensor_{flag}": value}):
            mode = fakes.FakeTensorMode()
        return {name: getattr(mode, name) for name in FLAGS}, mode.fake_tensor_converter.meta_converter.copy_data

    assert_same(program)


def test_a_shape_env_makes_shapes_dynamic() -> None:
    assert_same(lambda fakes: fakes.FakeTensorMode(shape_env=ShapeEnv()).static_shapes)


def test_facts_of_the_class_are_torchs() -> None:
    def program(fakes: Any) -> Any:
        mode, cls = fakes.FakeTensorMode(), fakes.FakeTensorMode
        counters = cls.nt_tensor_id_counter, cls.nt_tensor_id_initial_count, mode.nt_tensor_id_counter
        return cls.is_infra_mode(), mode._mode_key, fakes.FakeTensor._mode_key, counters, mode.enter_stack

    assert_same(program)


def test_the_stack_names_the_function_that_made_the_mode() -> None:
    def program(fakes: Any) -> Any:
        stack = fakes.FakeTensorMode().stack
        return "test_the_stack_names_the_function_that_made_the_mode" in stack, "Traceback (most" in stack

    assert assert_same(program)[0] is True


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_has_the_flags_of_the_original(duplicate: Any) -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        mode.epoch, mode.cache_enabled, mode.label = 3, False, "mine"
        copied = duplicate(mode)
        flags = {name: getattr(copied, name) for name in FLAGS}
        shared = copied.fake_tensor_converter is mode.fake_tensor_converter
        return type(copied).__name__, copied is mode, flags, copied.epoch, copied.label, shared

    assert_same(program)


def test_a_deep_copy_works_on_its_own() -> None:
    def program(fakes: Any) -> Any:
        with copy.deepcopy(fakes.FakeTensorMode()) as mode:
            fake = torch.empty(2, 3) + 1
        return fake, fake.fake_mode is mode

    assert_same(program)


def test_a_deep_copy_tells_where_the_original_was_made() -> None:
    mode = fastfake.FakeTensorMode()
    assert copy.deepcopy(mode).stack == mode.stack


def test_a_deep_copy_converts_to_tensors_of_its_own_even_if_the_original_knows_the_tensor() -> None:
    mode, real = fastfake.FakeTensorMode(), torch.ones(2)
    with mode:
        constant = torch.tensor(3)
    mode.from_tensor(real)
    copied = copy.deepcopy(mode)
    assert copied.from_tensor(real).fake_mode is copied
    assert constant.item() == 3


def test_a_copy_of_a_mode_with_a_shape_env_has_it() -> None:
    mode = fastfake.FakeTensorMode(shape_env=ShapeEnv())
    assert copy.copy(mode).shape_env is mode.shape_env
    assert isinstance(copy.deepcopy(mode).shape_env, ShapeEnv)


def test_it_cannot_be_pickled() -> None:
    assert assert_same(lambda fakes: pickle.dumps(fakes.FakeTensorMode())).kind == NOT_PICKLED


def test_tensors_of_two_modes_do_not_mix() -> None:
    def program(fakes: Any) -> Any:
        one, other = (fakes.FakeTensorMode().from_tensor(torch.ones(2)) for _ in range(2))
        return one + other

    assert assert_same(program).kind == "AssertionError"


@pytest.mark.parametrize("name", ["cache_enabled", "shape_env"])
def test_the_error_about_a_deleted_attribute_names_it(name: str) -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        delattr(mode, name)
        errors = []
        for use in (getattr, delattr):
            with pytest.raises(AttributeError) as caught:
                use(mode, name)
            errors.append(str(caught.value))
        setattr(mode, name, 5)
        return errors, getattr(mode, name) is not None

    text = f"'FakeTensorMode' object has no attribute '{name}'"
    assert assert_same(program)[0] == [text, text if sys.version_info >= (3, 11) else name]


def test_an_object_without_settings_is_refused_as_a_shape_env_when_it_is_needed() -> None:
    def program(fakes: Any) -> Any:
        seen: list[object] = []
        for shape_env in (object(), None):
            mode = fakes.FakeTensorMode()
            mode.shape_env = shape_env
            with mode:
                for _ in range(2):
                    try:
                        seen.append((torch.empty(2) + 1).shape)
                    except AttributeError as error:
                        seen.append(str(error))
        return seen

    assert "'object' object has no attribute 'settings'" in assert_same(program)


@pytest.mark.parametrize("how", ["patched", "assigned", "in the dictionary", "in another dictionary"])
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("dispatch", (["aten.sin.default"] * 2, torch.Size([3]))),
        ("__torch_dispatch__", Failure("RuntimeError", mock.ANY)),  # torch insists on a method of the class
    ],
)
def test_a_method_that_a_mode_has_of_its_own_gets_every_call_while_it_is_there(
    name: str, outcome: object, how: str
) -> None:
    def program(fakes: Any) -> Any:
        fakes.FakeTensorMode.cache_clear()
        mode = fakes.FakeTensorMode()
        original = getattr(mode, name)
        seen: list[str] = []

        class Own:
            def listen(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                seen.append(str(func))
                return original(func, types, args, kwargs or {})

        own = Own().listen
        with mode:
            fake = torch.empty(3)
            for _ in range(3):
                fake.sin()
            if how == "patched":
                with mock.patch.object(mode, name, own):
                    fake.sin()
                    fake.sin()
            elif how == "assigned":
                setattr(mode, name, own)
                fake.sin()
                fake.sin()
                delattr(mode, name)
            elif how == "in the dictionary":
                vars(mode)[name] = own
                fake.sin()
                fake.sin()
                del vars(mode)[name]
            else:
                before = vars(mode)
                mode.__dict__ = {**before, name: own}
                fake.sin()
                fake.sin()
                mode.__dict__ = before
            fake.sin()
        return seen, fake.sin().shape

    assert assert_same(program) == outcome


def test_a_method_that_a_mode_has_of_its_own_gets_calls_outside_of_the_mode() -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        original, seen = mode.dispatch, []

        def listen(func: Any, *rest: Any) -> Any:
            seen.append(str(func))
            return original(func, *rest)

        fake = mode.from_tensor(torch.ones(3))
        fake.sin()
        mode.dispatch = listen
        fake.sin()
        return seen

    assert assert_same(program) == ["aten.sin.default"]
