"""The exported model: a folder of JSON files that h3, and a Go program without h3, predict from.

    provenance = {"data_digest": ..., "commit": ..., "folds": rows}
    write({"dense": fitted, "moe": fitted}, "dist/blis", provenance, Overheads())
    bundle = read("dist/blis")                # checks digests, versions, trees; runs nothing from the files
    bundle.predict(table)                     # us
    verify("dist/blis")  # every golden vector again; or an InputError that says what is wrong

Files: manifest.json (bundle_manifest.py), manifest.sha256 (its digest, as `sha256sum -c` reads it),
booster.json and, where MoE has its own, booster_moe.json (XGBoost's JSON), golden.json (bundle_golden.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from h3.bundle import files as bundle_files
from h3.bundle import golden as bundle_golden
from h3.bundle import manifest as bundle_manifest
from h3.bundle import untrusted_json as bundle_json
from h3.bundle.files import MANIFEST, MANIFEST_DIGEST, Files
from h3.bundle.manifest import Overheads
from h3.common.errors import InputError
from h3.models.xgboost_residual import FittedResidual
from h3.steps import features, physics


class OtherPhysics(InputError):
    """The bundle's files are whole, but this version of h3 computes with other physics than they were made
    with.
    """


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: manifest, fits by model name, digest of the manifest (which names all others)
    and its folder.
    """

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
        """Predicted period in us, float64 of shape (rows,); the table needs architecture, setup and
        composition columns.
        """
        return predict(self.fitted_by_route(), table)["us"].to_numpy()

    def explain(self, table: pd.DataFrame) -> pd.DataFrame:
        """The prediction and what it is made of: features, base_us, trust, margin, us, and `<term>` in us of
        the base.
        """
        numbers = predict(self.fitted_by_route(), table)
        parts = _by_route(self.fitted_by_route(), table, lambda fit, rows: fit.base.parts_us(rows))
        return numbers.join(parts.add_prefix("part_"))


def predict(fitted_by_route: dict[str, FittedResidual], table: pd.DataFrame) -> pd.DataFrame:
    """Features, base_us, trust, margin (sum of leaves) and us of each row, by the fit that serves its
    architecture.
    """
    names = table["hardware"].astype(
        "category"
    )  # physics looks figures up by name: once a name instead of once a row
    return _by_route(fitted_by_route, table.assign(hardware=names), _numbers)


def _by_route(fitted_by_route: dict[str, FittedResidual], table: pd.DataFrame, of: Callable) -> pd.DataFrame:
    if fitted_by_route["dense"] is fitted_by_route["moe"] or table.empty:
        return of(fitted_by_route["dense"], table)
    moe = table["num_experts"].to_numpy() >= 2
    pieces = [
        of(fitted_by_route[route], table[rows])
        for route, rows in (("dense", ~moe), ("moe", moe))
        if rows.any()
    ]
    return pd.concat(pieces).reindex(table.index)


def _numbers(fitted: FittedResidual, table: pd.DataFrame) -> pd.DataFrame:
    numbers = fitted.numbers(table)
    return numbers.features.assign(
        base_us=numbers.base_us, trust=numbers.trust, margin=numbers.margin, us=numbers.us
    )


def write(
    fitted_by_route: dict[str, FittedResidual], path: str | Path, provenance: dict, overheads: Overheads
) -> Path:
    """Write a bundle folder whole or not at all, replacing a bundle that is there; its path.

    Raises InputError if the fits cannot be exported or something else than a bundle is in the way.
    """
    manifest = bundle_manifest.make(fitted_by_route, provenance, overheads)
    files = {
        bundle_manifest.BOOSTER_FILES[route]: bytes(fitted_by_route[route].booster.save_raw("json"))
        for route in bundle_manifest.model_names(fitted_by_route)
    }
    golden = bundle_golden.make(
        lambda table: predict(fitted_by_route, table), [entry["name"] for entry in manifest["features"]]
    )
    files["golden.json"] = bundle_golden.dump(golden)
    manifest["files"] = {
        name: {"sha256": bundle_json.sha256(data), "bytes": len(data)} for name, data in files.items()
    }
    files[MANIFEST] = (json.dumps(bundle_manifest.check(manifest, MANIFEST), indent=1) + "\n").encode()
    files[MANIFEST_DIGEST] = f"{bundle_json.sha256(files[MANIFEST])}  {MANIFEST}\n".encode()
    return bundle_files.write_folder(files, Path(path))


def copy(source: str | Path, path: str | Path) -> Path:
    """Write the files of the bundle in folder `source` to another folder, byte for byte, whole or not at all;
    its path.

    The files' digests are checked, nothing is evaluated: also a bundle of other physics is copied.
    """
    return bundle_files.write_folder(bundle_files.inspect(source).data, Path(path))


def read(path: str | Path) -> Bundle:
    """A bundle with its digests, versions and trees checked; raises InputError naming the file and what is
    wrong with it.

    Raises OtherPhysics, an InputError, for one that only another version of h3 can evaluate.
    """
    files = bundle_files.inspect(path)
    difference = _other_physics(files.manifest)
    if difference:
        made = files.manifest.get("provenance")
        commit = str(made.get("commit") or "unknown")[:12] if isinstance(made, dict) else "unknown"
        raise OtherPhysics(
            f"{files.path / MANIFEST}: {difference}, as this version of h3 computes: evaluate it with the"
            f" version that made it (commit {commit}); export and rollback copy it as it is"
        )
    return _evaluable(files)


def _evaluable(files: Files) -> Bundle:
    manifest = bundle_manifest.check(files.manifest, str(files.path / MANIFEST))
    models = {}
    for name, model in manifest["models"].items():
        where = str(files.path / model["booster"])
        models[name] = bundle_manifest.restore_model(
            manifest, name, bundle_json.parse(files.data[model["booster"]], where), where
        )
    return Bundle(manifest, models, files.digest, files.path)


def _other_physics(manifest: dict) -> str:
    """The first of format, terms, constants, hardware and features that is not this version's, found and
    expected; "" if none.
    """
    version = bundle_manifest.FORMAT_VERSION
    if manifest["format_version"] != version:
        return f"format version {manifest['format_version']}; expected {version}"
    own = {
        "terms": list(physics.TERMS),
        "constants": bundle_manifest.constants(),
        "hardware": bundle_manifest.hardware(),
    }
    for key, value in own.items():
        if manifest.get(key) != value:
            return f"{key}: {bundle_manifest._difference(manifest.get(key), value)}"
    formulas = {entry["name"]: entry["formula"] for entry in features.manifest(bundle_manifest.FEATURE_SET)}
    told = manifest.get("features")
    for entry in told if isinstance(told, list) else []:
        name, formula = (entry.get("name"), entry.get("formula")) if isinstance(entry, dict) else (None, None)
        if name not in formulas:
            return f"unknown feature {str(name)[:80]!r}; expected some of {', '.join(formulas)}"
        if formula != formulas[name]:
            return f"features: {name}: {str(formula)[:120]}; expected {formulas[name]}"
    return ""


def verify(path: str | Path) -> dict:
    """Read a bundle and compute its golden vectors again, with XGBoost and with a plain tree walker.

    Returns vectors (how many agreed), worst_feature, worst_margin and worst_us (largest relative
    differences), digest and bytes. Raises InputError if the bundle cannot be read or a vector does not agree.
    """
    bundle = read(path)
    where = bundle.path / "golden.json"
    golden = bundle_json.parse(bundle_json.read_bytes(where), str(where))
    report = bundle_golden.compare(
        golden, bundle.fitted_by_route(), lambda table: predict(bundle.fitted_by_route(), table), str(where)
    )
    size = sum(
        (bundle.path / name).stat().st_size for name in (MANIFEST, MANIFEST_DIGEST, *bundle.manifest["files"])
    )
    return {**report, "digest": bundle.digest, "bytes": size, "terms": len(physics.TERMS)}
