"""The photographs of the web page: taking them in, coloring them, and cleaning up after them.

Uses the checkpoints of `utils.training`.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import gradio as gr
import torch
from torch import Tensor, nn

from utils.coloring.colorize import cast_convolutions, grayscale, merge, predict_ab, prepare
from utils.coloring.exported import open_generator
from utils.files import IMAGE_EXTENSIONS
from utils.images import ImageError, Picture, encode_image, read_picture, write_image
from utils.run import amp_dtype
from utils.training.checkpoints import training_size

MAX_PIXELS = 2**26  # of an upload
ARCHIVE = "colored.zip"
UPLOADS, PAGES, EXAMPLES_DIR = "uploads", "pages", "examples"


@dataclass(frozen=True)
class Photo:
    """A photograph of a page.

    Attributes:
        path: where it lies, in the page's folder.
        ab: what each checkpoint predicted for it, by name: (2, h, w), in [-1, 1], at the network's working size.
    """

    path: Path
    ab: dict[str, Tensor]


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
        return generator, training_size(info)

    def color(self, photo: Photo, name: str, saturation: float) -> tuple[Picture, Picture]:
        """Give a photograph without color, and colored."""
        picture = read_picture(photo.path)
        if name not in photo.ab:
            generator, size = self.generator(name)
            photo.ab[name] = predict_ab(generator, [prepare(picture, size)], self.device, self.dtype)[0]
        return grayscale(picture), merge(picture, saturation * photo.ab[name])


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
        read_picture(path, max_pixels=MAX_PIXELS)
        target = Path(tempfile.mkdtemp(dir=folder)) / path.name
        shutil.copyfile(path, target)
        if path.is_relative_to(self.work / UPLOADS):
            path.unlink()
        return Photo(target, {})

    def show(self, photos: dict[str, Photo], chosen: str | None, name: str, saturation: float) -> list:
        """Color the chosen photograph: the two sides of the slider, the file to download, and no archive any more."""
        no_archive = gr.update(value=None, visible=False)
        if chosen is None:
            return [None, gr.update(value=None, interactive=False), no_archive]
        photo = photos[chosen]
        try:
            gray, colored = self.colorizer.color(photo, name, saturation)
        except ImageError as error:  # the page was asleep, and its folder removed
            raise gr.Error(f"{chosen}: {error}; upload it again") from None
        results = Path(tempfile.mkdtemp(dir=photo.path.parent))  # under a new name: browsers keep what they have seen
        sides = [results / "before.png", results / "after.png"]
        for path, side in zip(sides, (gray, colored), strict=True):
            write_image(path, side)
        download = results / f"{photo.path.stem}_color{photo.path.suffix}"
        write_image(download, colored)
        for old in photo.path.parent.iterdir():
            if old not in (photo.path, results):
                shutil.rmtree(old)
        return [tuple(map(str, sides)), gr.update(value=str(download), interactive=True), no_archive]

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
