"""Commands as a user runs them: a process of their own, in a folder of their own."""

from __future__ import annotations

import functools
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PREPARED = Path(__file__).with_name("prepared.py")
TIMEOUT_S = 300


def h3(folder: Path, verb: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m h3.<verb>` in a folder, its store there too; keywords: environment variables.

    On Linux the process is a fork of a Python that has imported h3's packages already (prepared.py).
    """
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "", **environment}
    if sys.platform == "linux" and environment.get("PYTHONPATH") == os.environ.get("PYTHONPATH"):
        return _forked(folder, verb, arguments, environment)
    return subprocess.run(
        [sys.executable, "-m", f"h3.{verb}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=environment,
    )


@functools.cache
def _prepared() -> subprocess.Popen[str]:
    """The Python that forks; it ends with this process, whose pipe it reads."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, PREPARED], text=True, bufsize=1, **pipes)


def _forked(
    folder: Path, verb: str, arguments: tuple[str, ...], environment: dict[str, str]
) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as scratch:
        said = {name: str(Path(scratch) / name) for name in ("stdout", "stderr")}
        asked = {"verb": verb, "arguments": [str(argument) for argument in arguments], "folder": str(folder)}
        prepared = _prepared()
        prepared.stdin.write(json.dumps(asked | said | {"environment": environment}) + "\n")
        process = int(prepared.stdout.readline())
        ended, _, _ = select.select([prepared.stdout], [], [], TIMEOUT_S)
        if not ended:
            os.kill(process, signal.SIGKILL)
        status = int(prepared.stdout.readline())
        texts = {name: Path(path).read_text() for name, path in said.items()}
    command = [sys.executable, "-m", f"h3.{verb}", *asked["arguments"]]
    if not ended:
        raise subprocess.TimeoutExpired(command, TIMEOUT_S, texts["stdout"], texts["stderr"])
    return subprocess.CompletedProcess(command, status, **texts)


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
