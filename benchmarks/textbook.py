"""The textbook loop: what published LAB-Pix2Pix repositories do, written plainly and with nothing slowed down.

    python -m benchmarks.textbook DEVICE infer IMAGES CHECKPOINT OUTPUT
    python -m benchmarks.textbook DEVICE metrics IMAGES RESULTS...
    python -m benchmarks.textbook ours infer_lab.py ...            # our script, with the textbook's generator

float32 throughout, one sample at a time through PIL and scikit-image, one .pt file per sample, every forward pass as
often as those loops run it. `python -m benchmarks` compares its parts with ours. What only one part needs is imported
there, so that each command starts fast.
"""

import runpy
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SIZE = 256  # pixels


class Generator(nn.Module):
    """Six 4x4 stride-2 convolutions, mirrored transposed convolutions with skips: 29.2 M weights."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture: dict[str, int] = {}
        down, up = (1, 64, 128, 256, 512, 512, 512), (512, 512, 256, 128, 64)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 4, 2, 1, bias=False) for i, o in pairwise(down))
        ins = (512, 1024, 1024, 512, 256)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False) for i, o in zip(ins, up, strict=True))
        self.norms = nn.ModuleList(nn.InstanceNorm2d(channels) for channels in (*down[2:-1], *up))
        self.head = nn.ConvTranspose2d(128, 2, 4, 2, 1)

    def forward(self, l: Tensor) -> Tensor:
        """Map L (B, 1, H, W) to ab (B, 2, H, W), both in [-1, 1]; H and W must be divisible by 64."""
        skips = [F.leaky_relu(self.downs[0](l), 0.2)]
        for down, norm in zip(self.downs[1:-1], self.norms, strict=False):
            skips.append(F.leaky_relu(norm(down(skips[-1])), 0.2))
        x = F.relu(self.downs[-1](skips[-1]))
        for up, norm in zip(self.ups, self.norms[len(self.downs) - 2 :], strict=True):
            x = torch.cat([F.relu(norm(up(x))), skips.pop()], dim=1)
        return torch.tanh(self.head(x))


class Discriminator(nn.Module):
    """Three 4x4 stride-2 blocks and a patch of scores: 0.66 M weights, a receptive field of 46 pixels."""

    shrink = 1  # a stage asks how large its crops have to be

    def __init__(self) -> None:
        super().__init__()
        self.architecture: dict[str, int] = {}
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for i, o in ((64, 128), (128, 256)):
            layers += [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.InstanceNorm2d(o), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, 1, 4, 1, 1))

    def forward(self, l: Tensor, ab: Tensor) -> Tensor:
        """Score patches of L (B, 1, H, W) with ab (B, 2, H, W)."""
        return self.layers(torch.cat([l, ab], dim=1))


def read_square(path: Path, size: int = SIZE) -> np.ndarray:
    """Read an image as (S, S, 3), uint8."""
    return np.array(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def to_sample(path: Path, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Read an image as L (1, S, S) and ab (2, S, S), float32, in [-1, 1]."""
    from skimage.color import rgb2lab

    lab = torch.from_numpy(rgb2lab(read_square(path, size)).astype(np.float32)).permute(2, 0, 1)
    return lab[:1] / 50 - 1, lab[1:] / 110


def to_rgb(l: Tensor, ab: Tensor) -> np.ndarray:
    """Convert L (1, H, W) and ab (2, H, W) to RGB, (H, W, 3), in [0, 1]."""
    from skimage.color import lab2rgb

    lab = torch.cat([(l + 1) * 50, ab * 110]).permute(1, 2, 0).detach().cpu().numpy()
    with warnings.catch_warnings():  # lab2rgb clips colors with a negative Z, and warns
        warnings.filterwarnings("ignore", "Conversion from CIE-LAB", UserWarning)
        return lab2rgb(lab)


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
    """Write one float32 .pt file per sample."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        l, ab = to_sample(path, size)
        torch.save({"L": l.clone(), "ab": ab.clone()}, folder / f"{path.stem}.pt")


class VGGLoss(nn.Module):
    """L1 of VGG16's relu4_3, with random weights: the speed does not depend on their values."""

    def __init__(self) -> None:
        from torchvision.models import vgg16

        super().__init__()
        self.features = vgg16(weights=None).features[:23].eval().requires_grad_(False)

    def forward(self, l: Tensor, fake_ab: Tensor, real_ab: Tensor) -> Tensor:
        """Compare features of images that went through NumPy, which stops the gradient."""
        images = (np.stack([to_rgb(*sample) for sample in zip(l, ab, strict=True)]) for ab in (fake_ab, real_ab))
        fake, real = (torch.from_numpy(rgb).permute(0, 3, 1, 2).float().to(l.device) for rgb in images)
        return F.l1_loss(self.features(fake), self.features(real))


def train(
    cache_dir: Path, batch_size: int, generator: Generator, device: torch.device, with_vgg: bool = False
) -> Iterator[tuple[float, float]]:
    """Train a generator without end and yield the losses of D and G after each step."""
    discriminator, vgg = Discriminator().to(device), VGGLoss().to(device) if with_vgg else None
    loader = DataLoader(CacheDataset(cache_dir), batch_size, shuffle=True, drop_last=True, num_workers=2)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
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
                loss_g = loss_g + vgg(l, fake, ab)
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
    """Score folders of colored images one image at a time; every folder reads the truth again."""
    from torchmetrics.functional import image as measures

    table = []
    for folder in results:
        scores = []
        for path in images:
            truth, result = read_square(path), read_square(folder / f"{path.stem}.png")
            mse = float(np.mean((result.astype(np.float64) - truth) ** 2))
            x, y = (torch.from_numpy(rgb).permute(2, 0, 1)[None].float().to(device) / 255 for rgb in (result, truth))
            ssim = measures.structural_similarity_index_measure(x, y, data_range=1.0)
            assert isinstance(ssim, Tensor)  # it can return the map as well
            ms_ssim = measures.multiscale_structural_similarity_index_measure(x, y, data_range=1.0).item()
            psnr = 10 * np.log10(255**2 / max(mse, 1e-10))
            scores.append([psnr, ssim.item(), ms_ssim, colorfulness(result), colorfulness(truth)])
        table.append(np.mean(scores, axis=0).tolist())
    return table


if __name__ == "__main__":
    first, part, *arguments = sys.argv[1:]
    paths = list(map(Path, arguments))
    if first == "ours":
        from utils.training import checkpoints

        vars(checkpoints)["GENERATORS"] = (Generator,)
        sys.argv = [part, *arguments]
        runpy.run_path(part, run_name="__main__")
    elif part == "infer":
        infer(sorted(paths[0].iterdir()), paths[1], paths[2], torch.device(first))
    else:
        print(metrics(sorted(paths[0].iterdir()), paths[1:], torch.device(first)))
