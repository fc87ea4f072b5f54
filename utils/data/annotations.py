"""COCO's instance annotations: which objects each image shows (Lin et al. 2014, arXiv:1405.0312)."""

from __future__ import annotations

import difflib
from pathlib import Path

from utils.files import read_json
from utils.run import UserError, say


def _number(entry: dict[str, object], key: str, least: float) -> float:
    value = entry[key]
    if not isinstance(value, (int, float)) or not least <= value < 1e12:
        raise ValueError(f"{key} {value!r:.50}")
    return value


def read_objects(annotations: Path, categories: tuple[str, ...]) -> dict[str, list[float]]:
    """Read which objects each image shows; crowds do not count.

    Args:
        annotations: COCO instance annotations.
        categories: names of the categories that count; none named means all.

    Returns:
        For each file name listed, every object's share of the image's area.

    Raises:
        UserError: the file is missing or broken, or a category does not exist.
    """
    mend = "python -m utils.data.coco --parts annotations downloads them; or use --no-use-annotations"
    coco = read_json(annotations, mend)
    names, images, strays, entry = {}, {}, 0, None
    shares: dict[str, list[float]] = {}
    try:
        for entry in coco["categories"]:
            names[entry["id"]] = str(entry["name"])
        for entry in coco["images"]:
            area = _number(entry, "width", 1) * _number(entry, "height", 1)
            if entry["id"] in images or entry["file_name"] in shares:
                raise ValueError("its id or file_name is there twice")
            images[entry["id"]] = entry["file_name"], area
            shares[entry["file_name"]] = []
        for entry in coco["annotations"]:
            if entry["image_id"] not in images:
                strays += 1
            elif not entry.get("iscrowd", 0):
                file_name, image_area = images[entry["image_id"]]
                share, category = _number(entry, "area", 0) / image_area, names[entry["category_id"]]
                if not categories or category in categories:
                    shares[file_name].append(share)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__} {error} in {entry!r:.200}"
        raise UserError(f"{annotations}: not COCO instance annotations ({what}); {mend}") from None
    if strays:
        say(f"{annotations}: {strays} annotations of images that it does not list are ignored")
    for category in categories:
        if category not in names.values():
            near = difflib.get_close_matches(category, names.values(), n=3, cutoff=0.5) or sorted(names.values())
            raise UserError(f"--categories {category}: no such category in {annotations}; near: {', '.join(near)}")
    return shares
