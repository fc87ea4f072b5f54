"""Where the colored images go: never onto an input, nor onto each other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.files import IMAGE_EXTENSIONS, common_root, list_images
from utils.run import UserError

MEND = "name another --output-dir"


def name_outputs(images: Sequence[Path]) -> list[Path]:
    """Name the outputs of a listing: a.jpg gives a.png, but a_jpg.png where that name would be taken twice.

    The names follow from the listing alone, so that every run gives the same. Names that differ in letter case alone
    count as equal, as they do on macOS and Windows.
    """
    long: set[Path] = set()
    while True:
        names = [p.with_name(f"{p.stem}_{p.suffix[1:]}.png" if p in long else f"{p.stem}.png") for p in images]
        count = Counter(str(name).casefold() for name in names)
        clashing = {p for p, name in zip(images, names, strict=True) if count[str(name).casefold()] > 1}
        if clashing <= long:
            return names
        long |= clashing


def plan(source: Path, output_dir: Path, recursive: bool, panels: str | None) -> dict[Path, Path]:
    """Map each image of the input to its output, relative to the output folder.

    Args:
        source: image, folder, or text file with one path a line.
        output_dir: where the outputs will go.
        recursive: walk the folders below the source as well.
        panels: folder in `output_dir` for a second output of each image, or None.

    Raises:
        UserError: there is no image, or an output would overwrite an input.
    """
    folder = output_dir.resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{output_dir}: not a folder; {MEND}")
    if folder == source.resolve():
        raise UserError(f"{output_dir}: the outputs would mix with the inputs; {MEND}")
    if source.is_dir():
        images = list_images(source, recursive)
        if folder.is_relative_to(source.resolve()):  # what an earlier run wrote is no input
            images = [path for path in images if not path.parent.resolve().is_relative_to(folder)]
        if not images:
            raise UserError(f"{source}: contains no images outside {output_dir}")
    else:
        single = source.is_file() and source.suffix.lower() in IMAGE_EXTENSIONS
        images = list(dict.fromkeys(Path(os.path.abspath(path)) for path in [source] * single or list_images(source)))
    root = common_root(source, images)
    names = name_outputs([path.relative_to(root) for path in images])
    inputs = {identity: path for path in images if (identity := _identity(path))}
    for target in [folder, *([folder / panels] if panels else [])]:
        for name in names:
            if (identity := _identity(target / name)) in inputs:
                raise UserError(f"{inputs[identity]}: would be overwritten; {MEND}")
    if panels and any(name.parts[0].casefold() == panels for name in names):
        raise UserError(f"{root / panels}: its outputs would mix with the panels; rename it or leave --compare out")
    return dict(zip(images, names, strict=True))


def _identity(path: Path) -> tuple[int, int] | None:
    """Identify a file under any of its names (links, letter case); None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
