"""Download and unpack COCO 2017 (Lin et al. 2014, arXiv:1405.0312).

    python -m utils.data.coco --parts train2017 val2017 test2017 annotations --data-root data/coco

Reads the official archives: train2017 19.3 GB, val2017 0.8 GB, test2017 6.6 GB, annotations 0.25 GB; unpacking
needs the same space again. Writes <data-root>/<part>/. An interrupted download resumes where it stopped. A
folder that exists is complete: it is unpacked under a temporary name and renamed.
"""

from __future__ import annotations

import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from torchvision.datasets.utils import check_integrity, extract_archive
from tqdm import tqdm

from config import DATA_ROOT
from utils.files import no_room
from utils.run import UserError, hold, run_script, say

TRIES = 5  # connections in a row that bring nothing new
RETRY_SECONDS = 1.0  # wait after a try that went on; doubles with each that brought nothing
TIMEOUT_SECONDS = 60.0
BLOCK = 1 << 20


@dataclass(frozen=True)
class Part:
    """One archive, and the folder it unpacks to.

    Attributes:
        archive: path below the base URL.
        md5: of the archive, as published by several projects that fetch it.
        pattern: the files that make the folder complete.
        count: how many of them there are.
    """

    archive: str
    md5: str
    pattern: str
    count: int

    def count_in(self, folder: Path) -> int:
        """Count this part's files in a folder."""
        return sum(1 for _ in folder.glob(self.pattern))


PartName = Literal["train2017", "val2017", "test2017", "annotations"]
PARTS: dict[PartName, Part] = {
    "train2017": Part("zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", "*.jpg", 118_287),
    "val2017": Part("zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", "*.jpg", 5_000),
    "test2017": Part("zips/test2017.zip", "77ad2c53ac5d0aea611d422c0938fb35", "*.jpg", 40_670),
    "annotations": Part(
        "annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c", "instances_*2017.json", 2
    ),
}


@dataclass(frozen=True)
class CocoConfig:
    """Download and unpack COCO 2017."""

    parts: tuple[PartName, ...] = tuple(PARTS)
    """Parts to download; all four need about 27 GB for the archives and 27 GB unpacked."""
    data_root: Path = DATA_ROOT
    """Folder that will hold train2017/, val2017/, test2017/ and annotations/."""
    base_url: str = "http://images.cocodataset.org"
    """URL of the archives; a mirror must use the same paths and have the same files."""
    keep_zips: bool = False
    """Keep the archives after unpacking."""


def fetch(url: str, partial: Path) -> int | None:
    """Read into `partial` what it still lacks, and give the size of the whole, where the server tells it.

    Raises:
        UserError: the disk is full; what came so far stays.
        urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError: the connection failed.
    """
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        size = error.headers.get("Content-Range", "").rpartition("/")[2]  # "bytes */<size>": nothing is missing
        return int(size) if size.isdigit() else 0
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0  # the server sends the whole again
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        with (
            open(partial, "ab" if have else "wb", buffering=0) as file,
            tqdm(
                None, url.rpartition("/")[2], total, unit="B", unit_scale=True, unit_divisor=1024, initial=have
            ) as bar,
        ):
            while block := response.read(BLOCK):
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise no_room(partial, error) from error
                bar.update(len(block))
    return total


def download(url: str, target: Path, md5: str) -> None:
    """Download to `target` through `<target>.part`, going on with what an earlier run left there.

    Raises:
        UserError: the server refuses, the connection fails again and again, or the file has another hash.
    """
    partial = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            total = fetch(url, partial)
            have = partial.stat().st_size
            if total is None or have == total:
                break
            if have > total:
                partial.unlink()  # not the beginning of this file
            problem = f"{have:,} of {total:,} bytes came"
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            if error.code < 500:
                raise UserError(f"{url}: {problem}; check --base-url") from None
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{url}: {error}; check --base-url") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:  # of the disk, not of the network
                raise
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        grown = partial.exists() and partial.stat().st_size > before
        failures = 0 if grown else failures + 1
        if failures == TRIES:
            raise UserError(f"{url}: {problem}; check the network, then run the same command: it resumes from here")
        wait = RETRY_SECONDS * 2**failures
        say(f"{url}: {problem}; trying again in {wait:.0f} s")
        time.sleep(wait)
    say(f"checking {target.name}")
    if not check_integrity(str(partial), md5):
        partial.unlink()
        raise UserError(f"{url}: the file's MD5 is not {md5}; it was removed; run the same command again")
    partial.replace(target)


def unpack(archive: Path, folder: Path, part: Part) -> None:
    """Unpack an archive that holds `folder`'s name at its top, so that `folder` appears whole or not at all.

    Raises:
        UserError: the archive is broken, is not this part, or holds a path that leads outside.
    """
    mend = "remove it and run the same command"
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
        for name in names:
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in name:
                raise UserError(f"{archive}: holds {name!r}, which would land outside {folder}; {mend}")
        extract_archive(str(archive), str(fresh))
        found = part.count_in(fresh / folder.name)
        if found < part.count:
            raise UserError(f"{archive}: holds {found:,} of {part.count:,} {folder.name}/{part.pattern}; {mend}")
        if folder.exists():
            folder.rmdir()  # empty: get_part refuses any other
        (fresh / folder.name).rename(folder)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: broken ({error}); {mend}") from None
    except OSError as error:
        raise (no_room(folder, error) if error.filename is None else error) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def get_part(name: PartName, cfg: CocoConfig) -> None:
    """Download and unpack one part unless it is there.

    Raises:
        UserError: see `download` and `unpack`; or the folder is there and incomplete.
    """
    part, folder = PARTS[name], cfg.data_root / name
    found = part.count_in(folder)
    if found >= part.count:
        say(f"{folder} is complete: {found:,} {part.pattern}")
        if not cfg.keep_zips:
            (cfg.data_root / PurePosixPath(part.archive).name).unlink(missing_ok=True)  # of a run that was killed
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder}: holds {found:,} of {part.count:,} {part.pattern}; move it away and run this again"
        )
    cfg.data_root.mkdir(parents=True, exist_ok=True)
    archive = cfg.data_root / PurePosixPath(part.archive).name
    if not archive.exists():
        download(f"{cfg.base_url.rstrip('/')}/{part.archive}", archive, part.md5)
    elif not check_integrity(str(archive), part.md5):
        raise UserError(f"{archive}: its MD5 is not {part.md5}; remove it and run the same command")
    say(f"unpacking {archive.name}")
    unpack(archive, folder, part)
    if not cfg.keep_zips:
        archive.unlink()
    say(f"{folder} is complete: {part.count_in(folder):,} {part.pattern}")


def get_coco(cfg: CocoConfig) -> None:
    """Download and unpack the parts, one after the other."""
    if not cfg.base_url.startswith(("http://", "https://")):
        raise UserError(f"--base-url {cfg.base_url}: give an http:// or https:// address")
    hold(cfg.data_root)
    for name in cfg.parts:
        get_part(name, cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(CocoConfig, get_coco, argv)


if __name__ == "__main__":
    sys.exit(main())
