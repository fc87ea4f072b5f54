"""Stage 1: train the generator and the PatchGAN discriminator from scratch on the filtered subset.

    python train_lab.py

Reads coco_subset_colorization/ (from filter.py), or its cache (from cache_lab.py). Writes to checkpoints_subset/:
G_epoch_NNN.pt and D_epoch_NNN.pt, best.pt, last.pt (the same command goes on from it), log.jsonl, losses.png,
samples/ and tensorboard/.

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", 2017,
arXiv:1611.07004, with the least-squares loss of Mao et al. 2017, arXiv:1611.04076.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.amp import GradScaler
from tqdm import tqdm

from config import TrainConfig
from models_lab import GeneratorUNet, PatchDiscriminator, count_parameters
from utils import checkpoint, run
from utils.data import open_training_data
from utils.lab import decode_lab
from utils.logs import Averages, RunLog, StopRequest
from utils.losses import gan_loss
from utils.metrics import validate
from utils.optim import backward_and_step, learning_rate_at, make_adam, set_learning_rate, update_ema
from utils.visualization import save_loss_plot, save_sample_grid

STAGE = "subset"
LOG_EVERY = 50  # steps


def train(cfg: TrainConfig) -> Path:
    """Train stage 1 and give the path of the last generator.

    Raises:
        UserError: the data or an earlier checkpoint cannot be used, or a loss is not finite.
        Interrupted: it was asked to stop.
    """
    # Set-up
    device = run.set_up_device(cfg.device)
    run.keep_freed_memory(device)
    dtype = run.amp_dtype(device, cfg.amp)
    torch.manual_seed(cfg.seed)
    run.say_config(cfg, device, dtype)
    folder = cfg.output_dir
    run.hold(folder)

    # Data
    data = open_training_data(cfg, cfg.images_dir)
    fixed_l, fixed_ab = decode_lab(*(planes.to(device) for planes in data.fixed))
    steps_per_epoch = len(data.batches)
    total_steps = min(cfg.epochs * steps_per_epoch, cfg.max_steps or sys.maxsize)

    # Models
    origin = data.key
    if cfg.init_checkpoint is None:
        generator = run.place(GeneratorUNet(cfg.gen_width, cfg.gen_depth, cfg.norm, cfg.upsample), device)
        discriminator = run.place(PatchDiscriminator(cfg.disc_width, cfg.norm), device)
    else:
        generator, discriminator, earlier = checkpoint.load_stage(cfg.init_checkpoint, device, "train_lab.py")
        checkpoint.say_hand_off(cfg.init_checkpoint, earlier, cfg)
        origin += earlier["digest"]
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    run.say(f"parameters: G {count_parameters(generator):,}, D {count_parameters(discriminator):,}")

    # Optimizers, and everything else that goes on where an earlier run stopped
    optimizer_g = make_adam(generator, cfg.learning_rate)
    optimizer_d = make_adam(discriminator, cfg.learning_rate)
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    averages = Averages(device, data.names_at)
    parts = {
        "generator": generator,
        "discriminator": discriminator,
        "ema": ema,
        "optimizer_g": optimizer_g,
        "optimizer_d": optimizer_d,
        "scaler": scaler,
        "averages": averages,
    }
    if not cfg.resume:
        checkpoint.start_anew(folder, folder, "epoch_[0-9]*", cfg.init_checkpoint)
        run.barrier()
    position = checkpoint.resume(folder, STAGE, cfg, origin, parts)
    if position.step:
        run.say(f"goes on from {folder / 'last.pt'} at step {position.step} of {total_steps}")
    log = RunLog(folder, position.step, cfg)

    def save_last() -> None:
        averages.means(position.step)  # raises before anything is written if a loss was not finite
        if run.is_main():
            checkpoint.save_last(folder, STAGE, cfg, origin, position, parts)

    with StopRequest() as stop:
        while position.step < total_steps or position.batch:
            last_batch = min(steps_per_epoch, position.batch + total_steps - position.step)
            data.batches.set_position(position.epoch, position.batch, last_batch)
            title = f"epoch {position.epoch + 1}/{cfg.epochs}"
            progress = tqdm(data.loader, title, last_batch - position.batch, disable=not run.is_main())
            for l, ab in progress:
                l, real_ab = decode_lab(l.to(device, non_blocking=True), ab.to(device, non_blocking=True))
                learning_rate = learning_rate_at(position.step, total_steps, cfg.learning_rate, cfg.warmup_steps)
                set_learning_rate(learning_rate, optimizer_g, optimizer_d)

                # (1) Update D: real colors toward 1, generated ones toward 0
                with run.autocast(device, dtype):
                    fake_ab = generator(l)
                    loss_d_real = gan_loss(discriminator(l, real_ab), True)
                    loss_d_fake = gan_loss(discriminator(l, fake_ab.detach()), False)
                loss_d = 0.5 * (loss_d_real + loss_d_fake)
                grad_norm_d = backward_and_step(loss_d, optimizer_d, scaler)

                # (2) Update G: fool D, and stay close to the true colors
                discriminator.requires_grad_(False)
                with run.autocast(device, dtype):
                    loss_g_gan = gan_loss(discriminator(l, fake_ab), True)
                loss_g_l1 = F.l1_loss(fake_ab.float(), real_ab)
                loss_g = loss_g_gan + cfg.lambda_l1 * loss_g_l1
                grad_norm_g = backward_and_step(loss_g, optimizer_g, scaler)
                discriminator.requires_grad_(True)
                scaler.update()
                update_ema(ema, generator, position.step, cfg.ema_decay)

                # Log
                position.step, position.batch = position.step + 1, position.batch + 1
                losses = {"loss_d": loss_d, "loss_g": loss_g, "loss_g_gan": loss_g_gan, "loss_g_l1": loss_g_l1}
                averages.add(**losses, grad_norm_d=grad_norm_d, grad_norm_g=grad_norm_g)
                if position.step % LOG_EVERY == 0:
                    means = averages.means(position.step)
                    log.scalars(position.step, {**means, "learning_rate": learning_rate})
                    progress.set_postfix(d=f"{means['loss_d']:.3f}", l1=f"{means['loss_g_l1']:.4f}")
                stopping = stop.agreed(position.step, device)
                if position.step % cfg.last_every == 0 or stopping:
                    save_last()
                if stopping:
                    raise run.Interrupted(
                        f"stopped at step {position.step} of {total_steps}; to go on: {run.command()}"
                    )

            # Validate
            means = averages.means(position.step)
            averages.reset()
            position.epoch, position.batch = position.epoch + 1, 0
            is_last = position.step == total_steps
            if run.is_main():
                scores = validate(ema, data.val_loader, device, dtype)
                log.epoch(position.epoch, position.step, means, scores)
                if position.epoch % cfg.sample_every == 0 or is_last:
                    with torch.inference_mode():
                        grid = fixed_l, fixed_ab, ema(fixed_l)
                    samples = folder / "samples" / f"epoch_{position.epoch:03d}.png"
                    save_sample_grid(samples, *grid)
                    log.grid(position.step, samples)

                # Save
                info = checkpoint.describe(STAGE, position, cfg, scores)
                if position.epoch % cfg.save_every == 0 or is_last:
                    checkpoint.save_epoch(folder, f"epoch_{position.epoch:03d}", ema, discriminator, info)
                if scores["psnr"] > position.best_psnr:
                    position.best_psnr = scores["psnr"]
                    checkpoint.save_network(folder / "best.pt", ema, info)
                checkpoint.save_last(folder, STAGE, cfg, origin, position, parts)
            run.barrier()

    log.close()
    if run.is_main():
        save_loss_plot(folder / "log.jsonl", folder / "losses.png")
    newest = folder / f"G_epoch_{position.epoch:03d}.pt"
    run.say(f"stage 1 is done: {newest}")
    return newest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(TrainConfig, train, argv)


if __name__ == "__main__":
    sys.exit(main())
