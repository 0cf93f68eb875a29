"""The Triton kernels compile for the card that they are meant for.

make test-measure
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from measure import kernels

H100_SHARED_BYTES = 227 * 1024


def test_every_kernel_compiles_to_machine_code_for_an_h100_within_its_shared_memory(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_kernels.py"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    assert max(shared.values()) <= H100_SHARED_BYTES
    there = {
        name
        for name, value in vars(kernels).items()
        if hasattr(value, "arg_names") or type(value).__name__ == "InterpretedFunction"
    }
    assert {case.split()[0] for case in shared} == there
