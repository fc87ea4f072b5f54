"""Run a script of the project with the textbook's generator, for comparisons of equal networks.

python -m benchmarks.swapped infer_lab.py IMAGES CHECKPOINT ...
"""

from __future__ import annotations

import runpy
import sys

from benchmarks.textbook_networks import Generator
from utils import checkpoint

if __name__ == "__main__":
    checkpoint.GeneratorUNet = Generator
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
