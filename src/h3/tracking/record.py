"""What a fold leaves, in a folder of its own, whole before anything is tracked.

    record = Record(out_dir)
    record.frame(predictions, "predictions.parquet")
    record.figure(picture, "error_distribution")
    record.seal(result, key)                    # result.json, and record.json last
    read(out_dir).result                        # tracking/send.py sends it

artifacts/ is what the run's artifacts become. A folder without record.json is of a fold that was stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from mlflow.data.pandas_dataset import from_pandas
from mlflow.models import infer_signature

from h3.common import files, secrets, strict_json
from h3.common.config import TrainConfig
from h3.common.errors import InputError
from h3.evaluation import result as fold_result
from h3.evaluation.result import FoldResult
from h3.models.protocol import Fitted, FittedTrees

MARK, RESULT, ARTIFACTS, BOOSTER, SIGNATURE = (
    *("record.json", "result.json", "artifacts", "booster.json", "signature.json"),
)
DIGEST_LENGTH, FEW_ROWS = 36, 5
PACKAGES = (
    *("mlflow", "xgboost", "optuna", "pandas", "scikit-learn", "shap"),
    *("hydra-core", "pyarrow", "numpy", "scipy", "h3"),
)


class Record:
    """The folder of a fold while it is filled."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.artifacts = folder, folder / ARTIFACTS
        self.datasets: list[dict[str, Any]] = []
        (folder / MARK).unlink(missing_ok=True)
        self.artifacts.mkdir(parents=True, exist_ok=True)

    def text(self, content: str, name: str) -> None:
        """Keep a text."""
        files.write_text(self.artifacts / name, content)

    def json(self, content: Any, name: str) -> None:
        """Keep JSON; numbers that are none become null."""
        self.text(strict_json.dumps(content), name)

    def frame(self, table: pd.DataFrame, name: str) -> None:
        """Keep a table as Parquet."""
        files.write(self.artifacts / name, lambda scratch: table.to_parquet(scratch))

    def figure(self, picture: Figure, name: str) -> None:
        """Keep a figure as a picture and free it."""
        from matplotlib import pyplot as plt

        path = self.artifacts / "figures" / f"{name}.png"
        files.write(path, lambda scratch: picture.savefig(scratch, format="png"))
        plt.close(picture)

    def dataset(self, table: pd.DataFrame, source: str, digest: str, role: str) -> None:
        """Keep a step table's name, digest, schema and size as an input of the run; its rows stay where they
        are.
        """
        self.datasets.append(described(table, source, digest, role))

    def fit(self, fitted: Fitted) -> None:
        """Keep everything that the fit learned (base coefficients, trees, feature manifest) as JSON."""
        self.json(fitted.describe(), "fit.json")

    def booster(self, fitted: FittedTrees, matrix: pd.DataFrame, predicted: np.ndarray) -> None:
        """Keep a fit's XGBoost booster as JSON with its signature (features in, margin or us out)."""
        signature = infer_signature(matrix.astype("float64").head(FEW_ROWS), predicted)
        files.write_text(self.folder / SIGNATURE, json.dumps(signature.to_dict()))
        content = bytes(fitted.booster.save_raw("json"))
        files.write(self.folder / BOOSTER, lambda scratch: scratch.write_bytes(content))

    def made_of(self, config: TrainConfig, ingested: Mapping[str, object]) -> None:
        """Keep what the run was made of: configuration, ingest record and package versions."""
        content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self.text(secrets.hidden(content), "config.yaml")
        self.text(strict_json.dumps(ingested), "ingest.json")
        self.json({name: version(name) for name in PACKAGES}, "versions.json")

    def seal(self, result: FoldResult, key: str = "") -> Sealed:
        """Write the result, and say that the record is complete.

        key: of code and configuration (tracking/resume.py).
        """
        fold_result.write(result, self.folder / RESULT)
        sealed = Sealed(self.folder, result, key, int(time.time() * 1000), tuple(self.datasets))
        files.write_text(self.folder / MARK, strict_json.dumps(sealed.described()))
        return sealed


@dataclass(frozen=True)
class Sealed:
    """A complete record; time_ms: when it was sealed, since the epoch; datasets: the run's inputs."""

    folder: Path
    result: FoldResult
    key: str
    time_ms: int
    datasets: tuple[dict[str, Any], ...]

    def described(self) -> dict[str, Any]:
        """The content of record.json."""
        return {"key": self.key, "time_ms": self.time_ms, "datasets": list(self.datasets)}


def read(folder: Path) -> Sealed:
    """The complete record in a folder; raises InputError if there is none."""
    try:
        known = json.loads((folder / MARK).read_text(encoding="utf-8"))
        text = (folder / RESULT).read_text(encoding="utf-8")
        sealed = Sealed(folder, fold_result.read(text, str(folder / RESULT)), **_typed(known))
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{folder}: no complete record of a fold: {said}; expected {MARK}") from None
    return sealed


def _typed(known: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": str(known["key"]),
        "time_ms": int(known["time_ms"]),
        "datasets": tuple(dict(each) for each in known["datasets"]),
    }


def described(table: pd.DataFrame, source: str, digest: str, role: str) -> dict[str, Any]:
    """A step table as an MLflow data set's fields, and its role: name, digest, source, schema and size.

    The schema is that of the first rows: a table of millions is not read through for it.
    """
    few = from_pandas(
        table.head(100), source=source, name=f"steps-{role}", digest=digest[:DIGEST_LENGTH]
    )._to_mlflow_entity()
    size = {"num_rows": len(table), "num_elements": int(table.size)}
    return {**dict(few), "profile": json.dumps(size), "role": role}
