"""The exported model: a folder of JSON files that h3, and a Go program without h3, predict from.

    write({"dense": fitted, "moe": fitted}, "dist/blis", {"data_digest": ..., "commit": ..., "folds": rows}, Overheads())
    bundle = read("dist/blis")                # checks digests, versions, trees; runs nothing from the files
    bundle.predict(table)                     # us
    verify("dist/blis")                       # every golden vector again; or an InputError that says what is wrong

Files: manifest.json (bundle_manifest.py), manifest.sha256 (its digest, as `sha256sum -c` reads it), booster.json and, where
MoE has its own, booster_moe.json (XGBoost's JSON), golden.json (bundle_golden.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost as xgb

from h3 import bundle_golden, bundle_json, bundle_manifest, physics
from h3.bundle_manifest import Overheads
from h3.errors import InputError
from h3.models.xgboost_residual import FittedResidual

MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: manifest, fits by model name, digest of the manifest (which names all others) and its folder."""

    manifest: dict
    models: dict[str, FittedResidual]
    digest: str
    path: Path

    @property
    def overheads(self) -> Overheads:
        """Constants of a request, us."""
        return Overheads(**self.manifest["overheads"])

    def fitted_by_route(self) -> dict[str, FittedResidual]:
        """The fits for dense and for MoE models; the same object twice where one serves both."""
        return {route: self.models[self.manifest["routing"][route]] for route in bundle_manifest.ROUTES}

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Predicted period in us, float64 of shape (rows,); the table needs architecture, setup and composition columns."""
        return predict(self.fitted_by_route(), table)["us"].to_numpy()

    def explain(self, table: pd.DataFrame) -> pd.DataFrame:
        """The prediction and what it is made of: features, base_us, trust, margin, us, and `<term>` in us of the base."""
        numbers = predict(self.fitted_by_route(), table)
        parts = _by_route(self.fitted_by_route(), table, lambda fit, rows: fit.base.parts_us(rows))
        return numbers.join(parts.add_prefix("part_"))


def predict(fitted_by_route: dict[str, FittedResidual], table: pd.DataFrame) -> pd.DataFrame:
    """Features, base_us, trust, margin (sum of leaves) and us of each row, by the fit that serves its architecture."""
    names = table["hardware"].astype("category")  # physics looks figures up by name: once a name instead of once a row
    return _by_route(fitted_by_route, table.assign(hardware=names), _numbers)


def _by_route(fitted_by_route: dict[str, FittedResidual], table: pd.DataFrame, of: Callable) -> pd.DataFrame:
    if fitted_by_route["dense"] is fitted_by_route["moe"] or table.empty:
        return of(fitted_by_route["dense"], table)
    moe = table["num_experts"].to_numpy() >= 2
    pieces = [of(fitted_by_route[route], table[rows]) for route, rows in (("dense", ~moe), ("moe", moe)) if rows.any()]
    return pd.concat(pieces).reindex(table.index)


def _numbers(fitted: FittedResidual, table: pd.DataFrame) -> pd.DataFrame:
    matrix = fitted.inputs_matrix(table)
    margin = fitted.booster.predict(xgb.DMatrix(matrix)) if len(matrix) else np.zeros(0, np.float32)
    base_us, trust = fitted.predict_base(table), fitted.support.trust(matrix) if len(matrix) else np.zeros(0)
    return matrix.assign(base_us=base_us, trust=trust, margin=margin, us=base_us * np.exp(trust * margin.astype(float)))


def write(fitted_by_route: dict[str, FittedResidual], path: str | Path, provenance: dict, overheads: Overheads) -> Path:
    """Write a bundle folder whole or not at all, replacing a bundle that is there; its path.

    Raises InputError if the fits cannot be exported or something else than a bundle is in the way.
    """
    manifest = bundle_manifest.make(fitted_by_route, provenance, overheads)
    files = {
        bundle_manifest.BOOSTER_FILES[route]: bytes(fitted_by_route[route].booster.save_raw("json"))
        for route in bundle_manifest.model_names(fitted_by_route)
    }
    golden = bundle_golden.make(lambda table: predict(fitted_by_route, table), [entry["name"] for entry in manifest["features"]])
    files["golden.json"] = bundle_golden.dump(golden)
    manifest["files"] = {name: {"sha256": bundle_json.sha256(data), "bytes": len(data)} for name, data in files.items()}
    files[MANIFEST] = (json.dumps(bundle_manifest.check(manifest, MANIFEST), indent=1) + "\n").encode()
    files[MANIFEST_DIGEST] = f"{bundle_json.sha256(files[MANIFEST])}  {MANIFEST}\n".encode()
    return _write_folder(files, Path(path))


def copy(bundle: Bundle, path: str | Path) -> Path:
    """Write the files of a bundle to another folder, byte for byte, whole or not at all; its path."""
    names = [MANIFEST, MANIFEST_DIGEST, *bundle.manifest["files"]]
    return _write_folder({name: bundle_json.read_bytes(bundle.path / name) for name in names}, Path(path))


def _write_folder(files: dict[str, bytes], path: Path) -> Path:
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / MANIFEST).is_file())):
        raise InputError(f"{path}: exists and is not a bundle; expected a new folder, an empty one or a bundle to replace")
    scratch, old = path.with_name(f".{path.name}.{os.getpid()}.new"), path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        scratch.mkdir(parents=True)
        for name, data in files.items():
            (scratch / name).write_bytes(data)
        if path.exists():
            os.replace(path, old)
        os.replace(scratch, path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a folder that can be written") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return path


def read(path: str | Path) -> Bundle:
    """A bundle with its digests, versions and trees checked; raises InputError naming the file and what is wrong with it."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a bundle")
    data = bundle_json.read_bytes(path / MANIFEST)
    said = bundle_json.read_bytes(path / MANIFEST_DIGEST)[:64].decode(errors="replace")
    digest = bundle_json.sha256(data)
    if digest != said:
        raise InputError(f"{path / MANIFEST}: sha256 {digest}; expected {said}, as {MANIFEST_DIGEST} says")
    manifest = bundle_manifest.check(bundle_json.parse(data, str(path / MANIFEST)), str(path / MANIFEST))
    files = {name: _checked_bytes(path / name, entry) for name, entry in manifest["files"].items()}
    models = {}
    for name, model in manifest["models"].items():
        where = str(path / model["booster"])
        models[name] = bundle_manifest.restore_model(manifest, name, bundle_json.parse(files[model["booster"]], where), where)
    return Bundle(manifest, models, digest, path)


def _checked_bytes(path: Path, entry: dict) -> bytes:
    data = bundle_json.read_bytes(path)
    if len(data) != entry["bytes"]:
        raise InputError(f"{path}: {len(data)} bytes; the manifest says {entry['bytes']}")
    digest = bundle_json.sha256(data)
    if digest != entry["sha256"]:
        raise InputError(f"{path}: sha256 {digest}; the manifest says {entry['sha256']}")
    return data


def verify(path: str | Path) -> dict:
    """Read a bundle and compute its golden vectors again, with XGBoost and with a plain tree walker.

    Returns vectors (how many agreed), worst_feature, worst_margin and worst_us (largest relative differences), digest and
    bytes. Raises InputError if the bundle cannot be read or a vector does not agree.
    """
    bundle = read(path)
    where = bundle.path / "golden.json"
    golden = bundle_json.parse(bundle_json.read_bytes(where), str(where))
    report = bundle_golden.compare(golden, bundle.fitted_by_route(), lambda table: predict(bundle.fitted_by_route(), table), str(where))
    size = sum((bundle.path / name).stat().st_size for name in (MANIFEST, MANIFEST_DIGEST, *bundle.manifest["files"]))
    return {**report, "digest": bundle.digest, "bytes": size, "terms": len(physics.TERMS)}
