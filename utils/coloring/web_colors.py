"""The colors of the web page's photographs: the network runs once for each, whatever hints and saturations follow.

Uses the checkpoints of `utils.training`.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import torch
from torch import Tensor, nn

from utils.coloring.colorize import cast_convolutions, merge, predict_ab, prepare
from utils.coloring.exported import open_generator
from utils.coloring.hints import Recolorer, hint_planes, takes_hints
from utils.coloring.visits import Photo, Seen
from utils.images import Picture, read_picture
from utils.run import UserError, amp_dtype
from utils.training.checkpoints import working_size

KEPT = 32  # photographs that are recolored without running the network


@dataclass(frozen=True, eq=False)
class Colorizer:
    """The checkpoints, and what `infer_lab.py` does with one photograph.

    Attributes:
        checkpoints: G_*.pt files by the name of their stage.
        device: where to compute.
        recent: the last KEPT pairs of a photograph and a checkpoint that it was colored with; the oldest first.
    """

    checkpoints: dict[str, Path]
    device: torch.device
    recent: OrderedDict[tuple[Photo, str], None] = field(default_factory=OrderedDict)

    @functools.cached_property
    def dtype(self) -> torch.dtype | None:
        """The mixed precision of the device."""
        return amp_dtype(self.device, True)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - there is one of these for the whole life of the page
    def generator(self, name: str) -> tuple[nn.Module, int]:
        """Load a checkpoint; gives the generator and its working size.

        Raises:
            gr.Error: it is gone or damaged.
        """
        try:
            generator, info = open_generator(self.checkpoints[name], self.device)
        except UserError as error:
            raise gr.Error(f"{error}; choose another checkpoint") from None
        cast_convolutions(generator, self.dtype)
        return generator, working_size(info)

    def see(self, photo: Photo, name: str) -> Seen:
        """Give what is kept of a photograph and a checkpoint, and forget the pair that was not used for longest.

        Raises:
            ImageError: the file is gone.
        """
        seen = photo.seen.get(name)
        if seen is None:
            generator, size = self.generator(name)
            seen = Seen(prepare(read_picture(photo.path), size), Recolorer(generator, keep=True))
        photo.seen[name] = seen
        self.recent[photo, name] = None
        self.recent.move_to_end((photo, name))
        if len(self.recent) > KEPT:
            (other, its), _ = self.recent.popitem(last=False)
            other.seen.pop(its, None)
        return seen

    def predict(self, photo: Photo, name: str, saturation: float) -> Tensor:
        """Give the ab of a photograph at a saturation, under its hints if the checkpoint takes any: (2, h, w).

        Raises:
            ImageError: the file is gone.
        """
        seen = self.see(photo, name)
        hints = tuple(photo.hints) if takes_hints(seen.recolorer.generator) else ()
        if seen.ab is None or seen.settings != (hints, saturation):
            seen.recolorer.saturation = saturation
            asked = [hint_planes(hints, photo.size, seen.plane) if hints else None]
            seen.ab = predict_ab(seen.recolorer, [seen.plane], self.device, self.dtype, asked)[0]
            seen.settings = hints, saturation
        return seen.ab

    def color(self, photo: Photo, name: str, saturation: float) -> Picture:
        """Color a photograph.

        Raises:
            ImageError: the file is gone.
        """
        return merge(read_picture(photo.path), self.predict(photo, name, saturation))
