"""Rules of higher-order operators give no values under a mode that follows them, and are torch's own otherwise."""

from __future__ import annotations

import torch
from torch._higher_order_ops.scan import scan_op

import fastfake
from fastfake import FakeTensorMode
from fastfake.miss import higher_order_rules


def carried(mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        results = scan_op(lambda carry, x: (carry + x, carry + 1), (torch.tensor(0),), (torch.arange(3),), ())
        return results[0]


def test_what_one_iteration_of_a_rule_computes_is_not_known() -> None:
    assert carried(FakeTensorMode(known_values=True)).constant is None


def test_a_mode_that_follows_no_values_runs_the_rule_as_ever() -> None:
    assert carried(FakeTensorMode()).shape == ()


def test_uninstalling_gives_torch_its_rule_back() -> None:
    with fastfake.install_temporarily():
        rule = higher_order_rules.original(scan_op.python_key_table[FakeTensorMode])
        for _ in range(2):
            carried(FakeTensorMode(known_values=True))
        adapted = scan_op.python_key_table[FakeTensorMode]
        assert adapted is not rule
        assert higher_order_rules.original(adapted) is rule
    fastfake.uninstall()
    try:
        assert scan_op.python_key_table[torch._subclasses.fake_tensor.FakeTensorMode] is rule
    finally:
        fastfake.install()
