"""Where the colored images go: never onto an input, nor onto each other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from utils.files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, common_root, list_images
from utils.images import HOLD_16_BIT, HOLD_NO_ALPHA, Picture
from utils.run import UserError

MEND = "name another --output-dir"
BITS = "written in 8 bits, as {} holds no 16"
CONVERT = "convert such images, and color films one at a time"
RAW = ".arw .cr2 .cr3 .dng .nef .orf .raf .rw2"
UNREAD = {*f".avif .heic .heif .pdf .psd {RAW}".split(), *VIDEO_EXTENSIONS}  # which people keep with photographs
FLAT = "laid on white, as {} holds no transparency"


def name_outputs(images: Sequence[Path], suffix: str | None = ".png") -> list[Path]:
    """Name the outputs of a listing: a.jpg gives a.png, but a_jpg.png where that name would be taken twice.

    The names follow from the listing alone, so that every run gives the same. Names that differ in letter case alone
    count as equal, as they do on macOS and Windows.

    Args:
        images: the listing.
        suffix: of the outputs; None lets each keep its name.
    """
    if suffix is None:
        return list(images)
    long: set[Path] = set()
    while True:
        stems = [f"{p.stem}_{p.suffix[1:]}" if p in long else p.stem for p in images]
        names = [p.with_name(f"{stem}{suffix}") for p, stem in zip(images, stems, strict=True)]
        count = Counter(str(name).casefold() for name in names)
        clashing = {p for p, name in zip(images, names, strict=True) if count[str(name).casefold()] > 1}
        if clashing <= long:
            return names
        long |= clashing


def plan(
    source: Path, output_dir: Path, recursive: bool, panels: str | None, suffix: str | None = ".png"
) -> dict[Path, Path]:
    """Map each image of the input to its output, relative to the output folder.

    Args:
        source: image, folder, or text file with one path a line.
        output_dir: where the outputs will go.
        recursive: walk the folders below the source as well.
        panels: folder in `output_dir` for a PNG panel of each image, or None.
        suffix: of the outputs; None lets each keep the name of its input.

    Raises:
        UserError: there is no image, or an output would overwrite an input or what lies beside one.
    """
    folder = output_dir.resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{output_dir}: not a folder; {MEND}")
    if folder == source.resolve():
        raise UserError(f"{output_dir}: the outputs would mix with the inputs; {MEND}")
    if source.is_dir():
        try:
            images = list_images(source, recursive)
        except UserError as error:
            deeper = not recursive and any(path.is_dir() for path in source.iterdir())
            why = "; --recursive looks into the folders there" if deeper else ""
            unread = count_unread(source, output_dir, recursive)
            raise UserError(f"{error}{why}{f'; there are {unread}, {CONVERT}' if unread else ''}") from None
        if folder.is_relative_to(source.resolve()):  # what an earlier run wrote is no input
            images = [path for path in images if not path.parent.resolve().is_relative_to(folder)]
        if not images:
            raise UserError(f"{source}: contains no images outside {output_dir}")
    else:
        single = source.is_file() and source.suffix.lower() in IMAGE_EXTENSIONS
        images = list(dict.fromkeys(Path(os.path.abspath(path)) for path in [source] * single or list_images(source)))
    root = common_root(source, images)
    names = name_outputs([path.relative_to(root) for path in images], suffix)
    folders = {path.parent.resolve() for path in images}
    inputs = {identity: path for path in images if (identity := _identity(path))}
    written = [folder / name for name in names]
    written += [folder / panels / name for name in name_outputs(names)] if panels else []
    for path in written:
        if (identity := _identity(path)) in inputs:
            raise UserError(f"{inputs[identity]}: would be overwritten; {MEND}")
        if identity and any(inputs_folder.is_relative_to(path.parent.resolve()) for inputs_folder in folders):
            raise UserError(f"{path}: is there already, beside an input or above; {MEND}, or remove it")
    if panels and any(name.parts[0].casefold() == panels for name in names):
        raise UserError(f"{root / panels}: its outputs would mix with the panels; rename it or leave --compare out")
    return dict(zip(images, names, strict=True))


def count_unread(source: Path, output_dir: Path, recursive: bool) -> str:
    """Count the pictures and films of a folder that are of kinds not colored there: "200 .heic, 1 .avi", or ""."""
    folder = output_dir.resolve()
    names = (
        name
        for root, _, names in islice(os.walk(source), None if recursive else 1)
        if not Path(root).resolve().is_relative_to(folder)
        for name in names
    )
    kinds = Counter(Path(name).suffix.lower() for name in names)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common() if kind in UNREAD)


def fit_container(picture: Picture, suffix: str) -> tuple[Picture, list[str]]:
    """Make a picture one that a kind of file can hold.

    Transparent pixels are laid on white, as viewers show them: what lies below was never seen.

    Args:
        picture: of 8 or 16 bit, with alpha or without.
        suffix: of the file.

    Returns:
        The picture, and what had to be done to it.
    """
    rgb, alpha, remarks = picture.rgb, picture.alpha, []
    suffix = suffix.lower()
    kind = suffix[1:].upper()
    if rgb.dtype == np.uint16 and suffix not in HOLD_16_BIT:
        remarks.append(BITS.format(kind))
    if alpha is not None and suffix in HOLD_NO_ALPHA:
        levels = np.iinfo(rgb.dtype).max
        if (alpha < levels).any():
            remarks.append(FLAT.format(kind))
            share = alpha[:, :, None] / np.float32(levels)
            rgb = np.rint(levels + share * (rgb.astype(np.float32) - levels)).astype(rgb.dtype)
        alpha = None
    return Picture(rgb, alpha), remarks


def _identity(path: Path) -> tuple[int, int] | None:
    """Identify a file under any of its names (links, letter case); None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
