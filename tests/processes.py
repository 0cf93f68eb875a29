"""Commands as a user runs them: a process of their own, in a folder of their own."""

from __future__ import annotations

import os
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
