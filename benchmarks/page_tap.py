"""Measure how long the web page takes from a tap on a photograph to its new colors, in Chromium.

    python -m benchmarks.page_tap
    python -m benchmarks.page_tap --megapixels 12 --taps 4

Starts demo_lab.py on a free port, drops an enlarged photograph of scikit-image on it, taps places one after the other
and clicks on the slider of the saturation as often. The browser's own clock counts from the end of the tap to the
frame that shows the small picture, and to the one that shows the result. Prints a Markdown table. Needs
requirements-dev.txt and Chromium (Debian: apt install chromium).
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.measure import make_main, markdown
from benchmarks.page_load import write_photograph
from benchmarks.visitor import serve
from utils import run

TIMEOUT_SECONDS = 120
WATCH = """() => {
    addEventListener('pointerup', () => { window.times = {start: performance.now()} }, true);
    document.addEventListener('load', ({target}) => requestAnimationFrame(() => {
        const part = target.closest('#canvas') ? 'small'
            : target.closest('#sides') && target.src.includes('after') ? 'result' : 'other';
        if (window.times) window.times[part] = performance.now();
    }), true);
}"""  # the event of an image does not bubble, but it can be captured


@dataclass(frozen=True)
class PageTapConfig:
    """Measure how long the web page takes from a tap to the new colors."""

    megapixels: float = 2.0  # Of the photograph.
    taps: int = 10  # On the photograph, and on the saturation; at most 24.


def wait_for_times(page: Page) -> tuple[float, float]:
    """Wait for both pictures; gives the seconds from the end of the tap to the small one and to the result."""
    page.wait_for_function("window.times && window.times.small && window.times.result")
    times = page.evaluate("window.times")
    small, result = ((times[part] - times["start"]) / 1000 for part in ("small", "result"))
    return small, result


def tap_places(page: Page, taps: int) -> list[tuple[float, float]]:
    """Tap places that lie too far apart to be taken for one another, on a grid of 6 x 4."""
    times = []
    for number in range(taps):
        box = page.locator("#canvas img").bounding_box()
        assert box is not None
        x, y = box["width"] * (number % 6 + 0.5) / 6, box["height"] * (number // 6 + 0.5) / 4
        page.locator("#canvas img").click(position={"x": x, "y": y})
        times.append(wait_for_times(page))
    return times


def change_saturation(page: Page, taps: int) -> list[tuple[float, float]]:
    """Click on the slider of the saturation, left and right in turns."""
    times = []
    slider = page.locator("#saturation input[type=range]")
    for number in range(taps):
        box = slider.bounding_box()
        assert box is not None
        share = 0.4 + 0.4 * (number % 2) + number / 200  # no value twice
        slider.click(position={"x": share * box["width"], "y": box["height"] / 2})
        times.append(wait_for_times(page))
    return times


def measure(cfg: PageTapConfig) -> list[list[str]]:
    """Run both parts; gives the rows of the table.

    Raises:
        UserError: there is no Chromium, or the page does not start.
    """
    names = "chromium", "chromium-browser", "google-chrome"
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        raise run.UserError("no Chromium is installed (Debian: apt install chromium)")
    if not 1 <= cfg.taps <= 24:
        raise run.UserError(f"--taps {cfg.taps}: give 1 to 24")
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as (url, _), sync_playwright() as playwright:
        photo = write_photograph(Path(folder) / "photograph.jpg", 0, cfg.megapixels)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(1000 * TIMEOUT_SECONDS)
        page.goto(url)
        page.set_input_files("#drop input[type=file]", photo)
        page.wait_for_selector("#sides img[src*=after]")
        page.click("#hints > button")
        page.wait_for_selector("#canvas img")
        page.evaluate(WATCH)
        rows = [row("a tap", tap_places(page, cfg.taps))]
        rows.append(row(f"another saturation, under {cfg.taps} hints", change_saturation(page, cfg.taps)))
        browser.close()
    return rows


def row(what: str, times: list[tuple[float, float]]) -> list[str]:
    """Lay a part's times out."""
    figures = [f"{function(part):.2f}" for part in zip(*times, strict=True) for function in (statistics.median, max)]
    return [what, *figures]


def print_times(cfg: PageTapConfig) -> None:
    """Measure and print the table."""
    titles = ["", "small picture, median s", "slowest", "result, median s", "slowest"]
    run.say(markdown(titles, measure(cfg)))


main = make_main(PageTapConfig, print_times)

if __name__ == "__main__":
    sys.exit(main())
