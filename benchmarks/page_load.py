"""Measure the web page under load: many visitors at once, each with large photographs, and browsers that just go.

    python -m benchmarks.page_load
    python -m benchmarks.page_load --visitors 6 --photographs 2 --closed 10

Starts demo_lab.py on a free port and talks HTTP to it on loopback as its browsers do: a heartbeat for each open page,
uploads, the queue, the stream of its answers. All visitors come at once; each drops its photographs, has all of them
colored, and compares the lightness of what comes back with its own. Then browsers upload a photograph each and close
before the answer. Prints a Markdown table. The peak memory is the kernel's own figure (Linux).
"""

import contextlib
import statistics
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np

from benchmarks.measure import make_main, markdown
from benchmarks.visitor import Refused, Visitor, serve
from demo_lab import SWEEP
from utils import run
from utils.coloring.visits import UPLOAD_SECONDS
from utils.data.sample_set import load_photo
from utils.images import Picture, read_rgb, resize, write_image
from utils.lab import lightness

NAMES = ("astronaut", "coffee", "chelsea", "rocket")
SAME = 4.0  # L, on average: below it two photographs are the same one
CLOSE_SECONDS = 60


@dataclass(frozen=True)
class PageLoadConfig:
    """Measure the web page under load."""

    visitors: int = 20  # At once.
    photographs: int = 5  # Of each visitor.
    megapixels: float = 12.0  # Of each photograph.
    closed: int = 50  # Browsers that upload a photograph and close before the answer.


@dataclass
class Tally:
    """What happened; threads add to it."""

    seconds: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    foreign: int = 0


def write_photograph(path: Path, number: int, megapixels: float) -> Path:
    """Write a photograph that differs from those of other numbers, 4:3, as a JPEG."""
    width, height = (round((megapixels * 1e6 * share) ** 0.5) for share in (4 / 3, 3 / 4))
    photo = np.roll(load_photo(NAMES[number % len(NAMES)]), 37 * (number // len(NAMES)), axis=1)
    write_image(path, Picture(resize(photo, height, width), None))
    return path


def thumbnail(path: Path) -> np.ndarray:
    """Give the L of a small copy of an image."""
    return lightness(resize(read_rgb(path, 64), 48, 64)).numpy()


def visit(url: str, paths: list[Path], folder: Path, tally: Tally) -> Visitor:
    """Drop photographs on a page, have all of them colored, and compare."""
    visitor = Visitor(url)
    settings = ["Default", 1.0]
    try:
        for function in ("add", "pack"):
            started = time.perf_counter()
            first = [visitor.upload(paths), None] if function == "add" else []
            visitor.ask(function, [*first, *settings])
            answer = visitor.answer()
            tally.seconds.append(time.perf_counter() - started)
        with zipfile.ZipFile(BytesIO(visitor.fetch(answer[0]["value"]))) as archive:
            for path in paths:
                back = Path(archive.extract(path.name, folder))
                tally.foreign += bool(np.abs(thumbnail(back) - thumbnail(path)).mean() > SAME)
    except Refused as error:
        tally.refused.append(str(error))
    return visitor


def leave(url: str, path: Path) -> None:
    """Upload a photograph, ask for its colors, and close the page before they come."""
    visitor = Visitor(url)
    with contextlib.suppress(Refused):
        visitor.ask("add", [visitor.upload([path]), None, "Default", 1.0])
        request = visitor.http.build_request(
            "GET", f"{visitor.api}/queue/data", params={"session_hash": visitor.session}
        )
        visitor.http.send(request, stream=True).close()
    visitor.close()


def files_left(home: Path, part: str, seconds: float) -> list[Path]:
    """List the files of pages or uploads that are not empty, once there are none or after some time."""
    left: list[Path] = []
    for _ in range(round(10 * seconds)):
        with contextlib.suppress(FileNotFoundError):  # removed while they are listed
            left = [path for path in home.glob(f"demo_lab_*/{part}/**/*") if path.is_file() and path.stat().st_size]
            if not left:
                return []
        time.sleep(0.1)
    return left


def peak_memory(process: int) -> float:
    """Give the peak of a process's resident memory so far, in 10**6 bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def measure(cfg: PageLoadConfig) -> list[list[str]]:
    """Run both parts; gives the rows of the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, serve(home := Path(folder)) as (url, process):
        photos = [
            [
                write_photograph(home / f"{v}_{p}.jpg", v * cfg.photographs + p, cfg.megapixels)
                for p in range(cfg.photographs)
            ]
            for v in range(cfg.visitors)
        ]
        start, tally = peak_memory(process), Tally()
        with ThreadPoolExecutor(cfg.visitors) as pool:
            folders = [home / "back" / str(number) for number in range(cfg.visitors)]
            pairs = zip(photos, folders, strict=True)
            visitors = list(pool.map(lambda pair: visit(url, pair[0], pair[1], tally), pairs))
        for visitor in visitors:
            visitor.close()
        what = f"{cfg.visitors} visitors x {cfg.photographs} photographs"
        rows.append(row(what, tally, start, peak_memory(process), home))
        small = [write_photograph(home / f"small_{n}.jpg", n, 1.0) for n in range(cfg.closed)]
        with ThreadPoolExecutor(max(1, cfg.closed)) as pool:
            list(pool.map(lambda path: leave(url, path), small))
        rows.append(row(f"{cfg.closed} closed browsers", Tally(), start, peak_memory(process), home))
    return rows


def row(what: str, tally: Tally, start: float, peak: float, home: Path) -> list[str]:
    """Lay a part's figures out, once its files are gone: uploads that no page took over stay for UPLOAD_SECONDS."""
    times, closed = tally.seconds, time.perf_counter()
    pages = files_left(home, "pages", CLOSE_SECONDS)
    left = pages + files_left(home, "uploads", UPLOAD_SECONDS + 2 * SWEEP)
    gone = time.perf_counter() - closed
    spread = [f"{statistics.median(times):.1f}", f"{max(times):.1f}"] if times else ["", ""]
    messages = "; ".join(sorted(set(tally.refused)))
    figures = [len(times), len(tally.refused), tally.foreign, round(start), round(peak), len(left), round(gone)]
    return [what, *spread, *map(str, figures), messages]


def print_load(cfg: PageLoadConfig) -> None:
    """Measure and print the table."""
    titles = ["", "median, s", "slowest, s", "answered", "refused", "foreign", "memory at start, MB", "peak, MB"]
    run.say(markdown([*titles, "files left", "gone after, s", "refusals"], measure(cfg), "---"))


main = make_main(PageLoadConfig, print_load)

if __name__ == "__main__":
    sys.exit(main())
