"""Choose the images worth learning color from: objects of a sensible number and size, enough light, enough color.

    python filter.py                                               COCO's train2017 with its annotations
    python filter.py --no-use-annotations --images-dir FOLDER      any folder, by its pixels alone

Reads <data-root>/train2017 and <data-root>/annotations/instances_train2017.json (COCO: Lin et al. 2014,
arXiv:1405.0312). Writes coco_subset_colorization/: the chosen images under their own names, and
filter_report.json, which gives every rejected file its reasons. Pixels are measured in every image, even
if its objects reject it, because the later stages leave out the images that are gray or unreadable.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from config import FILTER_REPORT, FilterConfig
from utils.data.annotations import read_objects
from utils.files import FIRST, list_images, no_room, read_json, write_json
from utils.images import ImageError, read_rgb, resize, shorter_side_shape
from utils.lab import decode_lab_image, encode_lab
from utils.run import UserError, hold, map_in_threads, run_script, say

OF_ANNOTATIONS = (
    "annotations",
    "categories",
    "min_largest_object",
    "max_largest_object",
    "min_objects",
    "max_objects",
)
MEASURED_SIDE = 256  # pixels are measured at this shorter side: the means hardly move, the time does


@dataclass(frozen=True)
class Verdict:
    """Why an image is rejected: stable reason keys, none for a kept image, and a text for an unreadable one."""

    reasons: list[str]
    detail: str = ""


def judge_objects(shares: list[float] | None, cfg: FilterConfig) -> list[str]:
    """Give the reasons to reject an image with these object sizes (None: it is not annotated)."""
    if shares is None:
        return ["no_annotation"]
    largest = max(shares, default=None)
    failed = {
        "too_few_objects": len(shares) < cfg.min_objects,
        "too_many_objects": len(shares) > cfg.max_objects,
        "object_too_small": largest is not None and largest < cfg.min_largest_object,
        "object_too_large": largest is not None and largest > cfg.max_largest_object,
    }
    return [reason for reason, fails in failed.items() if fails]


def measure_pixels(path: Path) -> tuple[float, float, float]:
    """Average an image's HSV saturation in [0, 1], L in [0, 100] and ab chroma in CIELAB units.

    Raises:
        ImageError: it cannot be decoded, or is too long for the later stages.
    """
    rgb = read_rgb(path, MEASURED_SIDE)
    height, width = shorter_side_shape(rgb.shape[0], rgb.shape[1], MEASURED_SIDE)
    if height < rgb.shape[0]:
        rgb = resize(rgb, height, width)
    saturation = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[:, :, 1].mean() / 255
    lab = decode_lab_image(encode_lab(rgb))
    chroma = np.hypot(lab[:, :, 1], lab[:, :, 2]).mean()
    return float(saturation), float(lab[:, :, 0].mean()), float(chroma)


def judge_pixels(saturation: float, lightness: float, chroma: float, cfg: FilterConfig) -> list[str]:
    """Give the reasons to reject an image with these means."""
    failed = {
        "saturation": saturation < cfg.min_saturation,
        "too_dark": lightness < cfg.min_lightness,
        "too_bright": lightness > cfg.max_lightness,
        "gray": chroma < cfg.min_chroma,
    }
    return [reason for reason, fails in failed.items() if fails]


def judge_images(images: list[Path], objects: dict[str, list[float]] | None, cfg: FilterConfig) -> list[Verdict]:
    """Judge every image, in order, on all cores; if `objects` is None, judge the pixels alone."""

    def judge(path: Path) -> Verdict:
        reasons = [] if objects is None else judge_objects(objects.get(path.name), cfg)
        try:
            return Verdict(reasons + judge_pixels(*measure_pixels(path), cfg))
        except ImageError as error:
            return Verdict([*reasons, "unreadable"], f"unreadable: {error}")

    judged = map_in_threads(judge, images, cfg.num_workers)
    return list(tqdm(judged, total=len(images), desc="filter", unit="image"))


def check_output_dir(output_dir: Path, images: list[Path]) -> None:
    """Refuse a folder that is not ours to replace.

    Raises:
        UserError: it touches the images' own folder, holds something that the last run did not write, or its report
            cannot be read.
    """
    for folder in {path.parent for path in images}:
        source = folder.resolve()
        if output_dir == source or source in output_dir.parents or output_dir in source.parents:
            raise UserError(f"--output-dir {output_dir}: overlaps the images' folder {source}; choose another")
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not (output_dir / FILTER_REPORT).is_file():
        raise UserError(f"--output-dir {output_dir}: already exists and has no {FILTER_REPORT}; choose another")
    written = read_json(output_dir / FILTER_REPORT, "delete this folder, or choose another").get("files")
    names = {path.name for path in output_dir.iterdir() if not path.name.startswith(".")} - {FILTER_REPORT}
    if isinstance(written, list) and (foreign := sorted(names.difference(written))):  # older reports have no list
        raise UserError(f"{output_dir / foreign[0]}: filter.py did not write it, but would delete it; move it")


def write_subset(output_dir: Path, kept: list[Path], report: dict[str, object]) -> None:
    """Replace `output_dir` by hard links (copies where linking fails) of the kept images and the report.

    The folder is built under a temporary name and renamed. After an interruption the old folder is still there, at
    worst under a temporary name that the next run restores. Images deleted since they were judged are left out.

    Raises:
        UserError: there is no room.
    """
    fresh, stale = (output_dir.with_name(output_dir.name + suffix) for suffix in (".new.tmp", ".old.tmp"))
    if stale.exists() and not output_dir.exists():
        stale.rename(output_dir)
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        for path in kept:
            try:
                os.link(path.resolve(), fresh / path.name)
            except OSError:
                if not path.exists():
                    say(f"skipped {path}: it has vanished")
                    continue
                try:
                    shutil.copy2(path, fresh / path.name)
                except OSError as error:  # its message always names the source
                    raise no_room(fresh / path.name, error) from error
        write_json(fresh / FILTER_REPORT, report)
        if output_dir.exists():
            output_dir.rename(stale)
        fresh.rename(output_dir)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(stale, ignore_errors=True)


def filter_images(cfg: FilterConfig) -> None:
    """Judge the images, write the subset and its report, and print the counts.

    Raises:
        UserError: a flag has no effect, an input is missing or broken, the output folder is not ours, or no image
            passes.
    """
    ignored = [name for name in OF_ANNOTATIONS if getattr(cfg, name) != getattr(FilterConfig, name)]
    if ignored and not cfg.use_annotations:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise UserError(f"{flags}: judges objects, which --no-use-annotations does not; leave one of them out")
    source = cfg.images_dir or cfg.data_root / "train2017"
    images = list(dict.fromkeys(list_images(source, mend=FIRST)))
    output_dir = cfg.output_dir.resolve()
    check_output_dir(output_dir, images)
    hold(output_dir)
    twice = [name for name, count in Counter(path.name for path in images).items() if count > 1]
    if twice:
        raise UserError(f"{source}: lists several images named {twice[0]}; rename all but one")
    objects = None
    if cfg.use_annotations:
        annotations = cfg.annotations or cfg.data_root / "annotations" / "instances_train2017.json"
        objects = read_objects(annotations, cfg.categories)
        if not any(path.name in objects for path in images):
            mend = "give the annotations of these images, or --no-use-annotations"
            raise UserError(f"{annotations}: lists no image of {source}; {mend}")

    verdicts = judge_images(images, objects, cfg)
    rejected = {path.name: verdict for path, verdict in zip(images, verdicts, strict=True) if verdict.reasons}
    kept = [path for path in images if path.name not in rejected]
    counts = dict(Counter(reason for verdict in rejected.values() for reason in verdict.reasons).most_common())
    if not kept:
        raise UserError(f"{source}: none of {len(images)} images passes ({counts}); loosen a threshold")
    report = {
        "config": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(cfg).items()},
        "seen": len(images),
        "kept": len(kept),
        "files": [path.name for path in kept],
        "reasons": counts,
        "rejected": {name: verdict.reasons for name, verdict in rejected.items()},
        "details": {name: verdict.detail for name, verdict in rejected.items() if verdict.detail},
    }
    write_subset(output_dir, kept, report)
    say(f"kept {len(kept)} of {len(images)} images in {cfg.output_dir}; reasons in {cfg.output_dir / FILTER_REPORT}")
    for reason, count in counts.items():
        say(f"  {count:6d} {reason}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(FilterConfig, filter_images, argv)


if __name__ == "__main__":
    sys.exit(main())
