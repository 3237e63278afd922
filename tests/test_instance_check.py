"""The check behind `isinstance(x, torch.Tensor)` that stands in torch's metaclass while fastfake is installed."""

from __future__ import annotations

import pytest
import torch

import fastfake
from fastfake import FakeTensor, FakeTensorMode

METACLASS = type(torch.Tensor)


class Derived(torch.Tensor):
    pass


def answers() -> list[bool]:
    """What `isinstance` says of every kind of object and class, with a fake tensor of whichever class is in place."""
    with torch._subclasses.fake_tensor.FakeTensorMode():
        fake = torch.empty(2)
    objects = [fake, torch.empty(2), torch.nn.Parameter(torch.empty(2)), Derived(), torch.Tensor, None, 1]
    classes = [torch.Tensor, torch._C.TensorBase, torch.nn.Parameter, torch.nn.Buffer, Derived, type(fake)]
    classes.append(torch.FloatTensor)
    return [isinstance(obj, cls) for obj in objects for cls in classes]


def test_no_answer_changes() -> None:
    fastfake.uninstall()
    without = answers()
    fastfake.install()
    assert answers() == without
    assert any(without) and not all(without)


def test_it_is_there_while_installed_and_gone_afterwards() -> None:
    fastfake.install()
    assert "__instancecheck__" in vars(METACLASS)
    fastfake.uninstall()
    assert "__instancecheck__" not in vars(METACLASS)
    assert isinstance(torch.empty(2), torch.Tensor)
    fastfake.install()
    fastfake.install()
    fastfake.uninstall()
    assert "__instancecheck__" not in vars(METACLASS)


def test_a_class_of_fake_tensors_that_claims_to_be_something_else_is_asked_as_before() -> None:
    class Claims(FakeTensor):
        @property
        def __class__(self) -> type:
            return int

    tensor = Claims(FakeTensorMode(), torch.empty(2, device="meta"), "cpu")
    assert isinstance(tensor, torch.Tensor) and isinstance(tensor, int)


def test_the_check_takes_one_object_and_cannot_be_made_by_hand() -> None:
    fastfake.install()
    descriptor = vars(METACLASS)["__instancecheck__"]
    with pytest.raises(TypeError):
        torch.Tensor.__instancecheck__()
    with pytest.raises(TypeError, match="cannot create"):
        type(descriptor)()
    assert torch.Tensor.__instancecheck__(torch.empty(2))
    assert not Derived.__instancecheck__(torch.empty(2))
