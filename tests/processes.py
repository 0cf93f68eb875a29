"""Commands as a user runs them: a process of their own, in a folder of their own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path


def h3(folder: Path, verb: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m h3.<verb>` in a folder, its store there too; keywords: environment variables."""
    return subprocess.run(
        [sys.executable, "-m", f"h3.{verb}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "MLFLOW_TRACKING_URI": "", **environment},
    )


def limited(
    folder: Path, verb: str, *arguments: str, memory_bytes: int = 4 << 30
) -> subprocess.CompletedProcess:
    """The same with a limit on the process's address space, and a minute to live."""
    line = (
        f"ulimit -v {memory_bytes >> 10}; exec timeout 60 {shlex.quote(sys.executable)} -m h3.{verb} "
        + shlex.join(arguments)
    )
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MLFLOW_TRACKING_URI": "", "OPENBLAS_NUM_THREADS": "1"},
    )
