"""The page that shows a timeline: its figures, its text, and what a browser makes of it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from made_up_timelines import training_timeline

import fastfake.memory
from fastfake.memory import Allocation, Category, Phase, Timeline
from fastfake.memory.page import PageError, write_page
from fastfake.memory.page_data import STACK, page_data, thin

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

DEVICE = "cuda:0"
TIMELINE = training_timeline(layers=3, hidden=256, vocabulary=1000, tokens=512, steps=2, kernels=2, checkpoint_from=2)
STYLE = (Path(fastfake.memory.__file__).parent / "page.css").read_text()


# Its figures


def bytes_at_samples(data: dict[str, Any]) -> list[dict[str, int]]:
    """The bytes of each category at each sample, as the page works them out."""
    live = [dict.fromkeys(data["categories"], 0) for _ in data["samples"]["moment"]]
    for category, series in zip(data["categories"], data["series"], strict=True):
        for sample, size in zip(series["sample"], series["bytes"], strict=True):
            for later in live[sample:]:
                later[category] = size
    return live


@pytest.mark.parametrize("most_samples", [100_000, 40])
def test_the_bytes_of_each_category_are_exact_at_every_moment_of_the_page(most_samples: int) -> None:
    data = page_data(TIMELINE, DEVICE, most_samples=most_samples)
    live = bytes_at_samples(data)
    assert data["complete"] == (most_samples > TIMELINE.moments)
    assert len(live) <= most_samples
    for moment, found in zip(data["samples"]["moment"], live, strict=True):
        assert {name: size for name, size in found.items() if size} == TIMELINE.at(moment, DEVICE).by("category")


@pytest.mark.parametrize("most_samples", [100_000, 40])
def test_the_peak_and_all_that_is_alive_at_it_are_on_the_page(most_samples: int) -> None:
    data: Any = page_data(TIMELINE, DEVICE, most_samples=most_samples)
    peak = TIMELINE.peak(DEVICE)
    assert (data["peak"]["moment"], data["peak"]["bytes"]) == (peak.moment, peak.bytes)
    assert data["samples"]["moment"][data["peak"]["sample"]] == peak.moment
    rows = data["allocations"]
    alive = [
        rows["number"][row]
        for row in range(len(rows["number"]))
        if rows["born"][row] <= peak.moment and (rows["died"][row] is None or rows["died"][row] > peak.moment)
    ]
    assert alive == [allocation.number for allocation in peak.allocations]


def test_rows_of_the_page_say_what_their_allocations_are() -> None:
    data: Any = page_data(TIMELINE, DEVICE)
    rows, texts = data["allocations"], data["texts"]
    for row, allocation in enumerate(TIMELINE.allocations):
        assert (
            Allocation(
                number=rows["number"][row],
                device=data["device"],
                bytes=rows["bytes"][row],
                size=rows["size"][row],
                born=rows["born"][row],
                died=rows["died"][row],
                operator=texts[rows["operator"][row]],
                module=texts[rows["module"][row]],
                line=texts[rows["line"][row]],
                phase=Phase(data["phases"][rows["phase"][row]]),
                category=Category(data["categories"][rows["category"][row]]),
                step=rows["step"][row],
            )
            == allocation
        )
    births = [row for row, born in zip(data["samples"]["allocation"], data["samples"]["birth"], strict=True) if born]
    assert births == list(range(len(TIMELINE.allocations)))


def test_bands_are_where_a_phase_or_a_step_begins() -> None:
    bands: Any = page_data(TIMELINE, DEVICE)["bands"]
    starts = dict(zip(bands["moment"], zip(bands["phase"], bands["step"], strict=True), strict=True))
    before = None
    for allocation in TIMELINE.allocations:
        now = (list(Phase).index(allocation.phase), allocation.step)
        assert starts.get(allocation.born) == (now if now != before else None)
        before = now
    assert {list(Phase)[phase] for phase in bands["phase"]} == set(Phase)


def test_only_what_happened_on_the_device_is_on_the_page() -> None:
    elsewhere = replace(TIMELINE.allocations[5], device="cpu", number=len(TIMELINE.allocations), bytes=1 << 50)
    both = Timeline([*TIMELINE.allocations, elsewhere], TIMELINE.moments)
    assert page_data(both, DEVICE)["series"] == page_data(TIMELINE, DEVICE)["series"]


def test_thinning_keeps_the_first_the_lowest_the_highest_and_the_last_of_each_piece() -> None:
    rng = np.random.default_rng(0)
    curve = rng.integers(0, 1_000_000, 10_000).tolist()
    kept = thin(curve, 400)
    assert len(kept) <= 400 and kept == sorted(set(kept))
    assert curve.index(max(curve)) in kept
    for piece in range(100):
        part = curve[100 * piece : 100 * piece + 100]
        there = [curve[index] for index in kept if 100 * piece <= index < 100 * piece + 100]
        assert (there[0], min(there), max(there), there[-1]) == (part[0], min(part), max(part), part[-1])


def test_a_curve_shorter_than_its_pieces_is_kept_whole() -> None:
    assert thin([3, 1, 2], 400) == [0, 1, 2]


# Its colours


def colors(scheme: str) -> dict[str, str]:
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if scheme == "light" else dark.split("\n}\n")[0]))


BOTH_SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@BOTH_SCHEMES
def test_every_category_and_phase_has_a_colour_and_a_place(scheme: str) -> None:
    wanted = {f"category-{category.value}" for category in Category} | {f"phase-{phase.value}" for phase in Phase}
    assert {name.replace(" ", "-") for name in wanted} <= colors(scheme).keys()
    assert sorted(STACK) == sorted(Category)


def linear(color: str) -> np.ndarray:
    """The light of red, green and blue in a colour of sRGB."""
    parts = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


# Machado, Oliveira and Fernandes, 2009: what is left of a colour without one kind of cone.
EYES = {
    "all cones": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "tritanopia": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


def oklab(light: np.ndarray) -> np.ndarray:
    """Ottosson, 2020: a space in which distances are about as large as they look."""
    cones = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
    lab = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
    return lab @ np.cbrt(cones @ np.clip(light, 0, 1))


@BOTH_SCHEMES
@pytest.mark.parametrize("eye", EYES)
def test_neighbours_in_the_stack_look_different_to_colour_blind_eyes(scheme: str, eye: str) -> None:
    seen = [
        oklab(EYES[eye] @ linear(colors(scheme)[f"category-{category.value.replace(' ', '-')}"])) for category in STACK
    ]
    for (lower, one), (upper, other) in pairwise(zip(STACK, seen, strict=True)):
        # A difference of 0.02 can just be seen.
        assert np.linalg.norm(one - other) > 0.08, (lower, upper)


@BOTH_SCHEMES
def test_texts_have_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    found = colors(scheme)

    def luminance(name: str) -> float:
        return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(found[name]))

    grounds = ["ground", "surface", "raised"]
    texts = [(text, ground) for text in ("text", "quiet", "accent") for ground in grounds]
    texts += [("good", "good-ground"), ("bad", "bad-ground"), ("bad", "surface")]
    texts += [("text", f"phase-{phase.value}") for phase in Phase]
    for text, ground in texts:
        dark, light = sorted((luminance(text), luminance(ground)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


# Its errors


def test_without_plotly_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(PageError, match=r"^[^\n]*pip install 'fastfake\[html\]'$"):
        write_page(TIMELINE, tmp_path / "page.html", title="model")


def test_a_timeline_of_nothing_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="nothing was allocated, so there is nothing to show"):
        write_page(Timeline([], 0), tmp_path / "page.html", title="model")


def test_a_device_without_allocations_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="nothing was allocated on cuda:1, only on cuda:0"):
        write_page(TIMELINE, tmp_path / "page.html", title="model", device="cuda:1")


def test_a_page_that_cannot_be_written_says_so_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    path = tmp_path / "nowhere" / "page.html"
    with pytest.raises(PageError, match=f"^{re.escape(str(path))}: cannot write the page: No such file or directory$"):
        write_page(TIMELINE, path, title="model")


# Its text

HOSTILE = "</script><script>document.title = 'taken over'</script><!--<script> & <b>bold</b> \udcff {{}} $title"


def hostile_timeline() -> Timeline:
    (first, *others) = TIMELINE.allocations
    named = replace(first, module=f"model.{HOSTILE}", operator=HOSTILE, line=HOSTILE, bytes=1 << 40)
    return Timeline([named, *others], TIMELINE.moments)


class Scripts(HTMLParser):
    """The text of each script element, as a browser tells them apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.title = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag
        if tag == "script":
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.found[-1] += data
        elif self.inside == "title":
            self.title += data


def test_names_from_programs_cannot_leave_the_data(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    path = tmp_path / "page.html"
    write_page(hostile_timeline(), path, title=HOSTILE, facts=[(HOSTILE, HOSTILE)])
    page = Scripts(path.read_text(encoding="utf-8"))
    assert len(page.found) == 3
    assert "<" not in page.found[1]
    data = json.loads(page.found[1])
    assert data["title"] == HOSTILE and data["facts"] == [[HOSTILE, HOSTILE]]
    assert HOSTILE in data["texts"] and f"model.{HOSTILE}" in data["texts"]
    assert page.title.startswith("</script><script>") and "$title" in page.title


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    pytest.importorskip("plotly", reason="plotly draws the charts: pip install 'fastfake[html]'")
    pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1366,768",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


class Page:
    """A page in a browser, as someone sees it who points at it."""

    def __init__(self, browser: Chrome, path: Path, timeline: Timeline, **options: Any) -> None:
        write_page(timeline, path, **{"title": "a small Llama", **options})
        self.browser = browser
        browser.get(path.as_uri())

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent.toWellFormed())", selector
        )

    def js(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 20)))"
        )

    def until(self, expression: str, seconds: float = 10) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, seconds, poll_frequency=0.02).until(lambda _: self.js(f"return {expression}"))

    def repeat_until(self, act: Callable[[], object], expression: str) -> None:
        """Do what a busy machine may do too slowly: two clicks far apart are none that is double."""
        from selenium.common.exceptions import TimeoutException

        for _ in range(3):
            act()
            with contextlib.suppress(TimeoutException):
                self.until(expression, seconds=2.5)
                return
        act()
        self.until(expression)

    def point(self, moment: float, height: float = 0.5) -> Any:
        """Move to a moment of the timeline: actions that can go on from there."""
        from selenium.webdriver import ActionChains

        self.js("document.getElementById('timeline').scrollIntoView({ block: 'center' })")
        chart = self.find("#timeline")
        start, end = self.range()
        margin, width = 72, chart.size["width"] - 72 - 16
        across = margin + width * (moment - start) / (end - start) - chart.size["width"] / 2
        actions = ActionChains(self.browser, duration=0)
        return actions.move_to_element_with_offset(chart, round(across), round(chart.size["height"] * (height - 0.5)))

    def range(self) -> tuple[float, float]:
        return tuple(self.js("return document.getElementById('timeline').layout.xaxis.range"))

    def areas(self) -> dict[str, tuple[list[float], list[float]]]:
        """What is drawn of each category: moments and bytes."""
        traces = self.js("return document.getElementById('timeline').data.filter(({ type }) => type === 'scatter')")
        return {trace["name"]: (trace["x"], trace["y"]) for trace in traces}

    def tiles(self) -> dict[str, int]:
        """The bytes of each tile by the names on the way to it."""
        trace = self.js("return document.getElementById('treemap').data[0]")
        names: dict[str, str] = {"": ""}
        for one, label, parent in zip(trace["ids"], trace["labels"], trace["parents"], strict=True):
            names[one] = f"{names[parent]}/{label}"
        return {names[one]: size for one, size in zip(trace["ids"], trace["values"], strict=True)}

    def click_tile(self, label: str) -> None:
        from selenium.webdriver import ActionChains

        place = self.js(
            """
            for (const slice of document.querySelectorAll("#treemap g.slice")) {
              if (slice.textContent.startsWith(arguments[0])) {
                slice.scrollIntoView({ block: "center" });
                const box = slice.querySelector("text").getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2].map(Math.round);
              }
            }
            """,
            label,
        )
        actions = ActionChains(self.browser, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(*place).click()
        actions.perform()
        self.settle()

    def rows(self) -> list[list[str]]:
        return self.js(
            "return [...document.querySelectorAll('#rows tr')].map((row) => [...row.cells].map((one) => "
            "(one.title || one.textContent).toWellFormed()))"
        )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each page is written: the browser need not compile the scripts of an address again."""
    return tmp_path_factory.mktemp("pages") / "page.html"


@pytest.fixture
def page(browser: Chrome, path: Path) -> Page:
    return Page(browser, path, TIMELINE, facts=[("reserved", "1.5 GiB")], fits=True, capacity=2 << 30)


def test_a_page_opens_without_a_network_and_without_complaints(browser: Chrome, path: Path) -> None:
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    page = Page(browser, path, TIMELINE)
    page.settle()
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {path.as_uri()}


def test_the_head_says_what_ran_where_and_whether_it_fits(page: Page) -> None:
    peak = TIMELINE.peak(DEVICE).bytes
    assert page.find("h1").text == "a small Llama"
    assert page.find("#subtitle").text == f"Memory of cuda:0 · {TIMELINE.moments:,} moments · 2 steps"
    assert page.texts("#facts dt") == ["verdict", "peak of live bytes", "device memory", "reserved"]
    assert page.texts("#facts dd") == ["✓ fits", f"{peak / 2**20:.3g} MiB", "2.00 GiB", "1.5 GiB"]
    assert page.find("#facts div:nth-child(2)").get_attribute("title") == f"{peak:,} bytes"


def test_the_chart_stacks_the_categories_up_to_the_peak(page: Page) -> None:
    areas = page.areas()
    peak = TIMELINE.peak(DEVICE)
    assert list(areas) == [category.value for category in STACK if category.value in areas]
    drawn = np.sum([sizes for _, sizes in areas.values()], axis=0)
    assert drawn.max() == peak.bytes
    moments = next(iter(areas.values()))[0]
    assert moments[int(drawn.argmax())] == pytest.approx(peak.moment, abs=TIMELINE.moments / 500)
    (label,) = page.js(
        "return document.getElementById('timeline').layout.annotations.filter(({ text }) => text.includes('peak'))"
    )
    assert (label["x"], label["y"]) == (peak.moment, peak.bytes)
    assert label["text"] == f"<b>peak: {peak.bytes / 2**20:.3g} MiB</b>"


def spiky_timeline() -> Timeline:
    """50,000 moments of which one, which no pixel has for itself, is the peak."""
    always = replace(TIMELINE.allocations[0], number=0, bytes=1 << 30, born=0, died=None)
    brief = [
        replace(always, number=1 + index, bytes=1 << 20, born=1 + 2 * index, died=2 + 2 * index)
        for index in range(25_000)
    ]
    brief[16_667] = replace(brief[16_667], bytes=1 << 30, category=Category.TEMPORARY)
    return Timeline([always, *brief], 50_001)


def test_a_peak_of_one_moment_among_fifty_thousand_is_drawn_at_its_height(browser: Chrome, path: Path) -> None:
    page = Page(browser, path, spiky_timeline())
    areas = page.areas()
    moments, sizes = areas["temporary"]
    assert len(moments) < 1000
    (column,) = np.flatnonzero(sizes)
    assert sizes[column] == 1 << 30
    assert moments[column] <= 33_335 <= moments[column + 1]
    assert moments[column + 1] - moments[column] > 50_000 / 1366
    page.point(33_335 + 100).perform()
    assert "moment 33,335 · forward · step 1 · the peak" in page.find("#tip").text


def test_nothing_is_drawn_before_a_device_is_used(browser: Chrome, path: Path) -> None:
    (always, *_) = spiky_timeline().allocations
    elsewhere = [
        replace(always, number=index, device="cpu", bytes=1, born=index, died=20_000 + index) for index in range(10_000)
    ]
    late = [replace(always, number=10_000 + index, born=10_000 + index, died=40_000 + index) for index in range(10_000)]
    page = Page(browser, path, Timeline([*elsewhere, *late], 50_000))
    moments, sizes = page.areas()["parameter"]
    assert moments[0] == pytest.approx(10_000, abs=100)
    assert min(sizes) > 0
    page.point(5_000).perform()
    assert not page.find("#tip").is_displayed()


def test_pointing_at_the_peak_tells_all_about_it(page: Page) -> None:
    peak = TIMELINE.peak(DEVICE)
    page.point(peak.moment).perform()
    lines = page.find("#tip").text.split("\n")
    (made,) = (allocation for allocation in peak.allocations if allocation.born == peak.moment)
    assert lines[0] == f"moment {peak.moment:,} · {made.phase.value} · step {made.step + 1} · the peak"
    found = {
        name: int(size.replace(",", ""))
        for name, size in re.findall(r"^(.*?) [\d.]+ \w+ ([\d,]+) bytes$", "\n".join(lines), re.M)
    }
    assert found.pop("all") == peak.bytes
    assert list(found) == [category.value for category in reversed(STACK) if category.value in found]
    assert found == peak.by("category")
    assert lines[-4].endswith(f"allocated ({made.bytes:,} bytes, {made.category.value})")
    assert lines[-3:] == [made.operator, made.module, made.line]


def test_dragging_and_the_wheel_zoom_and_a_double_click_shows_all(page: Page) -> None:
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    everything = page.range()
    assert everything == (0, TIMELINE.moments)
    third = TIMELINE.moments / 3
    page.point(third).click_and_hold().move_by_offset(200, 0).release().perform()
    page.until("document.getElementById('zoom-out').disabled === false")
    start, end = dragged = page.range()
    assert start == pytest.approx(third, rel=0.01)
    assert end - start == pytest.approx(TIMELINE.moments * 200 / (page.find("#timeline").size["width"] - 88), rel=0.03)
    # There is room for each moment now.
    moments = [allocation.born for allocation in TIMELINE.allocations] + [
        a.died for a in TIMELINE.allocations if a.died
    ]
    inside = [moment for moment in moments if start <= moment <= end]
    assert set(inside) <= set(page.areas()["parameter"][0])

    page.point(sum(dragged) / 2).perform()
    page.browser.execute_script("window.scrolled = scrollY")
    from selenium.webdriver import ActionChains

    ActionChains(page.browser).scroll_from_origin(ScrollOrigin.from_element(page.find("#timeline")), 0, -300).perform()
    page.settle()
    closer = page.range()
    assert dragged[0] < closer[0] < closer[1] < dragged[1]
    assert page.js("return scrollY === window.scrolled")

    page.repeat_until(
        lambda: page.point(sum(closer) / 2).double_click().perform(),
        f"document.getElementById('timeline').layout.xaxis.range[1] === {TIMELINE.moments}",
    )
    assert page.range() == everything
    assert page.texts(".moment") == ["at the peak", "at the peak"]


def test_the_treemap_holds_the_bytes_of_every_module(page: Page) -> None:
    peak = TIMELINE.peak(DEVICE)
    within = [a for a in peak.allocations if a.module.startswith("model.layers.1.")]
    tiles = page.tiles()
    assert sum(size for name, size in tiles.items() if name.count("/") == 1) == peak.bytes
    assert tiles["/model/layers/1"] == sum(a.bytes for a in within)
    assert tiles["/outside of modules"] == sum(a.bytes for a in peak.allocations if not a.module)

    page.click_tile("1")
    assert page.texts("#trail li") == ["all modules", "model", "layers", "1"]
    tiles = page.tiles()
    assert sum(size for name, size in tiles.items() if name.count("/") == 1) == sum(a.bytes for a in within)
    for name in ("mlp", "self_attn"):
        assert tiles[f"/{name}"] == sum(a.bytes for a in within if f".{name}." in a.module)
    rows = page.rows()
    assert {row[3] for row in rows} <= {a.module for a in within}
    page.find("#trail button").click()
    assert page.tiles()["/model/layers/1"] == sum(a.bytes for a in within)


def test_one_category_can_be_looked_at_alone(page: Page) -> None:
    peak = TIMELINE.peak(DEVICE)
    activations = [a for a in peak.allocations if a.category is Category.ACTIVATION]
    page.find("#categories button[value=activation]").click()
    page.settle()
    assert list(page.areas()) == ["activation"]
    assert sum(size for name, size in page.tiles().items() if name.count("/") == 1) == sum(a.bytes for a in activations)
    assert {row[1] for row in page.rows()} == {"activation"}
    assert page.find("#count").text.startswith(f"{len(activations)} allocations")
    page.find("#categories button[value=all]").click()
    assert len(page.areas()) > 5


def test_the_table_lists_the_largest_allocations_first(page: Page) -> None:
    largest = TIMELINE.peak(DEVICE).largest()
    rows = page.rows()
    assert len(rows) == 25
    assert rows == [
        [f"{a.bytes:,} bytes", a.category.value, a.operator, a.module, a.line, a.phase.value] for a in largest[:25]
    ]
    page.find("#more").click()
    assert len(page.rows()) == len(largest)


def test_the_table_can_be_sorted_and_searched(page: Page) -> None:
    peak = TIMELINE.peak(DEVICE)
    page.find("#column-module button").click()
    assert page.find("#column-module").get_attribute("aria-sort") == "ascending"
    assert [row[3] for row in page.rows()] == sorted(a.module for a in peak.allocations)[:25]
    page.find("#search").send_keys("UP_PROJ aten::mm")
    found = [a for a in peak.allocations if "up_proj" in a.module and a.operator == "aten::mm"]
    assert len(found) < 25
    assert sorted(row[3] for row in page.rows()) == sorted(a.module for a in found)
    assert page.find("#count").text.startswith(f"{len(found)} allocations")


def test_a_click_on_a_moment_shows_what_is_alive_then(page: Page) -> None:
    page.point(TIMELINE.moments * 0.9).click().perform()
    page.until("document.querySelector('.moment').textContent !== 'at the peak'")
    moment = int(page.texts(".moment")[0].removeprefix("at moment ").replace(",", ""))
    assert moment == pytest.approx(TIMELINE.moments * 0.9, abs=TIMELINE.moments / 300)
    alive = TIMELINE.at(moment, DEVICE)
    assert sum(size for name, size in page.tiles().items() if name.count("/") == 1) == alive.bytes
    assert page.rows()[0][0] == f"{alive.largest()[0].bytes:,} bytes"
    page.find(".to-peak").click()
    assert page.texts(".moment") == ["at the peak", "at the peak"]


def test_a_page_of_too_many_moments_shows_the_peak_alone(
    browser: Chrome, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfake.memory.page.page_data", lambda *given: page_data(*given, most_samples=100))
    page = Page(browser, path, TIMELINE)
    assert np.sum([sizes for _, sizes in page.areas().values()], axis=0).max() == TIMELINE.peak(DEVICE).bytes
    assert page.find("#count").text.startswith(f"{len(TIMELINE.peak(DEVICE).allocations)} allocations")
    assert not page.find("#pick-hint").is_displayed()


def test_names_from_programs_are_shown_as_they_are(browser: Chrome, path: Path) -> None:
    page = Page(browser, path, hostile_timeline(), title=HOSTILE, facts=[(HOSTILE, HOSTILE)])
    page.settle()
    shown = HOSTILE.replace("\udcff", "�")  # half of a character, which WebDriver cannot tell
    assert page.browser.title.startswith("</script><script>document.title = 'taken over'")
    assert page.texts("h1")[0] == shown
    assert page.texts("#facts dt")[1] == shown
    assert page.rows()[0][2] == shown
    assert page.js("return document.querySelectorAll('b').length") == 0
    label = next(text for text in page.texts("#treemap g.slice text") if "taken" in text)
    assert label.startswith("</script><script>document") and "<b>bold</b>" in label
    assert browser.get_log("browser") == []


def test_dark_and_light_follow_the_reader(page: Page) -> None:
    seen = {}
    for scheme in ("dark", "light"):
        page.browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        page.settle()
        area = page.js("return document.getElementById('timeline').data[0].fillcolor")
        seen[scheme] = (area, page.js("return getComputedStyle(document.body).backgroundColor"))
        assert area == colors(scheme)["category-parameter"]
    assert seen["dark"] != seen["light"]


def test_a_narrow_window_has_no_sideways_scrolling(page: Page) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.settle()
        page.until("document.getElementById('timeline').querySelector('svg').clientWidth < 400")
        assert page.js("return document.documentElement.scrollWidth") <= 400
        assert page.js("return document.getElementById('treemap').querySelector('svg').clientWidth") < 400
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
