"""What torch traces, and what it names as the origin of symbols, leaves out fastfake's own frames."""

import sys
from pathlib import Path

import torch
import torch._dynamo
from both_sides import assert_same
from torch._dynamo import trace_rules
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files

import fastfake


def test_dynamo_breaks_the_graph_where_a_program_uses_fake_tensors_and_does_not_look_into_them():
    def run(fakes):
        def function(x):
            x = x.sin()
            with fakes.FakeTensorMode() as mode:
                size = mode.from_tensor(torch.ones(3)).add(1).shape[0]
            return x.cos() + size + fakes.is_fake(x)

        torch._dynamo.reset()
        counters.clear()
        counter = CompileCounter()
        result = torch.compile(function, backend=counter)(torch.ones(3))
        return result.tolist(), counter.frame_count, counter.op_count, sum(counters["graph_break"].values())

    assert_same(run)


def test_dynamo_compiles_the_functions_of_neither_side():
    fastfake.FakeTensorMode()
    for name in ("torch._subclasses.fake_tensor", "fastfake.fake_mode", "fastfake.miss.pipeline"):
        assert trace_rules.check_file(sys.modules[name].__file__).skipped, name
    assert not trace_rules.check_file(__file__).skipped


def test_no_file_of_fastfake_is_an_origin_of_symbols_and_guards():
    fastfake.FakeTensorMode(shape_env=ShapeEnv())
    files = {str(path) for path in Path(fastfake.__file__).parent.rglob("*.py")}
    assert len(files) > 40
    assert files <= uninteresting_files()
