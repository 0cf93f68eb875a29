"""Tests of the collector that need PyTorch: an environment of their own (make test-measure), no CUDA, Triton
in its interpreter.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_configure(config):
    # Triton's interpreter reads loop bounds in a way that newer numpy warns of.
    config.addinivalue_line("filterwarnings", "ignore:Conversion of an array:DeprecationWarning")
