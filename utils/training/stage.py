"""A run of a training stage: everything around the two updates, which the scripts themselves write out.

A script opens a `Stage` and its data, makes or inherits the networks (after the seed is set), begins, and loops:

    for l, real_ab in stage.batches():
        ...                                    # (1) update D, (2) update G
        stage.end_step(loss_d=loss_d, ...)

Between two batches the stage logs, saves last.pt and stops on request; between two epochs it validates and saves.
Uses the loaders of `utils.data`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from tqdm import tqdm

from config import TrainingConfig
from models_lab import Generator, PatchDiscriminator, PretrainedUNet
from utils import run
from utils.collectives import barrier
from utils.data.loaders import open_training_data
from utils.data.samples import Source
from utils.lab import decode_lab
from utils.training import checkpoints, last_checkpoint
from utils.training.logs import Averages, RunLog, StopRequest
from utils.training.optimization import learning_rate_at, set_learning_rate, update_ema
from utils.training.ranges import MIN_IMG_SIZE, check_ranges
from utils.training.validation import validate
from utils.visualization import save_loss_plot, save_sample_grid

LOG_EVERY = 50  # steps


class Stage:
    """One run of a training script.

    Args:
        cfg: the command line.
        name: what checkpoints call the stage.
        folder: where last.pt, best.pt, logs and samples go; cfg.output_dir by default.

    Raises:
        UserError: a setting is out of range, the device is missing, or the folder is in use.
    """

    def __init__(self, cfg: TrainingConfig, name: str, folder: Path | None = None) -> None:
        check_ranges(cfg)
        self.cfg, self.name = cfg, name
        self.folder = folder or cfg.output_dir
        self.device = run.set_up_device(cfg.device)
        self.dtype = run.amp_dtype(self.device, cfg.amp)
        torch.manual_seed(cfg.seed)
        run.say_config(cfg, self.device, self.dtype)
        run.hold(self.folder)
        self.scaler = GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def open_data(self, source: Source) -> None:
        """Split and open the images.

        Raises:
            UserError: there is nothing to train or validate on.
        """
        self.data = open_training_data(self.cfg, source)
        self.origin = self.data.key  # what the run depends on besides its configuration, checked on resuming
        self.total_steps = min(self.cfg.epochs * len(self.data.batches), self.cfg.max_steps or sys.maxsize)
        self.averages = Averages(self.device, self.data.names_at)

    def inherit(self, run_first: str) -> tuple[Generator, PatchDiscriminator, int]:
        """Load G, D and the number of their epoch from cfg.init_checkpoint, and print what this run overrides.

        Args:
            run_first: the script to run when there is no such checkpoint.

        Raises:
            UserError: a checkpoint is missing or damaged, or images that it was trained on would be held out.
        """
        path = self.cfg.init_checkpoint
        assert path is not None
        generator, discriminator, earlier = checkpoints.load_stage(path, self.device, run_first)
        checkpoints.say_hand_off(path, earlier, self.cfg)
        self.origin += earlier["digest"]
        return generator, discriminator, earlier["epoch"]

    def begin(
        self,
        generator: Generator,
        discriminator: PatchDiscriminator,
        optimizer_g: Optimizer,
        optimizer_d: Optimizer,
        saved_as: str,
        vgg: str | None = None,
    ) -> None:
        """Take over the networks and their optimizers, and resume them from last.pt, or delete it (--no-resume).

        Args:
            generator, discriminator, optimizer_g, optimizer_d: on the device.
            saved_as: file names without "G_" and ".pt", such as "epoch_{:03d}"; `checkpoints` finds them by name.
            vgg: which VGG16 weights the loss uses, for the checkpoints.

        Raises:
            UserError: the crops are too small for D, last.pt is damaged or of another run, or cfg.init_checkpoint
                lies where this run saves its own networks.
        """
        least = MIN_IMG_SIZE * discriminator.shrink
        if self.cfg.img_size < least:
            raise run.UserError(f"--img-size {self.cfg.img_size}: this discriminator needs at least {least}")
        if self.cfg.init_checkpoint is not None:
            start = self.cfg.init_checkpoint.resolve()
            if start.parent == self.cfg.output_dir.resolve() and last_checkpoint.is_own(start.name, saved_as):
                mend = "choose another --output-dir"
                raise run.UserError(f"--init-checkpoint {start}: has a name that this run saves under; {mend}")
        self.generator, self.discriminator, self.saved_as, self.vgg = generator, discriminator, saved_as, vgg
        self.origin += vgg or ""
        if isinstance(generator, PretrainedUNet):
            generator.dropout = self.cfg.dropout
        self.ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.optimizers = optimizer_g, optimizer_d
        self.parts: last_checkpoint.Parts = {
            "generator": generator,
            "discriminator": discriminator,
            "ema": self.ema,
            "optimizer_g": optimizer_g,
            "optimizer_d": optimizer_d,
            "scaler": self.scaler,
            "averages": self.averages,
        }
        counts = [sum(weights.numel() for weights in network.parameters()) for network in (generator, discriminator)]
        run.say("parameters: G {:,}, D {:,}".format(*counts))
        if not self.cfg.resume:
            last_checkpoint.start_anew(self.folder, self.name, self.cfg.output_dir, saved_as)
            barrier()
        self.position = last_checkpoint.resume(self.folder, self.name, self.cfg, self.origin, self.parts)
        if self.position.step:
            run.say(f"resumes from {self.folder / 'last.pt'} at step {self.position.step} of {self.total_steps}")
        self.log = RunLog(self.folder, self.position.step, self.cfg)

    def autocast(self) -> AbstractContextManager[None]:
        """Open a mixed-precision region."""
        return run.autocast(self.device, self.dtype)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches that are left: L (B, 1, S, S) and ab (B, 2, S, S), in [-1, 1], on the device.

        The learning rate of the step is set before each batch. The caller calls `end_step` once a batch.

        Raises:
            UserError: a loss or a weight is not finite, or a file cannot be written.
            Interrupted: the run was asked to stop.
        """
        cfg, position = self.cfg, self.position
        with StopRequest() as stop:
            while position.step < self.total_steps or position.batch:  # stopped before the end of the last epoch
                last_batch = min(len(self.data.batches), position.batch + self.total_steps - position.step)
                self.data.batches.set_position(position.epoch, position.batch, last_batch)
                title, left = f"epoch {position.epoch + 1}/{cfg.epochs}", last_batch - position.batch
                progress = tqdm(self.data.loader, title, left, disable=not run.is_main())
                for stored_l, stored_ab in progress:
                    rate = learning_rate_at(position.step, self.total_steps, cfg.learning_rate, cfg.warmup_steps)
                    set_learning_rate(rate, *self.optimizers)
                    step = position.step
                    yield decode_lab(*(x.to(self.device, non_blocking=True) for x in (stored_l, stored_ab)))
                    assert position.step == step + 1, "end_step was not called"

                    if position.step % LOG_EVERY == 0:
                        means = self.averages.means(position.step)
                        self.log.scalars(position.step, {**means, "learning_rate": rate})
                        progress.set_postfix(d=f"{means['loss_d']:.3f}", l1=f"{means['loss_g_l1']:.4f}")
                    stopping = stop.agreed(position.step, self.device)
                    if position.step % cfg.last_every == 0 or stopping:
                        self.averages.means(position.step)  # raises before anything is saved if a loss is not finite
                        self._save_last()
                    if stopping:
                        where = f"step {position.step} of {self.total_steps}"
                        raise run.Interrupted(f"stopped at {where}; to continue: {run.command()}")
                self._end_epoch()

    def end_step(self, **scalars: Tensor) -> None:
        """End a step: update the gradient scaler, the moving average of G, and the running means of the losses."""
        self.scaler.update()
        update_ema(self.ema, self.generator, self.position.step, self.cfg.ema_decay)
        self.averages.add(**scalars)
        self.position.step, self.position.batch = self.position.step + 1, self.position.batch + 1

    def _end_epoch(self) -> None:
        """Validate the moving average, draw samples, and save."""
        cfg, position = self.cfg, self.position
        means = self.averages.means(position.step)
        self.averages.reset()
        position.epoch, position.batch = position.epoch + 1, 0
        is_last = position.step == self.total_steps
        name = self.saved_as.format(position.epoch)
        if run.is_main():
            scores = validate(self.ema, self.data.val_loader, self.device, self.dtype)
            self.log.epoch(position.epoch, position.step, means, scores)
            if position.epoch % cfg.sample_every == 0 or is_last:
                samples = self.folder / "samples" / f"{name[name.rindex('epoch_') :]}.png"
                l, real_ab = decode_lab(*(planes.to(self.device) for planes in self.data.fixed))
                with torch.inference_mode():
                    save_sample_grid(samples, l, real_ab, self.ema(l))
                self.log.grid(position.step, samples)
            info = checkpoints.describe(self.name, position.epoch, position.step, cfg, scores, self.vgg)
            if position.epoch % cfg.save_every == 0 or is_last:
                checkpoints.save_network(cfg.output_dir / f"D_{name}.pt", self.discriminator, info)
                checkpoints.save_network(cfg.output_dir / f"G_{name}.pt", self.ema, info)
            if scores["psnr"] > position.best_psnr:
                position.best_psnr = scores["psnr"]
                checkpoints.save_network(self.folder / "best.pt", self.ema, info)
            self._save_last()
        barrier()

    def _save_last(self) -> None:
        if run.is_main():
            last_checkpoint.save_last(self.folder, self.name, self.cfg, self.origin, self.position, self.parts)

    def finish(self) -> Path:
        """Close the logs, plot the losses, and give the path of the last generator."""
        self.log.close()
        if run.is_main():
            save_loss_plot(self.folder / "log.jsonl", self.folder / "losses.png")
        newest = self.cfg.output_dir / f"G_{self.saved_as.format(self.position.epoch)}.pt"
        run.say(f"stage {self.name} is done: {newest}")
        return newest
