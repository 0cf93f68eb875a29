"""The exported model: a folder of JSON files that h3, and a Go program without h3, predict from.

    provenance = {"data_digest": ..., "commit": ..., "folds": rows}
    write({"dense": fitted, "moe": fitted}, "dist/blis", provenance, overheads, evidence)
    bundle = read("dist/blis")                # checks digests, versions, trees; runs nothing from the files
    bundle.predict(table)                     # us
    verify("dist/blis")                       # every golden vector again, or an InputError: what is wrong

Files: manifest.json (manifest_model.py), manifest.sha256 (its digest, as `sha256sum -c` reads it),
booster.json and, where MoE has its own, booster_moe.json (XGBoost's JSON), golden.json (golden_file.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from h3.bundle import golden_file
from h3.bundle.files import Files, inspect, sealed, write_folder
from h3.bundle.json_file import parse
from h3.bundle.manifest import (
    BOOSTER_FILES,
    GOLDEN,
    MANIFEST,
    ROUTES,
    FitsByRoute,
    OtherPhysics,
    check,
    dump,
    feature_list,
    make,
    model_names,
    restore_model,
)
from h3.bundle.manifest_model import Manifest
from h3.bundle.uncertainty import Evidence
from h3.common.errors import InputError
from h3.common.records import Number, Record
from h3.models.residual import FittedResidual
from h3.server.overheads import Overheads
from h3.steps import catalog
from h3.steps.catalog import Architecture


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: manifest, fits by model name, digest of the manifest (which names all others)
    and its folder.
    """

    manifest: Manifest
    models: dict[str, FittedResidual]
    digest: str
    path: Path

    @property
    def overheads(self) -> Overheads:
        """Constants of a request, us."""
        return Overheads(**self.manifest.overheads.model_dump())

    @property
    def evidence(self) -> Evidence:
        """What it was trained on, and how far off it may be."""
        return Evidence(self.manifest.trained_on, self.manifest.uncertainty)

    def fitted_by_route(self) -> dict[str, FittedResidual]:
        """The fits for dense and for MoE models; the same object twice where one serves both."""
        routing = self.manifest.routing
        return {"dense": self.models[routing.dense], "moe": self.models[routing.moe]}

    def fit_for(self, architecture: Architecture) -> FittedResidual:
        """The fit that serves a model."""
        return self.fitted_by_route()["moe" if architecture.is_moe else "dense"]

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Predicted period in us, float64 of shape (rows,); the table needs architecture, setup and
        composition columns.
        """
        return predict(self.fitted_by_route(), table)["us"].to_numpy()

    def evaluator(self, margins: golden_file.Margins) -> golden_file.Evaluator:
        """What golden vectors are compared with."""
        fits = self.fitted_by_route()
        return golden_file.Evaluator(lambda table: predict(fits, table), self.evidence, margins)

    def explain(self, table: pd.DataFrame) -> pd.DataFrame:
        """The prediction and what it is made of: features, base_us, trust, margin, us, and `part_<term>`, the
        base's us.
        """
        numbers = predict(self.fitted_by_route(), table)
        parts = _by_route(self.fitted_by_route(), table, lambda fit, rows: fit.base.parts_us(rows))
        return numbers.join(parts.add_prefix("part_"))


def predict(fitted_by_route: FitsByRoute, table: pd.DataFrame) -> pd.DataFrame:
    """Features, base_us, trust, margin (sum of leaves) and us of each row, by the fit that serves its
    architecture.
    """
    # Physics looks figures up by name: once a name instead of once a row.
    named = table.assign(hardware=table["hardware"].astype("category"))
    return _by_route(fitted_by_route, named, lambda fit, rows: fit.numbers(rows).table())


def _by_route(
    fitted_by_route: FitsByRoute,
    table: pd.DataFrame,
    of: Callable[[FittedResidual, pd.DataFrame], pd.DataFrame],
) -> pd.DataFrame:
    dense, moe = (fitted_by_route[route] for route in ROUTES)
    if dense is moe or table.empty:
        return of(dense, table)
    is_moe = catalog.is_moe(table)
    pieces = [of(fit, table[rows]) for fit, rows in ((dense, ~is_moe), (moe, is_moe)) if rows.any()]
    return pd.concat(pieces).reindex(table.index)


def write(
    fitted_by_route: FitsByRoute,
    path: str | Path,
    provenance: Mapping[str, Any],
    overheads: Overheads,
    evidence: Evidence,
) -> Path:
    """Write a bundle folder whole or not at all, replacing a bundle that is there; its path.

    Raises InputError if the fits cannot be exported or something else than a bundle is in the way.
    """
    routes, names = model_names(fitted_by_route), [entry["name"] for entry in feature_list(fitted_by_route)]
    files = {BOOSTER_FILES[route]: fitted_by_route[route].boosted.json_bytes() for route in routes}
    golden = golden_file.make(lambda table: predict(fitted_by_route, table), names, evidence)
    files[GOLDEN] = golden_file.dump(golden)
    manifest = make(fitted_by_route, provenance, overheads, evidence, files)
    return write_folder(sealed(dump(manifest), files), Path(path))


def copy(source: str | Path, path: str | Path) -> Path:
    """Write the files of the bundle in folder `source` to another folder, byte for byte, whole or not at all;
    its path.

    The files' digests are checked, nothing is evaluated: also a bundle of other physics is copied.
    """
    return write_folder(inspect(source).data, Path(path))


def read(path: str | Path) -> Bundle:
    """A bundle with its digests, versions and trees checked, and a sample of its golden vectors where
    golden.json is there; raises InputError naming the file and what is wrong with it.

    Raises OtherPhysics, an InputError, for one that only another version of h3 can evaluate.
    """
    files = inspect(path)
    bundle = _evaluable(files)
    if GOLDEN in files.data:
        golden = _golden(files, bundle)
        here = [number for number in golden.sample() if catalog.knows(golden.vectors[number].hardware)]
        if here:
            golden_file.compare(
                golden,
                here,
                bundle.evaluator(lambda _, found: [found["margin"].to_numpy()]),
                str(files.path / GOLDEN),
            )
    return bundle


def _golden(files: Files, bundle: Bundle) -> golden_file.Golden:
    """The golden vectors, as far as they can be checked without evaluating them."""
    where = str(files.path / GOLDEN)
    if GOLDEN not in files.data:
        raise InputError(f"{where}: no such file; expected the golden vectors that are verified")
    names = [entry.name for entry in bundle.manifest.features]
    return golden_file.checked_file(
        parse(files.data[GOLDEN], where), names, bundle.manifest.hardware_names(), where
    )


def _evaluable(files: Files) -> Bundle:
    manifest = check(files.manifest, str(files.path / MANIFEST))
    models = {}
    for name, model in manifest.models.items():
        where = str(files.path / model.booster)
        models[name] = restore_model(manifest, name, parse(files.data[model.booster], where), where)
    return Bundle(manifest, models, files.digest, files.path)


class Report(Record):
    """What verification found: how many golden vectors agree, their largest relative differences, the
    bundle's digest and size in bytes; for a bundle of other physics only these two, and why.
    """

    digest: str
    bytes: int
    vectors: int | None = None
    worst_feature: Number = None
    worst_margin: Number = None
    worst_us: Number = None
    not_evaluated: str = ""


def verify(path: str | Path) -> Report:
    """Read a bundle and compute its golden vectors again, with XGBoost and with a plain tree walker.

    Raises InputError if the bundle cannot be read or a vector does not agree.
    """
    files = inspect(path)
    bundle = _evaluable(files)
    golden, fits = _golden(files, bundle), bundle.fitted_by_route()
    names = list(golden.feature_names)
    evaluator = bundle.evaluator(lambda table, found: golden_file.margins(fits, table, found[names]))
    everything = range(len(golden.vectors))
    worst = golden_file.compare(golden, everything, evaluator, str(files.path / GOLDEN))
    return Report(
        digest=files.digest,
        bytes=files.size,
        vectors=worst.vectors,
        worst_feature=worst.feature,
        worst_margin=worst.margin,
        worst_us=worst.us,
    )


def copy_verified(source: Path, out: str | Path) -> Report:
    """Copy a bundle and verify the copy; a bundle of other physics is copied too, and the report says why it
    was not evaluated.

    Raises InputError as `copy` and `verify` do.
    """
    copy(source, out)
    try:
        return verify(out)
    except OtherPhysics as error:
        files = inspect(out)
        return Report(digest=files.digest, bytes=files.size, not_evaluated=str(error))


def describe(path: str | Path, report: Report) -> str:
    """The report in one line."""
    kept = f"{report.bytes / 1e6:.2f} MB, digest {report.digest[:16]}"
    if report.not_evaluated:
        return f"{path}: digests agree, {kept}; not evaluated: {report.not_evaluated}"
    agree = f"features {report.worst_feature:.1e}, us {report.worst_us:.1e} relative"
    return f"{path}: {report.vectors} golden vectors agree ({agree}), {kept}"
