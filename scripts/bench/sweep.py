"""A sweep's wall time against the sum of its `xgboost.train` calls, and where the rest goes."""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.figures import Figure

TARGET = 1.25
# One fold of each kind of the built-in data, with all that users get: tuning, SHAP, replay, tracking.
WHOLE = ["fold=lomo_llama2_7b,lowo_general"]
TINY = ["fold=lomo_llama2_7b", "debug=quick", "source.workers=1"]


def measure(tiny: bool) -> Iterator[Figure]:
    """`python -m h3.train -m ...`, folds one after the other in this process; wall seconds."""
    with tempfile.TemporaryDirectory() as folder:
        whole, calls = sweep(Path(folder), ["-m", *(TINY if tiny else WHOLE)])
        stages = seconds_of_stages(Path(folder))
    (wall_s, cpu_s), (bare_s, bare_cpu_s) = whole, map(sum, zip(*calls, strict=True))
    yield Figure("sweep", "wall time", wall_s, "s")
    yield Figure("sweep", f"bare xgboost.train ({len(calls):,} calls)", bare_s, "s")
    yield Figure("sweep", "wall time / bare xgboost.train", wall_s / bare_s, "x", target=TARGET)
    yield Figure("sweep", "CPU time / CPU time of xgboost.train", cpu_s / bare_cpu_s, "x")
    for name, seconds in stages.most_common():
        less = bare_s if name == "tune" else 0.0
        words = "tune, beyond xgboost.train" if less else name
        yield Figure("sweep", f"of it {words}", seconds - less, "s")
    yield Figure("sweep", "of it start, imports, the sweep's own run", wall_s - stages.total(), "s")


def clocks() -> tuple[float, float]:
    """Wall seconds and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Seconds of both clocks."""
    wall_s, cpu_s = clocks()
    return wall_s - began[0], cpu_s - began[1]


def sweep(folder: Path, arguments: list[str]) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """Wall and CPU seconds of the command in a folder, imports included, and of each of its calls of
    xgboost.train.
    """
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = ""
    began = clocks()
    import h3  # noqa: F401, I001 -- sets what XGBoost's threads read when they load
    import xgboost

    calls: list[tuple[float, float]] = []
    train = xgboost.train

    def timed(*given: Any, **named: Any) -> Any:
        start = clocks()
        booster = train(*given, **named)
        calls.append(since(start))
        return booster

    xgboost.train = timed
    sys.argv = ["h3.train", *arguments]
    try:
        runpy.run_module("h3.train", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"h3.train {' '.join(arguments)} ended with {end.code}") from end
    return since(began), calls


def seconds_of_stages(folder: Path) -> Counter[str]:
    """Seconds of each stage, all folds together, as their results say."""
    from h3.evaluation import result

    total: Counter[str] = Counter()
    for path in folder.glob("multirun/*/*/*/result.json"):
        total.update(result.read(path.read_text(), str(path)).seconds)
    return total
