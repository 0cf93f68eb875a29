"""The gate before a model becomes champion: pure checks, each with its name, whether it passed, and its
numbers.

    checks = [limits(rows, config), against_champion(rows, champion_rows), monotone(predict)]
    [check.line() for check in checks if not check.passed]

`rows`: the table of held-out folds. `predict`: step table → us, shape (rows,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from h3 import bundle
from h3.bundle import Bundle, golden
from h3.common.errors import InputError
from h3.evaluation.fold_table import FoldRow
from h3.promotion import probes
from h3.promotion.config import TOLERANCE_PERCENT, GateConfig
from h3.promotion.recipe import NotInData
from h3.steps import basis, batch

Predict = Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class Check:
    """One check of the gate; `numbers` is JSON-serialisable."""

    name: str
    passed: bool
    numbers: dict[str, Any]

    def line(self) -> str:
        """The check in one line, numbers included."""
        said = "; ".join(f"{key}: {_short(value)}" for key, value in self.numbers.items())
        return f"{'passed' if self.passed else 'FAILED'} {self.name}" + (f" ({said})" if said else "")

    def describe(self) -> dict[str, Any]:
        """JSON: name, passed, numbers."""
        return asdict(self)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_short(entry) for entry in value) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={_short(entry)}" for key, entry in value.items())
    return str(value)


def limits(
    rows: Sequence[FoldRow],
    config: GateConfig,
    name: str = "fold_limits",
    left_out: Sequence[NotInData] = (),
) -> Check:
    """The upper bound of every fold's interval is within its limit; a table without folds does not pass.

    left_out: folds that the data could not give, told in the numbers.
    """
    over = [
        {"fold": row.fold, "mape_high": row.mape_high, "limit": config.limit(row.moe)}
        for row in rows
        if not (row.mape_high is not None and row.mape_high <= config.limit(row.moe))
    ]
    known = [row for row in rows if row.mape is not None]
    worst = max(known, key=lambda row: row.mape or 0.0, default=FoldRow(fold="no fold"))
    told = {"fold": worst.fold, "mape": float("nan") if worst.mape is None else worst.mape}
    numbers = {"folds": len(rows), "worst": told, "over": over}
    return Check(name, bool(rows) and not over, numbers | _told(left_out))


def _told(left_out: Sequence[NotInData]) -> dict[str, Any]:
    return {"not_in_the_data": [asdict(entry) for entry in left_out]} if left_out else {}


def against_champion(
    rows: Sequence[FoldRow], champion: Sequence[FoldRow] | None, left_out: Sequence[NotInData] = ()
) -> Check:
    """No fold's error exceeds the upper bound of the champion's interval on that fold.

    Both tables must be on the same data; None: there is no champion. Folds that only one of them has are
    listed, and those of the champion that the data could not give (left_out).
    """
    if champion is None:
        return Check("against_champion", True, {"champion": "none yet"})
    old = {row.fold: row for row in champion}
    both = [(row, old[row.fold]) for row in rows if row.fold in old]
    worse = [
        {"fold": new.fold, "mape": new.mape, "champion": before.mape, "champion_high": before.mape_high}
        for new, before in both
        if new.mape is None or before.mape_high is None or not new.mape <= before.mape_high
    ]
    apart = sorted(set(old) ^ {row.fold for row in rows})
    numbers: dict[str, Any] = {"folds": len(both), "worse": worse, "not_compared": apart}
    return Check("against_champion", bool(both) and not worse, numbers | _told(left_out))


def monotone(predict: Predict, tolerance_percent: float = TOLERANCE_PERCENT) -> Check:
    """Step times never fall by more than the tolerance as batch, context or prefill tokens grow, all else
    held.

    On the lines of probes.lines. A fall is measured from the largest time before it on the same line.
    """
    tested = probes.lines()
    times = predict(pd.concat([line.steps for line in tested], ignore_index=True))
    ends = np.cumsum([len(line.steps) for line in tested])
    falls = [_fall(part) for part in np.split(times, ends[:-1])]
    worst = int(np.argmax([percent for _, percent in falls]))
    step, percent = falls[worst]
    over = pd.Series(
        [line.axis for line, fall in zip(tested, falls, strict=True) if fall[1] > tolerance_percent],
        dtype=object,
    )
    numbers = {
        "lines": len(tested),
        "tolerance_percent": tolerance_percent,
        "worst": {"axis": tested[worst].axis, "where": tested[worst].where, "step": step, "percent": percent},
        "over": {str(axis): int(count) for axis, count in over.value_counts().items()},
    }
    return Check("monotone", over.empty, numbers)


def _fall(times: np.ndarray) -> tuple[int, float]:
    """Step and size, %, of the largest fall below the largest time before; infinite where a time is no
    positive number.
    """
    if not (np.isfinite(times) & (times > 0)).all():
        return 0, float("inf")
    percent = 100 * (1 - times / np.maximum.accumulate(times))
    return int(np.argmax(percent)), float(percent.max())


def real_trees(read: Bundle, data: str) -> Check:
    """Trees that ship were learned from measurements: those of a simulator say nothing about a real server.

    data: what they were learned from, in words (steps/basis.py).
    """
    trees = max(model.trees for model in read.manifest.models.values())
    return Check("real_trees", not trees or basis.is_measured(data), {"trees": trees, "data": data})


def positive(predict: Predict, architectures: int, seed: int) -> Check:
    """Step times are finite and above 0 on random architectures (1B-400B, dense and MoE, TP 1-8) and random
    batches.
    """
    generator = np.random.default_rng(seed)
    tables, named = [], []
    for _ in range(architectures):
        deployment = probes.random_deployment(generator)
        edges: list[list[batch.Request]] = [[], [(0, 1, 1)], [(32767, 1, 1024)] * 128]
        batches = [*edges, *(golden.random_batch(generator) for _ in range(5))]
        tables.append(batch.step_table(deployment, batches))
        named += [deployment] * len(batches)
    times = predict(pd.concat(tables, ignore_index=True))
    bad = np.flatnonzero(~(np.isfinite(times) & (times > 0)))
    numbers: dict[str, Any] = {"architectures": architectures, "steps": len(times), "bad": len(bad)}
    if len(bad):
        first = {"first_us": float(times[bad[0]]), "first": str(named[bad[0]])}
        return Check("positive", False, numbers | first)
    return Check("positive", True, numbers | {"least_us": float(times.min()), "most_us": float(times.max())})


def verified(folder: Path) -> Check:
    """The bundle's digests, versions and golden vectors agree (bundle.verify)."""
    try:
        report = bundle.verify(folder)
    except InputError as error:
        return Check("bundle_verified", False, {"error": str(error)})
    names = ("vectors", "worst_feature", "worst_us", "bytes", "digest")
    return Check("bundle_verified", True, {name: getattr(report, name) for name in names})
