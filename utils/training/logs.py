"""What a training run says about itself: log.jsonl, TensorBoard, running means, and stopping on request."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from config import TrainingConfig
from utils import run
from utils.collectives import all_reduce
from utils.files import no_room, write_text
from utils.images import read_rgb
from utils.run import UserError


class Averages:
    """Running means of scalars over an epoch and all processes, kept on the device: adding one waits for nothing.

    Args:
        device: of the scalars.
        names_at: gives the files of a step's batch, counted from 0, to name where a number is not finite.
    """

    def __init__(self, device: torch.device, names_at: Callable[[int], Sequence[str]]) -> None:
        self.device, self.names_at = device, names_at
        self.sums: dict[str, Tensor]
        self.count: int
        self.finite_steps: Tensor
        self.reset()

    def add(self, **scalars: Tensor) -> None:
        """Count one step's scalars, the same names at every step."""
        values = [value.detach().float() for value in scalars.values()]
        for name, value in zip(scalars, values, strict=True):
            self.sums[name] = self.sums[name] + value if self.count else value
        finite = torch.stack(values).isfinite().all() & (self.finite_steps == self.count)
        self.finite_steps = self.finite_steps + finite
        self.count += 1

    def means(self, step: int) -> dict[str, float]:
        """Give the means since the last reset; all processes must call this, and get the same.

        Args:
            step: how many the run has done.

        Raises:
            UserError: one of them is not finite; names the first such step and the files of its batch.
        """
        totals = torch.stack(list(self.sums.values())) / (self.count * run.world_size())
        finite_steps = self.finite_steps.clone()
        all_reduce(totals)
        all_reduce(finite_steps, dist.ReduceOp.MIN)
        if run.world_size() > 1:  # last.pt, which only the main process writes, has the sums of all
            self.sums = dict(zip(self.sums, (totals * self.count).unbind(), strict=True))
        means = dict(zip(self.sums, totals.tolist(), strict=True))
        broken = [name for name, mean in means.items() if not math.isfinite(mean)]
        if broken:
            first = step - self.count + int(finite_steps)  # from 0
            raise UserError(
                f"{', '.join(broken)} not finite at step {first + 1} ({', '.join(self.names_at(first))}), and "
                "nothing was saved since: start over with a lower --learning-rate or --no-amp, and --no-resume"
            )
        return means

    def reset(self) -> None:
        """Start a new epoch."""
        self.sums = {}
        self.count = 0
        self.finite_steps = torch.zeros((), device=self.device)  # before the first that was not

    def state_dict(self) -> dict:
        """Give the state for last.pt, which is written only while everything is finite."""
        return {"sums": {name: total.cpu() for name, total in self.sums.items()}, "count": self.count}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the state from last.pt."""
        self.sums = {name: total.to(self.device) for name, total in state_dict["sums"].items()}
        self.count = state_dict["count"]
        self.finite_steps = torch.full((), float(self.count), device=self.device)


def _step_of(line: str) -> float:
    """Give the step of a line of log.jsonl; infinity if an interruption cut it short or no run wrote it."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class RunLog:
    """log.jsonl (one line an epoch) and TensorBoard's files in a run's folder; only the main process writes.

    TensorBoard gets the configuration, the scalars and the sample grids, under the same names in every stage.
    Lines of steps that a resumed run repeats are dropped.

    Args:
        folder: of the run.
        step: steps done before; 0 for a new run.
        config: the command line.

    Raises:
        OSError, UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, step: int, config: TrainingConfig):
        self.path = folder / "log.jsonl"
        self.lines: list[str] = []
        self.board: SummaryWriter | None = None
        if run.is_main():
            if step and self.path.exists():
                earlier = self.path.read_text(encoding="utf-8").splitlines()
                self.lines = [line for line in earlier if _step_of(line) <= step]
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
            settings = [f"| {name} | {value} |" for name, value in run.plain_config(config).items()]
            table = ["| | |", "| --- | --- |", *settings]
            text = "\n".join(table).encode("utf-8", "backslashreplace").decode()
            self._show(lambda board: board.add_text("config", text, step))

    def _show(self, write: Callable[[SummaryWriter], None]) -> None:
        """Write to TensorBoard and flush, so that an error of its thread, such as a full disk, is raised here."""
        if self.board:
            try:
                write(self.board)
                self.board.flush()
            except OSError as error:
                raise no_room(Path(self.board.log_dir), error) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars to TensorBoard."""

        def write(board: SummaryWriter) -> None:
            for name, value in values.items():
                board.add_scalar(name, value, step)

        self._show(write)

    def grid(self, step: int, path: Path) -> None:
        """Show a PNG file, the sample grid, in TensorBoard."""
        if self.board:
            pixels = read_rgb(path)  # (H, W, 3)
            self._show(lambda board: board.add_image("samples", pixels, step, dataformats="HWC"))

    def epoch(self, epoch: int, step: int, means: Mapping[str, float], scores: Mapping[str, float]) -> None:
        """Write an epoch's line, its training means and its validation scores ("val_..."), and print it."""
        values = {**means, **{f"val_{name}": score for name, score in scores.items()}}
        if self.board:
            self.lines.append(json.dumps({"epoch": epoch, "step": step, **values}))
            write_text(self.path, "\n".join(self.lines) + "\n")
            self.scalars(step, values)
        run.say(f"epoch {epoch}  step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.board:
            self.board.close()


class StopRequest:
    """Turns SIGINT and SIGTERM into a wish that the training loop fulfills after the current batch.

    A second signal ends the run at once.
    """

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> StopRequest:
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        os.write(2, b"\nstopping after this batch\n")  # print is not reentrant

    def agreed(self, step: int, device: torch.device) -> bool:
        """Tell whether to stop after this step; several processes agree at every tenth step."""
        if run.world_size() == 1:
            return self.wanted
        if step % 10:
            return False
        wanted = torch.tensor(float(self.wanted), device=device)
        all_reduce(wanted, dist.ReduceOp.MAX)
        return bool(wanted)
