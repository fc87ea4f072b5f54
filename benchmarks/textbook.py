"""The yardstick: the loop that published LAB-Pix2Pix repositories use, written plainly and with nothing slowed down.

    python -m benchmarks.textbook DEVICE infer IMAGES CHECKPOINT OUTPUT
    python -m benchmarks.textbook DEVICE metrics IMAGES RESULTS...

float32 throughout, one sample at a time through PIL and scikit-image, one .pt file a sample, every forward pass as
often as those loops run it. Each of its parts is what a ratio of `python -m benchmarks` is taken to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchvision.models import vgg16

from benchmarks.textbook_networks import Discriminator, Generator

SIZE = 256  # pixels


def to_sample(path: Path, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Read an image as L (1, S, S) and ab (2, S, S), float32, in [-1, 1]."""
    rgb = np.array(Image.open(path).convert("RGB").resize((size, size), Image.BICUBIC))
    lab = torch.from_numpy(rgb2lab(rgb).astype(np.float32)).permute(2, 0, 1)
    return lab[:1] / 50 - 1, lab[1:] / 110


class FileDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples from image files."""

    def __init__(self, images: list[Path], size: int = SIZE):
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return to_sample(self.images[index], self.size)


class CacheDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples from one .pt file each."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.pt"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = torch.load(self.files[index])
        return sample["L"], sample["ab"]


def cache(images: list[Path], folder: Path, size: int = SIZE) -> None:
    """Write one float32 .pt file a sample."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        l, ab = to_sample(path, size)
        torch.save({"L": l.clone(), "ab": ab.clone()}, folder / f"{path.stem}.pt")


def to_rgb(l: Tensor, ab: Tensor) -> np.ndarray:
    """Convert L (1, H, W) and ab (2, H, W) to RGB, (H, W, 3), in [0, 1]."""
    return lab2rgb(torch.cat([(l + 1) * 50, ab * 110]).permute(1, 2, 0).detach().cpu().numpy())


class VGGFeatures(nn.Module):
    """VGG16 up to relu4_3, with random weights: their values do not matter for its speed."""

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg16(weights=None).features[:23].eval().requires_grad_(False)

    def loss(self, l: Tensor, fake_ab: Tensor, real_ab: Tensor) -> Tensor:
        """Compare features of colors that went through NumPy, so that no gradient comes back."""
        fake, real = (
            torch.from_numpy(np.stack([to_rgb(*sample) for sample in zip(l, ab, strict=True)]))
            .permute(0, 3, 1, 2)
            .float()
            .to(l.device)
            for ab in (fake_ab, real_ab)
        )
        return F.l1_loss(self.features(fake), self.features(real))


def train(
    loader: DataLoader,
    generator: Generator,
    discriminator: Discriminator,
    device: torch.device,
    vgg: VGGFeatures | None = None,
) -> Iterator[tuple[float, float]]:
    """Train for ever and yield the losses of D and G after each step."""
    optimizer_g: Optimizer = Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d: Optimizer = Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    bce = nn.BCEWithLogitsLoss()
    while True:
        for l, ab in loader:
            l, ab = l.to(device), ab.to(device)

            fake = generator(l).detach()
            loss_real = bce(discriminator(l, ab), torch.ones_like(discriminator(l, ab)))
            loss_fake = bce(discriminator(l, fake), torch.zeros_like(discriminator(l, fake)))
            loss_d = (loss_real + loss_fake) * 0.5
            optimizer_d.zero_grad()
            loss_d.backward()
            optimizer_d.step()

            fake = generator(l)
            loss_g = bce(discriminator(l, fake), torch.ones_like(discriminator(l, fake)))
            loss_g = loss_g + 100 * F.l1_loss(fake, ab)
            if vgg:
                loss_g = loss_g + vgg.loss(l, fake, ab)
            optimizer_g.zero_grad()
            loss_g.backward()
            optimizer_g.step()
            yield loss_d.item(), loss_g.item()


def infer(images: list[Path], checkpoint: Path, output: Path, device: torch.device) -> None:
    """Color images one at a time, as squares of SIZE pixels."""
    generator = Generator()
    generator.load_state_dict(torch.load(checkpoint, map_location=device)["weights"])
    generator.to(device).eval()
    output.mkdir(parents=True, exist_ok=True)
    for path in images:
        l, _ = to_sample(path)
        with torch.no_grad():
            ab = generator(l[None].to(device))[0].cpu()
        Image.fromarray((to_rgb(l, ab) * 255).astype(np.uint8)).save(output / f"{path.stem}.png")


def colorfulness(rgb: np.ndarray) -> float:
    """Colorfulness of Hasler and Suesstrunk (2003) of (H, W, 3) in [0, 255]."""
    r, g, b = rgb.astype(np.float64).transpose(2, 0, 1)
    rg, yb = np.abs(r - g), np.abs((r + g) / 2 - b)
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def metrics(images: list[Path], results: list[Path], device: torch.device) -> list[list[float]]:
    """Score folders of finished images one image at a time; the truth is read again for each."""
    table = []
    for folder in results:
        scores = []
        for path in images:
            truth = np.array(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.BICUBIC))
            result = np.array(Image.open(folder / f"{path.stem}.png").convert("RGB").resize((SIZE, SIZE)))
            x, y = (
                torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device) / 255 for image in (result, truth)
            )
            mse = float(np.mean((result.astype(np.float64) - truth) ** 2))
            scores.append(
                [
                    10 * np.log10(255**2 / max(mse, 1e-10)),
                    structural_similarity_index_measure(x, y, data_range=1.0).item(),
                    multiscale_structural_similarity_index_measure(x, y, data_range=1.0).item(),
                    colorfulness(result),
                    colorfulness(truth),
                ]
            )
        table.append(np.mean(scores, axis=0).tolist())
    return table


def list_folder(folder: Path) -> list[Path]:
    """List the images of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def main(device: str, part: str, images: str, *rest: str) -> None:
    """Run one part on a folder of images, as a process of its own."""
    paths = list_folder(Path(images))
    if part == "infer":
        infer(paths, Path(rest[0]), Path(rest[1]), torch.device(device))
    elif part == "metrics":
        print(metrics(paths, [Path(folder) for folder in rest], torch.device(device)))


if __name__ == "__main__":
    main(*sys.argv[1:])
