"""What counts as a layer."""

from __future__ import annotations

from torch import nn

from fastfake.memory.layers import layers_of


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
        self.blocks.append(nn.ReLU())
        self.alike = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.unlike = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        self.alone = nn.Sequential(nn.Linear(2, 2))


def test_elements_of_outermost_lists_and_of_sequences_of_one_class_are_layers() -> None:
    assert [name for name, _ in layers_of(Model())] == ["blocks.0", "blocks.1", "alike.0", "alike.1"]


def test_lists_inside_of_other_modules_are_found() -> None:
    assert [name for name, _ in layers_of(nn.ModuleDict({"decoder": Model()}))][:2] == [
        "decoder.blocks.0",
        "decoder.blocks.1",
    ]
