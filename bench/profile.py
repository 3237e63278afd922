"""Where the time of a call goes, as the Linux tool perf sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from bench import report

# Prime, so that samples do not fall into step with anything periodic.
SAMPLES_PER_SECOND = 1999
SHOWN_SHARES = 40
SHOWN_PERCENT = 0.3


class ProfileError(Exception):
    """perf did not deliver samples; the message says what it complained about."""


@dataclass(frozen=True)
class Share:
    """The part of the samples that fell into one function."""

    percent: float
    library: str
    symbol: str


def record(perf: str, work: Callable[[], object]) -> list[Share]:
    """Samples this process while it does `work`.

    Args:
        perf: The path of perf.
        work: What to sample; it should take a second or more.

    Returns:
        The functions that the samples fell into, the most frequent first.

    Raises:
        ProfileError: If perf is not allowed to sample, or found nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        recorder = subprocess.Popen(
            [perf, "record", "-F", str(SAMPLES_PER_SECOND), "-p", str(os.getpid()), "-o", str(data)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _wait_for_start(lambda: data.exists() or recorder.poll() is not None)
            work()
        finally:
            recorder.send_signal(signal.SIGINT)
            _, complaint = recorder.communicate()
        if not data.exists() or data.stat().st_size == 0:
            raise ProfileError(complaint.strip() or "it recorded nothing")
        listing = subprocess.run(
            [perf, "report", "-i", str(data), "--stdio", "--no-children", "-F", "overhead,dso,sym", "-t", "|"],
            capture_output=True,
            text=True,
            check=False,
        )
    shares = _parse(listing.stdout)
    if not shares:
        raise ProfileError(listing.stderr.strip() or "it recorded no samples")
    return shares


def show(title: str, shares: list[Share], seconds_per_call: float) -> None:
    """Prints the functions and libraries that a call spends its time in.

    Args:
        title: What was profiled.
        shares: The functions.
        seconds_per_call: What one call takes in total, measured without perf.
    """
    total = seconds_per_call * 1e9
    libraries: dict[str, float] = {}
    for share in shares:
        libraries[share.library] = libraries.get(share.library, 0.0) + share.percent
    summary = _table(f"{title}, {total:.0f} ns by library", "library")
    for library, percent in sorted(libraries.items(), key=lambda item: -item[1]):
        if percent >= SHOWN_PERCENT:
            summary.add_row(f"{total * percent / 100:.0f}", f"{percent:.1f}", library)
    report.show(summary)
    table = _table(f"{title}, {total:.0f} ns by function", "library", "function")
    for share in shares[:SHOWN_SHARES]:
        if share.percent >= SHOWN_PERCENT:
            nanoseconds = total * share.percent / 100
            table.add_row(f"{nanoseconds:.0f}", f"{share.percent:.1f}", share.library, share.symbol)
    report.show(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column("ns", justify="right")
    table.add_column("%", justify="right")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _wait_for_start(started: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not started() and time.monotonic() < deadline:
        time.sleep(0.01)
    # perf creates its file shortly before it attaches, and does not say when it has.
    time.sleep(0.2)


def _parse(listing: str) -> list[Share]:
    shares = []
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split("|", 2)]
        if len(fields) == 3 and fields[0].endswith("%"):
            # perf puts [.] for user code and [k] for the kernel in front of the name.
            shares.append(Share(float(fields[0][:-1]), fields[1], fields[2].removeprefix("[.] ")))
    return sorted(shares, key=lambda share: -share.percent)
