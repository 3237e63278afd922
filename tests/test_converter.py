"""The converter: its memo and the values that it knows."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from both_sides import Failure, assert_same

import fastfake


def mode_and_converter(fakes: Any) -> tuple[Any, Any]:
    mode = fakes.FakeTensorMode()
    return mode, mode.fake_tensor_converter


class TestMemo:
    def test_a_tensor_set_as_the_memo_is_what_conversion_gives(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            real, other = torch.ones(2), mode.from_tensor(torch.ones(3))
            converter.set_tensor_memo(real, other)
            return mode.from_tensor(real) is other, converter._get_memo(real) is other, len(converter.tensor_memo)

        assert assert_same(program) == (True, True, 2)

    def test_it_is_the_meta_converters(self) -> None:
        def program(fakes: Any) -> Any:
            converter = fakes.FakeTensorConverter(copy_data=True, export=True)
            return converter.tensor_memo is converter.meta_converter.tensor_memo, converter.export

        assert assert_same(program) == (True, True)

    def test_it_keeps_neither_tensor_alive(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            real = torch.ones(2)
            fake = mode.from_tensor(real)
            lengths = [len(converter.tensor_memo)]
            del fake
            gc.collect()
            lengths.append(len(converter.tensor_memo))
            return lengths, converter._get_memo(real)

        assert assert_same(program) == ([1, 0], None)

    def test_a_meta_tensor_is_converted_once_whatever_device_is_asked_for_later(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            meta = torch.empty(2, device="meta")
            first = converter.from_meta_and_device(mode, meta, torch.device("cuda"))
            return first, converter.from_meta_and_device(mode, meta, torch.device("cpu")) is first

        assert assert_same(program)[1] is True

    def test_a_type_and_keys_are_recorded(self) -> None:
        keys = torch._C._dispatch_keys(torch.empty(2))

        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            meta, device = torch.empty(2, device="meta"), torch.device("cpu")
            fake = converter.from_meta_and_device(mode, meta, device, torch.nn.Parameter, keys)
            return fake.pytype is torch.nn.Parameter, fake.dispatch_keys == keys

        assert assert_same(program) == (True, True)

    def test_a_real_tensor_is_no_meta_tensor(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            return converter.from_meta_and_device(mode, torch.ones(2), torch.device("cuda"))

        assert isinstance(assert_same(program), Failure)


class TestConstants:
    def test_a_constant_and_its_views_are_listed_by_storage_until_written_to(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            with mode:
                constant = torch.tensor(3)
                view = constant.view(1)
                listed = [len(references) for references in converter.constant_storage_mapping.values()]
                constant.random_()
            return listed, constant, view, len(converter.constant_storage_mapping)

        assert_same(program)

    def test_conversion_can_make_one(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            real = torch.ones(1)
            fake = converter.from_real_tensor(mode, real, make_constant=True)
            return fake.constant is real, len(converter.constant_storage_mapping)

        assert assert_same(program) == (True, 1)

    def test_a_parameter_is_none(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            return converter.from_real_tensor(mode, torch.nn.Parameter(torch.ones(1)), make_constant=True)

        assert isinstance(assert_same(program), Failure)

    @pytest.mark.parametrize("method", ["add_constant_storage_mapping", "invalidate_constant_aliases"])
    def test_a_fake_tensor_without_value_is_refused(self, method: str) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            return getattr(converter, method)(mode.from_tensor(torch.ones(2)))

        assert isinstance(assert_same(program), Failure)

    def test_invalidating_a_storage_that_nobody_relies_on_changes_nothing(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            with mode:
                constant = torch.tensor(3)
            converter.invalidate_constant_aliases(torch.ones(1))
            return constant, len(converter.constant_storage_mapping)

        assert_same(program)

    def test_clearing_drops_dead_ones_and_keeps_those_on_the_cpu(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            with mode:
                kept, dropped = torch.tensor(3), torch.tensor(4)
            del dropped
            gc.collect()
            before = len(converter.constant_storage_mapping)
            converter.clear_non_cpu_constants()
            return before, len(converter.constant_storage_mapping), kept

        assert assert_same(program)[:2] == (2, 1)

    def test_clearing_drops_values_on_other_devices(self) -> None:
        def program(fakes: Any) -> Any:
            mode, converter = mode_and_converter(fakes)
            fake = mode.from_tensor(torch.ones(1))
            # Stands for an accelerator, which the machine that runs this may lack.
            fake.constant = torch.empty(1, device="meta")
            converter.add_constant_storage_mapping(fake)
            converter.clear_non_cpu_constants()
            return fake.constant, len(converter.constant_storage_mapping)

        assert assert_same(program) == (None, 0)


def test_a_quantized_tensor_is_refused() -> None:
    with pytest.warns(UserWarning, match="deprecated"):
        real = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    assert assert_same(lambda fakes: fakes.FakeTensorMode().from_tensor(real)).kind == "UnsupportedFakeTensorException"


def test_a_deep_copy_has_the_settings_and_remembers_nothing() -> None:
    mode = fastfake.FakeTensorMode(export=True)
    with mode:
        constant = torch.tensor(3)
    copied = copy.deepcopy(mode.fake_tensor_converter)
    assert copied.export is True
    assert len(copied.tensor_memo) == len(copied.constant_storage_mapping) == 0
    assert constant.constant is not None
