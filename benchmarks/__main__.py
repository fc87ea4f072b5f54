"""Compare every part of the project with the textbook loop, side by side.

    python -m benchmarks [--images-dir PHOTOGRAPHS] [--device cuda]

Reads a folder of JPEGs; without one, photographs that scikit-image ships. Prints one table and, after a run of all
parts, writes benchmarks/results/<machine>.json. Both sides take turns (A B A B); the figures are medians.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import torch

from benchmarks import films, processes, training
from benchmarks.measure import ROOT, Row, in_fresh_process, machine_name, make_main, markdown, matmul_rate, repeat
from config import CORES, DEVICE
from utils import run
from utils.data.sample_set import load_photo
from utils.files import write_json
from utils.images import resize

Part = Literal["loading", "training", "folders", "memory", "export", "films"]


@dataclass(frozen=True)
class BenchmarkConfig:
    """Compare every part with the textbook loop."""

    images_dir: Path | None = None  # Folder of JPEGs of COCO's size; scikit-image's photographs when not given.
    parts: tuple[Part, ...] = ("loading", "training", "folders", "memory", "export", "films")  # Which parts.
    device: str = DEVICE  # cuda, mps or cpu.
    images: int = 64  # Images to color, score and load; fewer are repeated.
    turns: int = 2  # Pairs of timings; more where they are short.
    steps: int = 2  # Training steps per timing; 50 are better on a GPU.


def write_photographs(folder: Path) -> Iterator[Path]:
    """Write photographs of scikit-image's as JPEGs of 640 x 480 pixels."""
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        path = folder / f"{name}.jpg"
        cv2.imwrite(str(path), resize(load_photo(name), 480, 640)[:, :, ::-1])
        yield path


def measure(cfg: BenchmarkConfig, work: Path, device: torch.device) -> Iterator[Row]:
    """Run the parts in a working folder."""
    started = time.perf_counter()
    listed = write_photographs(work) if cfg.images_dir is None else sorted(cfg.images_dir.iterdir())
    images = [path for path in listed if path.suffix.lower() in (".jpg", ".jpeg")]
    if not images:
        raise run.UserError(f"{cfg.images_dir}: no JPEGs there")
    some = repeat(images, cfg.images, work / "some")
    parts: dict[Part, Callable[[], Iterable[Row]]] = {
        "loading": lambda: in_fresh_process(training.measure_loading, some, work, 2 * cfg.turns + 1),
        "training": lambda: training.measure_steps(images, work, device, cfg.turns, cfg.steps),
        "folders": lambda: processes.measure_folders(some, work, device, cfg.turns),
        "memory": lambda: processes.measure_memory(images, work, device),
        "export": lambda: processes.measure_export(work, cfg.turns + 1),
        "films": lambda: films.measure_films(work, device, cfg.turns),
    }
    for part in cfg.parts:
        run.say(f"{time.perf_counter() - started:.0f} s: {part} ...")
        yield from parts[part]()


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out as a Markdown table."""
    cells = []
    for row in rows:
        theirs, *ratios = ("" if x is None else f"{x:.4g}" for x in (row.textbook, row.ratio, row.target))
        cells.append([row.part, theirs, f"{row.ours:.4g} {row.unit}", *ratios, row.note])
    return markdown(["part", "textbook", "ours", "ratio", "aim", "conditions"], cells, "---")


def benchmark(cfg: BenchmarkConfig) -> None:
    """Measure, print the table, and write it with the conditions."""
    started = time.perf_counter()
    device = run.set_up_device(cfg.device)
    with tempfile.TemporaryDirectory() as work:
        rows = []
        for row in measure(cfg, Path(work), device):  # the table comes at the end, which may be far away
            run.say(f"{row.part}: {row.ours:.4g} {row.unit}")
            rows.append(row)
    dtypes = {torch.float32, run.amp_dtype(device, True) or torch.float32}  # what is not supported takes minutes
    conditions = {
        "machine": machine_name(device),
        "cores": CORES,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "commit": run.git_commit(),
        "images": "scikit-image's photographs" if cfg.images_dir is None else cfg.images_dir.name,
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "opencv": cv2.__version__},
        "matmul_gflops": {str(dtype)[6:]: round(matmul_rate(device, dtype) / 1e9) for dtype in dtypes},
        "turns": cfg.turns,
        "seconds": round(time.perf_counter() - started),
    }
    print(table(rows), *(f"{name}: {value}" for name, value in conditions.items()), sep="\n")
    if set(cfg.parts) == set(BenchmarkConfig.parts):
        path = ROOT / "benchmarks" / "results" / f"{conditions['machine']}.json"
        write_json(path, {**conditions, "rows": [asdict(row) for row in rows]})
        print(f"written to {path}")


main = make_main(BenchmarkConfig, benchmark)

if __name__ == "__main__":
    sys.exit(main())
