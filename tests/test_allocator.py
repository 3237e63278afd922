"""The model of torch's caching allocator: its rules by hand, and beside the allocator itself."""

from __future__ import annotations

import json
import pathlib
import random
import sys
from collections.abc import Callable

import pytest
import torch
from allocator.random_traces import SETTINGS, draw_memory, draw_operations, model
from allocator.real_allocator import ROOM, RealAllocator, Trace
from allocator.replay_snapshot import compare
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up_timelines import timeline_of

from fastfake import FakeTensorMode
from fastfake.memory import (
    AllocatorSettings,
    CachingAllocator,
    OutOfMemory,
    simulate,
    track,
)
from fastfake.memory.snapshot import make_snapshot

pytestmark = pytest.mark.usefixtures("no_allocator_settings")

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def blocks(allocator: CachingAllocator) -> list[list[tuple[float, bool]]]:
    """For each segment its blocks: MiB, and whether they are in use."""
    return [[(block.size / MIB, block.is_allocated) for block in segment.blocks] for segment in allocator.segments()]


# Rounding


@pytest.mark.parametrize(("size", "rounded"), [(1, 512), (512, 512), (513, 1024), (3_000_000, 3_000_320)])
def test_sizes_are_rounded_to_512_bytes(size: int, rounded: int) -> None:
    assert AllocatorSettings().round(size) == rounded
    allocator = CachingAllocator()
    allocator.malloc(size)
    assert allocator.allocated == rounded


@pytest.mark.parametrize(
    ("size", "rounded"),
    [
        (1200 * MIB, 1280 * MIB),  # torch's example: 1024, 1280, 1536, 1792
        (1281 * MIB, 1536 * MIB),
        (1024 * MIB, 1024 * MIB),
        (2047 * MIB, 2048 * MIB),
        (2049, 2560),
        (2048, 2048),  # up to 4 times 512 it is 512 that counts
        (1200, 1536),
    ],
)
def test_sizes_are_rounded_to_divisions_between_powers_of_2(size: int, rounded: int) -> None:
    assert AllocatorSettings.parse("roundup_power2_divisions:4").round(size) == rounded


@pytest.mark.parametrize(
    ("size", "rounded"),
    [
        (200 * MIB, 256 * MIB),  # the first number is for all below it as well
        (300 * MIB, 384 * MIB),
        (600 * MIB, 640 * MIB),
        (1500 * MIB, 1500 * MIB),
        (3000 * MIB, 3008 * MIB),
        (5000 * MIB, 5056 * MIB),
    ],
)
def test_divisions_can_differ_by_size(size: int, rounded: int) -> None:
    text = "roundup_power2_divisions:[256:2,512:8,1024:1,>:64]"
    assert AllocatorSettings.parse(text).round(size) == rounded


# Segments


@pytest.mark.parametrize(
    ("size", "reserved"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (1001 * MIB, 1002 * MIB),
    ],
)
def test_a_segment_is_as_large_as_its_pool_and_size_say(size: int, reserved: int) -> None:
    allocator = CachingAllocator()
    allocator.malloc(size)
    assert allocator.reserved == allocator.peak_reserved == reserved


def test_large_segments_can_have_another_size() -> None:
    allocator = CachingAllocator("large_segment_size_mb:32")
    allocator.malloc(5 * MIB)
    allocator.malloc(15 * MIB)
    assert blocks(allocator) == [[(5, True), (15, True), (12, False)]]


def test_small_and_large_requests_do_not_share_segments() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(5 * MIB))
    allocator.malloc(MIB)
    assert blocks(allocator) == [[(20, False)], [(1, True), (1, False)]]


def test_nothing_is_allocated_for_no_bytes() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(0))
    assert (allocator.reserved, allocator.segments()) == (0, [])


def test_freeing_what_is_not_allocated_is_an_error() -> None:
    allocator = CachingAllocator()
    address = allocator.malloc(1)
    allocator.free(address)
    with pytest.raises(ValueError, match="nothing is allocated at 0x"):
        allocator.free(address)


# Searching, splitting and merging


def test_the_smallest_free_block_that_fits_is_taken() -> None:
    allocator = CachingAllocator()
    addresses = [allocator.malloc(size * MIB) for size in (30, 24, 26, 12)]
    for address in addresses:
        allocator.free(address)
    assert allocator.malloc(23 * MIB + 1) == addresses[1]
    assert allocator.malloc(23 * MIB + 1) == addresses[2]
    assert allocator.reserved == 92 * MIB


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (19 * MIB, [(20, True)]),  # 1 MiB is not more than 1 MiB
        (19 * MIB - 512, [(19 - 512 / MIB, True), (1 + 512 / MIB, False)]),
    ],
)
def test_a_large_block_is_split_if_more_than_a_mebibyte_is_left(size: int, expected: list[tuple[float, bool]]) -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(2 * MIB))
    allocator.malloc(size)
    assert blocks(allocator) == [expected]
    assert allocator.allocated == sum(expected[0][:1]) * MIB


def test_a_small_block_is_split_if_512_bytes_are_left() -> None:
    allocator = CachingAllocator()
    sizes = [MIB, MIB - 512, 512]
    for size in sizes:
        allocator.malloc(size)
    assert [block.size for segment in allocator.segments() for block in segment.blocks] == sizes
    assert allocator.reserved == 2 * MIB


def test_free_neighbors_are_merged() -> None:
    allocator = CachingAllocator()
    first, second, third = (allocator.malloc(5 * MIB) for _ in range(3))
    assert blocks(allocator) == [[(5, True), (5, True), (5, True), (5, False)]]
    allocator.free(first)
    assert blocks(allocator) == [[(5, False), (5, True), (5, True), (5, False)]]
    assert allocator.inactive_split == 10 * MIB
    allocator.free(third)
    assert blocks(allocator) == [[(5, False), (5, True), (10, False)]]
    assert allocator.inactive_split == 15 * MIB
    allocator.free(second)
    assert blocks(allocator) == [[(20, False)]]
    assert allocator.inactive_split == 0


def test_inactive_split_is_what_is_free_beside_blocks_in_use() -> None:
    allocator = CachingAllocator()
    allocator.malloc(4 * MIB)
    assert allocator.inactive_split == 16 * MIB
    second = allocator.malloc(6 * MIB)
    assert allocator.inactive_split == 10 * MIB
    allocator.malloc(9 * MIB + 1)
    assert allocator.inactive_split == 0  # the last one got 10 MiB
    allocator.free(second)
    assert allocator.inactive_split == 6 * MIB


def test_what_was_freed_is_used_again() -> None:
    allocator = CachingAllocator()
    for _ in range(5):
        held = [allocator.malloc(size) for size in (3 * MIB, 50 * MIB, 700, 7 * MIB)]
        for address in held:
            allocator.free(address)
    assert (allocator.reserved, allocator.allocated) == (20 * MIB + 50 * MIB + 2 * MIB, 0)
    assert (allocator.peak_reserved, allocator.peak_allocated) == (72 * MIB, 60 * MIB + KIB)


def test_fragmentation_can_make_a_program_reserve_more_than_it_allocates() -> None:
    allocator = CachingAllocator()
    held = [allocator.malloc(4 * MIB) for _ in range(10)]
    for address in held[::2]:
        allocator.free(address)
    assert allocator.reserved == 40 * MIB
    allocator.malloc(8 * MIB)  # 20 MiB are free, in pieces of 4
    found = allocator.at_peak
    assert (found.reserved, found.allocated, found.unused) == (60 * MIB, 28 * MIB, 32 * MIB)
    assert (found.largest_free, found.inactive_split, found.segments) == (12 * MIB, 32 * MIB, 3)


def test_only_segments_without_blocks_in_use_are_given_back() -> None:
    allocator = CachingAllocator()
    allocator.malloc(2 * MIB)
    other = allocator.malloc(20 * MIB)
    allocator.free(allocator.malloc(100))
    allocator.free(other)
    allocator.empty_cache()
    assert blocks(allocator) == [[(2, True), (18, False)]]


# max_split_size_mb


def test_large_blocks_are_not_for_small_requests_with_max_split_size() -> None:
    allocator = CachingAllocator("max_split_size_mb:50")
    allocator.free(allocator.malloc(50 * MIB))
    allocator.malloc(49 * MIB)
    assert blocks(allocator) == [[(50, False)], [(50, True)]]


def test_blocks_below_max_split_size_are_split() -> None:
    allocator = CachingAllocator("max_split_size_mb:50")
    allocator.free(allocator.malloc(48 * MIB))
    allocator.malloc(40 * MIB)
    assert blocks(allocator) == [[(40, True), (8, False)]]


@pytest.mark.parametrize(
    ("text", "size", "reserved"),
    [
        ("max_split_size_mb:50", 81, 100),
        ("max_split_size_mb:50", 80, 180),
        ("max_split_size_mb:50,max_non_split_rounding_mb:30", 71, 100),
        ("max_split_size_mb:50,max_non_split_rounding_mb:30", 70, 170),
        ("large_segment_size_mb:40,max_split_size_mb:50", 61, 100),  # then it is what a segment has
    ],
)
def test_oversize_blocks_are_for_requests_that_are_nearly_as_large(text: str, size: int, reserved: int) -> None:
    allocator = CachingAllocator(text)
    allocator.free(allocator.malloc(100 * MIB))
    allocator.malloc(size * MIB)
    assert allocator.reserved == reserved * MIB
    if reserved == 100:
        assert allocator.allocated == 100 * MIB  # not split


# expandable_segments


def test_expandable_segments_grow_by_granules() -> None:
    allocator = CachingAllocator("expandable_segments:True")
    allocator.malloc(15 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.malloc(15 * MIB)
    assert allocator.reserved == 40 * MIB
    allocator.malloc(10 * MIB)
    assert allocator.reserved == 40 * MIB
    allocator.malloc(1000)
    assert allocator.reserved == 42 * MIB
    small, large = sorted(allocator.segments(), key=lambda segment: segment.size)
    assert (small.is_small, small.size, large.is_small, large.size) == (True, 2 * MIB, False, 40 * MIB)
    assert [block.size // MIB for block in large.blocks] == [15, 15, 10]
    assert allocator.fragmentation().segments == 2
    assert allocator.fragmentation().inactive_split == 0


def test_expandable_segments_use_the_rest_of_a_granule_for_what_does_not_fit_in_it() -> None:
    allocator = CachingAllocator("expandable_segments:True")
    first = allocator.malloc(12 * MIB)
    second = allocator.malloc(25 * MIB)  # 8 MiB are there, so one granule more will do
    assert (second - first, allocator.reserved) == (12 * MIB, 40 * MIB)


def test_expandable_segments_split_off_all_that_is_left() -> None:
    allocator = CachingAllocator("expandable_segments:True")
    allocator.malloc(19 * MIB + 512 * KIB)
    assert blocks(allocator) == [[(19.5, True), (0.5, False)]]


def test_a_block_that_can_grow_counts_as_large_as_it_can_become() -> None:
    allocator = CachingAllocator("expandable_segments:True")
    hole = allocator.malloc(18 * MIB)
    allocator.malloc(12 * MIB)  # to 30 MiB; 10 MiB are left at the end, which are fewer
    allocator.free(hole)
    assert allocator.malloc(8 * MIB) == hole


def test_granules_are_given_back_around_what_is_in_use() -> None:
    allocator = CachingAllocator("expandable_segments:True")
    first = allocator.malloc(30 * MIB)
    allocator.malloc(20 * MIB)
    third = allocator.malloc(50 * MIB)
    allocator.free(first)
    allocator.free(third)
    allocator.empty_cache()
    # In use is what lies from 30 to 50 MiB, so that the granules from 20 to 60 stay.
    assert blocks(allocator) == [[(10, False), (20, True), (10, False)]]
    assert allocator.reserved == 40 * MIB
    # The hole is filled first, though that needs a granule, too.
    assert allocator.malloc(25 * MIB) == first


@pytest.mark.parametrize(("too_large", "place"), [(60 * MIB, 120 * MIB), (90 * MIB, 120 * MIB), (150 * MIB, 360 * MIB)])
def test_addresses_for_which_there_was_no_memory_are_used_later(too_large: int, place: int) -> None:
    # Each segment has addresses for 120 MiB. Two are made in vain, and left, for what needs more.
    allocator = CachingAllocator("expandable_segments:True", 100 * MIB, context=0)
    first = allocator.malloc(90 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.malloc(too_large)
    assert allocator.fragmentation().segments == 1
    allocator.free(first)
    allocator.empty_cache()
    assert allocator.fragmentation().segments == 0
    assert allocator.malloc(60 * MIB) - first == place
    assert allocator.fragmentation().segments == 1


def test_a_device_without_an_end_has_addresses_for_any_size() -> None:
    allocator = CachingAllocator("expandable_segments:True")
    allocator.malloc(1 << 47)
    assert allocator.reserved >= 1 << 47


# Running out


def test_a_device_runs_out_by_what_the_context_leaves() -> None:
    allocator = CachingAllocator(memory=GIB, context=24 * MIB)
    allocator.malloc(990 * MIB)
    with pytest.raises(OutOfMemory) as caught:
        allocator.malloc(12 * MIB)
    error = caught.value
    assert (error.size, error.segment_size, error.free) == (12 * MIB, 12 * MIB, 10 * MIB)
    assert (error.allocated, error.reserved, error.memory, error.allowed) == (990 * MIB, 990 * MIB, GIB, None)
    assert str(error) == (
        "no 12.00 MiB for a segment: 10.00 MiB of 1.00 GiB are free; 990.00 MiB are allocated, "
        "0.00 MiB reserved beyond that"
    )
    assert allocator.malloc(10 * MIB)


def test_a_device_has_to_have_what_its_context_takes() -> None:
    with pytest.raises(ValueError, match=r"^a device of 1.00 MiB has less than the 512.00 MiB of its context$"):
        CachingAllocator(memory=MIB)


def test_what_is_cached_is_given_back_before_a_device_runs_out() -> None:
    allocator = CachingAllocator(memory=100 * MIB, context=0)
    allocator.free(allocator.malloc(60 * MIB))
    split = allocator.malloc(2 * MIB)
    assert blocks(allocator) == [[(2, True), (58, False)]]
    with pytest.raises(OutOfMemory):
        allocator.malloc(70 * MIB)  # the 58 MiB cannot be given back
    assert (allocator.retries, allocator.reserved) == (1, 60 * MIB)
    allocator.free(split)
    allocator.malloc(70 * MIB)
    assert (allocator.retries, allocator.reserved, allocator.peak_reserved) == (2, 70 * MIB, 70 * MIB)


def test_oversize_blocks_are_given_back_first() -> None:
    allocator = CachingAllocator("max_split_size_mb:20", memory=100 * MIB, context=0)
    addresses = [allocator.malloc(size * MIB) for size in (12, 20, 24, 40)]
    for address in addresses:
        allocator.free(address)
    allocator.malloc(64 * MIB)
    # The two largest are as much as is asked for; the others are still there.
    assert blocks(allocator) == [[(12, False)], [(20, False)], [(64, True)]]
    assert allocator.retries == 0


def test_one_oversize_block_that_is_enough_is_given_back_alone() -> None:
    allocator = CachingAllocator("max_split_size_mb:20", memory=128 * MIB, context=0)
    for address in [allocator.malloc(size * MIB) for size in (24, 34, 64)]:
        allocator.free(address)
    allocator.malloc(26 * MIB)
    assert blocks(allocator) == [[(24, False)], [(34, True)], [(64, False)]]
    allocator.malloc(30 * MIB)  # the 64 MiB are too large to be used, and what is large enough
    assert blocks(allocator) == [[(24, False)], [(34, True)], [(30, True)]]
    assert allocator.retries == 0


def test_only_a_part_of_the_memory_may_be_reserved() -> None:
    allocator = CachingAllocator("per_process_memory_fraction:0.5", memory=100 * MIB, context=0)
    allocator.malloc(30 * MIB)
    with pytest.raises(OutOfMemory, match=r"70.00 MiB of 100.00 MiB are free, of which 50.00 MiB may be reserved"):
        allocator.malloc(22 * MIB)
    allocator.malloc(20 * MIB)


def test_garbage_is_what_was_free_longest() -> None:
    allocator = CachingAllocator(
        "per_process_memory_fraction:0.5,garbage_collection_threshold:0.5", memory=400 * MIB, context=0
    )
    for address in [allocator.malloc(size * MIB) for size in (30, 40)]:
        allocator.free(address)
    for _ in range(3):
        allocator.free(allocator.malloc(40 * MIB))
    allocator.malloc(50 * MIB)
    assert allocator.reserved == 120 * MIB  # there were 70, no more than half of what may be reserved
    allocator.malloc(60 * MIB)
    # There were 120, 20 too many: what had been free for longer than the average, 30 MiB, was given back.
    assert blocks(allocator) == [[(40, False)], [(50, True)], [(60, True)]]


def test_there_is_no_garbage_where_all_may_be_reserved() -> None:
    allocator = CachingAllocator("garbage_collection_threshold:0.1", memory=GIB, context=0)
    allocator.free(allocator.malloc(200 * MIB))
    allocator.malloc(400 * MIB)
    assert allocator.reserved == 600 * MIB


def test_requests_can_be_refused_without_giving_back_what_is_cached() -> None:
    allocator = CachingAllocator("throw_on_cudamalloc_oom:True", memory=100 * MIB, context=0)
    allocator.free(allocator.malloc(60 * MIB))
    with pytest.raises(OutOfMemory):
        allocator.malloc(70 * MIB)
    assert (allocator.reserved, allocator.retries) == (60 * MIB, 0)


def test_expandable_segments_run_out_later() -> None:
    def program(text: str) -> int:
        """Allocate ever larger tensors, of which two are alive at a time, until that does not fit."""
        allocator = CachingAllocator(text, memory=2 * GIB, context=0)
        previous, size = 0, 100
        while True:
            try:
                current = allocator.malloc(size * MIB)
            except OutOfMemory:
                return size
            allocator.malloc(3 * MIB)
            allocator.free(previous)
            previous, size = current, size + 10

    assert program("expandable_segments:True") > program("")


# Beside torch's own allocator


@pytest.mark.parametrize("recorded", json.loads((ROOM / "traces.json").read_text()), ids=SETTINGS)
def test_the_model_does_what_torchs_own_allocator_was_seen_to_do(recorded: dict) -> None:
    found = model(recorded["operations"], recorded["settings"], recorded["memory"], recorded["available"])
    assert found == Trace(recorded["steps"], recorded["segments"])


@pytest.mark.exhaustive
def test_the_model_does_what_torchs_own_allocator_does(tmp_path: pathlib.Path) -> None:
    real = RealAllocator(pathlib.Path(torch.__file__).parents[1], tmp_path)
    if real.why_not:
        pytest.skip(real.why_not)
    real.build()
    draw = random.Random(1)
    for _ in range(20):
        for text in SETTINGS:
            memory, available = draw_memory(draw)
            # More than the device has as well: torch keeps the addresses of segments for which it found no memory.
            largest = draw.choice([memory * 3 // 4, memory * 3 // 2])
            operations = draw_operations(draw, draw.choice([20, 200, 600]), largest)
            expected = real.replay(operations, text, memory, available)
            assert model(operations, text, memory, available) == expected


@pytest.mark.exhaustive
def test_training_steps_take_what_they_take_with_torchs_own_allocator(tmp_path: pathlib.Path) -> None:
    real = RealAllocator(pathlib.Path(torch.__file__).parents[1], tmp_path)
    if real.why_not:
        pytest.skip(real.why_not)
    real.build()
    with FakeTensorMode() as mode, track(mode=mode) as tracker:
        network = torch.nn.Transformer(512, 8, 3, 3, batch_first=True, device="cuda")
        optimizer = torch.optim.AdamW(network.parameters())
        for length in (100, 160, 130):
            source, target = (torch.randn(8, length + more, 512, device="cuda") for more in (0, 13))
            network(source, target).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    operations = [
        ("malloc", allocation.number, allocation.size) if is_birth else ("free", allocation.number, 0)
        for _, is_birth, allocation in tracker.timeline.events("cuda:0")
        if allocation.size
    ]
    assert len(operations) > 3000
    needed = simulate(tracker.timeline, settings="").peak_allocated
    for text in SETTINGS:
        for memory in (2 * needed, needed + 20 * MIB, needed * 9 // 10):
            assert model(operations, text, memory, memory) == real.replay(operations, text, memory, memory)


def test_the_model_can_be_held_against_a_snapshot() -> None:
    draw = random.Random(2)
    lives: list[tuple[int, int, int | None]] = []
    for moment in range(0, 400, 2):
        lives.append((draw.choice([700, 90_000, 3 * MIB, 18 * MIB, 19 * MIB + 300_000]), moment, None))
        place = draw.randrange(len(lives))
        if lives[place][2] is None:
            lives[place] = (*lives[place][:2], moment + 1)
    found = make_snapshot(timeline_of(*lives))
    # As if recording had begun late, so that there was something already.
    del found["device_traces"][0][:150]
    compared = compare(found)
    assert compared.at_the_same_address == compared.requests > 100
    assert compared.reserved[0] == compared.reserved[1]
    assert compared.ends_the_same

    found["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] = "roundup_power2_divisions:4"
    otherwise = compare(found)
    assert otherwise.at_the_same_address < otherwise.requests
    assert not otherwise.ends_the_same


# What always holds

SIZES = st.one_of(
    st.integers(1, 4096),
    st.integers(1, 3 * MIB),
    st.integers(1, 60).map(lambda size: size * MIB),
    st.integers(9 * MIB, 200 * MIB),
)
PROGRAMS = st.lists(st.one_of(SIZES, st.integers(-40, -1), st.just(0)), max_size=120)
"""Sizes to allocate; negative numbers free the last ones but so many; 0 empties the cache."""


def run(program: list[int], allocator: CachingAllocator, check: Callable[[dict[int, int]], None]) -> dict[int, int]:
    """Run a program, checking after each step. Returns the addresses that are left, and their sizes."""
    held: dict[int, int] = {}
    for step in program:
        if step > 0:
            try:
                address = allocator.malloc(step)
            except OutOfMemory:
                continue
            assert address not in held
            held[address] = step
        elif step == 0:
            allocator.empty_cache()
        elif held:
            address = list(held)[max(step, -len(held))]
            del held[address]
            allocator.free(address)
        check(held)
    return held


@settings(max_examples=200)
@given(
    PROGRAMS,
    st.sampled_from(SETTINGS).filter(lambda text: "per_process" not in text or "0.9" in text),
    st.sampled_from([None, 500 * MIB]),
)
@example([60 * MIB, 9 * MIB, 112 * MIB, 200 * MIB, 200 * MIB], "expandable_segments:True", 500 * MIB)
def test_segments_are_tiled_by_blocks_and_sums_agree(program: list[int], text: str, memory: int | None) -> None:
    allocator = CachingAllocator(text, memory, context=0)

    def check(held: dict[int, int]) -> None:
        segments = allocator.segments()
        in_use = {}
        end = 0
        for segment in segments:
            assert segment.address >= end
            end = segment.address
            was_free = False
            for block in segment.blocks:
                assert block.address == end
                end += block.size
                assert block.is_allocated or not was_free, "free neighbors are one block"
                was_free = not block.is_allocated
                if block.is_allocated:
                    in_use[block.address] = block
            assert end == segment.address + segment.size
        assert in_use.keys() == held.keys()
        for address, size in held.items():
            assert in_use[address].requested == size <= in_use[address].size
        assert allocator.allocated == sum(block.size for block in in_use.values())
        assert allocator.reserved == sum(segment.size for segment in segments)
        assert allocator.reserved <= allocator.peak_reserved <= (memory or sys.maxsize)
        assert allocator.allocated <= allocator.peak_allocated <= allocator.peak_reserved
        assert allocator.inactive_split == sum(
            block.size
            for segment in segments
            if not segment.is_expandable and len(segment.blocks) > 1
            for block in segment.blocks
            if not block.is_allocated
        )

    for address in run(program, allocator, check):
        allocator.free(address)
    assert all(len(segment.blocks) == 1 for segment in allocator.segments())
    allocator.empty_cache()
    assert (allocator.reserved, allocator.allocated, allocator.inactive_split) == (0, 0, 0)
    assert allocator.fragmentation().segments == 0


@settings(max_examples=100)
@given(PROGRAMS, st.sampled_from(["", "max_split_size_mb:20", "roundup_power2_divisions:4"]))
def test_a_device_with_as_much_as_is_reserved_is_as_good_as_any(program: list[int], text: str) -> None:
    unlimited = CachingAllocator(text)
    run(program, unlimited, lambda _: None)
    enough = CachingAllocator(text, unlimited.peak_reserved + 7, context=7)
    run(program, enough, lambda _: None)
    assert enough.retries == 0
    assert (enough.reserved, enough.at_peak) == (unlimited.reserved, unlimited.at_peak)


@settings(max_examples=100)
@given(PROGRAMS)
def test_the_trace_adds_up(program: list[int]) -> None:
    allocated = reserved = 0
    requested: dict[int, int] = {}

    def trace(action: str, address: int, size: int, owner: object) -> None:
        nonlocal allocated, reserved
        if action in ("segment_alloc", "segment_map"):
            reserved += size
        elif action in ("segment_free", "segment_unmap"):
            reserved -= size
        elif action == "alloc":
            allocated += AllocatorSettings().round(size) if size <= MIB else 0
            requested[address] = size
        elif action == "free_completed":
            assert requested.pop(address) == size

    allocator = CachingAllocator("expandable_segments:True", 400 * MIB, context=0, trace=trace)
    held = run(program, allocator, lambda _: None)
    assert requested == held
    assert reserved == allocator.reserved
