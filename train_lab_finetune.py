"""Stage 2: continue stage 1 on the full data set.

    python train_lab_finetune.py

Reads checkpoints_subset/G_epoch_030.pt and D_epoch_030.pt (from train_lab.py), and all of train2017, or its cache,
without the images that filter.py found gray or broken. Writes to checkpoints_finetune/: G_finetune_epoch_NN.pt and
D_finetune_epoch_NN.pt, best.pt, last.pt (the same command resumes from it), log.jsonl, losses.png, samples/ and
tensorboard/.

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", 2017,
arXiv:1611.07004, with the least-squares loss of Mao et al. 2017, arXiv:1611.04076. With --teachers G also learns
from the mean of other generators (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F

from config import FinetuneConfig
from dataset_lab_cache import open_source
from models_lab import PretrainedUNet
from utils.run import run_script
from utils.training.inputs import vary_tone
from utils.training.losses import gan_loss
from utils.training.optimization import backward_and_step, make_adam
from utils.training.stage import Stage
from utils.training.teachers import load_teachers, mean_color


def train(cfg: FinetuneConfig) -> Path:
    """Train stage 2 and give the path of the last generator.

    Raises:
        UserError: the data or an earlier checkpoint cannot be used, or a loss is not finite.
        Interrupted: the run was asked to stop.
    """
    stage = Stage(cfg, "finetune")
    stage.open_data(open_source(cfg, cfg.filter_report))

    generator, discriminator, _ = stage.inherit("train_lab.py")
    teachers, digests = load_teachers(cfg.teachers, stage.device)
    stage.origin += digests
    optimizer_g = make_adam(generator, cfg.learning_rate)
    optimizer_d = make_adam(discriminator, cfg.learning_rate)
    stage.begin(generator, discriminator, optimizer_g, optimizer_d, "finetune_epoch_{:02d}")

    # L (B, 1, S, S) and ab (B, 2, S, S), in [-1, 1]; between batches the stage logs, validates, saves and may stop
    for l, real_ab in stage.batches():
        seen_l = vary_tone(l) if isinstance(generator, PretrainedUNet) else l
        # (1) Update D: real colors toward 1, generated ones toward 0
        with stage.autocast():
            fake_ab = generator(seen_l)  # (B, 2, S, S)
            loss_d_real = gan_loss(discriminator(l, real_ab), True)
            loss_d_fake = gan_loss(discriminator(l, fake_ab.detach()), False)
        loss_d = 0.5 * (loss_d_real + loss_d_fake)
        grad_norm_d = backward_and_step(loss_d, optimizer_d, stage.scaler)

        # (2) Update G: fool D, and stay close to the true colors, and as much to those of the teachers
        discriminator.requires_grad_(False)
        with stage.autocast():
            loss_g_gan = gan_loss(discriminator(l, fake_ab), True)
        loss_g_l1 = F.l1_loss(fake_ab.float(), real_ab)
        if teachers:
            with stage.autocast():
                taught_ab = mean_color(teachers, l)  # (B, 2, S, S)
            loss_g_l1 = 0.5 * (loss_g_l1 + F.l1_loss(fake_ab.float(), taught_ab))
        loss_g = loss_g_gan + cfg.lambda_l1 * loss_g_l1
        grad_norm_g = backward_and_step(loss_g, optimizer_g, stage.scaler)
        discriminator.requires_grad_(True)

        losses = {"loss_d": loss_d, "loss_g": loss_g, "loss_g_gan": loss_g_gan, "loss_g_l1": loss_g_l1}
        stage.end_step(**losses, grad_norm_d=grad_norm_d, grad_norm_g=grad_norm_g)
    return stage.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(FinetuneConfig, train, argv)


if __name__ == "__main__":
    sys.exit(main())
