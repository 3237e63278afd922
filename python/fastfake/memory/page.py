"""One page of HTML that shows a timeline: what was alive when, and what the peak is made of."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from importlib import resources
from os import PathLike
from pathlib import Path
from string import Template

from .page_data import page_data
from .timeline import Timeline

__all__ = ["PageError", "write_page"]


class PageError(Exception):
    """A page cannot be written: plotly is missing, there is nothing to show, or the file cannot be made."""


def write_page(
    timeline: Timeline,
    path: str | PathLike[str],
    *,
    title: str,
    device: str | None = None,
    facts: Iterable[tuple[str, str]] | None = None,
    fits: bool | None = None,
    capacity: int | None = None,
) -> None:
    """Write a page that any browser opens, without a network: one file, plotly.js included.

    Args:
        timeline: What to show.
        path: The file to write.
        title: What ran, such as the model's name.
        device: Which device's memory to show; by default the one with the highest peak.
        facts: Names and values to show beside the peak, such as ``("reserved", "75.1 GiB")``.
        fits: Whether it fits the device; None if that is not known.
        capacity: Bytes that the device has, to be drawn into the chart.

    Raises:
        PageError: plotly is not installed, nothing was allocated on the device, or the file cannot be written.
    """
    if not timeline.devices:
        raise PageError("nothing was allocated, so there is nothing to show")
    device = device or timeline.main_device()
    if device not in timeline.devices:
        raise PageError(f"nothing was allocated on {device}, only on {', '.join(timeline.devices)}")
    data = {
        "title": title,
        "facts": [[str(name), str(value)] for name, value in facts or ()],
        "fits": fits,
        "capacity": capacity,
        **page_data(timeline, device),
    }
    text = Template(_file("page.html")).substitute(
        title=html.escape(title),
        style=_file("page.css"),
        plotly=_plotly().replace("</script", r"<\/script"),
        data=_embedded(data),
        script=_file("page.js"),
    )
    try:
        # A path in the title may hold what is no character.
        Path(path).write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise PageError(f"{path}: cannot write the page: {error.strerror}") from None


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise PageError("draws its charts with plotly, which is not installed: pip install 'fastfake[html]'") from None
    source: str = get_plotlyjs()
    return source


def _embedded(data: object) -> str:
    """Write JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", r"\u003c")


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
