"""The mode as an object: its flags, copies and pickles."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
from both_sides import assert_same
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
    assert assert_same(lambda fakes: pickle.dumps(fakes.FakeTensorMode())).kind == "AttributeError"


def test_tensors_of_two_modes_do_not_mix() -> None:
    def program(fakes: Any) -> Any:
        one, other = (fakes.FakeTensorMode().from_tensor(torch.ones(2)) for _ in range(2))
        return one + other

    assert assert_same(program).kind == "AssertionError"
