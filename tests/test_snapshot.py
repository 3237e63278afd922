"""Snapshots of the modelled allocator: what torch's tool and its page make of them."""

from __future__ import annotations

import base64
import copy
import json
import pathlib
import pickle
import pickletools
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_timelines import allocation
from torch.cuda import _memory_viz

from fastfake import FakeTensorMode
from fastfake.memory import Category, Timeline, simulate, track, write_snapshot
from fastfake.memory.snapshot import make_snapshot

pytestmark = pytest.mark.usefixtures("no_allocator_settings")

MIB = 1 << 20


PROGRAM = Timeline(
    [
        allocation(0, 30 * MIB, 0, line="", operator="", category=Category.PARAMETER),
        allocation(1, 5 * MIB - 100, 1, 4),
        allocation(2, 700, 2, category=Category.OPTIMIZER_STATE, module=""),
        allocation(3, 40 * MIB, 3, 5),
        allocation(4, 3 * MIB, 6),
    ],
    7,
)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "step.pickle"
    write_snapshot(PROGRAM, path)
    return path


def read(path: pathlib.Path) -> dict[str, Any]:
    return pickle.loads(path.read_bytes())


def test_segments_have_the_blocks_of_the_end(path: pathlib.Path) -> None:
    found = [
        (
            segment["segment_type"],
            segment["total_size"],
            segment["allocated_size"],
            segment["requested_size"],
            [(block["state"], block["size"], block["requested_size"]) for block in segment["blocks"]],
        )
        for segment in read(path)["segments"]
    ]
    assert found == [
        ("large", 30 * MIB, 30 * MIB, 30 * MIB, [("active_allocated", 30 * MIB, 30 * MIB)]),
        (
            "large",
            20 * MIB,
            3 * MIB,
            3 * MIB,
            [("active_allocated", 3 * MIB, 3 * MIB), ("inactive", 17 * MIB, 0)],
        ),
        ("small", 2 * MIB, 1024, 700, [("active_allocated", 1024, 700), ("inactive", 2 * MIB - 1024, 0)]),
        ("large", 40 * MIB, 0, 0, [("inactive", 40 * MIB, 0)]),
    ]
    for segment in read(path)["segments"]:
        assert (segment["stream"], segment["device"], segment["segment_pool_id"]) == (0, 0, (0, 0))
        address = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == address
            address += block["size"]


def test_the_trace_has_all_that_happened(path: pathlib.Path) -> None:
    (events,) = read(path)["device_traces"]
    found = [(event["time_us"], event["action"], event["size"]) for event in events]
    assert found == [
        (0, "segment_alloc", 30 * MIB),
        (0, "alloc", 30 * MIB),
        (1, "segment_alloc", 20 * MIB),
        (1, "alloc", 5 * MIB - 100),
        (2, "segment_alloc", 2 * MIB),
        (2, "alloc", 700),
        (3, "segment_alloc", 40 * MIB),
        (3, "alloc", 40 * MIB),
        (4, "free_requested", 5 * MIB - 100),
        (4, "free_completed", 5 * MIB - 100),
        (5, "free_requested", 40 * MIB),
        (5, "free_completed", 40 * MIB),
        (6, "alloc", 3 * MIB),
        (7, "snapshot", 0),
    ]
    assert events[1]["addr"] == events[0]["addr"]
    assert events[12]["addr"] == events[3]["addr"]


def test_expandable_segments_and_running_out_are_in_the_trace() -> None:
    found = make_snapshot(PROGRAM, settings="expandable_segments:True", memory=64 * MIB, context=0)
    (events,) = found["device_traces"]
    assert [(event["action"], event["size"]) for event in events if event["action"] != "alloc"] == [
        ("segment_map", 40 * MIB),
        ("segment_map", 2 * MIB),
        ("oom", 40 * MIB),
        ("snapshot", 0),
    ]
    assert (events[-2]["device_free"], events[-2]["time_us"], "addr" in events[-2]) == (22 * MIB, 3, False)
    assert [segment["is_expandable"] for segment in found["segments"]] == [True, True]


def test_what_is_unmapped_is_in_the_trace() -> None:
    timeline = Timeline([allocation(0, 50 * MIB, 0, 1), allocation(1, 1, 2), allocation(2, 63 * MIB, 3)], 4)
    (events,) = make_snapshot(timeline, settings="expandable_segments:True", memory=81 * MIB, context=0)[
        "device_traces"
    ]
    assert [(event["action"], event["size"]) for event in events if event["action"].startswith("segment")] == [
        ("segment_map", 60 * MIB),
        ("segment_map", 2 * MIB),
        ("segment_unmap", 60 * MIB),
    ]


def test_frames_say_what_memory_is_for(path: pathlib.Path) -> None:
    found = read(path)
    events = {event["size"]: event["frames"] for event in found["device_traces"][0] if event["action"] == "alloc"}
    assert events[5 * MIB - 100] == [
        {"filename": "operator", "line": 0, "name": "aten::mm"},
        {"filename": "/home/me/train.py", "line": 12, "name": "forward"},
        {"filename": "module", "line": 0, "name": "layers.0"},
        {"filename": "phase", "line": 0, "name": "forward"},
        {"filename": "category", "line": 0, "name": "activation"},
    ]
    assert [frame["filename"] for frame in events[30 * MIB]] == ["module", "phase", "category"]
    assert [frame["filename"] for frame in events[700]] == ["operator", "/home/me/train.py", "phase", "category"]
    # A segment is there for the request that it was made for.
    assert found["device_traces"][0][0]["frames"] == events[30 * MIB]
    first, *_ = found["segments"]
    assert first["blocks"][0]["frames"] == events[30 * MIB]


def test_the_page_can_color_by_category(path: pathlib.Path) -> None:
    (events,) = read(path)["device_traces"]
    categories = [event["category"] for event in events if event["action"] == "alloc"]
    assert categories == ["parameter", "activation", "optimizer state", "activation", "activation"]
    # Where no event has it the page fails: it names a variable that there is not.
    assert events[-1]["category"] == "unknown"


def test_the_page_knows_all_opcodes(path: pathlib.Path) -> None:
    known = {
        "APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPUT", "BINUNICODE", "DICT",
        "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "FRAME", "LIST", "LONG1", "LONG_BINGET", "LONG_BINPUT", "MARK",
        "MEMOIZE", "NEWFALSE", "NEWTRUE", "NONE", "PROTO", "SETITEM", "SETITEMS", "SHORT_BINUNICODE", "STOP", "TUPLE",
        "TUPLE1", "TUPLE2", "TUPLE3",
    }  # fmt: skip
    operations = list(pickletools.genops(path.read_bytes()))
    assert {operation.name for operation, _, _ in operations} <= known
    assert operations[0][1] == 4
    # Its numbers are floats: larger integers would not be exact.
    assert all(argument < 1 << 53 for operation, argument, _ in operations if operation.name == "LONG1")


def test_settings_are_as_torch_writes_them(tmp_path: pathlib.Path) -> None:
    text = "max_split_size_mb:64,garbage_collection_threshold:0.5,roundup_power2_divisions:[1:2,4:8]"
    write_snapshot(PROGRAM, tmp_path / "step.pickle", settings=text)
    found = read(tmp_path / "step.pickle")["allocator_settings"]
    assert found.pop("roundup_power2_divisions") == {str(1 << n): {0: 2, 2: 8}.get(n, 0) for n in range(16)}
    assert found == {
        "PYTORCH_CUDA_ALLOC_CONF": text,
        "max_split_size": 64 * MIB,
        "garbage_collection_threshold": 0.5,
        "expandable_segments": False,
    }
    assert make_snapshot(PROGRAM)["allocator_settings"]["max_split_size"] == -1


def test_another_device_has_its_own_place() -> None:
    timeline = Timeline([allocation(0, 100, 0, device="cuda:2"), allocation(1, 10, 1)], 2)
    found = make_snapshot(timeline)
    assert [len(events) for events in found["device_traces"]] == [0, 0, 3]
    assert [segment["device"] for segment in found["segments"]] == [2]
    assert [len(events) for events in make_snapshot(timeline, "cuda:0")["device_traces"]] == [3]
    with pytest.raises(ValueError, match="not of cpu"):
        make_snapshot(timeline, "cpu")


# torch's tool


def test_torchs_tool_sums_segments_up(path: pathlib.Path) -> None:
    text = _memory_viz.segsum(read(path))
    assert "segments: 4\n" in text
    assert "total_reserved: 92.0MiB\n" in text
    assert "total_allocated: 33.0MiB\n" in text


def test_torchs_tool_tells_the_trace(path: pathlib.Path) -> None:
    lines = _memory_viz.trace(read(path)).splitlines()
    assert lines[:2] == ["Device 0 ----------------", "14 entries"]
    assert re.fullmatch(r"a = cudaMalloc\(\d+, 30.0MiB\)", lines[2])
    assert lines[3] == "b = a[0:30.0MiB]"
    assert lines[4].endswith("20.0MiB)")
    assert lines[-2].startswith("{'action': 'snapshot'")


def test_torchs_tool_draws_flame_graphs_grouped_by_category(path: pathlib.Path) -> None:
    lines = _memory_viz.memory(read(path), format_flamegraph=lambda text: text).splitlines()
    parts = [line.split(";") for line in lines]
    assert [" ".join(part[2:]) for part in parts if part[1] == "active_allocated"] == [
        f"category:0:parameter phase:0:forward module:0:layers.0 {30 * MIB}",
        f"category:0:activation phase:0:forward module:0:layers.0 train.py:12:forward operator:0:aten::mm {3 * MIB}",
        "category:0:optimizer state phase:0:forward train.py:12:forward operator:0:aten::mm 700",
        "<gaps> 324",  # of the 1024 bytes that the 700 take
    ]
    text = _memory_viz.segments(read(path), format_flamegraph=lambda text: text)
    assert text.count("seg_") == len(lines)


def test_torchs_tool_compares_snapshots(path: pathlib.Path) -> None:
    after = make_snapshot(Timeline([*PROGRAM.allocations, allocation(5, 100 * MIB, 7)], 8))
    text = _memory_viz.compare(read(path)["segments"], after["segments"], format_flamegraph=lambda text: text)
    assert text.splitlines() == [line for line in text.splitlines() if line.startswith("only_after")]
    assert text.rstrip().endswith(str(100 * MIB))


@pytest.mark.parametrize("plot", [_memory_viz.trace_plot, _memory_viz.segment_plot])
def test_torchs_tool_makes_pages(path: pathlib.Path, plot: Callable[[dict[str, Any]], str]) -> None:
    (files,) = re.findall(r"const local_files = (.*)", plot(read(path)))
    assert pickle.loads(base64.b64decode(json.loads(files)[0]["base64"])) == make_snapshot(PROGRAM)


@pytest.mark.exhaustive
@pytest.mark.parametrize("command", ["stats", "trace", "trace_plot", "segment_plot"])
def test_torchs_tool_reads_the_file(path: pathlib.Path, tmp_path: pathlib.Path, command: str) -> None:
    output = ["-o", str(tmp_path / "page.html")] if command.endswith("plot") else []
    done = subprocess.run(
        [sys.executable, "-m", "torch.cuda._memory_viz", command, str(path), *output],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "MemoryViz" in (tmp_path / "page.html").read_text() if output else "30.0MiB" in done.stdout


def test_a_tracker_writes_snapshots(tmp_path: pathlib.Path) -> None:
    with FakeTensorMode() as mode, track(mode=mode) as tracker:
        held = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
        del held
    tracker.snapshot(tmp_path / "step.pickle", settings="large_segment_size_mb:30")
    (events,) = read(tmp_path / "step.pickle")["device_traces"]
    assert [(event["action"], event["size"]) for event in events] == [
        ("segment_alloc", 30 * MIB),
        ("alloc", 3 * MIB),
        ("free_requested", 3 * MIB),
        ("free_completed", 3 * MIB),
        ("snapshot", 0),
    ]
    names = [frame["name"] for frame in events[1]["frames"]]
    assert (names[0], names[1]) == ("aten::empty.memory_format", "test_a_tracker_writes_snapshots")


def test_torchs_tool_leaves_out_what_was_freed(path: pathlib.Path) -> None:
    left = _memory_viz.filter_alloc_free_pairs(copy.deepcopy(read(path)))
    sizes = [event["size"] for event in left["device_traces"][0] if event["action"] == "alloc"]
    assert sizes == [30 * MIB, 700, 3 * MIB]


# What always holds


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 60 * MIB), st.integers(0, 20)), min_size=1, max_size=40),
    st.sampled_from(["", "expandable_segments:True", "max_split_size_mb:20"]),
    st.sampled_from([None, 300 * MIB]),
)
def test_the_trace_played_back_from_the_segments_ends_with_nothing(
    drawn: list[tuple[int, int]], text: str, memory: int | None
) -> None:
    moments = iter(range(1_000_000))
    lives: list[list[int | None]] = []
    for size, life in drawn:
        lives.append([size, next(moments), None])
        if life and len(lives) >= life and lives[-life][2] is None:
            lives[-life][2] = next(moments)
    timeline = Timeline(
        [allocation(number, size, born, died) for number, (size, born, died) in enumerate(lives)], next(moments)
    )
    found = make_snapshot(timeline, settings=text, memory=memory, context=0)
    simulated = simulate(timeline, settings=text, memory=memory, context=0)
    assert sum(segment["total_size"] for segment in found["segments"]) == simulated.curve[-1][2]
    assert sum(segment["allocated_size"] for segment in found["segments"]) == simulated.curve[-1][1]

    # As the page does it: from the end to the begin.
    blocks = {
        block["address"]: block["requested_size"]
        for segment in found["segments"]
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }
    reserved = sum(segment["total_size"] for segment in found["segments"])
    for event in reversed(found["device_traces"][0]):
        if event["action"] == "alloc":
            assert blocks.pop(event["addr"]) == event["size"]
        elif event["action"] == "free_completed":
            assert event["addr"] not in blocks
            blocks[event["addr"]] = event["size"]
        elif event["action"] in ("segment_alloc", "segment_map"):
            reserved -= event["size"]
        elif event["action"] in ("segment_free", "segment_unmap"):
            reserved += event["size"]
    assert (blocks, reserved) == ({}, 0)


def test_the_layout_is_the_one_that_torch_documents(path: pathlib.Path) -> None:
    documented = torch.cuda.memory._snapshot.__doc__ or ""
    found = read(path)
    for kind, example in [
        ("Segment", found["segments"][0]),
        ("Block", found["segments"][0]["blocks"][0]),
        ("Frame", found["device_traces"][0][1]["frames"][0]),
        ("TraceEntry", found["device_traces"][0][1]),
    ]:
        (body,) = re.findall(rf"class {kind}\(TypedDict\):(.*?)(?:class |Args:)", documented, re.DOTALL)
        names = set(re.findall(r"^\s+(\w+): ", body, re.MULTILINE))
        optional = {"device_free", "internal_metadata", "fx_node_op", "fx_node_name", "fx_original_trace"}
        assert names - optional <= example.keys(), kind
