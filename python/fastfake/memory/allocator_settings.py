"""How torch's caching allocator is set, as by the environment variable ``PYTORCH_CUDA_ALLOC_CONF``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AllocatorSettings"]

MIB = 1 << 20
SMALLEST_BLOCK = 512
"""Sizes are rounded up to a multiple of this."""
LARGEST_SMALL = MIB
"""Larger sizes are for the pool of large blocks."""
SMALL_SEGMENT = 2 * MIB
LARGE_SIZE = 10 * MIB
"""From this size on a segment is made for one allocation."""
LARGE_GRANULE = 2 * MIB
"""Such a segment is a multiple of this."""
DIVISION_INTERVALS = 16
"""There is a number of divisions for the sizes below 2 MiB, for those below 4 MiB, and so on."""

NOT_MODELLED = {
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb",
    "pinned_free_catch_all",
    "graph_capture_record_stream_reuse",
    "expandable_segments_reserve",
    "expandable_segments_reserve_by_class",
}
"""Settings of host memory, locks, graphs and address space, which change nothing here."""


@dataclass(frozen=True)
class _Setting:
    """A name and the parts of its value: one, or those between brackets."""

    name: str
    parts: list[str]
    is_list: bool
    index: int
    """The place of the value among the parts of the text, which torch's errors name."""

    def word(self) -> str:
        if self.is_list:
            raise ValueError(f"{self.name} has to be one value, not a list")
        return self.parts[0]

    def integer(self) -> int:
        return _integer(self.name, self.word())

    def number(self) -> float:
        try:
            return float(self.word())
        except ValueError:
            raise ValueError(f"{self.name} has to be a number, not '{self.word()}'") from None

    def boolean(self) -> bool:
        if self.word() not in ("True", "False"):
            raise ValueError(
                f"Expected 'True' or 'False' at index {self.index} in ConfigTokenizer but got '{self.word()}'"
            )
        return self.word() == "True"


def _integer(name: str, word: str) -> int:
    if not word.isdecimal():
        raise ValueError(f"{name} has to be a whole number, not '{word}'")
    return int(word)


def _split(text: str) -> Iterator[_Setting]:
    """Give the settings in a text."""
    parts = re.findall(r"[,:\[\]]|[^,:\[\]]+", "".join(text.split()))
    at = 0

    def take(sign: str | None = None) -> str:
        nonlocal at
        if at == len(parts):
            raise ValueError(f"the allocator's settings '{text}' end too early")
        found = parts[at]
        if sign is not None and found != sign:
            raise ValueError(f"the allocator's settings have '{found}' where '{sign}' is expected")
        at += 1
        return found

    while at < len(parts):
        name = take()
        if name not in _READERS and name not in NOT_MODELLED:
            raise ValueError(f"Unrecognized key '{name}' in CUDA allocator config.")
        take(":")
        index = at
        value = [take()]
        is_list = value == ["["]
        if is_list:
            value = []
            while (part := take()) != "]":
                value.append(part)
        yield _Setting(name, value, is_list, index)
        if at < len(parts):
            take(",")


def _is_power_of_2(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class AllocatorSettings:
    """How the allocator is set, as by the environment variable ``PYTORCH_CUDA_ALLOC_CONF``.

    Attributes:
        max_split_size: Free blocks of this many bytes or more are not split, nor given to smaller requests.
        max_non_split_rounding: A request gets a free block of ``max_split_size`` or more only if that is less than this
            many bytes larger.
        roundup_power2_divisions: Into how many parts the space between two powers of 2 is divided, to one of which
            sizes are rounded up: for sizes below 2 MiB, below 4 MiB and so on, the last for all from 32 GiB on. 0 and
            1 are for none.
        garbage_collection_threshold: From which part of the allowed memory on cached blocks that have not been used for
            long are given back. As in torch, nothing happens unless ``per_process_memory_fraction`` is less than 1.
        expandable_segments: Whether segments are ranges of addresses into which memory is mapped as it is needed.
        large_segment_size: Bytes of a segment for requests between 1 and 10 MiB, and of what is mapped at a time.
        per_process_memory_fraction: The part of the device's memory that may be reserved.
        throw_on_cudamalloc_oom: Whether what does not fit beside all that is reserved is refused, instead of giving
            back what is cached.
        text: What this was parsed from.
    """

    max_split_size: int = sys.maxsize
    max_non_split_rounding: int = 20 * MIB
    roundup_power2_divisions: tuple[int, ...] = (0,) * DIVISION_INTERVALS
    garbage_collection_threshold: float = 0.0
    expandable_segments: bool = False
    large_segment_size: int = 20 * MIB
    per_process_memory_fraction: float = 1.0
    throw_on_cudamalloc_oom: bool = False
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> AllocatorSettings:
        """Read settings such as ``max_split_size_mb:128,expandable_segments:True``.

        Args:
            text: Pairs of names and values, as torch documents them for ``PYTORCH_CUDA_ALLOC_CONF``.

        Raises:
            ValueError: If a name is unknown or a value is not possible; where torch has an error, with its words.
            NotImplementedError: For the ``cudaMallocAsync`` backend.
        """
        settings = list(_split(text))
        found: dict[str, Any] = {}
        # The others depend on it, wherever it stands.
        for setting in settings:
            if setting.name == "large_segment_size_mb":
                size = _read_large_segment_size(setting)
                found["large_segment_size"] = found["max_non_split_rounding"] = size
        least = found.get("large_segment_size", cls.large_segment_size)
        for setting in settings:
            if setting.name in _READERS:
                attribute, read = _READERS[setting.name]
                value = read(setting)
                if setting.name in ("max_split_size_mb", "max_non_split_rounding_mb") and value < least:
                    raise ValueError(f"CachingAllocator option {setting.name} too small, must be >= {least // MIB}")
                if attribute:
                    found[attribute] = value
        return cls(**found, text=text)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> AllocatorSettings:
        """Read ``PYTORCH_CUDA_ALLOC_CONF`` or, where that is not set, ``PYTORCH_ALLOC_CONF``."""
        return cls.parse(environment.get("PYTORCH_CUDA_ALLOC_CONF", environment.get("PYTORCH_ALLOC_CONF", "")))

    def round(self, size: int) -> int:
        """Give the bytes of the block that a request takes."""
        if size < SMALLEST_BLOCK:
            return SMALLEST_BLOCK
        interval = min(max(size.bit_length() - MIB.bit_length(), 0), DIVISION_INTERVALS - 1)
        divisions = self.roundup_power2_divisions[interval]
        if divisions > 1 and size > SMALLEST_BLOCK * divisions:
            floor = 1 << (size.bit_length() - 1)
            if floor == size:
                return size
            part = floor // divisions
            return -(-size // part) * part
        return -(-size // SMALLEST_BLOCK) * SMALLEST_BLOCK

    def segment_size(self, size: int) -> int:
        """Give the bytes of the segment that is made for a block of a (rounded) size."""
        if size <= LARGEST_SMALL:
            return SMALL_SEGMENT
        if size < LARGE_SIZE:
            return self.large_segment_size
        return -(-size // LARGE_GRANULE) * LARGE_GRANULE


def _read_mebibytes(setting: _Setting) -> int:
    return min(setting.integer() * MIB, sys.maxsize)


def _read_large_segment_size(setting: _Setting) -> int:
    value = _read_mebibytes(setting)
    if value <= LARGE_SIZE:
        raise ValueError(f"CachingAllocator option {setting.name} must be > {LARGE_SIZE // MIB} MB")
    return value


def _read_divisions(setting: _Setting) -> tuple[int, ...]:
    if not setting.is_list:
        divisions = setting.integer()
        if not _is_power_of_2(divisions):
            raise ValueError("For roundups, the divisions has to be power of 2")
        return (divisions,) * DIVISION_INTERVALS
    found = [0] * DIVISION_INTERVALS
    last = 0
    pairs = "".join(setting.parts).split(",") if setting.parts else []
    for place, pair in enumerate(pairs):
        start, colon, word = pair.partition(":")
        if not colon:
            raise ValueError(f"{setting.name} has '{pair}' where a size and its divisions are expected")
        divisions = _integer(setting.name, word)
        if divisions and not _is_power_of_2(divisions):
            raise ValueError("For roundups, the divisions has to be power of 2 or 0 to disable roundup")
        if start == ">":
            found[last + 1 :] = [divisions] * (DIVISION_INTERVALS - last - 1)
            continue
        size = _integer(setting.name, start)
        if not _is_power_of_2(size):
            raise ValueError("For roundups, the intervals have to be power of 2")
        last = min(size.bit_length() - 1, DIVISION_INTERVALS - 1)
        if place == 0:
            found[:last] = [divisions] * last
        found[last] = divisions
    return tuple(found)


def _read_threshold(setting: _Setting) -> float:
    value = setting.number()
    if not 0 < value < 1:
        raise ValueError("garbage_collect_threshold is invalid, set it in (0.0, 1.0)")
    return value


def _read_fraction(setting: _Setting) -> float:
    value = setting.number()
    if not 0 <= value <= 1:
        raise ValueError(f"{setting.name} is invalid, set it in [0.0, 1.0]")
    return value


def _read_backend(setting: _Setting) -> None:
    if setting.word() not in ("native", "cudaMallocAsync"):
        raise ValueError("Unknown allocator backend, options are native and cudaMallocAsync")
    if setting.word() == "cudaMallocAsync":
        raise NotImplementedError("there is no model of the cudaMallocAsync backend, only of torch's native one")


_READERS: dict[str, tuple[str | None, Callable[[_Setting], Any]]] = {
    "max_split_size_mb": ("max_split_size", _read_mebibytes),
    "max_non_split_rounding_mb": ("max_non_split_rounding", _read_mebibytes),
    "roundup_power2_divisions": ("roundup_power2_divisions", _read_divisions),
    "garbage_collection_threshold": ("garbage_collection_threshold", _read_threshold),
    "expandable_segments": ("expandable_segments", _Setting.boolean),
    "large_segment_size_mb": ("large_segment_size", _read_large_segment_size),
    "per_process_memory_fraction": ("per_process_memory_fraction", _read_fraction),
    "throw_on_cudamalloc_oom": ("throw_on_cudamalloc_oom", _Setting.boolean),
    "backend": (None, _read_backend),
}
"""For each setting that is modelled its attribute and what reads its value."""
