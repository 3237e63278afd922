"""A model of torch's caching allocator: what it makes of requests, how much it reserves, and when a device runs out."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass

from .allocator_settings import LARGEST_SMALL, MIB, SMALL_SEGMENT, SMALLEST_BLOCK, AllocatorSettings
from .timeline import Allocation

__all__ = [
    "CONTEXT_BYTES",
    "CachingAllocator",
    "Fragmentation",
    "OutOfMemory",
    "Segment",
    "SegmentBlock",
]

CONTEXT_BYTES = 512 * MIB
"""What a process needs on a GPU besides tensors: CUDA's context, the code of kernels, the libraries' own memory.

An assumption of the usual size, as it depends on the GPU, the driver and what a program calls: what ``nvidia-smi``
shows for a process, less what its tensors take.
"""

FIRST_ADDRESS = 1 << 40
FIRST_EXPANDABLE_ADDRESS = 1 << 50
"""Far from the addresses of other segments."""
UNKNOWN_MEMORY = 1 << 46
"""For how much memory an expandable segment has addresses, at least, where the device's memory is not known."""


class OutOfMemory(RuntimeError):
    """An allocation did not fit, after all that was cached had been given back.

    Attributes:
        size: Bytes that were asked for.
        segment_size: Bytes of the segment that had to be made for them: what torch says it tried to allocate.
        allocated: Bytes of the blocks in use.
        reserved: Bytes of all segments, which could not be given back: they have blocks in use.
        free: Bytes of the device that nothing has.
        memory: Bytes of the device.
        allowed: Bytes that may be reserved, if ``per_process_memory_fraction`` says so.
        moment: When, see Timeline; None outside of ``simulate``.
        allocation: What did not fit; None outside of ``simulate``.
    """

    def __init__(
        self, size: int, segment_size: int, allocated: int, reserved: int, free: int, memory: int, allowed: int | None
    ) -> None:
        """Take the facts."""
        self.size = size
        self.segment_size = segment_size
        self.allocated = allocated
        self.reserved = reserved
        self.free = free
        self.memory = memory
        self.allowed = allowed
        self.moment: int | None = None
        self.allocation: Allocation | None = None
        super().__init__(
            f"no {_in_units(segment_size)} for a segment: {_in_units(free)} of {_in_units(memory)} are free"
            + ("" if allowed is None else f", of which {_in_units(allowed)} may be reserved")
            + f"; {_in_units(allocated)} are allocated, {_in_units(reserved - allocated)} reserved beyond that"
        )


def _in_units(size: int) -> str:
    return f"{size / MIB:.2f} MiB" if size < 1024 * MIB else f"{size / 1024 / MIB:.2f} GiB"


@dataclass(frozen=True)
class Fragmentation:
    """How well what is reserved is used at one moment.

    Attributes:
        reserved: Bytes of all segments.
        allocated: Bytes of the blocks in use, as in ``torch.cuda.memory_allocated``.
        largest_free: Bytes of the largest free block, which is more than any request can have without a new segment.
        inactive_split: Bytes of the free blocks that share a segment with others, so that they cannot be given back. As
            in torch, those of expandable segments do not count.
        segments: How many segments there are, each expandable one counted once.
    """

    reserved: int
    allocated: int
    largest_free: int
    inactive_split: int
    segments: int

    @property
    def unused(self) -> int:
        """Bytes that are reserved and not allocated."""
        return self.reserved - self.allocated


@dataclass(frozen=True)
class SegmentBlock:
    """A part of a segment: in use, or free."""

    address: int
    size: int
    requested: int
    owner: object
    is_allocated: bool


@dataclass(frozen=True)
class Segment:
    """Memory that was reserved in one piece or, if it is expandable, that is mapped in one piece."""

    address: int
    size: int
    is_small: bool
    is_expandable: bool
    blocks: tuple[SegmentBlock, ...]


@dataclass(frozen=True)
class _AddressRange:
    """The addresses of an expandable segment, into which memory is mapped a granule at a time."""

    start: int
    size: int
    granule: int


class _Block:
    """A part of a segment: in use, cached or, in an expandable segment, addresses without memory."""

    __slots__ = (
        "address",
        "allocated",
        "mapped",
        "next",
        "owner",
        "pool",
        "previous",
        "range",
        "requested",
        "searches",
        "size",
    )

    def __init__(self, address: int, size: int, pool: _Pool, range_: _AddressRange | None, mapped: bool = True) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.range = range_
        self.mapped = mapped
        self.allocated = False
        self.requested = 0
        self.owner: object = None
        self.searches = 0
        self.previous: _Block | None = None
        self.next: _Block | None = None

    @property
    def is_split(self) -> bool:
        """Whether it has only a part of its segment."""
        return self.previous is not None or self.next is not None

    def put_between(self, previous: _Block | None, following: _Block | None) -> None:
        """Make it the neighbor of two blocks that are each other's."""
        self.previous, self.next = previous, following
        if previous is not None:
            previous.next = self
        if following is not None:
            following.previous = self


class _Pool:
    """The blocks for small or for large requests that are not in use."""

    def __init__(self, is_small: bool) -> None:
        self.is_small = is_small
        self.sizes: list[tuple[int, int]] = []
        """Sizes and addresses of the free blocks, sorted: the best fit is found by bisection."""
        self.free: dict[int, _Block] = {}
        """The free blocks by address."""
        self.unmapped_addresses: list[int] = []
        """Of the blocks without memory, sorted."""
        self.unmapped: dict[int, _Block] = {}
        """The blocks without memory by address."""
        self.searches = 0
        """How often a free block was looked for: blocks are as old as there were searches since they became free."""

    def add(self, block: _Block) -> None:
        if block.mapped:
            block.searches = self.searches
            bisect.insort(self.sizes, (block.size, block.address))
            self.free[block.address] = block
        else:
            bisect.insort(self.unmapped_addresses, block.address)
            self.unmapped[block.address] = block

    def remove(self, block: _Block) -> None:
        if block.mapped:
            del self.sizes[bisect.bisect_left(self.sizes, (block.size, block.address))]
            del self.free[block.address]
        else:
            del self.unmapped_addresses[bisect.bisect_left(self.unmapped_addresses, block.address)]
            del self.unmapped[block.address]

    def age(self, block: _Block) -> int:
        return self.searches - block.searches

    def by_size(self) -> list[_Block]:
        return [self.free[address] for _, address in self.sizes]


class CachingAllocator:
    """The allocator of one device and one stream.

    Attributes:
        settings: How it is set.
        memory: Bytes of the device, or None if it has as much as is asked for.
        allocated: Bytes of the blocks in use, as in ``torch.cuda.memory_allocated``.
        reserved: Bytes of all segments, as in ``torch.cuda.memory_reserved``.
        peak_allocated: The most that was allocated, as in ``torch.cuda.max_memory_allocated``.
        peak_reserved: The most that was reserved, as in ``torch.cuda.max_memory_reserved``.
        inactive_split: Bytes of free blocks that share a segment with others, see Fragmentation.
        retries: How often everything that was cached was given back for a request: each makes the device wait.
        at_peak: The state after the first request at which the most was reserved.
    """

    def __init__(
        self,
        settings: AllocatorSettings | str | None = None,
        memory: int | None = None,
        context: int = CONTEXT_BYTES,
        trace: Callable[[str, int, int, object], None] | None = None,
    ) -> None:
        """Start with nothing reserved.

        Args:
            settings: Settings or their text, see AllocatorSettings.parse. By default those of the environment.
            memory: Bytes of the device, or None for a device that never runs out.
            context: Bytes of them that tensors cannot have.
            trace: Called for all that happens, with torch's name of the event (such as ``alloc``, ``free_completed`` or
                ``segment_map``), the address, the bytes and the owner of the request.

        Raises:
            ValueError: If settings are not possible, or the device has less than the context takes.
        """
        if memory is not None and memory < context:
            raise ValueError(f"a device of {_in_units(memory)} has less than the {_in_units(context)} of its context")
        if settings is None:
            settings = AllocatorSettings.from_environment()
        self.settings = AllocatorSettings.parse(settings) if isinstance(settings, str) else settings
        self.memory = memory
        self.allocated = 0
        self.reserved = 0
        self.peak_allocated = 0
        self.peak_reserved = 0
        self.inactive_split = 0
        self.retries = 0
        self.at_peak = Fragmentation(0, 0, 0, 0, 0)
        self._available = None if memory is None else memory - context
        fraction = self.settings.per_process_memory_fraction
        self._allowed = None if memory is None or fraction == 1 else int(fraction * memory)
        self._collects = self._allowed is not None and self.settings.garbage_collection_threshold > 0
        self._trace = trace
        self._small = _Pool(is_small=True)
        self._large = _Pool(is_small=False)
        self._in_use: dict[int, _Block] = {}
        self._segments = 0
        self._next_address = FIRST_ADDRESS
        self._next_expandable_address = FIRST_EXPANDABLE_ADDRESS

    def malloc(self, size: int, owner: object = None) -> int:
        """Allocate.

        Args:
            size: Bytes.
            owner: What the block is for, which comes back in ``segments`` and in the trace.

        Returns:
            The address; 0 for no bytes, for which torch allocates nothing.

        Raises:
            OutOfMemory: If it does not fit. Another, smaller allocation still may.
        """
        if size == 0:
            return 0
        rounded = self.settings.round(size)
        pool = self._small if rounded <= LARGEST_SMALL else self._large
        block = self._find_free(pool, rounded) or self._make(pool, rounded, size, owner)
        was_split = block.is_split
        remaining = block.size - rounded
        if self._is_worth_splitting(pool, rounded, remaining):
            rest = block
            block = _Block(rest.address, rounded, pool, rest.range)
            block.put_between(rest.previous, rest)
            rest.address += rounded
            rest.size = remaining
            pool.add(rest)
            if rest.range is None:
                self.inactive_split += -rounded if was_split else remaining
        elif was_split and block.range is None:
            self.inactive_split -= block.size
        block.allocated = True
        block.requested = size
        block.owner = owner
        self._in_use[block.address] = block
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        if self.reserved > self.at_peak.reserved:
            self.at_peak = self.fragmentation()
        if self._trace:
            self._trace("alloc", block.address, size, owner)
        return block.address

    def free(self, address: int) -> None:
        """Give back what ``malloc`` gave.

        Raises:
            ValueError: If nothing is allocated at this address.
        """
        if address == 0:
            return
        block = self._in_use.pop(address, None)
        if block is None:
            raise ValueError(f"nothing is allocated at {address:#x}")
        if self._trace:
            self._trace("free_requested", address, block.requested, block.owner)
            self._trace("free_completed", address, block.requested, block.owner)
        block.allocated = False
        block.owner = None
        self.allocated -= block.size
        change = -self._merge(block, block.previous) - self._merge(block, block.next)
        block.pool.add(block)
        if block.range is None:
            self.inactive_split += change + (block.size if block.is_split else 0)

    def empty_cache(self) -> None:
        """Give all segments and granules that have no block in use back to the device."""
        self._release_cached(self._large)
        self._release_cached(self._small)

    def fragmentation(self) -> Fragmentation:
        """Say how well what is reserved is used."""
        return Fragmentation(
            self.reserved,
            self.allocated,
            max((pool.sizes[-1][0] for pool in (self._small, self._large) if pool.sizes), default=0),
            self.inactive_split,
            self._segments,
        )

    def segments(self) -> list[Segment]:
        """Give all that is reserved, in the order of addresses."""
        found = []
        for first in (*self._small.free.values(), *self._large.free.values(), *self._in_use.values()):
            if first.previous is not None and first.previous.mapped:
                continue
            blocks = []
            block: _Block | None = first
            while block is not None and block.mapped:
                blocks.append(
                    SegmentBlock(block.address, block.size, block.requested, block.owner, is_allocated=block.allocated)
                )
                block = block.next
            size = sum(block.size for block in blocks)
            found.append(Segment(first.address, size, first.pool.is_small, first.range is not None, tuple(blocks)))
        return sorted(found, key=lambda segment: segment.address)

    def _find_free(self, pool: _Pool, size: int) -> _Block | None:
        """Take the smallest free block that is large enough out of a pool."""
        if self._collects:
            pool.searches += 1
        place = bisect.bisect_left(pool.sizes, (size,))
        if place == len(pool.sizes):
            return None
        block = pool.free[pool.sizes[place][1]]
        # A block that can grow counts as large as it can become: one that cannot is taken first.
        while block.range is not None and place + 1 < len(pool.sizes):
            place += 1
            following = pool.free[pool.sizes[place][1]]
            if _expandable_size(following) >= _expandable_size(block):
                break
            block = following
        limit = self.settings.max_split_size
        if size < limit <= block.size:
            return None
        if size >= limit and block.size >= size + self.settings.max_non_split_rounding:
            return None
        pool.remove(block)
        return block

    def _is_worth_splitting(self, pool: _Pool, size: int, remaining: int) -> bool:
        if pool.is_small or self.settings.expandable_segments:
            return remaining >= SMALLEST_BLOCK
        return size < self.settings.max_split_size and remaining > LARGEST_SMALL

    def _make(self, pool: _Pool, size: int, requested: int, owner: object) -> _Block:
        """Make a segment, or more of an expandable one, giving back what is cached if it does not fit otherwise."""
        if self._collects:
            self._collect_garbage()
        block = self._reserve(pool, size, requested, owner)
        if block is None and self._release_oversize(pool, size):
            block = self._reserve(pool, size, requested, owner)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self._reserve(pool, size, requested, owner)
        if block is None:
            error = self._out_of_memory(size, requested)
            if self._trace:
                self._trace("oom", error.free, requested, owner)
            raise error
        return block

    def _reserve(self, pool: _Pool, size: int, requested: int, owner: object) -> _Block | None:
        segment_size = self.settings.segment_size(size)
        if self._allowed is not None and self.reserved + segment_size > self._allowed:
            return None
        limit = self.memory if self.settings.throw_on_cudamalloc_oom else None
        if limit is not None and self.reserved + segment_size > limit:
            raise self._out_of_memory(size, requested)
        if self.settings.expandable_segments:
            return self._expand(pool, size, owner)
        if not self._take(segment_size):
            return None
        block = _Block(self._next_address, segment_size, pool, None)
        self._next_address += -(-segment_size // SMALL_SEGMENT) * SMALL_SEGMENT
        self._segments += 1
        if self._trace:
            self._trace("segment_alloc", block.address, segment_size, owner)
        return block

    def _take(self, size: int) -> bool:
        """Have the device give memory, if it has that much."""
        if self._available is not None and self.reserved + size > self._available:
            return False
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True

    def _out_of_memory(self, size: int, requested: int) -> OutOfMemory:
        assert self.memory is not None and self._available is not None
        return OutOfMemory(
            requested,
            self.settings.segment_size(size),
            self.allocated,
            self.reserved,
            self._available - self.reserved,
            self.memory,
            self._allowed,
        )

    def _expand(self, pool: _Pool, size: int, owner: object) -> _Block | None:
        """Map memory at the lowest addresses of an expandable segment at which a block fits."""
        block = self._find_addresses(pool, size)
        if not block.is_split and block.size < size:
            # More than a new segment has addresses for: torch leaves it, and its addresses, to nobody.
            pool.remove(block)
            return None
        if not block.mapped and not self._map(block, min(block.size, size), owner):
            # torch keeps the addresses, even those of a new segment, for a later request.
            return None
        while block.size < size:
            following = block.next
            assert following is not None
            # It takes in the block before it.
            if not self._map(following, min(size - block.size, following.size), owner):
                return None
            block = following
        pool.remove(block)
        return block

    def _find_addresses(self, pool: _Pool, size: int) -> _Block:
        for address in pool.unmapped_addresses:
            block = pool.unmapped[address]
            if block.previous is not None and not block.previous.allocated:
                block = block.previous
            room = 0
            part: _Block | None = block
            while part is not None and not part.allocated and room < size:
                room += part.size
                part = part.next
            if room >= size:
                return block
        granule = SMALL_SEGMENT if pool.is_small else self.settings.large_segment_size
        # An eighth more than the device has, as memory that is mapped elsewhere later leaves holes.
        memory = self.memory or max(size, UNKNOWN_MEMORY)
        length = -(-(memory + memory // 8) // granule) * granule
        addresses = _AddressRange(self._next_expandable_address, length, granule)
        self._next_expandable_address += length
        block = _Block(addresses.start, length, pool, addresses, mapped=False)
        pool.add(block)
        return block

    def _map(self, block: _Block, size: int, owner: object) -> bool:
        """Map whole granules at the begin of a block without memory. What is left of it becomes a block of its own."""
        assert block.range is not None
        length = -(-size // block.range.granule) * block.range.granule
        if not self._take(length):
            return False
        if not block.is_split:
            # The first memory of the segment.
            self._segments += 1
        pool = block.pool
        pool.remove(block)
        address = block.address
        block.mapped = True
        if length < block.size:
            rest = _Block(address + length, block.size - length, pool, block.range, mapped=False)
            rest.put_between(block, block.next)
            pool.add(rest)
            block.size = length
        self._merge(block, block.previous)
        self._merge(block, block.next)
        pool.add(block)
        if self._trace:
            self._trace("segment_map", address, length, owner)
        return True

    def _merge(self, block: _Block, neighbor: _Block | None) -> int:
        """Have a block that is in no pool take a free neighbor in. Returns the neighbor's bytes."""
        if neighbor is None or neighbor.allocated or neighbor.mapped != block.mapped:
            return 0
        block.pool.remove(neighbor)
        if neighbor is block.previous:
            block.address = neighbor.address
            block.put_between(neighbor.previous, block.next)
        else:
            block.put_between(block.previous, neighbor.next)
        block.size += neighbor.size
        return neighbor.size

    def _collect_garbage(self) -> None:
        """Give back the large segments that have been free for longer than the average one."""
        assert self._allowed is not None
        threshold = int(self.settings.garbage_collection_threshold * self._allowed)
        excess = self.reserved - threshold
        if excess <= 0:
            return
        pool = self._large
        candidates = [block for block in pool.by_size() if not block.is_split and block.range is None]
        reclaimed = 0
        while candidates and reclaimed < excess:
            average = sum(map(pool.age, candidates)) / len(candidates)
            kept = []
            for block in candidates:
                if pool.age(block) >= average:
                    reclaimed += block.size
                    self._release(block)
                else:
                    kept.append(block)
            candidates = kept

    def _release_oversize(self, pool: _Pool, size: int) -> bool:
        """Give back blocks that are too large to be split, from the largest on, until there may be enough."""
        limit = self.settings.max_split_size
        least = max(size, limit)
        place = bisect.bisect_left(pool.sizes, (least,))
        if place < len(pool.sizes):
            block = pool.free[pool.sizes[place][1]]
            if block.range is None:
                self._release(block)
            return True
        released = 0
        for block in reversed(pool.by_size()):
            if released >= least or block.size < limit:
                break
            if block.range is None:
                released += block.size
                self._release(block)
        return released >= least

    def _release_cached(self, pool: _Pool) -> None:
        for block in pool.by_size():
            if block.range is not None:
                self._unmap(block)
            elif not block.is_split:
                self._release(block)

    def _release(self, block: _Block) -> None:
        block.pool.remove(block)
        self.reserved -= block.size
        self._segments -= 1
        if self._trace:
            self._trace("segment_free", block.address, block.size, None)

    def _unmap(self, block: _Block) -> None:
        """Take the memory away from the whole granules in a free block."""
        addresses, pool = block.range, block.pool
        assert addresses is not None
        begin, end = block.address - addresses.start, block.address + block.size - addresses.start
        first = -(-begin // addresses.granule) * addresses.granule
        last = end // addresses.granule * addresses.granule
        if first >= last:
            return
        pool.remove(block)
        if first > begin:
            before = _Block(block.address, first - begin, pool, addresses)
            before.put_between(block.previous, block)
            pool.add(before)
        if end > last:
            after = _Block(addresses.start + last, end - last, pool, addresses)
            after.put_between(block, block.next)
            pool.add(after)
        block.address = addresses.start + first
        block.size = last - first
        block.mapped = False
        self.reserved -= block.size
        if self._trace:
            self._trace("segment_unmap", block.address, block.size, None)
        self._merge(block, block.previous)
        self._merge(block, block.next)
        if block.is_split:
            pool.add(block)
        else:
            # Nothing of the segment is mapped any more: torch gives its addresses up.
            self._segments -= 1


def _expandable_size(block: _Block) -> int:
    following = block.next
    return block.size + (following.size if following is not None and not following.mapped else 0)
