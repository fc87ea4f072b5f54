"""Try changes of the recipe on the same images, the same number of times, and write one table.

    python -m benchmarks.ablate --images-dir SUBSET --work-dir DIR [--variants base hinge ...] [--seeds 0 1]

Each run is train_lab.py as it is, but for the change that `benchmarks.variants` names. Images that every run holds
out are scored by the report's protocol. A run that is done is not repeated, and several of these commands (say, each
on a core of its own) share the runs between them. Writes benchmarks/results/ablation.json with all of --work-dir, and
docs/ablation.png with what some of them make of photographs that scikit-image and matplotlib ship.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

import train_lab
from benchmarks.color_scores import score
from benchmarks.measure import ROOT, in_fresh_process
from benchmarks.sheets import photographs, to_gray
from benchmarks.variants import VARIANTS
from config import DEVICE, TrainConfig
from utils import checkpoint, run
from utils.colorize import colorize
from utils.data import is_held_out
from utils.files import read_json, write_json
from utils.fixed_samples import choose_fixed_images
from utils.images import Picture, list_images, resize
from utils.run import UserError
from utils.visualization import GRAYSCALE, GROUND_TRUTH, generated_title, save_comparison_figure

RESULT = "result.json"
LAMBDA_L1 = 100.0  # the paper's, which is what the changes are changes of
COLUMNS = {
    "psnr": ("PSNR", ".2f"),
    "psnr_gain": ("over gray", "+.2f"),
    "ssim": ("SSIM", ".4f"),
    "ms_ssim": ("MS-SSIM", ".4f"),
    "colorfulness": ("colorfulness", ".1f"),
    "colorfulness_share": ("of the truth", ".0%"),
    "histogram_distance": ("histograms", ".3f"),
    "nearly_gray": ("nearly gray", ".1%"),
    "rec_601_gain": ("from Rec. 601", "+.2f"),
    "gain_at_70": ("over gray at 70 %", "+.2f"),
}


@dataclass(frozen=True)
class AblateConfig:
    """Try changes of the recipe."""

    images_dir: Path
    """The filtered photographs: a folder, or a text file with one path a line."""
    work_dir: Path
    """Folder for the runs; those that are done are not repeated."""
    unfiltered_dir: Path | None = None
    """The photographs before filter.py."""
    pretrain_dir: Path | None = None
    """Other photographs, to learn from before."""
    cache_dir: Path = Path("lab_cache")
    """Parent of the caches."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which of benchmarks/variants.py."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each."""
    drawn: tuple[str, ...] = (
        "base",
        "L1 x 2.5",
        "L1 alone",
        "L1, then GAN",
        "rarity-weighted L1",
        "classes of color",
    )
    """Columns of docs/ablation.png, of the first seed."""
    images: int = 16_000
    """Images that each run sees, counted as often as it sees them."""
    scored_images: int = 200
    """Most held-out images that are scored."""
    img_size: int = 64
    """Side of the training crops, in pixels."""
    gen_width: int = 32
    """Channels of the generator's first level."""
    disc_width: int = 32
    """Channels of the discriminator's first layer."""
    val_fraction: float = 0.1
    """Share of the photographs that is held out."""
    device: str = DEVICE
    """cuda, mps or cpu."""


@contextlib.contextmanager
def changed(parts: Mapping[str, Callable]) -> Iterator[None]:
    """Let train_lab.py use a variant's parts, and checkpoints its networks."""
    with contextlib.ExitStack() as stack:
        for name, part in parts.items():
            for module in (train_lab, checkpoint) if hasattr(checkpoint, name) else (train_lab,):
                stack.enter_context(mock.patch.object(module, name, part))
        yield


def train_and_score(cfg: AblateConfig, name: str, seed: int, folder: Path) -> dict[str, float]:
    """Train by a variant and score what is held out."""
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = torch.device(cfg.device)
    newest, images, seconds = None, 0, 0.0
    for number, phase in enumerate(VARIANTS[name]):
        values = {
            "images_dir": getattr(cfg, f"{phase.images}_dir"),
            "cache_dir": cfg.cache_dir,
            "output_dir": folder / f"phase_{number}",
            "init_checkpoint": newest,
            "device": cfg.device,
            "img_size": cfg.img_size,
            "load_size": cfg.img_size * 286 // 256,
            "gen_width": cfg.gen_width,
            "disc_width": cfg.disc_width,
            "lambda_l1": LAMBDA_L1,
            "val_fraction": cfg.val_fraction,
            "val_images": 32,
            "seed": seed,
            "num_workers": 0,
            "epochs": cfg.images,
            "save_every": cfg.images,
            "sample_every": cfg.images,
            "last_every": cfg.images,
            **phase.flags,
        }
        steps = max(1, round(phase.share * cfg.images / values.get("batch_size", TrainConfig.batch_size)))
        train_cfg = TrainConfig(**values, max_steps=steps)
        with changed(phase.parts):
            started = time.perf_counter()
            newest = train_lab.train(train_cfg)
            seconds += time.perf_counter() - started
            images += steps * train_cfg.batch_size
            generator, info = checkpoint.load_generator(newest, device)
    held_out = [path for path in list_images(cfg.images_dir, mend="") if is_held_out(path, cfg.val_fraction)]
    scored = choose_fixed_images(held_out, cfg.scored_images)
    scores = score(generator, checkpoint.training_size(info), scored, device)
    return {"images": images, "images_per_second": images / seconds, **scores}


def table(results: Sequence[Mapping[str, object]]) -> str:
    """Lay the means over the seeds out as a Markdown table."""
    runs = defaultdict(list)
    for result in results:
        runs[result["variant"]].append(result)
    titles = ["change", "seeds", *(title for title, _ in COLUMNS.values())]
    lines = [" | ".join(titles), " | ".join(["---", *["---:"] * (len(titles) - 1)])]
    for name in (name for name in VARIANTS if name in runs):
        cells = [format(statistics.fmean(r[key] for r in runs[name]), style) for key, (_, style) in COLUMNS.items()]
        lines.append(" | ".join([name, str(len(runs[name])), *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def draw(cfg: AblateConfig, path: Path) -> None:
    """Write what the runs of `cfg.drawn` make of photographs, as far as they are done."""
    device = torch.device(cfg.device)
    truth = [resize(rgb, rgb.shape[0] * 160 // rgb.shape[1], 160) for rgb in photographs()[:6]]
    columns = {GRAYSCALE: list(map(to_gray, truth))}
    for name in cfg.drawn:
        newest = sorted((folder_of(cfg, name, cfg.seeds[0]) / "run").glob("phase_*/G_epoch_*.pt"))
        if newest:
            with changed(VARIANTS[name][-1].parts):
                generator, info = checkpoint.load_generator(newest[-1], device)
            color = functools.partial(colorize, generator, img_size=checkpoint.training_size(info), device=device)
            columns[generated_title(name)] = [color(Picture(rgb, None)).rgb for rgb in truth]
    save_comparison_figure(path, {**columns, GROUND_TRUTH: truth})


def folder_of(cfg: AblateConfig, name: str, seed: int) -> Path:
    """Give a run's folder."""
    return cfg.work_dir / f"{name.replace(' ', '_')}-{seed}"


def ablate(cfg: AblateConfig) -> None:
    """Make the runs that are missing, print the table of all, and write them down."""
    if unknown := set(cfg.variants) - set(VARIANTS):
        raise UserError(f"--variants {' '.join(sorted(unknown))}: give some of {' '.join(VARIANTS)}")
    for seed in cfg.seeds:
        for name in cfg.variants:
            folder = folder_of(cfg, name, seed)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                try:
                    result = in_fresh_process(train_and_score, cfg, name, seed, folder / "run")
                    write_json(folder / RESULT, {"variant": name, "seed": seed, **result})
                except BaseException:
                    shutil.rmtree(folder)  # so that the next command makes it
                    raise
    results = [read_json(path, "") for path in sorted(cfg.work_dir.glob(f"*/{RESULT}"))]
    print(table(results))
    draw(cfg, ROOT / "docs" / "ablation.png")
    plain = checkpoint.plain_config(cfg)
    conditions = {name: plain[name] for name in ("images", "img_size", "gen_width", "disc_width", "val_fraction")}
    conditions |= {"images_dir": cfg.images_dir.name, "commit": run.git_commit(), "torch": torch.__version__}
    write_json(ROOT / "benchmarks" / "results" / "ablation.json", {**conditions, "runs": results})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(AblateConfig, ablate, argv)


if __name__ == "__main__":
    sys.exit(main())
