"""Which images a stage trains on and which it holds out, and the order in which an epoch visits them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Sampler

from utils import run
from utils.files import name_bytes, read_json
from utils.run import UserError


def is_held_out(path: Path, val_fraction: float) -> bool:
    """Decide from the file name alone whether an image is for validation, so that every stage agrees."""
    return zlib.crc32(name_bytes(path.name)) < val_fraction * 2**32


def drop_rejected(images: Sequence[Path], report: Path) -> list[Path]:
    """Leave out the images that filter.py found gray or unreadable; its other reasons concern stage 1 alone.

    Raises:
        UserError: the report exists but cannot be read, or is something else.
    """
    if not report.exists():
        run.say(f"data: no {report}, so gray images are not left out (python filter.py writes it)")
        return list(images)
    mend = "delete its folder, and run python filter.py again"
    try:
        rejected = read_json(report, mend)["rejected"]
        kept = [path for path in images if not {"gray", "unreadable"} & set(rejected.get(path.name, ()))]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{report}: not a report of filter.py; {mend}") from None
    run.say(f"data: {report} leaves out {len(images) - len(kept)} gray or broken images")
    return kept


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of one epoch, in an order drawn from (seed, epoch): all of them, or a part.

    Yields lists of (epoch, index). With several processes each takes every n-th image of the same global batch.
    An incomplete last batch is dropped, unless it is the only one.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.seed = count, seed
        processes = run.world_size()
        self.global_batch = min(batch_size * processes, count // processes * processes)  # equal shares
        self.set_position(0, 0, len(self))

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.count // self.global_batch

    def set_position(self, epoch: int, first: int, stop: int) -> None:
        """Choose the epoch and the range of its batches that the next iteration yields."""
        self.epoch, self.first, self.stop = epoch, first, stop

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.count)

    def at(self, step: int) -> list[int]:
        """Give the indices of the global batch of a step, counted from 0 over the epochs."""
        epoch, batch = divmod(step, len(self))
        return self._order(epoch)[batch * self.global_batch : (batch + 1) * self.global_batch].tolist()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(self.epoch)
        for batch in range(self.first, self.stop):
            indices = order[batch * self.global_batch : (batch + 1) * self.global_batch]
            yield [(self.epoch, int(index)) for index in indices[run.rank() :: run.world_size()]]
