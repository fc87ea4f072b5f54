"""Train variants of the recipe on the same number of images, score them, and print one table.

    python -m benchmarks.ablate --images-dir SUBSET --work-dir DIR [--variants base attention ...] [--seeds 0 1]

Each run is train_lab.py with a change that `benchmarks.variants` names, scored on images that every run holds out. A
finished run is not repeated; several of these commands, each on a core of its own, can share the runs. Writes the
runs, whose samples/ show the same images, and ablation.json to --work-dir.
"""

import contextlib
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import train_lab
from benchmarks.color_scores import score
from benchmarks.measure import in_fresh_process, make_main, markdown, parse
from benchmarks.variants import VARIANTS, Phase
from config import DEVICE, TrainConfig
from utils import files, run
from utils.data.split import is_held_out
from utils.fixed_samples import choose_fixed_images
from utils.training import checkpoints

NETWORKS = "--encoder none --gen-width 32 --disc-width 32"
FLAGS = "--img-size 64 --load-size 71 --val-fraction 0.1 --lambda-l1 100 --learning-rate 2e-4 --scale-jitter 0"
COLUMNS = """psnr:.2f psnr_gain:+.2f ssim:.4f ms_ssim:.4f colorfulness:.1f colorfulness_share:.0%
    histogram_distance:.3f nearly_gray:.1% fd_lite2:.1f rec_601_gain:+.2f gain_at_70:+.2f"""  # measures and formats


@dataclass(frozen=True)
class AblateConfig:
    """Try changes of the recipe."""

    images_dir: Path  # The filtered photographs: a folder, or a text file with one path a line.
    work_dir: Path  # Folder for the runs; a finished one is not repeated.
    variants: tuple[str, ...] = tuple(VARIANTS)  # Which of benchmarks/variants.py.
    seeds: tuple[int, ...] = (0,)  # Seeds of each.
    images: int = 16_000  # Images that each run sees, counting repetitions.
    scored_images: int = 200  # Most held-out images to score.
    networks: str = NETWORKS  # Flags of train_lab.py for the networks, given as --networks="...".
    flags: str = FLAGS  # Its other flags, for every run, given as --flags="...".
    device: str = DEVICE  # cuda, mps or cpu.


def configure(cfg: AblateConfig, phase: Phase, seed: int, output_dir: Path, init: Path | None) -> TrainConfig:
    """Return the command line of a phase, which trains the networks of `init` where there is one."""
    common = f"{cfg.flags} --device {cfg.device} --seed {seed} --num-workers 0 --val-images 32 --epochs {cfg.images}"
    common += f" --save-every {cfg.images} --sample-every {cfg.images} --last-every {cfg.images}"
    start = ("--init-checkpoint", init) if init else (cfg.networks,)
    train_cfg = parse(
        TrainConfig, common, "--images-dir", cfg.images_dir, "--output-dir", output_dir, *start, phase.flags
    )
    return replace(train_cfg, max_steps=max(1, round(phase.share * cfg.images / train_cfg.batch_size)))


def train_and_score(cfg: AblateConfig, name: str, seed: int, folder: Path) -> dict[str, float]:
    """Train a variant and score it on the held-out images."""
    newest: Path | None = None
    images, seconds = 0, 0.0
    for number, phase in enumerate(VARIANTS[name]):
        train_cfg = configure(cfg, phase, seed, folder / f"phase_{number}", newest)
        with phase.replaced():
            started = time.perf_counter()
            newest = train_lab.train(train_cfg)
            seconds += time.perf_counter() - started
            generator, info = checkpoints.load_generator(newest, torch.device(cfg.device))
        images += (train_cfg.max_steps or 0) * train_cfg.batch_size
    held_out = [path for path in files.list_images(cfg.images_dir) if is_held_out(path, train_cfg.val_fraction)]
    held_out = choose_fixed_images(held_out, cfg.scored_images)
    scores = score(generator, checkpoints.working_size(info), held_out, torch.device(cfg.device))
    return {"images_seen": images, "images_per_second": images / seconds, **scores}


def table(results: Sequence[Mapping]) -> str:
    """Lay the means over the seeds out as a Markdown table, in the order of VARIANTS."""
    columns = dict(column.split(":") for column in COLUMNS.split())
    rows = []
    for name in dict.fromkeys([*VARIANTS, *(result["variant"] for result in results)]):
        if runs := [result for result in results if result["variant"] == name]:
            means = [format(statistics.fmean(r[key] for r in runs), style) for key, style in columns.items()]
            rows.append([name, str(len(runs)), *means])
    return markdown(["change", "seeds", *columns], rows)


def ablate(cfg: AblateConfig) -> None:
    """Make the missing runs, print the table of all, and write it."""
    if unknown := set(cfg.variants) - set(VARIANTS):
        raise run.UserError(f"--variants {' '.join(sorted(unknown))}: give some of {', '.join(VARIANTS)}")
    for seed, name in ((seed, name) for seed in cfg.seeds for name in cfg.variants):
        folder = cfg.work_dir / f"{name.replace(' ', '_')}-{seed}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            try:
                result = in_fresh_process(train_and_score, cfg, name, seed, folder / "run")
                files.write_json(folder / "result.json", {"variant": name, "seed": seed, **result})
            except BaseException:
                shutil.rmtree(folder)  # so that the next command makes it
                raise
    results = [files.read_json(path, "") for path in sorted(cfg.work_dir.glob("*/result.json"))]
    run.say(table(results))
    conditions = {**run.plain_config(cfg), "commit": run.git_commit(), "torch": torch.__version__}
    files.write_json(cfg.work_dir / "ablation.json", {**conditions, "runs": results})


main = make_main(AblateConfig, ablate)

if __name__ == "__main__":
    sys.exit(main())
