"""A generator to color with, from a G_*.pt file or from the ONNX file that export_lab.py made of one.

Uses the checkpoints of `utils.training`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models_lab import Generator
from utils.lab import SCALING
from utils.run import UserError
from utils.training.checkpoints import MEND, check_entries, load_generator

KEY = "lab_pix2pix"  # of the metadata, a JSON object
INPUT, OUTPUT = "l", "ab"


def describe(info: Mapping[str, object]) -> str:
    """Give a checkpoint's entries without its weights, and how colors are scaled, as JSON."""
    return json.dumps({**info, "scaling": SCALING})


class OnnxGenerator(nn.Module):
    """Predict ab from L, as `Generator` does, by onnxruntime on the CPU in float32.

    Args:
        data: the bytes of an ONNX file.

    Raises:
        ImportError: onnxruntime is not installed.
        Exception: of many classes, where the bytes are something else.
    """

    def __init__(self, data: bytes):
        super().__init__()
        import onnxruntime  # in requirements-export.txt

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised as well
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def forward(self, l: Tensor) -> Tensor:
        """Predict color, (B, 2, H, W), from lightness (B, 1, H, W), both in [-1, 1]; any B, H and W."""
        (ab,) = self.session.run([OUTPUT], {INPUT: l.float().cpu().numpy()})
        return torch.from_numpy(ab).to(l.device)  # (B, 2, H, W)


def load_onnx(path: Path, mend: str) -> tuple[OnnxGenerator, dict]:
    """Open an ONNX file of export_lab.py; the second result is what `describe` wrote, the checkpoint's entries.

    Raises:
        UserError: it does not exist, is damaged or something else (the message ends in `mend`), or onnxruntime is
            not installed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; {mend}")
    try:
        generator = OnnxGenerator(path.read_bytes()).eval()
        info = json.loads(generator.session.get_modelmeta().custom_metadata_map[KEY])
        if info["scaling"] != SCALING:
            raise UserError(f"{path}: uses another color scaling, {info['scaling']}; {mend}")
        check_entries(info)
        if generator(torch.zeros(2, 1, 3, 5)).shape != (2, 2, 3, 5):
            raise ValueError("its output's shape")
    except (UserError, OSError):
        raise
    except ImportError:
        raise UserError(f"{path}: needs onnxruntime; pip install -r requirements-export.txt") from None
    except Exception as error:  # a damaged or foreign file can fail to load or run in any way
        raise UserError(f"{path}: not an ONNX file of this project ({type(error).__name__}); {mend}") from None
    return generator, info


def fold_norms(generator: Generator) -> Generator:
    """Fold each batch norm of a generator in eval mode into the convolution before it: for coloring, not training."""
    for module in generator.modules():
        for (_, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                mean, var = norm.running_mean, norm.running_var
                assert mean is not None and var is not None
                fused = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
                conv.weight, conv.bias = fused
                setattr(module, norm_name, nn.Identity())
    return generator


def open_generator(path: Path, device: torch.device) -> tuple[Generator | OnnxGenerator, dict]:
    """Open a generator ready for inference, with its file's other entries; see `load_generator` and `load_onnx`.

    ONNX computes on the CPU, on whichever device its input is. The batch norms of other networks are folded into
    their convolutions.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    if path.suffix.lower() == ".onnx":
        return load_onnx(path, MEND)
    generator, info = load_generator(path, device)
    return fold_norms(generator), info
