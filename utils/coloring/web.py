"""The photographs of the web page: taking them in, coloring them, and cleaning up after them.

Uses the checkpoints of `utils.training`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

import gradio as gr
import torch
from torch import Tensor, nn

from utils.coloring.colorize import cast_convolutions, grayscale, merge, predict_ab, prepare
from utils.coloring.exported import open_generator
from utils.coloring.hints import Hint, dump_hints, hint_planes, mark, parse_hints, takes_hints
from utils.files import IMAGE_EXTENSIONS, write_text
from utils.images import ImageError, Picture, encode_image, read_picture, resize, write_image
from utils.run import UserError, amp_dtype
from utils.training.checkpoints import working_size

MAX_PIXELS = 2**26  # of an upload
PREVIEW_SIDE = 1024  # most pixels of the longer side of the picture that hints are placed on
ARCHIVE = "colored.zip"
UPLOADS, PAGES, EXAMPLES_DIR = "uploads", "pages", "examples"


@dataclass(frozen=True)
class Photo:
    """A photograph of a page.

    Attributes:
        path: where it lies, in the page's folder.
        picture: a copy of at most PREVIEW_SIDE pixels a side, to show hints on.
        size: its height and width.
        hints: the colors that its owner wants.
        planes: what the network sees of it, by working size: (1, h, w), in [-1, 1].
        ab: what each checkpoint predicted for it, by name, and for which hints: (2, h, w), in [-1, 1].
    """

    path: Path
    picture: Picture
    size: tuple[int, int]
    hints: list[Hint] = field(default_factory=list)
    planes: dict[int, Tensor] = field(default_factory=dict)
    ab: dict[str, tuple[tuple[Hint, ...], Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Colorizer:
    """The checkpoints, and what `infer_lab.py` does with one photograph.

    Attributes:
        checkpoints: G_*.pt files by the name of their stage.
        device: where to compute.
    """

    checkpoints: dict[str, Path]
    device: torch.device

    @functools.cached_property
    def dtype(self) -> torch.dtype | None:
        """The mixed precision of the device."""
        return amp_dtype(self.device, True)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - there is one of these for the whole life of the page
    def generator(self, name: str) -> tuple[nn.Module, int]:
        """Load a checkpoint; gives the generator and its working size."""
        generator, info = open_generator(self.checkpoints[name], self.device)
        cast_convolutions(generator, self.dtype)
        return generator, working_size(info)

    def predict(self, photo: Photo, name: str) -> Tensor:
        """Give the ab of a photograph under its hints, if the checkpoint takes any: (2, h, w), in [-1, 1].

        Raises:
            ImageError: the file is gone.
        """
        generator, size = self.generator(name)
        hints = tuple(photo.hints) if takes_hints(generator) else ()
        if name not in photo.ab or photo.ab[name][0] != hints:
            if size not in photo.planes:
                photo.planes[size] = prepare(read_picture(photo.path), size)
            l = photo.planes[size]
            asked = [hint_planes(hints, photo.size, l) if hints else None]
            photo.ab[name] = hints, predict_ab(generator, [l], self.device, self.dtype, asked)[0]
        return photo.ab[name][1]

    def color(self, photo: Photo, name: str, saturation: float) -> tuple[Picture, Picture]:
        """Give a photograph without color, and colored."""
        picture = read_picture(photo.path)
        return grayscale(picture), merge(picture, saturation * self.predict(photo, name))


def to_hex(color: str) -> str:
    """Convert what the color picker gives, "#rrggbb" or "rgba(r, g, b, a)", to "#rrggbb"."""
    if re.fullmatch("#[0-9a-fA-F]{6}", color):
        return color.lower()
    if channels := re.fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+).*\)", color):
        return "#" + bytes(min(255, round(float(channel))) for channel in channels.groups()).hex()
    raise gr.Error(f"{color[:40]}: is no color")


@dataclass(frozen=True)
class Page:
    """What the handlers of the page need.

    Attributes:
        colorizer: shared by all who look at the page.
        work: folder that holds one folder for each of them.
    """

    colorizer: Colorizer
    work: Path

    def folder(self, request: gr.Request) -> Path:
        """Give the folder of one open page; the browser chose the page's name, which may be a path to elsewhere."""
        folder = self.work / PAGES / hashlib.sha256(str(request.session_hash).encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self, request: gr.Request) -> None:
        """Remove what a closed page has left."""
        shutil.rmtree(self.folder(request), ignore_errors=True)

    def take(self, path: Path, folder: Path) -> Photo:
        """Put an upload, or an example, into its page's folder.

        Raises:
            ImageError: it is no image, or too large.
        """
        if path.suffix.lower() not in IMAGE_EXTENSIONS:
            raise ImageError(f"give one of {', '.join(sorted(IMAGE_EXTENSIONS))}")
        picture = read_picture(path, max_pixels=MAX_PIXELS)
        height, width = picture.rgb.shape[:2]
        scale = min(1.0, PREVIEW_SIDE / max(height, width))
        preview = resize(picture.rgb, max(1, round(height * scale)), max(1, round(width * scale)))
        target = Path(tempfile.mkdtemp(dir=folder)) / path.name
        shutil.copyfile(path, target)
        if path.is_relative_to(self.work / UPLOADS):
            path.unlink()
        return Photo(target, Picture(preview, None), (height, width))

    def canvas(self, photo: Photo, name: str, saturation: float) -> list:
        """Color the small copy and mark its hints: the picture to click on, and the table of the hints."""
        colored = merge(photo.picture, saturation * self.colorizer.predict(photo, name))
        path = Path(tempfile.mkdtemp(dir=photo.path.parent)) / "canvas.png"
        write_image(path, Picture(mark(colored.rgb, photo.hints, photo.size), None))
        return [str(path), [[hint.x, hint.y, hint.color] for hint in photo.hints]]

    def show(self, photos: dict[str, Photo], chosen: str | None, name: str, saturation: float) -> list:
        """Color the chosen photograph: the two sides of the slider, the file to download, and no archive any more."""
        no_archive, no_file = gr.update(value=None, visible=False), gr.update(value=None, interactive=False)
        if chosen is None:
            return [None, no_file, no_archive, None, None, no_file]
        photo = photos[chosen]
        try:
            gray, colored = self.colorizer.color(photo, name, saturation)
        except ImageError as error:  # the page was asleep, and its folder removed
            raise gr.Error(f"{chosen}: {error}; upload it again") from None
        shown = self.canvas(photo, name, saturation)
        results = Path(shown[0]).parent  # under a new name: browsers keep what they have seen
        sides = [results / "before.png", results / "after.png"]
        for path, side in zip(sides, (gray, colored), strict=True):
            write_image(path, side)
        download = results / f"{photo.path.stem}_color{photo.path.suffix}"
        write_image(download, colored)
        write_text(notes := results / f"{photo.path.stem}.json", dump_hints(photo.hints, *photo.size))
        for old in photo.path.parent.iterdir():
            if old not in (photo.path, results):
                shutil.rmtree(old)
        result = gr.update(value=str(download), interactive=True)
        hints = gr.update(value=str(notes), interactive=True) if photo.hints else no_file
        return [tuple(map(str, sides)), result, no_archive, *shown, hints]

    def change(
        self, photos: dict[str, Photo], chosen: str | None, name: str, saturation: float, hints: list[Hint]
    ) -> list:
        """Give the chosen photograph other hints: its canvas and table. `show` is to follow for the rest.

        Raises:
            gr.Error: none is chosen, the checkpoint takes no hints, or the file is gone.
        """
        if chosen is None:
            raise gr.Error("drop a photograph first")
        if not takes_hints(self.colorizer.generator(name)[0]):
            raise gr.Error(f"{name}: this checkpoint takes no hints; choose another")
        photos[chosen].hints[:] = hints
        try:
            return self.canvas(photos[chosen], name, saturation)
        except (ImageError, OSError):
            raise gr.Error(f"{chosen}: is gone; upload it again") from None

    def place(
        self,
        photos: dict[str, Photo],
        chosen: str | None,
        name: str,
        saturation: float,
        color: str,
        event: gr.SelectData,
    ) -> list:
        """Add a hint where the canvas was clicked."""
        photo = photos[str(chosen)]  # the canvas shows one
        sides = zip(event.index, photo.size[::-1], photo.picture.rgb.shape[1::-1], strict=True)
        x, y = (min(int((at + 0.5) * side / small), side - 1) for at, side, small in sides)
        return self.change(photos, chosen, name, saturation, [*photo.hints, Hint(x, y, to_hex(color))])

    def undo(self, photos: dict[str, Photo], chosen: str | None, name: str, saturation: float) -> list:
        """Take the last hint back."""
        return self.change(photos, chosen, name, saturation, photos[chosen].hints[:-1] if chosen else [])

    def clear(self, photos: dict[str, Photo], chosen: str | None, name: str, saturation: float) -> list:
        """Take all hints back."""
        return self.change(photos, chosen, name, saturation, [])

    def load(self, photos: dict[str, Photo], chosen: str | None, name: str, saturation: float, file: str) -> list:
        """Replace the hints by those of a file, as `infer_lab.py` takes it."""
        path = Path(file)
        try:
            hints = parse_hints(path.read_bytes(), path.name)
            if chosen:
                hints.check(*photos[chosen].size)
        except UserError as error:
            raise gr.Error(str(error)) from None
        except ImageError as error:
            raise gr.Error(f"{chosen}: {error}") from None
        finally:
            path.unlink(missing_ok=True)
        return self.change(photos, chosen, name, saturation, list(hints.hints))

    def add(
        self,
        files: list[str] | None,
        photos: dict[str, Photo],
        chosen: str | None,
        name: str,
        saturation: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by this default
    ) -> list:
        """Take over what was dropped, and show the first of it."""
        photos = dict(photos)
        taken = []
        for path in progress.tqdm([Path(file) for file in files or []], desc="reading", unit="photographs"):
            try:
                photo = self.take(path, self.folder(request))
            except ImageError as error:
                gr.Warning(f"{path.name}: {error}", title="Left out")
                continue
            labels = chain([path.name], (f"{path.stem} ({number}){path.suffix}" for number in count(2)))
            label = next(label for label in labels if label not in photos)
            photos[label] = photo
            taken.append(label)
        chosen = taken[0] if taken else chosen
        choice = gr.update(choices=list(photos), value=chosen, visible=len(photos) > 1)
        everything = gr.update(visible=len(photos) > 1)
        return [None, photos, choice, everything, *self.show(photos, chosen, name, saturation)]

    def add_example(
        self,
        example: str,
        photos: dict[str, Photo],
        chosen: str | None,
        name: str,
        saturation: float,
        request: gr.Request,
    ) -> list:
        """Treat an example as if it had been dropped."""
        return self.add([str(self.work / EXAMPLES_DIR / f"{example}.png")], photos, chosen, name, saturation, request)

    def pack(
        self,
        photos: dict[str, Photo],
        name: str,
        saturation: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by this default
    ) -> dict:
        """Color all photographs of a page into one archive."""
        folder = self.folder(request)
        for old in folder.glob(f"*/{ARCHIVE}"):
            shutil.rmtree(old.parent)
        archive = Path(tempfile.mkdtemp(dir=folder)) / ARCHIVE
        with zipfile.ZipFile(archive, "w") as file:
            for label, photo in progress.tqdm(list(photos.items()), desc="coloring", unit="photographs"):
                try:
                    _, colored = self.colorizer.color(photo, name, saturation)
                except ImageError as error:
                    raise gr.Error(f"{label}: {error}; upload it again") from None
                file.writestr(label, encode_image(photo.path.suffix, colored))
        return gr.update(value=str(archive), visible=True)
