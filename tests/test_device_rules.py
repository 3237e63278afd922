"""Devices, and operators that take numbers for tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from both_sides import assert_same, outcome

aten = torch.ops.aten


@pytest.mark.parametrize("func", [aten.add.Tensor, aten.add_.Tensor, aten.div.Tensor_mode, aten.mm.default], ids=str)
def test_whether_numbers_pass_for_tensors_is_torchs_answer(func: Any) -> None:
    assert_same(lambda fakes: fakes.should_allow_numbers_as_tensors(func))


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps", "meta", "xpu"])
def test_devices_get_the_index_that_torch_gives_them(name: str) -> None:
    assert_same(lambda fakes: fakes.FakeTensor._normalize_fake_device(torch.device(name)))


def test_making_a_context_on_an_absent_device_does_nothing() -> None:
    assert assert_same(lambda fakes: fakes.init_gpu_context(torch.device("cuda:0"))) is None


@pytest.mark.parametrize("devices", [("cpu", "cpu"), ("cuda", "cpu"), ("cpu", "cuda:1"), ("cuda", "cuda:1")], ids=str)
@pytest.mark.parametrize("func", [aten.add.Tensor, aten.nextafter.default, aten.add_.Tensor], ids=str)
def test_the_common_device_is_torchs(func: Any, devices: Any) -> None:
    def common_device(fakes: Any, sizes: Any) -> Any:
        with fakes.FakeTensorMode():
            tensors = [torch.empty(size, device=device) for size, device in zip(sizes, devices, strict=True)]
            return fakes.FakeTensor._find_common_device(func, tensors)

    def program(fakes: Any) -> Any:
        of_two = [((2,), (2,)), ((), (2,)), ((2,), ()), ((), ())]
        return [outcome(lambda fakes, sizes=sizes: common_device(fakes, sizes)) for sizes in of_two]

    assert_same(program)


@pytest.mark.parametrize("func", [aten.add.Tensor, aten.mm.default], ids=str)
def test_without_tensors_the_device_is_the_cpu_or_unknown(func: Any) -> None:
    assert_same(lambda fakes: fakes.FakeTensor._find_common_device(func, [1, 2]))
