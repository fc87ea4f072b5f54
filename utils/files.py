"""Files that are either whole or absent: everything the project writes goes through a temporary file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.run import UserError

MAX_NAME = 255  # bytes, on most file systems
MAX_JSON = 2**30  # bytes; COCO's largest is 0.45 GB


def no_room(path: Path, error: OSError) -> UserError:
    """Say of an error of the disk, which names no file, which one could not be written."""
    return UserError(f"{path}: cannot be written ({error.strerror}); make room, and run it again")


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for binary writing so that it appears whole or not at all.

    The bytes go to a temporary file beside it, which is flushed to disk and renamed when the block ends without
    an error, and removed when it does not. What a killed process left there is overwritten when the same command
    runs again: `utils.run.hold` keeps two of them from meeting. Missing parent folders are made.

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


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with open_atomically(path) as file:
        file.write(data)


def name_bytes(name: str) -> bytes:
    """Encode the name of a file for a hash: as it is on the disk, whatever the locale, also where it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all.

    What is not Unicode in the name of a file comes out as \\udcXX, which JSON reads back as it was.
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
