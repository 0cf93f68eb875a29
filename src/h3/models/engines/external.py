"""Trees from batches on disk: XGBoost keeps one batch in memory at a time, not the whole matrix.

    booster = external.train(params, rows, rounds)

The batches are .npy files in a folder of this fit below TMPDIR, read without pickles, and XGBoost keeps its
cache of bins beside them. The folder is removed when the fit ends, however it ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

from h3.models.engines.rows import Rows

BATCH_ROWS = 262_144  # 40 features of float32: 40 MB


class _Batches(xgb.DataIter):
    """The batches of a folder, in their order."""

    def __init__(self, folder: Path, columns: dict[str, Any]) -> None:
        self.folders = sorted(path for path in folder.iterdir() if path.is_dir())
        self.columns = columns
        self.at = 0
        super().__init__(cache_prefix=str(folder / "bins"))

    def reset(self) -> None:
        """Begin with the first batch."""
        self.at = 0

    def next(self, input_data: Callable[..., None]) -> bool:
        """Give XGBoost the next batch; False after the last."""
        if self.at == len(self.folders):
            return False
        files = self.folders[self.at].iterdir()
        input_data(**{path.stem: np.load(path, allow_pickle=False) for path in files}, **self.columns)
        self.at += 1
        return True


def train(params: dict[str, Any], rows: Rows, rounds: int, batch_rows: int = BATCH_ROWS) -> xgb.Booster:
    """So many trees on the rows, batch_rows of them in memory at a time; params: XGBoost's, tree_method
    "hist".
    """
    with tempfile.TemporaryDirectory(prefix="h3-batches-") as scratch:
        folder = Path(scratch)
        for number, first in enumerate(range(0, len(rows), batch_rows)):
            batch = folder / f"{number:09d}"
            batch.mkdir()
            for name, values in rows.arrays(first, first + batch_rows).items():
                np.save(batch / f"{name}.npy", values, allow_pickle=False)
        return _trained(params, _Batches(folder, rows.columns), rounds)


def _trained(params: dict[str, Any], batches: _Batches, rounds: int) -> xgb.Booster:
    """Trees on the batches; XGBoost lets go of its files when this returns."""
    data = xgb.ExtMemQuantileDMatrix(batches, nthread=params.get("nthread"))
    return xgb.train(params, data, rounds)
