"""Stage 1: train the generator and the PatchGAN discriminator on the filtered subset.

    python train_lab.py

Reads coco_subset_colorization/ (from filter.py), or its cache. Writes to checkpoints_subset/: G_epoch_NNN.pt and
D_epoch_NNN.pt, best.pt, last.pt (the same command resumes from it), log.jsonl, losses.png, samples/, tensorboard/.

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", 2017,
arXiv:1611.07004, with the least-squares loss of Mao et al. 2017, arXiv:1611.04076. The generator's encoder was
trained on ImageNet (Tan and Le 2019, arXiv:1905.11946); --encoder none is the paper's U-Net from scratch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F

from config import TrainConfig
from dataset_lab_cache import open_source
from models_lab import Generator, GeneratorUNet, PatchDiscriminator, PretrainedUNet
from utils.run import place, run_script
from utils.training.encoder_weights import load_encoder_weights
from utils.training.inputs import vary_tone
from utils.training.losses import gan_loss
from utils.training.optimization import backward_and_step, make_adam
from utils.training.stage import Stage


def train(cfg: TrainConfig) -> Path:
    """Train stage 1 and give the path of the last generator.

    Raises:
        UserError: the data or an earlier checkpoint cannot be used, or a loss is not finite.
        Interrupted: the run was asked to stop.
    """
    stage = Stage(cfg, "subset")
    stage.open_data(open_source(cfg))

    generator: Generator
    if cfg.init_checkpoint is not None:
        generator, discriminator, _ = stage.inherit("train_lab.py")
    else:
        if cfg.encoder == "none":
            generator = place(GeneratorUNet(cfg.gen_width, cfg.gen_depth, cfg.norm, cfg.upsample), stage.device)
        else:
            generator = place(PretrainedUNet(cfg.encoder, norm=cfg.norm, upsample=cfg.upsample), stage.device)
            load_encoder_weights(generator.encoder, cfg.encoder_weights)
        shrink = 1 if cfg.encoder == "none" else 2
        discriminator = place(PatchDiscriminator(cfg.disc_width, cfg.norm, shrink), stage.device)
    optimizer_g = make_adam(generator, cfg.learning_rate)
    optimizer_d = make_adam(discriminator, cfg.learning_rate)
    stage.begin(generator, discriminator, optimizer_g, optimizer_d, "epoch_{:03d}")

    # L (B, 1, S, S) and ab (B, 2, S, S), in [-1, 1]; between batches the stage logs, validates, saves and may stop
    for l, real_ab in stage.batches():
        if isinstance(generator, PretrainedUNet):
            generator.encoder.requires_grad_(stage.position.step >= cfg.frozen_share * stage.total_steps)
        seen_l = vary_tone(l) if isinstance(generator, PretrainedUNet) else l
        # (1) Update D: real colors toward 1, generated ones toward 0
        with stage.autocast():
            fake_ab = generator(seen_l)  # (B, 2, S, S)
            loss_d_real = gan_loss(discriminator(l, real_ab), True)
            loss_d_fake = gan_loss(discriminator(l, fake_ab.detach()), False)
        loss_d = 0.5 * (loss_d_real + loss_d_fake)
        grad_norm_d = backward_and_step(loss_d, optimizer_d, stage.scaler)

        # (2) Update G: fool D, and stay close to the true colors
        discriminator.requires_grad_(False)
        with stage.autocast():
            loss_g_gan = gan_loss(discriminator(l, fake_ab), True)
        loss_g_l1 = F.l1_loss(fake_ab.float(), real_ab)
        loss_g = loss_g_gan + cfg.lambda_l1 * loss_g_l1
        grad_norm_g = backward_and_step(loss_g, optimizer_g, stage.scaler)
        discriminator.requires_grad_(True)

        losses = {"loss_d": loss_d, "loss_g": loss_g, "loss_g_gan": loss_g_gan, "loss_g_l1": loss_g_l1}
        stage.end_step(**losses, grad_norm_d=grad_norm_d, grad_norm_g=grad_norm_g)
    return stage.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(TrainConfig, train, argv)


if __name__ == "__main__":
    sys.exit(main())
