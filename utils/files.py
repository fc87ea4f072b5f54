"""Files: written whole or not at all, read with checks, and images found in folders and lists."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch

from utils.run import UserError

MAX_NAME = 255  # bytes, on most file systems
JPEG_EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
IMAGE_EXTENSIONS = JPEG_EXTENSIONS | {".png", ".webp", ".bmp", ".tif", ".tiff"}
VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".mkv", ".avi", ".webm", ".gif", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".vob"}
    | {".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".dv", ".m1v", ".m2v", ".divx", ".rm"}
)
FIRST = "run python -m utils.data.coco (COCO) or python filter.py (the subset) first, or give --images-dir"
MAX_LIST = 2**28  # bytes of a list of images
MAX_JSON = 2**30  # bytes; COCO's largest is 0.45 GB


def no_room(path: Path, error: OSError) -> UserError:
    """Say of an error of the disk, which names no file, which one could not be written."""
    return UserError(f"{path}: cannot be written ({error.strerror}); free some space and run it again")


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for binary writing so that it appears whole or not at all.

    The bytes go to a temporary file in the same folder, which is flushed to disk and renamed when the block ends
    without an error, and deleted otherwise. A file left by a killed process is overwritten when the same command runs
    again; `utils.run.hold` keeps two runs apart. Missing parent folders are created.

    Raises:
        UserError: the bytes do not find room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    if len(os.fsencode(temporary.name)) > MAX_NAME:
        temporary = path.with_name(f"{hashlib.sha256(name_bytes(path.name)).hexdigest()[:20]}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # from writing: opening and renaming name the file
            raise no_room(path, error) from error
        raise


@contextmanager
def plain_name(path: Path, suffix: str = "") -> Iterator[str]:
    """Give a file a name in ASCII that ends in `suffix`, for a library that needs one: its own, or a symbolic link.

    Raises:
        OSError: no such link can be made.
    """
    if str(path).isascii() and path.name.endswith(suffix):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"file{suffix}")
        link.symlink_to(path.absolute())
        if not str(link).isascii():
            raise OSError(f"{link}: not plain")
        yield str(link)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with open_atomically(path) as file:
        file.write(data)


def name_bytes(name: str) -> bytes:
    """Encode a file name for a hash: its bytes on disk, in any locale, even if they are not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all.

    Bytes of a file name that are not UTF-8 are written as \\udcXX, which JSON reads back unchanged.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write `value` to `path` as UTF-8 JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path, mend: str) -> dict:
    """Read a JSON object.

    Raises:
        UserError: it cannot be read or is something else; the message ends in `mend`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {mend}")
    if path.stat().st_size > MAX_JSON:
        raise UserError(f"{path}: larger than {MAX_JSON} bytes; {mend}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a readable JSON object; {mend}")
    return value


def _raise(error: OSError) -> None:
    raise error


def list_images(source: Path, recursive: bool = False, mend: str = "check the path") -> list[Path]:
    """List the images of a source in sorted order.

    Args:
        source: a folder, or a text file with one path a line, taken relative to the file's folder.
        recursive: walk the folders below a folder as well (symbolic links to folders are not followed).
        mend: what to do where there is no such source.

    Raises:
        UserError: the source does not exist or holds no image.
    """
    if source.is_dir():
        # Links that lead nowhere are listed as well, and named when they are read.
        walk = os.walk(source, onerror=_raise)
        found = [Path(root, name) for root, _, names in (walk if recursive else islice(walk, 1)) for name in names]
        # macOS writes "._*" files to disks with other file systems.
        images = sorted(p for p in found if p.suffix.lower() in IMAGE_EXTENSIONS and not p.name.startswith("._"))
    elif source.is_file() and source.suffix.lower() not in IMAGE_EXTENSIONS:
        try:
            if source.stat().st_size > MAX_LIST:
                raise ValueError
            text = source.read_text(encoding="utf-8-sig")
            if "\0" in text:
                raise ValueError
            lines = text.splitlines()
        except ValueError:
            kinds = ", ".join(sorted(IMAGE_EXTENSIONS))
            what = f"neither a folder, an image ({kinds}), a video, nor a list of images in UTF-8"
            raise UserError(f"{source}: {what}; convert it, or save the list as UTF-8") from None
        images = sorted(source.parent / line.strip() for line in lines if line.strip())
    elif source.is_file():
        raise UserError(f"{source}: an image; give a folder, or a text file with one path per line")
    else:
        raise UserError(f"{source}: no such image, folder or list of images; {mend}")
    if not images:
        raise UserError(f"{source}: no images there ({', '.join(sorted(IMAGE_EXTENSIONS))})")
    return images


def common_root(source: Path, images: Sequence[Path]) -> Path:
    """Give the folder that outputs are named relative to: the source, or what holds all images of a list.

    Raises:
        UserError: the images of a list are on several drives.
    """
    if source.is_dir():
        return source
    try:
        return Path(os.path.commonpath([Path(os.path.abspath(image)).parent for image in images]))
    except ValueError:  # Windows
        raise UserError(f"{source}: its images are on several drives; make a list for each") from None


def read_tensors(path: Path) -> dict:
    """Load a file of torch's that holds tensors and plain types alone, and is what was written.

    Raises:
        Exception: of any type, as files from strangers can fail to load in any way.
    """
    if zipfile.is_zipfile(path):  # torch does not compare the checksums that it writes; its oldest format has none
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise zipfile.BadZipFile("packed, as torch never does")
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"{broken} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)
