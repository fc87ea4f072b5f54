"""A training command line, checked before anything is read or written."""

from __future__ import annotations

import math

from config import FinetuneConfig, TrainConfig, TrainingConfig
from utils.run import UserError

MIN_IMG_SIZE = 32  # pixels; smaller crops leave the discriminator no patch


def check_ranges(cfg: TrainingConfig) -> None:
    """Check the numbers that every stage takes, and that no teacher would be overwritten.

    Raises:
        UserError: one of them makes no sense.
    """
    positive = ["epochs", "batch_size", "val_images", "sample_every", "save_every", "last_every"]
    positive += ["disc_width"] if isinstance(cfg, TrainConfig) else []
    for name in [*positive, *(["max_steps"] if cfg.max_steps is not None else [])]:
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must be at least 1")
    for name in ("num_workers", "seed", "warmup_steps"):
        if getattr(cfg, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must not be negative")
    for name in ("learning_rate", "lambda_l1", "lambda_vgg"):
        value = getattr(cfg, name, 1.0)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be a finite number, and not negative")
    if isinstance(cfg, TrainConfig) and (cfg.gen_width < 2 or cfg.gen_width % 2 or cfg.gen_depth < 2):
        given = f"--gen-width {cfg.gen_width} --gen-depth {cfg.gen_depth}"
        raise UserError(f"{given}: the width must be even and the depth at least 2")
    if isinstance(cfg, TrainConfig) and not 0 <= cfg.frozen_share <= 1:
        raise UserError(f"--frozen-share {cfg.frozen_share}: must be in [0, 1]")
    if isinstance(cfg, TrainConfig):
        _check_networks(cfg)
    for teacher in cfg.teachers if isinstance(cfg, FinetuneConfig) else ():
        if teacher.resolve().parent == cfg.output_dir.resolve():
            raise UserError(f"--teachers {teacher}: lies where this run writes; give another --output-dir")
    if cfg.img_size < MIN_IMG_SIZE:
        raise UserError(f"--img-size {cfg.img_size}: the discriminator needs at least {MIN_IMG_SIZE}")
    if cfg.load_size < cfg.img_size:
        raise UserError(f"--load-size {cfg.load_size}: must be at least --img-size {cfg.img_size}")
    if not 0 <= cfg.dropout < 0.5:
        raise UserError(f"--dropout {cfg.dropout}: must be in [0, 0.5)")
    if not 0 <= cfg.scale_jitter <= 0.5:
        raise UserError(f"--scale-jitter {cfg.scale_jitter}: must be in [0, 0.5]")
    if not 0 <= cfg.ema_decay < 1:
        raise UserError(f"--ema-decay {cfg.ema_decay}: must be in [0, 1)")


def _check_networks(cfg: TrainConfig) -> None:
    """Refuse flags of networks other than those that are going to be trained."""
    scratch, pretrained = ["gen_width", "gen_depth"], ["encoder_weights", "frozen_share"]
    if cfg.init_checkpoint is not None:
        ignored = ["encoder", "encoder_weights", *scratch, "disc_width", "norm", "upsample"]
        why = "the networks are those of --init-checkpoint"
    elif cfg.encoder == "none":
        ignored, why = pretrained, "with --encoder none no encoder is pretrained"
    else:
        ignored, why = scratch, "only with --encoder none"
    given = [f"--{name.replace('_', '-')}" for name in ignored if getattr(cfg, name) != getattr(TrainConfig, name)]
    if given:
        raise UserError(f"{', '.join(given)}: {why}; leave it out")
