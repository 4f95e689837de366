from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders, chromium
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot
from virnucpro_exporter.web import MetricsServer

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="needs chromium")

LOST = (builders.lost_worker(3), builders.gpu_lost(4))
SCENES = {
    "healthy": (builders.running(8), builders.gpus_up(8)),
    "start": (builders.idle(2), builders.gpus_up(2)),
    "end": (builders.finished(4), builders.gpus_up(4)),
    "stalled": (builders.stalled(4), builders.gpus_up(4)),
    "unknown": (builders.running(2), builders.no_gpus()),
    "lost": LOST,
}


def present(run: RunSnapshot, now: float) -> RunSnapshot:
    """A run of now."""
    return replace(run, timestamp=now, start_timestamp=now - run.elapsed_seconds)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    """A browser."""
    with chromium.tab(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def run() -> Latest[RunSnapshot]:
    """A run that goes on now."""
    return Latest(present(builders.running(2), time.time()))


@pytest.fixture
def gpus() -> Latest[GpuSnapshot]:
    """Its GPUs."""
    return Latest(builders.gpus_up(2))


@pytest.fixture
def server(run: Latest[RunSnapshot], gpus: Latest[GpuSnapshot]) -> Iterator[MetricsServer]:
    """The page."""
    with MetricsServer(run, gpus, listen=["127.0.0.1:0"]) as started:
        yield started


def test_the_page_keeps_itself_up_to_date_and_says_when_it_cannot(
    server: MetricsServer, run: Latest[RunSnapshot], tab: chromium.Tab
) -> None:
    """New values come without a reload, and where no answer comes they are said to be old."""
    tab.open(f"http://{server.addresses[0]}/")
    tab.evaluate("window.kept = document.querySelector('h2'); 0")
    tab.evaluate("document.querySelector('#pause').focus()")
    assert tab.evaluate("document.title").startswith("25%")
    now = time.time()
    run.publish(present(builders.stalled(2), now))
    tab.wait_for("document.querySelector('#wrong').textContent === 'STALLED: GPU 0'")
    run.publish(present(builders.finished(2), now))
    tab.wait_for("document.querySelector('main').innerText.includes('completed')")
    assert tab.evaluate("window.kept === document.querySelector('h2')")
    assert tab.evaluate("document.activeElement.id") == "pause"
    assert tab.complaints == []
    server.stop()
    tab.wait_for("document.querySelector('#silent').textContent.startsWith('No answer since')")
    tab.complaints.clear()  # the browser complains about the connection that is refused


def test_the_page_can_be_paused(
    server: MetricsServer, run: Latest[RunSnapshot], tab: chromium.Tab
) -> None:
    """While it is paused nothing on the page moves."""
    tab.open(f"http://{server.addresses[0]}/")
    tab.evaluate("document.querySelector('#pause').click()")
    assert tab.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    run.publish(present(builders.stalled(2), time.time()))
    tab.evaluate("refresh()")
    assert tab.evaluate("document.querySelector('#wrong').textContent") == ""
    tab.evaluate("document.querySelector('#pause').click(); refresh()")
    tab.wait_for("document.querySelector('#wrong').textContent === 'STALLED: GPU 0'")


def test_the_page_is_read_without_script(server: MetricsServer, tab: chromium.Tab) -> None:
    """All values are in the page itself, and the browser loads it again by itself."""
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(f"http://{server.addresses[0]}/")
        names = [name for role, name in tab.accessible() if role == "rowheader"]
        assert names == ["GPU 0 A100-SXM4-80GB", "GPU 1 RTX 4090"]
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_screen_reader_finds_the_headings_tables_and_pictures(
    server: MetricsServer, tab: chromium.Tab
) -> None:
    """Cells stay cells where the table is drawn as cards, and pictures have a description."""
    for width in (400, 1600):
        tab.resize(width, 900)
        tab.open(f"http://{server.addresses[0]}/")
        found = tab.accessible()
        assert ("columnheader", "Temp.") in found
        assert ("rowheader", "GPU 1 RTX 4090") in found
        assert ("cell", "61 °C") in found
        assert ("image", "97% to 97%, mean 97%") in found


@pytest.mark.parametrize("scene", SCENES)
def test_the_page_fits_and_is_legible_at_every_size(scene: str, tab: chromium.Tab) -> None:
    """From 400 to 1,600 pixels nothing scrolls sideways, and all text is legible, light and dark.

    SCREENSHOTS=FOLDER keeps a picture of each.
    """
    run, gpus = SCENES[scene]
    with MetricsServer(Latest(run), Latest(gpus), listen=["127.0.0.1:0"]) as server:
        tab.open(f"http://{server.addresses[0]}/")
        for width, dark in itertools.product((400, 700, 1351, 1600), (False, True)):
            tab.resize(width, 900, dark=dark)
            if "SCREENSHOTS" in os.environ:
                colours = "dark" if dark else "light"
                tab.screenshot(Path(os.environ["SCREENSHOTS"], f"{scene}-{width}-{colours}.png"))
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate(CONTRAST) >= 4.5
            assert tab.evaluate(CROWDED) == []
    assert tab.complaints == []


# The cells whose text is cut off, lies over its neighbour or has hardly a word on a line.
CROWDED = """[...document.querySelectorAll("td, tbody th")].filter((cell) =>
    cell.scrollWidth > cell.clientWidth + 1 || (cell.matches(".w, th") && cell.clientWidth < 100)
).map((cell) => cell.innerText)"""

# The least contrast between a text and the nearest background behind it, by WCAG 2.
CONTRAST = """(() => {
    const light = (colour) => {
        const parts = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let least = 21;
    while (words.nextNode()) {
        const element = words.currentNode.parentElement;
        if (!words.currentNode.data.trim() || element.closest("script, button")) continue;
        const both = [light(getComputedStyle(element).color), light(behind(element))];
        least = Math.min(least, (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05));
    }
    return least;
})()"""
