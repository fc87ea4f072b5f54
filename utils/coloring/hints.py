"""Color hints: the colors that someone wants at places of a photograph, and the planes that the network takes.

Hints as in Zhang et al. 2017, "Real-Time User-Guided Image Colorization with Learned Deep Priors", arXiv:1705.02999.
docs/USAGE.md describes the file format; `affinity_lab` follows the planes.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from affinity_lab import follow_hints
from models_lab import Generator
from utils.coloring.borders import Border
from utils.images import ImageError
from utils.lab import normalize_ab, rgb_to_lab
from utils.run import UserError

# Pixels of the working size. Of 0 to 4 it brings an average place of a photograph closest to what the hint asks for.
DEFAULT_RADIUS = 2
MAX_BYTES = 2**20  # of a file: some ten thousand hints
FORM = '{"x": 120, "y": 80, "color": "#2040a0", "radius": 6}'
MEND = f"write a list of hints such as {FORM}"


@dataclass(frozen=True)
class Hint:
    """A color at a place.

    Attributes:
        x, y: column and row in the upright photograph, in pixels from its upper left corner.
        color: sRGB, "#rrggbb"; its lightness does not count.
        radius: pixels of the photograph on each side of the place; None for DEFAULT_RADIUS of the working size.
    """

    x: float
    y: float
    color: str
    radius: float | None = None


@dataclass(frozen=True)
class Hints:
    """What a file holds.

    Attributes:
        name: of the file, for messages.
        hints: where two overlap, the later one counts.
        size: height and width of the photograph that they were made for, or None if the file does not say.
    """

    name: str
    hints: tuple[Hint, ...]
    size: tuple[int, int] | None = None

    def check(self, height: int, width: int) -> None:
        """Check that these are hints for a photograph of this size.

        Raises:
            ImageError: it has another size, or a hint lies outside it.
        """
        if self.size not in (None, (height, width)):
            made_for = f"{self.size[1]}x{self.size[0]}" if self.size else ""
            raise ImageError(f"is {width}x{height}, but {self.name} is for an image of {made_for}; place them anew")
        for number, hint in enumerate(self.hints, 1):
            if not (0 <= hint.x < width and 0 <= hint.y < height):
                place = f"x {hint.x:g}, y {hint.y:g}"
                raise ImageError(
                    f"is {width}x{height}: hint {number} of {self.name} lies outside it ({place}); move it inside"
                )


def takes_hints(generator: nn.Module) -> bool:
    """Whether a generator takes hints; an exported network does not."""
    return isinstance(generator, Generator)


class Recolorer(nn.Module):
    """A generator whose colors are multiplied by a saturation; hints are followed after that, and keep their colors.

    Args:
        generator: maps L (B, 1, H, W) to ab (B, 2, H, W), both in [-1, 1]. Its mode becomes that of this module.
        saturation: the factor; may be changed at any time.
        keep: run the generator for the first L alone. Later calls, which must be for the same L, use what it gave.
    """

    def __init__(self, generator: nn.Module, saturation: float = 1.0, keep: bool = False):
        super().__init__()
        self.generator, self.saturation, self.keep = generator, saturation, keep
        self.seen: tuple[Tensor, Tensor | None] | None = None
        self.train(generator.training)

    def predict(self, l: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give ab without hints and saturation, (B, 2, H, W), and the features of a generator that takes hints."""
        if isinstance(self.generator, Generator):
            return self.generator.predict(l)
        return self.generator(l), None

    def forward(self, l: Tensor, hints: Tensor | None = None) -> Tensor:
        """Predict color, (B, 2, H, W), float32, and follow hints (B, 3, H, W), which only some generators take."""
        ab, features = seen = self.seen or self.predict(l)
        if self.keep:
            self.seen = seen
        ab = self.saturation * ab.float()
        if hints is None:
            return ab
        assert features is not None
        return follow_hints(ab, hints, l, features)


def _number(entry: Mapping[str, object], key: str, where: str) -> float:
    value = entry.get(key)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    except OverflowError:  # an integer that no float can hold
        pass
    raise UserError(f'{where}: "{key}" must be a number, not {reprlib.repr(value)}')


def _parse_hint(entry: object, where: str) -> Hint:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must be an object such as {FORM}")
    if unknown := sorted(entry.keys() - {"x", "y", "color", "radius"}):
        raise UserError(f"{where}: {reprlib.repr(unknown[0])} is unknown; a hint has x, y, color and radius")
    color = entry.get("color")
    if not isinstance(color, str) or not re.fullmatch("#[0-9a-fA-F]{6}", color):
        raise UserError(f'{where}: {reprlib.repr(color)} is no color; give one such as "#2040a0"')
    radius = None if entry.get("radius") is None else _number(entry, "radius", where)
    if radius is not None and radius < 0:
        raise UserError(f'{where}: "radius" must not be negative')
    return Hint(_number(entry, "x", where), _number(entry, "y", where), color.lower(), radius)


def parse_hints(data: bytes, name: str) -> Hints:
    """Read hints from the bytes of a JSON file; `Hints.check` compares them with the photograph.

    Raises:
        UserError: they are something else; one line that begins with `name`.
    """
    try:
        value = json.loads(data.decode("utf-8-sig")) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        value = None
    size = None
    if isinstance(value, dict):
        width, height = value.get("width"), value.get("height")
        if not (type(width) is int and type(height) is int):
            raise UserError(f'{name}: "width" and "height" must be those of the photograph, in pixels')
        size, value = (height, width), value.get("hints")
    if not isinstance(value, list):
        raise UserError(f"{name}: not a readable file of hints; {MEND}")
    return Hints(name, tuple(_parse_hint(entry, f"{name}: hint {i}") for i, entry in enumerate(value, 1)), size)


def read_hints(path: Path) -> Hints:
    """Read a file of hints.

    Raises:
        UserError: it does not exist or is something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {MEND}")
    with open(path, "rb") as file:
        return parse_hints(file.read(MAX_BYTES + 1), str(path))


def dump_hints(hints: Sequence[Hint], height: int, width: int) -> str:
    """Write hints for a photograph of this size as JSON, as `parse_hints` reads them."""
    entries = [{key: value for key, value in asdict(hint).items() if value is not None} for hint in hints]
    return json.dumps({"width": width, "height": height, "hints": entries}, indent=1)


def find_hints(source: Path, outputs: Mapping[Path, Path], recursive: bool) -> dict[Path, Hints]:
    """Read the hints of images.

    Args:
        source: a file, for a single image; or a folder with <stem>.json for those that have some, in the folder
            structure of the images.
        outputs: the images, and the files that they become, relative to the output folder.
        recursive: look into the folders below the source as well.

    Raises:
        UserError: there is no such file, one of them is invalid, or it belongs to none of the images.
    """
    if not source.is_dir():
        if len(outputs) > 1:
            raise UserError(f"--hints {source}: for {len(outputs)} images name a folder with <stem>.json for each")
        return dict.fromkeys(outputs, read_hints(source))
    files = {
        path.relative_to(source).with_suffix(""): path
        for path in sorted(source.glob("**/*.json" if recursive else "*.json"))
        if not path.name.startswith("._")  # macOS writes such files to disks with other file systems
    }
    images = {image: output.parent / image.stem for image, output in outputs.items()}
    for stem, path in files.items():
        if stem not in images.values():
            raise UserError(f"{path}: there is no image {stem}.*; rename or remove the file")
    if not files:
        raise UserError(f"--hints {source}: contains no .json files")
    read = {stem: read_hints(path) for stem, path in files.items()}
    return {image: read[stem] for image, stem in images.items() if stem in read}


def without_hinted(border: Border, hints: Sequence[Hint], height: int, width: int) -> Border:
    """Take the sides that hold a hint for picture, not border; the photograph has the given size."""
    sides = {
        "top": lambda hint: hint.y < border.top,
        "bottom": lambda hint: hint.y >= height - border.bottom,
        "left": lambda hint: hint.x < border.left,
        "right": lambda hint: hint.x >= width - border.right,
    }
    return replace(border, **{side: 0 for side, holds in sides.items() if any(map(holds, hints))})


def crop_hints(hints: Sequence[Hint], top: int, left: int, height: int, width: int) -> list[Hint]:
    """Give the hints in a part of a photograph, their places counted from its corner."""
    moved = [replace(hint, x=hint.x - left, y=hint.y - top) for hint in hints]
    return [hint for hint in moved if 0 <= hint.x < width and 0 <= hint.y < height]


def square(row: int, column: int, radius: int) -> tuple[slice, slice]:
    """Give the rows and columns of a hint's square, as far as they are inside the image."""
    return slice(max(0, row - radius), row + radius + 1), slice(max(0, column - radius), column + radius + 1)


def hint_planes(hints: Sequence[Hint], size: tuple[int, int], plane: Tensor) -> Tensor:
    """Draw hints at the size that the network sees: squares of one pixel at least.

    Args:
        hints: inside the photograph.
        size: its height and width.
        plane: what the network sees of it, (1, h, w).

    Returns:
        (3, h, w): the ab of the colors, in [-1, 1], where the third plane is 1, and 0 elsewhere.
    """
    (height, width), (h, w) = size, plane.shape[1:]
    planes = torch.zeros(3, h, w)
    for hint in hints:
        rgb = torch.tensor([*bytes.fromhex(hint.color[1:])]).view(3, 1, 1) / 255
        row, column = min(int((hint.y + 0.5) * h / height), h - 1), min(int((hint.x + 0.5) * w / width), w - 1)
        radius = DEFAULT_RADIUS if hint.radius is None else round(min(hint.radius * h / height, h + w))
        rows, columns = square(row, column, radius)
        planes[:2, rows, columns] = normalize_ab(rgb_to_lab(rgb)[1:])
        planes[2, rows, columns] = 1
    return planes


def mark(rgb: np.ndarray, hints: Sequence[Hint], size: tuple[int, int], held: int | None = None) -> np.ndarray:
    """Draw hints for a photograph of `size` as dots, ringed in white and black, on a copy (H, W, 3) of it.

    The hint of index `held` is drawn twice as large.
    """
    levels = np.iinfo(rgb.dtype).max / 255
    marked = np.ascontiguousarray(rgb).copy()
    radius = max(2, round(max(rgb.shape[:2]) / 128))
    for number, hint in enumerate(hints):
        center = int(hint.x * rgb.shape[1] / size[1]), int(hint.y * rgb.shape[0] / size[0])
        colors = ((0, 0, 0), (255, 255, 255), tuple(bytes.fromhex(hint.color[1:])))
        scale = 2 if number == held else 1
        for wider, color in zip((2, 1, 0), colors, strict=True):
            cv2.circle(marked, center, scale * (radius + wider), [levels * c for c in color], cv2.FILLED, cv2.LINE_AA)
    return marked
