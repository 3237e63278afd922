"""Claiming that there are CUDA devices, for programs that ask before they use them.

A fake tensor can be on any device. But programs ask `torch.cuda` whether there is one, how many, with how much memory,
and make streams on it; torch answers truthfully, or raises. Inside of `pretend` it answers as on the machine described.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock

import torch
from torch.cuda import random as cuda_random

from . import _C
from .amounts import parse_memory

__all__ = ["pretend"]

# Streaming multiprocessors of the data center card of each compute capability.
_MULTIPROCESSORS = {(7, 0): 80, (7, 5): 40, (8, 0): 108, (8, 6): 72, (8, 9): 142, (9, 0): 132, (10, 0): 148}
_stream_numbers = itertools.count(1)


@dataclass(frozen=True)
class DeviceProperties:
    """What `torch.cuda.get_device_properties` gives of a claimed device. Sizes are bytes."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    warp_size: int = 32
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    regs_per_multiprocessor: int = 65536
    shared_memory_per_block: int = 48 * 1024
    is_integrated: int = 0
    is_multi_gpu_board: int = 0
    gcnArchName: str = ""
    uuid: str = "00000000-0000-0000-0000-000000000000"


@contextlib.contextmanager
def pretend(
    device: str = "cuda",
    count: int = 1,
    capability: tuple[int, int] = (9, 0),
    memory: int | str = "80GB",
    name: str = "Pretended CUDA device",
) -> Iterator[None]:
    """Let `torch.cuda` and `torch.accelerator` answer as on a machine with CUDA devices, while the ``with`` lasts.

    For use with fake tensors: nothing can be computed on a device that is only claimed, and making a real tensor on it
    raises torch's error. What is answered:

    - questions for devices: there are ``count`` of them, alike, one is current in each thread; `torch.device(3)` means
      the accelerator;
    - memory: nothing is allocated and all of it is free;
    - streams and events: made and passed around as ever, always done, and no time goes by between events;
    - random numbers: seeds are taken, and the state of each device is 16 bytes of zeros;
    - `torch.autocast("cuda")`, `torch.amp.GradScaler("cuda")` and checkpoints are on as with a device;
    - `scaled_dot_product_attention` takes the operator of flash or memory-efficient attention where torch would on a
      device of this capability (cuDNN's attention is never taken).

    The claim is made to the whole process, all threads. Names that were imported before (``from torch.cuda import
    Stream``) are not changed. If torch has a CUDA device that it can use, nothing happens: that one answers.

    Args:
        device: the type; ``cuda`` is known.
        count: how many devices there are.
        capability: their compute capability, major and minor.
        memory: the memory of each: bytes, or a text such as ``80GB``; a GB is 1024**3 bytes, as memory is sold.
        name: what they are called.

    Raises:
        ValueError: an argument is none of these.
        RuntimeError: the claim of another `pretend` holds already.
    """
    if device != "cuda":
        raise ValueError(f"cannot pretend that there are devices of type {device!r}, only 'cuda'")
    if not 1 <= count <= 127:
        raise ValueError(f"torch can count 1 to 127 devices, not {count}")
    major, minor = capability
    properties = DeviceProperties(
        name, major, minor, parse_memory(memory), _MULTIPROCESSORS.get((major, minor), _MULTIPROCESSORS[8, 0])
    )
    if torch.cuda.is_available() and not _C.pretends_cuda():
        yield
        return
    # Dynamo knows torch's functions by their objects, which it looks up once.
    from torch._dynamo.trace_rules import get_torch_obj_rule_map

    get_torch_obj_rule_map()
    with contextlib.ExitStack() as stack:
        _C.pretend_cuda(major, minor)
        stack.callback(_C.stop_pretending)
        before = _C.pretended_index()
        _C.set_pretended_index(0)
        stack.callback(_C.set_pretended_index, before)
        claim = _Claim(count, properties)
        for module, replacements in claim.replacements():
            for attribute, replacement in replacements.items():
                if hasattr(module, attribute):  # not each release of torch has all of them
                    stack.enter_context(mock.patch.object(module, attribute, replacement))
        yield


class Stream(torch.Stream):
    """A stream of a claimed device. What it is told to wait for is done."""

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Stream:
        """Make a stream. The arguments are those of `torch.cuda.Stream`."""
        if kwargs:
            return super().__new__(cls, **kwargs)
        index = torch.cuda._utils._get_device_index(device, optional=True)
        return super().__new__(cls, stream_id=next(_stream_numbers), device_index=index, device_type=_CUDA)

    @property
    def cuda_stream(self) -> int:
        """The number of the stream, in the place of a pointer; 0 is the default stream."""
        return self.stream_id

    def query(self) -> bool:
        """Whether all work of the stream is done: it is."""
        return True

    def synchronize(self) -> None:
        """Wait for nothing."""

    def wait_event(self, event: Any) -> None:
        """Wait for nothing."""

    def wait_stream(self, stream: Any) -> None:
        """Wait for nothing."""

    def record_event(self, event: Any = None) -> Any:
        """Give the event, or a new one."""
        return Event() if event is None else event

    def __enter__(self) -> Stream:
        """Make this the current stream of its device, and the device current."""
        self._contexts = [*getattr(self, "_contexts", ()), torch.cuda.StreamContext(cast(Any, self))]
        self._contexts[-1].__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Make the stream current that was so before."""
        self._contexts.pop().__exit__(*exception)


class Event(torch.Event):
    """An event on a claimed device. It is over as soon as it is recorded."""

    def __new__(
        cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, external: bool = False
    ) -> Event:
        """Make an event. The arguments are those of `torch.cuda.Event`."""
        return super().__new__(cls, "cuda", enable_timing=enable_timing)

    def record(self, stream: Any = None) -> None:
        """Do nothing: the event is over."""

    def wait(self, stream: Any = None) -> None:
        """Wait for nothing."""

    def query(self) -> bool:
        """Whether the event is over: it is."""
        return True

    def synchronize(self) -> None:
        """Wait for nothing."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds between two events: none."""
        return 0.0


# The number that torch's C++ code has for the type.
_CUDA = 1


class _Claim:
    """What a machine with the claimed devices answers. Methods stand in the place of torch's of the same name."""

    def __init__(self, count: int, properties: DeviceProperties) -> None:
        self.count = count
        self.properties = properties
        self.of_thread = threading.local()

    def replacements(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The modules of torch and what their attributes are meanwhile."""
        cuda = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "init": _do_nothing,
            "_lazy_init": _do_nothing,
            "device_count": lambda: self.count,
            "current_device": _C.pretended_index,
            "set_device": self.set_device,
            # Functions of which Dynamo has a table are different ones, also from those of torch.accelerator.
            "_exchange_device": self.exchange_device,
            "_maybe_exchange_device": lambda index: self.exchange_device(index),
            "get_device_properties": self.get_device_properties,
            "get_device_name": lambda device=None: self.get_device_properties(device).name,
            "get_device_capability": self.get_device_capability,
            "get_arch_list": lambda: [f"sm_{self.properties.major}{self.properties.minor}"],
            "is_bf16_supported": lambda including_emulation=True: including_emulation or self.properties.major >= 8,
            "is_tf32_supported": lambda: self.properties.major >= 8,
            "can_device_access_peer": self.can_device_access_peer,
            "synchronize": _do_nothing,
            "ipc_collect": _do_nothing,
            "is_current_stream_capturing": lambda: False,
            "Stream": Stream,
            "Event": Event,
            "current_stream": self.current_stream,
            "default_stream": self.default_stream,
            "set_stream": self.set_stream,
        }
        random = {
            "get_rng_state": self.get_rng_state,
            "get_rng_state_all": lambda: [self.get_rng_state(index) for index in range(self.count)],
            "set_rng_state": _do_nothing,
            "set_rng_state_all": _do_nothing,
            "manual_seed": _do_nothing,
            "manual_seed_all": _do_nothing,
            "seed": _do_nothing,
            "seed_all": _do_nothing,
            "initial_seed": lambda: 0,
        }
        memory = {
            "memory_stats_as_nested_dict": lambda device=None: {},
            "memory_snapshot": lambda *args, **kwargs: [],
            "mem_get_info": lambda device=None: (self.properties.total_memory,) * 2,
            "empty_cache": _do_nothing,
            "reset_accumulated_memory_stats": _do_nothing,
            "reset_peak_memory_stats": _do_nothing,
            "set_per_process_memory_fraction": _do_nothing,
        }
        yield torch.cuda, cuda | random | memory
        # FSDP2 and DeviceMesh ask it where no mesh is named.
        yield torch._C, {"_get_accelerator": lambda check=None: torch.device("cuda")}
        yield cuda_random, random
        yield torch.cuda.memory, memory
        yield torch.cuda.streams, {"Stream": Stream, "Event": Event}
        yield (
            torch.accelerator,
            {
                "current_device_index": _C.pretended_index,
                "current_device_idx": _C.pretended_index,
                "set_device_index": self.set_device,
                "set_device_idx": self.set_device,
                "current_stream": lambda device=None: self.current_stream(device),
                "synchronize": lambda device=None: None,
                "set_stream": self.set_stream,
                "empty_cache": _do_nothing,
                "memory_stats": lambda device=None: {},
                "memory_allocated": lambda device=None: 0,
                "max_memory_allocated": lambda device=None: 0,
                "memory_reserved": lambda device=None: 0,
                "max_memory_reserved": lambda device=None: 0,
                "reset_accumulated_memory_stats": _do_nothing,
                "reset_peak_memory_stats": _do_nothing,
                "get_memory_info": memory["mem_get_info"],
            },
        )

    def index_of(self, device: Any) -> int:
        index = torch.cuda._utils._get_device_index(device, optional=True)
        if not 0 <= index < self.count:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return index

    def set_device(self, device: Any) -> None:
        index = torch.cuda._utils._get_device_index(device)
        if index >= 0:
            _C.set_pretended_index(self.index_of(index))

    def exchange_device(self, index: int) -> int:
        before = _C.pretended_index()
        if index < 0:
            return -1
        _C.set_pretended_index(self.index_of(index))
        return before

    def get_device_properties(self, device: Any = None) -> DeviceProperties:
        index = torch.cuda._utils._get_device_index(device, optional=True)
        if not 0 <= index < self.count:
            raise AssertionError("Invalid device id")
        return self.properties

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        properties = self.get_device_properties(device)
        return properties.major, properties.minor

    def can_device_access_peer(self, device: Any, peer_device: Any) -> bool:
        return self.index_of(device) != self.index_of(peer_device)

    def get_rng_state(self, device: Any = "cuda") -> torch.Tensor:
        self.index_of(device)
        return torch.zeros(16, dtype=torch.uint8)

    @property
    def streams(self) -> dict[int, Any]:
        """The current streams of this thread, by device, where they are not the default ones."""
        return self.of_thread.__dict__.setdefault("streams", {})

    def default_stream(self, device: Any = None) -> Any:
        return Stream(stream_id=0, device_index=self.index_of(device), device_type=_CUDA)

    def current_stream(self, device: Any = None) -> Any:
        index = self.index_of(device)
        return self.streams[index] if index in self.streams else self.default_stream(index)

    def set_stream(self, stream: Any) -> None:
        if stream is not None:
            self.streams[self.index_of(stream.device)] = stream
            _C.set_pretended_index(stream.device.index)


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in the place of a function that does something to a device."""
