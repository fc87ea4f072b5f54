"""Measure the web page under load: many visitors at once, each with large photographs, and browsers that just go.

    python -m benchmarks.page_load
    python -m benchmarks.page_load --visitors 6 --photographs 2 --closed 10

Starts demo_lab.py on a free port and talks HTTP to it on loopback as its browsers do: a heartbeat for each open page,
uploads, the queue, the stream of its answers. All visitors come at once; each drops its photographs, has all of them
colored, and compares the lightness of what comes back with its own. Then browsers upload a photograph each and close
before the answer. Prints a Markdown table. The peak memory is the kernel's own figure (Linux).
"""

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np

from benchmarks.measure import ROOT, make_main, markdown
from utils import run
from utils.data.sample_set import load_photo
from utils.images import Picture, read_rgb, resize, write_image
from utils.lab import lightness

NAMES = ("astronaut", "coffee", "chelsea", "rocket")
SAME = 4.0  # L, on average: below it two photographs are the same one
START_SECONDS, CLOSE_SECONDS = 120, 60


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


class Refused(Exception):
    """The page refused a request; the message is its own."""


class Visitor:
    """An open page of a browser."""

    def __init__(self, url: str) -> None:
        self.api = f"{url}/gradio_api"
        self.session = uuid.uuid4().hex
        self.http = httpx.Client(timeout=None)
        dependencies = self.http.get(f"{url}/config").json()["dependencies"]
        self.functions = {entry["api_name"]: entry["id"] for entry in dependencies}
        self.heartbeat = self.http.send(
            self.http.build_request("GET", f"{self.api}/heartbeat/{self.session}"), stream=True
        )
        next(self.heartbeat.iter_raw())

    def upload(self, paths: list[Path]) -> list[dict]:
        """Upload files; gives what the handlers take for them."""
        files = [("files", (path.name, path.read_bytes())) for path in paths]
        answer = self.http.post(f"{self.api}/upload", files=files)
        if answer.is_error:
            raise Refused(answer.text)
        return [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in answer.json()]

    def ask(self, function: str, data: list) -> None:
        """Put a request into the queue."""
        body = {"data": data, "fn_index": self.functions[function], "session_hash": self.session}
        answer = self.http.post(f"{self.api}/queue/join", json=body)
        if answer.is_error:
            raise Refused(answer.json()["detail"])

    def answer(self) -> list:
        """Wait for the answer of the queue."""
        with self.http.stream("GET", f"{self.api}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:") or "{}")
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise Refused(str(message["output"]))
                    return message["output"]["data"]
        raise Refused("the stream ended")

    def fetch(self, file: dict) -> bytes:
        """Download a file that an answer names."""
        return self.http.get(f"{self.api}/file={file['path']}").raise_for_status().content

    def close(self) -> None:
        """Close the page."""
        self.heartbeat.close()
        self.http.close()


@contextlib.contextmanager
def serve(home: Path) -> Iterator[tuple[str, int]]:
    """Run the page in a process of its own, with its files below `home`; gives its address and process number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "demo_lab.py"), "--port", str(port), "--device", "cpu"]
    with open(home / "log.txt", "w") as log:
        server = subprocess.Popen(command, cwd=home, env={**os.environ, "TMPDIR": str(home)}, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(10 * START_SECONDS):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            if server.poll() is not None:
                raise run.UserError(f"demo_lab.py ended: {(home / 'log.txt').read_text()[-300:]}")
            time.sleep(0.1)
        yield url, server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


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
    visitor.close()


def files_left(home: Path) -> list[Path]:
    """List what the pages have left, CLOSE_SECONDS after they were closed at most."""
    for _ in range(10 * CLOSE_SECONDS):
        left = [path for part in ("uploads", "pages") for path in home.glob(f"demo_lab_*/{part}/*")]
        left = [path for path in left if path.is_file() or any(path.iterdir())]
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
        rows.append(row(what, tally, start, peak_memory(process), files_left(home)))
        small = [write_photograph(home / f"small_{n}.jpg", n, 1.0) for n in range(cfg.closed)]
        with ThreadPoolExecutor(max(1, cfg.closed)) as pool:
            list(pool.map(lambda path: leave(url, path), small))
        rows.append(row(f"{cfg.closed} closed browsers", Tally(), start, peak_memory(process), files_left(home)))
    return rows


def row(what: str, tally: Tally, start: float, peak: float, left: list[Path]) -> list[str]:
    """Lay a part's figures out."""
    times = tally.seconds
    spread = [f"{statistics.median(times):.1f}", f"{max(times):.1f}"] if times else ["", ""]
    messages = "; ".join(sorted(set(tally.refused)))
    figures = [len(times), len(tally.refused), tally.foreign, round(start), round(peak), len(left)]
    return [what, *spread, *map(str, figures), messages]


def print_load(cfg: PageLoadConfig) -> None:
    """Measure and print the table."""
    titles = ["", "median, s", "slowest, s", "answered", "refused", "foreign", "memory at start, MB", "peak, MB"]
    run.say(markdown([*titles, "left", "refusals"], measure(cfg), "---"))


main = make_main(PageLoadConfig, print_load)

if __name__ == "__main__":
    sys.exit(main())
