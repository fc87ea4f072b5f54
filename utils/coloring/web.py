"""The photographs of the web page: taking them in, coloring them, and what is shown of them.

`utils.coloring.web_hints` adds the hints.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import gradio as gr
import numpy as np

from utils.coloring.colorize import grayscale, merge
from utils.coloring.hints import Hint, dump_hints, mark, square
from utils.coloring.palette import likely_colors, style, to_hex
from utils.coloring.visits import EXAMPLES_DIR, Photo, Visits
from utils.coloring.web_colors import Colorizer
from utils.files import IMAGE_EXTENSIONS, JPEG_EXTENSIONS
from utils.images import ImageError, Picture, encode_image, read_picture, resize
from utils.lab import lightness

MAX_PIXELS = 2**26  # of an upload
MAX_PHOTOS = 50  # of a page
PREVIEW_SIDE = 1024  # most pixels of the longer side of the picture that hints are placed on
SIDES_SIDE = 2048  # the same of the two sides of the slider; the download has all pixels
ARCHIVE = "colored.zip"
ADD, MOVE = (
    "Choose a color, then tap where it belongs; tap a hint to move or change it",
    "Tap where the marked hint belongs, give it another color, or remove it",
)


def shrink(picture: Picture, side: int) -> Picture:
    """Shrink a picture to at most `side` pixels a side; without its alpha."""
    height, width = picture.rgb.shape[:2]
    scale = min(1.0, side / max(height, width))
    return Picture(resize(picture.rgb, max(1, round(height * scale)), max(1, round(width * scale))), None)


def put(path: Path, picture: Picture) -> None:
    """Write a picture into a folder that exists: that of a page which was closed must not come back."""
    path.write_bytes(encode_image(path.suffix, picture))


def fresh(photo: Photo, kind: str) -> Path:
    """Make a new folder beside a photograph and remove the earlier ones of its kind: browsers keep what they saw."""
    earlier = list(photo.path.parent.glob(f"{kind}_*"))
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}_", dir=photo.path.parent))
    for path in earlier:
        shutil.rmtree(path, ignore_errors=True)
    return folder


def lightness_at(photo: Photo, preview: Picture, hint: Hint) -> float:
    """Give the mean L of a photograph's preview in the 5 x 5 pixels around a hint."""
    x, y = (
        int(at * small / side)
        for at, small, side in zip((hint.x, hint.y), preview.rgb.shape[1::-1], photo.size[::-1], strict=True)
    )
    return lightness(np.ascontiguousarray(preview.rgb[square(y, x, 2)])).mean().item()


def reason(error: ImageError | OSError) -> str:
    """Say what is wrong without the path."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


@dataclass(frozen=True)
class Page:
    """What the handlers of the page need; they run one at a time.

    Attributes:
        colorizer: shared by all who look at the page.
        visits: what each of them has.
    """

    colorizer: Colorizer
    visits: Visits

    def take(self, path: Path, folder: Path) -> Photo:
        """Copy an upload, or an example, into its page's folder.

        Raises:
            ImageError: it is no image, or too large.
            OSError: the disk is full, or the page was closed.
        """
        if path.suffix.lower() not in IMAGE_EXTENSIONS:
            raise ImageError(f"give one of {', '.join(sorted(IMAGE_EXTENSIONS))}")
        picture = read_picture(path, max_pixels=MAX_PIXELS)
        photo = Photo(Path(tempfile.mkdtemp(dir=folder)) / path.name, path, picture.rgb.shape[:2])
        shutil.copyfile(path, photo.path)
        photo.preview.parent.mkdir()
        put(photo.preview, shrink(picture, PREVIEW_SIDE))
        put(photo.before, grayscale(shrink(picture, SIDES_SIDE)))
        return photo

    def canvas(self, photo: Photo, name: str, saturation: float) -> list:
        """Color the small copy and mark its hints.

        Returns:
            The picture to tap on, the table of the hints, whether one can be removed, and the likely colors of its
            place: whether they are shown, and their style.
        """
        preview = read_picture(photo.preview)
        colored = merge(preview, self.colorizer.predict(photo, name, saturation))
        path = fresh(photo, "canvas") / "canvas.jpg"
        put(path, Picture(mark(colored.rgb, photo.hints, photo.size, photo.current if photo.held else None), None))
        hint = None if photo.current is None else photo.hints[photo.current]
        return [
            gr.update(value=str(path), label=MOVE if photo.held else ADD),
            [[hint.x, hint.y, hint.color] for hint in photo.hints],
            gr.update(interactive=hint is not None),
            gr.update(visible=hint is not None),
            style(likely_colors(lightness_at(photo, preview, hint))) if hint else "",
        ]

    def color_at(self, photo: Photo, name: str, saturation: float, x: int, y: int) -> str:
        """Give the mean color of the colored small copy in the 5 x 5 pixels around a place: "#rrggbb"."""
        colored = merge(read_picture(photo.preview), self.colorizer.predict(photo, name, saturation))
        levels = colored.rgb[square(y, x, 2)].reshape(-1, 3).mean(axis=0) / np.iinfo(colored.rgb.dtype).max
        return to_hex(levels)

    def results(self, photo: Photo, name: str, saturation: float) -> list:
        """Color a photograph: the two sides of the slider, the file to download, no archive any more, its hints.

        Raises:
            ImageError: the file is gone.
        """
        colored = self.colorizer.color(photo, name, saturation)
        folder = fresh(photo, "result")
        put(download := folder / f"{photo.path.stem}_color{photo.path.suffix}", colored)
        after = folder / "after.jpg"
        if max(photo.size) <= SIDES_SIDE and photo.path.suffix.lower() in JPEG_EXTENSIONS:
            shutil.copyfile(download, after)  # which would be encoded to the same bytes
        else:
            put(after, shrink(colored, SIDES_SIDE))
        (notes := folder / f"{photo.path.stem}.json").write_text(dump_hints(photo.hints, *photo.size))
        photo.shown = tuple(photo.hints), name, saturation
        return [
            (str(photo.before), str(after)),
            gr.update(value=str(download), interactive=True),
            gr.update(value=None, visible=False),
            gr.update(value=str(notes) if photo.hints else None, interactive=bool(photo.hints)),
        ]

    def show(self, chosen: str | None, name: str, saturation: float, request: gr.Request) -> list:
        """Show the chosen photograph: what `results` and `canvas` give."""
        if chosen is None:
            nothing = gr.update(value=None, interactive=False)
            hidden = gr.update(visible=False)
            none = gr.update(interactive=False)
            return [None, nothing, gr.update(value=None, visible=False), nothing, None, None, none, hidden, ""]
        photo = self.visits.photo(request, chosen)
        photo.held = False
        try:
            return [*self.results(photo, name, saturation), *self.canvas(photo, name, saturation)]
        except (ImageError, OSError) as error:  # the page was asleep, and its folder removed
            raise gr.Error(f"{chosen}: {reason(error)}; upload it again") from None

    def update(self, chosen: str | None, name: str, saturation: float, request: gr.Request) -> list:
        """Give what `results` gives, if there is a photograph and its hints were changed since."""
        photo = self.visits.photos(request).get(str(chosen))
        if photo is None or photo.shown == (tuple(photo.hints), name, saturation):
            return [gr.skip()] * 4
        try:
            return self.results(photo, name, saturation)
        except (ImageError, OSError) as error:
            raise gr.Error(f"{chosen}: {reason(error)}; upload it again") from None

    def add(
        self,
        files: list[str] | None,
        chosen: str | None,
        name: str,
        saturation: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by this default
    ) -> list:
        """Take over what was dropped, and show the first of it."""
        folder = self.visits.folder(request)
        photos = self.visits.open.setdefault(folder, {})
        taken = []
        for path in progress.tqdm([Path(file) for file in files or []], desc="reading", unit="photographs"):
            if len(photos) >= MAX_PHOTOS:
                gr.Warning(f"a page holds at most {MAX_PHOTOS} photographs; reload it for more", title="Left out")
                break
            try:
                photo = self.take(path, folder)
            except (ImageError, OSError) as error:
                gr.Warning(f"{path.name}: {reason(error)}", title="Left out")
                continue
            labels = chain([path.name], (f"{path.stem} ({number}){path.suffix}" for number in count(2)))
            label = next(label for label in labels if label not in photos)
            photos[label] = photo
            taken.append(label)
        if not photos:  # the page may have been closed while this waited, and its uploads be gone
            self.visits.open.pop(folder, None)
            with contextlib.suppress(OSError):
                folder.rmdir()
        chosen = taken[0] if taken else chosen
        choice = gr.update(choices=list(photos), value=chosen, visible=len(photos) > 1)
        everything = gr.update(visible=len(photos) > 1)
        return [None, choice, everything, *self.show(chosen, name, saturation, request)]

    def add_example(
        self, example: str, chosen: str | None, name: str, saturation: float, request: gr.Request
    ) -> list:
        """Treat an example as if it had been dropped."""
        return self.add([str(self.visits.work / EXAMPLES_DIR / f"{example}.png")], chosen, name, saturation, request)

    def pack(
        self,
        name: str,
        saturation: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by this default
    ) -> dict:
        """Color all photographs of a page into one archive."""
        if not self.visits.photos(request):
            raise gr.Error("drop a photograph first")
        folder = self.visits.folder(request)
        for old in folder.glob(f"*/{ARCHIVE}"):
            shutil.rmtree(old.parent)
        archive = Path(tempfile.mkdtemp(dir=folder)) / ARCHIVE
        with zipfile.ZipFile(archive, "w") as file:
            for label, photo in progress.tqdm(
                list(self.visits.photos(request).items()), desc="coloring", unit="photographs"
            ):
                try:
                    colored = self.colorizer.color(photo, name, saturation)
                except (ImageError, OSError) as error:
                    raise gr.Error(f"{label}: {reason(error)}; upload it again") from None
                file.writestr(label, encode_image(photo.path.suffix, colored))
        return gr.update(value=str(archive), visible=True)
