"""Stage 3: a short stage with a VGG16 perceptual loss, from stage 2 on the full data set.

    python train_vgg.py

Reads checkpoints_finetune/G_finetune_epoch_04.pt and D_finetune_epoch_04.pt (from train_lab_finetune.py), VGG16's
ImageNet weights (with --vgg-weights lite2, EfficientNet-Lite2's), and all of train2017, or its cache, without the
images that filter.py found gray or broken. Writes checkpoints_finetune/G_ft_fromE4_vgg_epoch_NN.pt and its D (E4: the
epoch it started from), and to checkpoints_finetune/vgg/: best.pt, last.pt (the same command resumes from it),
log.jsonl, losses.png, samples/ and tensorboard/.

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", 2017,
arXiv:1611.07004, with the perceptual loss of Johnson, Alahi and Fei-Fei 2016, arXiv:1603.08155.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F

from config import VGGConfig
from dataset_lab_cache import open_source
from models_lab import PretrainedUNet
from utils.run import place, run_script
from utils.training.inputs import vary_tone
from utils.training.losses import gan_loss, perceptual_loss
from utils.training.optimization import backward_and_step, make_adam
from utils.training.stage import Stage


def train(cfg: VGGConfig) -> Path:
    """Train stage 3 and give the path of the last generator.

    Raises:
        UserError: the data or an earlier checkpoint cannot be used, or a loss is not finite.
        Interrupted: the run was asked to stop.
    """
    stage = Stage(cfg, "finetune_vgg", cfg.output_dir / "vgg")
    stage.open_data(open_source(cfg, cfg.filter_report))

    generator, discriminator, epoch = stage.inherit("train_lab_finetune.py")
    vgg_loss = place(perceptual_loss(cfg.vgg_weights), stage.device)
    optimizer_g = make_adam(generator, cfg.learning_rate)
    optimizer_d = make_adam(discriminator, cfg.learning_rate)
    saved_as = f"ft_fromE{epoch}_vgg_epoch_{{:02d}}"
    stage.begin(generator, discriminator, optimizer_g, optimizer_d, saved_as, vgg_loss.label)

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

        # (2) Update G: fool D, and stay close to the true colors and their VGG features
        discriminator.requires_grad_(False)
        with stage.autocast():
            loss_g_gan = gan_loss(discriminator(l, fake_ab), True)
            loss_g_vgg = vgg_loss(l, fake_ab, real_ab)
        loss_g_l1 = F.l1_loss(fake_ab.float(), real_ab)
        loss_g = loss_g_gan + cfg.lambda_l1 * loss_g_l1 + cfg.lambda_vgg * loss_g_vgg
        grad_norm_g = backward_and_step(loss_g, optimizer_g, stage.scaler)
        discriminator.requires_grad_(True)

        losses = {"loss_d": loss_d, "loss_g": loss_g, "loss_g_gan": loss_g_gan, "loss_g_l1": loss_g_l1}
        stage.end_step(**losses, loss_g_vgg=loss_g_vgg, grad_norm_d=grad_norm_d, grad_norm_g=grad_norm_g)
    return stage.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(VGGConfig, train, argv)


if __name__ == "__main__":
    sys.exit(main())
