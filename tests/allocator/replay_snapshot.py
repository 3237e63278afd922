"""Hold the model against snapshots that were taken on GPUs.

    PYTHONPATH=tests python -m allocator.replay_snapshot FILE...

The files are of ``torch.cuda.memory._dump_snapshot``. From its end a trace is played back to its begin; from there on
the model does what the program asked for. It is right where each block has the address that it had on the GPU. Segments
that are made have the addresses that they had there: those the driver chooses.
"""

from __future__ import annotations

import bisect
import itertools
import pathlib
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastfake.memory.allocator import CachingAllocator, _Block

LARGEST_REST = 1 << 20
"""What is left of a large block is not split off up to these bytes, so that they belong to the block before them."""


@dataclass(frozen=True)
class Comparison:
    """What became of a snapshot's requests.

    Attributes:
        requests: How many there were.
        at_the_same_address: How many the model gave the address that they had.
        reserved: The most that was reserved, in bytes, and the most that the model reserved.
        ends_the_same: Whether the segments and blocks of the end are the same.
    """

    requests: int
    at_the_same_address: int
    reserved: tuple[int, int]
    ends_the_same: bool


class _Unpickler(pickle.Unpickler):
    """Snapshots have no classes, and what a stranger's file names is not to be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a snapshot has no {module}.{name}")


def compare(snapshot: dict[str, Any], device: int = 0) -> Comparison:
    """Have the model do what a snapshot says that a program did.

    Raises:
        ValueError: If there are several streams, or expandable segments.
    """
    events = snapshot["device_traces"][device]
    segments = [segment for segment in snapshot["segments"] if segment["device"] == device]
    if len({entry["stream"] for entry in (*segments, *events)}) > 1:
        raise ValueError("the model has one stream")
    if any(segment.get("is_expandable") for segment in segments):
        raise ValueError("where expandable segments began cannot be told from a snapshot")
    allocator = CachingAllocator(snapshot.get("allocator_settings", {}).get("PYTORCH_CUDA_ALLOC_CONF", ""))
    _Beginning(segments, events).put_into(allocator)
    addresses = {address: address for address in allocator._in_use}
    reserved = peak = allocator.reserved
    requests = same = 0
    is_releasing = False
    for event in events:
        action, address, size = event["action"], event.get("addr"), event["size"]
        if action == "segment_free" and not is_releasing:
            allocator.empty_cache()
        is_releasing = action == "segment_free"
        if action == "segment_free":
            reserved -= size
        elif action == "segment_alloc":
            reserved += size
            peak = max(peak, reserved)
            allocator._next_address = address
        elif action == "alloc":
            addresses[address] = allocator.malloc(size)
            requests += 1
            same += addresses[address] == address
        elif action == "free_completed":
            allocator.free(addresses.pop(address))
    end = [
        (segment["total_size"], [(block["size"], block["state"] != "inactive") for block in segment["blocks"]])
        for segment in segments
    ]
    modelled = [
        (segment.size, [(block.size, block.is_allocated) for block in segment.blocks])
        for segment in allocator.segments()
    ]
    return Comparison(requests, same, (peak, allocator.peak_reserved), sorted(end) == sorted(modelled))


class _Beginning:
    """What there was before the first event of a trace."""

    def __init__(self, segments: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        self.sizes = {segment["address"]: segment["total_size"] for segment in segments}
        self.is_small = {segment["address"]: segment["segment_type"] == "small" for segment in segments}
        self.requested: dict[int, int] = {}
        self.block_sizes: dict[int, int] = {}
        """Of the blocks that are there in the end. Of the others the trace has only what was requested."""
        self.freed: dict[int, int] = {}
        """When the blocks were freed: the places of events."""
        for segment in segments:
            address = segment["address"]
            for block in segment["blocks"]:
                if block["state"] != "inactive":
                    self.requested[address] = block["requested_size"]
                    self.block_sizes[address] = block["size"]
                address += block["size"]
        for place, event in reversed(list(enumerate(events))):
            action, address, size = event["action"], event.get("addr"), event["size"]
            if action == "alloc":
                del self.requested[address]
                self.block_sizes.pop(address, None)
            elif action == "free_completed":
                self.requested[address] = size
                self.freed[address] = place
            elif action == "segment_alloc":
                del self.sizes[address]
            elif action == "segment_free":
                self.sizes[address] = size
        self.allocated = sorted(
            (event["addr"], place) for place, event in enumerate(events) if event["action"] == "alloc"
        )

    def put_into(self, allocator: CachingAllocator) -> None:
        """Give the allocator these segments."""
        for start, size in self.sizes.items():
            blocks = list(self._blocks(start, start + size, allocator))
            pool = allocator._small if self._has_small_blocks(start, size) else allocator._large
            previous = None
            for address, block_size, requested in blocks:
                block = _Block(address, block_size, pool, None)
                block.put_between(previous, None)
                previous = block
                if requested:
                    block.allocated = True
                    block.requested = requested
                    allocator._in_use[address] = block
                    allocator.allocated += block_size
                else:
                    pool.add(block)
                    allocator.inactive_split += block_size if len(blocks) > 1 else 0
            allocator._segments += 1
            allocator._take(size)

    def _has_small_blocks(self, start: int, size: int) -> bool:
        # One that is given back in the trace is in no pool in the end, but only those of small blocks are so small.
        return self.is_small.get(start, size == 2 << 20)

    def _blocks(self, start: int, end: int, allocator: CachingAllocator) -> Iterator[tuple[int, int, int]]:
        """Give address, size and requested bytes of the blocks of a segment; those of free blocks are 0."""
        addresses = sorted(address for address in self.requested if start <= address < end)
        is_small = self._has_small_blocks(start, end - start)
        position = start
        for address, following in itertools.pairwise([*addresses, end]):
            if address > position:
                yield position, address - position, 0
            size = self.block_sizes.get(address)
            if size is None:
                size = allocator.settings.round(self.requested[address])
                if not is_small:
                    size = self._end(address, address + size, following) - address
            yield address, size, self.requested[address]
            position = address + size
        if position < end:
            yield position, end - position, 0

    def _end(self, address: int, end: int, following: int) -> int:
        """Give where a large block ended that may have had more than was requested."""
        if following - end <= LARGEST_REST:
            return following
        # What came to be right behind it while it was there tells.
        for other, place in self.allocated[bisect.bisect_left(self.allocated, (end, 0)) :]:
            if other > end + LARGEST_REST:
                break
            if place < self.freed[address]:
                return other
        return end


def main(paths: list[str]) -> None:
    for path in paths:
        with pathlib.Path(path).open("rb") as file:
            snapshot = _Unpickler(file).load()
        for device, events in enumerate(snapshot["device_traces"]):
            if not events:
                continue
            try:
                found = compare(snapshot, device)
            except ValueError as error:
                print(f"{path}, device {device}: left out, {error}")
                continue
            real, modelled = (size / (1 << 20) for size in found.reserved)
            print(
                f"{path}, device {device}: {found.at_the_same_address} of {found.requests} at the same address; "
                f"peak reserved {real:.0f} MiB, modelled {modelled:.0f} MiB; "
                f"{'ends the same' if found.ends_the_same else 'ends otherwise'}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
