"""Write a generator as ONNX and as a torch.export program, to run it elsewhere.

    python export_lab.py CHECKPOINT [--output-dir exports]

Reads a G_*.pt file; writes <name>.onnx, with the weights inside, and <name>.pt2. Both map L (B, 1, H, W) to ab
(B, 2, H, W) for any B, H and W, and carry the checkpoint's entries and the scaling of the colors as metadata.
docs/EXPORT.md colors a photograph with the first, without PyTorch; infer_lab.py takes it for a checkpoint.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from config import ExportConfig
from models_lab import Generator
from utils.coloring.exported import INPUT, KEY, OUTPUT, OnnxGenerator, describe, open_generator
from utils.files import write_bytes
from utils.run import UserError, hold, run_script, say

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of ab in [-1, 1]
TRACED = (2, 1, 77, 131)  # no side is a multiple of the generator's, so the padding is traced as well
COMPARED = (TRACED, (1, 1, 128, 64), (3, 1, 1, 9))


def export(generator: Generator, metadata: str) -> tuple[bytes, bytes]:
    """Trace a generator in eval mode on the CPU, for any batch, height and width.

    Args:
        generator: maps L (B, 1, H, W) to ab (B, 2, H, W), both in [-1, 1].
        metadata: what the files say of themselves.

    Returns:
        The bytes of an ONNX file and of a .pt2 file.
    """
    program = torch.onnx.export(
        generator,
        (torch.zeros(TRACED),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamo=True,
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        verbose=False,
    )
    assert program is not None and program.exported_program is not None
    shape = program.model.graph.outputs[0].shape
    assert shape is not None
    shape[2], shape[3] = "height", "width"  # in place of the expressions that compute them
    program.model.metadata_props[KEY] = metadata
    pt2 = io.BytesIO()
    torch.export.save(program.exported_program, pt2, extra_files={f"{KEY}.json": metadata})
    return program.model_proto.SerializeToString(), pt2.getvalue()


@torch.inference_mode()
def largest_difference(generator: Generator, exported: Callable[[Tensor], Tensor]) -> float:
    """Compare an exported generator with the original on noise of several shapes."""
    random = torch.Generator().manual_seed(0)
    planes = [torch.rand(shape, generator=random) * 2 - 1 for shape in COMPARED]
    return max((exported(l) - generator(l)).abs().max().item() for l in planes)


def export_checkpoint(cfg: ExportConfig) -> None:
    """Export the checkpoint that `cfg` names, and compare what came of it with the original before it is written.

    Raises:
        UserError: the checkpoint cannot be used, a library is missing, or the libraries exported something else.
    """
    generator, info = open_generator(cfg.checkpoint, torch.device("cpu"))
    if isinstance(generator, OnnxGenerator):
        raise UserError(f"{cfg.checkpoint}: is already exported; name the G_*.pt file")
    for library in LIBRARIES:
        try:
            importlib.import_module(library)
        except ImportError:
            raise UserError(f"{library} is missing; pip install -r requirements-export.txt") from None
    hold(cfg.output_dir)
    generator = generator.to(memory_format=torch.contiguous_format)
    onnx, pt2 = export(generator, describe(info))
    read = {".onnx": OnnxGenerator(onnx), ".pt2": torch.export.load(io.BytesIO(pt2)).module()}
    differences = {suffix: largest_difference(generator, exported) for suffix, exported in read.items()}
    for suffix, difference in differences.items():
        if not difference <= TOLERANCE:
            raise UserError(f"the {suffix} file differs by {difference:.1e}; try other versions of torch, onnxscript")
    for suffix, data in zip(read, (onnx, pt2), strict=True):
        path = cfg.output_dir / f"{cfg.checkpoint.stem}{suffix}"
        write_bytes(path, data)
        say(f"{path}: {len(data) / 1e6:.1f} MB, differs by {differences[suffix]:.1e} at most")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(ExportConfig, export_checkpoint, argv)


if __name__ == "__main__":
    sys.exit(main())
