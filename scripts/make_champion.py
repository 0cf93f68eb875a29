"""Make the champion that ships with h3: fifteen folds on all packaged measurements, promoted.

    python scripts/make_champion.py              # src/h3/data/champion; about five minutes on two cores

Each of eleven architectures and each of four workloads is left out once.

The sweep and the registry are in a folder that is removed afterwards; what is kept is the bundle, whose
manifest names data, commit, parameters and folds, here and, without its golden vectors, where Go embeds it.
tests/promotion/test_champion.py holds that it is what the code makes. Its answers for BLIS's models are then
written anew by scripts/make_blis_coverage.py (`make champion` runs both).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from h3 import bundle
from h3.bundle import standing
from h3.common.config import CONF

FOLDS = sorted(
    path.stem for pattern in ("wide_*", "lowo_*") for path in (CONF / "fold").glob(f"{pattern}.yaml")
)
EMBEDDED = Path(__file__).parents[1] / "go" / "h3bundle" / "champion"
SWEEP = ("-m", "source=h100_wide", f"fold={','.join(FOLDS)}", "tune.storage=null", "replay.enabled=false")
PROMOTE = (f"winner.folds=[{','.join(FOLDS)}]", "out=champion")
PARALLEL = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def environment() -> dict[str, str]:
    """This process's variables with git at this repository, and without a tracking store."""
    root = Path(__file__).parents[1]
    git = subprocess.run(
        ["git", "rev-parse", "--absolute-git-dir"], cwd=root, capture_output=True, text=True, check=True
    )
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return {**kept, "GIT_DIR": git.stdout.strip(), "GIT_WORK_TREE": str(root)}


def run(folder: Path, verb: str, *arguments: str) -> None:
    """Run a verb in a folder of its own store; ends the process with its status if it fails."""
    command = [sys.executable, "-m", f"h3.{verb}", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment())
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Sweep, promote, copy."""
    with tempfile.TemporaryDirectory() as scratch:
        run(Path(scratch), "train", *SWEEP, *PARALLEL)
        run(Path(scratch), "promote", *PROMOTE)
        report = bundle.copy_verified(Path(scratch) / "champion", standing.SHIPPED)
    print(bundle.describe(standing.SHIPPED, report))
    for path in standing.SHIPPED.iterdir():
        if path.name != "golden.json":
            shutil.copyfile(path, EMBEDDED / path.name)


if __name__ == "__main__":
    main()
