"""Who looks at the web page, the photographs of each, and cleaning up after them.

Gradio would keep uploads in folders that two visitors share, and states for an hour after a page is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
from torch import Tensor

from utils.coloring.hints import Hint, Recolorer

UPLOADS, PAGES, EXAMPLES_DIR, FIXED = "uploads", "pages", "examples", "fixed"
UPLOAD_SECONDS = 600  # after which an upload is removed: a page has a copy of what it has taken in
IDLE_SECONDS = 3600  # after which a page that nobody uses is closed: its browser may never have said goodbye


@dataclass(eq=False)
class Seen:
    """A photograph as a checkpoint saw it: enough to color it again without running the network.

    Attributes:
        plane: what the network sees of it, (1, h, w), in [-1, 1].
        recolorer: keeps what the network gave.
        settings: the hints and the saturation of `ab`.
        ab: the newest colors, (2, h, w).
    """

    plane: Tensor
    recolorer: Recolorer
    settings: tuple[tuple[Hint, ...], float] | None = None
    ab: Tensor | None = None


@dataclass(eq=False)
class Photo:
    """A photograph of a page.

    Attributes:
        path: where it lies, in a folder of its own in the page's folder.
        upload: where it was uploaded to.
        size: its height and width.
        hints: the colors that its owner wants.
        earlier: the hints before each change, for undo.
        current: index of the hint that was tapped or changed last, if it is still there.
        held: whether the next tap moves that hint.
        seen: how checkpoints saw it, by their names; `Colorizer` forgets those that were not used for long.
        shown: the hints, the checkpoint and the saturation of its newest result.
    """

    path: Path
    upload: Path
    size: tuple[int, int]
    hints: list[Hint] = field(default_factory=list)
    earlier: list[list[Hint]] = field(default_factory=list)
    current: int | None = None
    held: bool = False
    seen: dict[str, Seen] = field(default_factory=dict)
    shown: tuple[tuple[Hint, ...], str, float] | None = None

    @property
    def preview(self) -> Path:
        """The copy of at most PREVIEW_SIDE pixels a side that hints are shown on."""
        return self.path.parent / FIXED / "preview.bmp"  # the fastest to read that is lossless

    @property
    def before(self) -> Path:
        """The side of the slider without color."""
        return self.path.parent / FIXED / "before.jpg"


def remove_upload(path: Path) -> None:
    """Remove an upload and the folder that Gradio made for it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent.name != UPLOADS:  # Gradio also leaves empty files there, one for each file that it hands over
            path.parent.rmdir()


@dataclass(frozen=True)
class Visits:
    """The open pages.

    Attributes:
        work: folder that holds the uploads, and one folder for each page.
        open: the photographs of each page by name, by its folder.
        claims: what was uploaded to each page, by its folder, as long as it is there.
        closed: when the pages were closed that may be heard of again: a request was on its way, or a phone wakes up.
    """

    work: Path
    open: dict[Path, dict[str, Photo]] = field(default_factory=dict)
    claims: dict[Path, frozenset[Path]] = field(default_factory=dict)
    closed: dict[Path, float] = field(default_factory=dict)

    def where(self, request: gr.Request) -> Path:
        """Name the folder of one open page; the browser chose the page's name, which may be a path to elsewhere."""
        return self.work / PAGES / hashlib.sha256(str(request.session_hash).encode()).hexdigest()

    def folder(self, request: gr.Request) -> Path:
        """Give the folder of one open page, which is made."""
        self.where(request).mkdir(parents=True, exist_ok=True)
        return self.where(request)

    def photos(self, request: gr.Request) -> dict[str, Photo]:
        """Give the photographs of one open page by name."""
        return self.open.get(self.where(request), {})

    def photo(self, request: gr.Request, chosen: str | None) -> Photo:
        """Give the chosen photograph of one open page.

        Raises:
            gr.Error: there is none.
        """
        if chosen is None:
            raise gr.Error("drop a photograph first")
        if chosen not in self.photos(request):
            raise gr.Error(f"{chosen}: is gone; upload it again")
        return self.photos(request)[chosen]

    def claim(self, files: list[dict] | dict | None, request: gr.Request) -> None:
        """Note what was uploaded to a page as soon as it is, so that closing the page removes what was still waiting.

        Args:
            files: as Gradio's components get them, before they are preprocessed.
            request: of the page.
        """
        paths = (Path(file["path"]).resolve() for file in (files if isinstance(files, list) else [files]) if file)
        uploads = frozenset(path for path in paths if path.is_relative_to(self.work / UPLOADS))
        self.claims[self.where(request)] = self.claims.get(self.where(request), frozenset()) | uploads

    def close(self, request: gr.Request) -> None:
        """Remove what a closed page has left."""
        self.closed[self.where(request)] = time.time()
        self.forget(self.where(request))

    def forget(self, folder: Path) -> None:
        """Remove the files of a page, its uploads and what is known of it."""
        photos = self.open.pop(folder, {})
        for photo in photos.values():
            photo.seen.clear()
        uploads = {photo.upload for photo in photos.values()} | self.claims.pop(folder, frozenset())
        others = {photo.upload for visit in [*self.open.values()] for photo in [*visit.values()]}
        for upload in uploads.difference(others, *self.claims.values()):  # two pages may upload the same file
            if upload.is_relative_to(self.work / UPLOADS):
                remove_upload(upload)
        gone = folder.with_name(f"{folder.name}.{time.monotonic_ns()}")
        with contextlib.suppress(OSError):
            folder.rename(gone)  # a handler that still runs cannot write there any more
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self, now: float) -> None:
        """Remove uploads older than UPLOAD_SECONDS, and pages that nobody has used for IDLE_SECONDS; `now` in s.

        A page that was heard of after it was closed may have nobody who closes it again: it has UPLOAD_SECONDS.
        """
        with contextlib.suppress(OSError):  # something has just gone: the next sweep sees the rest
            for upload in (self.work / UPLOADS).rglob("*"):
                if upload.is_file() and now - upload.stat().st_mtime > UPLOAD_SECONDS:
                    remove_upload(upload)
        for folder, uploads in [*self.claims.items()]:
            if not any(upload.exists() for upload in uploads):
                self.claims.pop(folder, None)
        with contextlib.suppress(OSError):
            for folder in (self.work / PAGES).iterdir():
                idle = now - max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
                if idle > (UPLOAD_SECONDS if folder in self.closed else IDLE_SECONDS):
                    self.forget(folder)
        for folder, when in [*self.closed.items()]:
            if now - when > IDLE_SECONDS and folder not in self.open:
                self.closed.pop(folder, None)
