"""A storm, `python -m storm SECONDS SEED` in tests/: exits with an error that says which thread found what.

Eight threads take random pieces of work, in modes of their own or in one that they share, and compare each result with
that of a process in which nothing else went on. Others meanwhile clear the cache, make it tiny, install and uninstall,
register operators and collect garbage.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils import _python_dispatch

import fastfake
from fastfake import FakeTensorMode, in_use

from .work import LOCKS, VARIANTS, WORK, exchanging

THREADS = 8
# How long a piece of work may take on a busy machine before the storm counts as hung.
PATIENCE = 120


class Storm:
    """Threads that go on until the time is over or one of them failed."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.seed = seed
        self.end = time.monotonic() + seconds
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        self.expected = {
            (name, number): WORK[name](FakeTensorMode(), number) for name in WORK for number in range(VARIANTS)
        }
        self.shared = FakeTensorMode()

    def goes_on(self) -> bool:
        return not self.failures and time.monotonic() < self.end

    def work(self, thread: int) -> None:
        """Take pieces of work, at random but the same ones for each seed."""
        chance = random.Random(f"{self.seed} {thread}")
        own = FakeTensorMode()
        while self.goes_on():
            name, number = chance.choice(list(WORK)), chance.randrange(VARIANTS)
            if any(lock.locked() for lock in LOCKS.get(name, ())):
                continue  # rather than wait
            mode = chance.choice((self.shared, own, FakeTensorMode()))
            found = WORK[name](mode, number)
            assert found == self.expected[name, number], (
                f"{name} {number} gave\n{found}\nand alone\n{self.expected[name, number]}"
            )
            assert torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is None
            self.done[name] += 1

    def clear(self) -> None:
        FakeTensorMode.cache_clear()
        time.sleep(0.003)

    def limit(self) -> None:
        before = fastfake.cache_limit()
        fastfake.set_cache_limit(20_000)
        time.sleep(0.01)
        fastfake.set_cache_limit(before)
        time.sleep(0.02)

    def install_and_uninstall(self) -> None:
        with exchanging:
            fastfake.uninstall()
            time.sleep(0.05)
            fastfake.install()
        time.sleep(0.2)

    def register(self) -> None:
        with torch.library._scoped_library("storm_registered", "FRAGMENT") as library:
            library.define("same(Tensor x) -> Tensor")
            library.impl("same", torch.empty_like, "Meta")
            with FakeTensorMode():
                torch.ops.storm_registered.same(torch.empty(2))
        time.sleep(0.02)

    def collect(self) -> None:
        gc.collect()
        time.sleep(0.1)

    def run(self) -> None:
        """Run all threads to their end."""
        often = (self.clear, self.limit, self.install_and_uninstall, self.register, self.collect)
        threads = [threading.Thread(target=self._guarded, args=(self.work, number)) for number in range(THREADS)]
        threads += [threading.Thread(target=self._guarded, args=(self._repeat, change)) for change in often]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, change: Callable[[], None]) -> None:
        while self.goes_on():
            change()
            self.done[change.__name__] += 1

    def _guarded(self, function: Callable[..., None], argument: object) -> None:
        try:
            function(argument)
        except BaseException:
            self.failures.append(traceback.format_exc())


def left_behind() -> list[str]:
    """What is not as it was before any thread began."""
    flags = [name for name in vars(_python_dispatch) if name.startswith("_is_in_")]
    found = [name for name in flags if getattr(_python_dispatch, name) is True]
    if in_use._is_closing:
        found.append("a thread that waits to uninstall")
    if fastfake._C.memory_is_tracked() or fastfake._C.pretends_cuda():
        found.append("a tracker, or pretended devices")
    return found


def main() -> None:
    """Run a storm, and say what it was made of."""
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    logging.disable()  # of the errors that are provoked
    sys.setswitchinterval(1e-4)
    storm = Storm(seconds, seed)
    faulthandler.dump_traceback_later(seconds + PATIENCE, exit=True)
    storm.run()
    faulthandler.cancel_dump_traceback_later()
    if storm.failures:
        sys.exit("\n".join(storm.failures))
    if left := left_behind():
        sys.exit(f"left behind: {left}")
    print(dict(sorted(storm.done.items())))


if __name__ == "__main__":
    main()
