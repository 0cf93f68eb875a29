"""What the replays of a sweep say about each predictor, in the latency that users feel, beside published
numbers.

    found = compared({("lomo_mixtral", "habitat"): result, ...})
    # |error of mean E2E|, %, over the runs that are not overloaded
    found["rows"][0]["sub_saturation"]["e2e_median"]

A result is a fold's result.json; its `replay` is replay_fold's. Every predictor is judged on the same runs: a
run counts as sub-saturation by its measured queue, whatever the predictor makes of it; a run that a predictor
alone drives into a queue without bound is counted as diverging.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median

TIMES = ("e2e", "ttft", "itl")
KINDS = ("lomo", "lowo")
STATISTICS = {"median": median, "mean": fmean, "worst": max}


@dataclass(frozen=True)
class Reference:
    """A replay of a measured run through BLIS's default backend: errors of the mean, signed %; None: not
    known.
    """

    model: str
    workload: str
    e2e: float
    ttft: float | None
    itl: float
    saturated_measured: bool = False
    saturated_predicted: bool = False


# Stock BLIS (inference-sim, commit f90a1e3a), trained-physics, arrival-exact, prefix hits as in the runs.
BLIS = (
    Reference("llama-2-7b", "codegen", 51.6, 22.0, 51.9),
    Reference("llama-2-7b", "roleplay", 42.9, 21.0, 43.2),
    Reference("llama-2-7b", "general", 2096.0, None, 96.6, saturated_predicted=True),
    Reference("codellama-34b", "codegen", 12.6, -10.0, 12.9),
    Reference("codellama-34b", "roleplay", 14.8, -11.0, 15.1),
    Reference("codellama-34b", "general", 14.2, -15.0, 14.5),
    Reference("codellama-34b", "reasoning", 38.9, 49.0, 7.7, saturated_measured=True),
    Reference("llama-2-70b", "codegen", -1.9, -23.0, -1.7),
    Reference("llama-2-70b", "roleplay", -0.1, -22.0, 0.2),
    Reference("llama-2-70b", "general", -6.7, -52.0, -5.8),
)
PUBLISHED_LOMO_E2E_MEAN = 14.3  # %, the best on these runs: a power law in the number of parameters


def compared(results: dict[tuple[str, str], dict], model: str) -> dict:
    """rows: a `row` a predictor and kind of fold; runs: the model's replays run by run; references: what they
    stand beside.

    results: (fold, predictor) → result.json.
    """
    names = sorted({name for _, name in results}, key=lambda name: (name != model, name))
    return {
        "rows": [row(name, kind, _own(results, name, kind)) for kind in KINDS for name in names],
        "runs": [{"kind": kind, **run} for kind in KINDS for run in _runs(_own(results, model, kind))],
        "references": {"published_lomo_e2e_mean": PUBLISHED_LOMO_E2E_MEAN, "blis_default": blis_default()},
    }


def _own(results: dict[tuple[str, str], dict], name: str, kind: str) -> list[dict]:
    return [result for (_, of), result in results.items() if of == name and result["kind"] == kind]


def row(name: str, kind: str, results: list[dict]) -> dict:
    """One predictor on the folds of one kind: how many runs were replayed, on how many it diverges, and its
    errors.

    sub_saturation: over runs whose measured queue is bounded; unsaturated: over those whose predicted queue
    is bounded too;
    all: over every run. Each holds n and e2e_median, e2e_mean, e2e_worst, the same of ttft and itl, |error of
    the mean| in %, None without a run. not_replayed: why folds have no replay, each reason once.
    """
    runs = _runs(results)
    replays = [result.get("replay") or {"skipped": "replay was off"} for result in results]
    reasons = (
        [replay["skipped"] for replay in replays if "skipped" in replay]
        if results
        else ["no such fold in the sweep"]
    )
    failed = [
        f"{entry['experiment']}: {entry['reason']}"
        for replay in replays
        for entry in replay.get("failed", [])
    ]
    return {
        "predictor": name,
        "kind": kind,
        "n_runs": len(runs),
        "n_diverging": sum(_diverges(run) for run in runs),
        "not_replayed": list(dict.fromkeys(reasons)),
        "failed": failed,
        **_parts(runs),
    }


def _runs(results: list[dict]) -> list[dict]:
    """A row a replayed run: experiment, model, workload, errors of the mean (signed %), saturation measured
    and predicted.
    """
    found = []
    for result in results:
        known = {entry["experiment"]: entry for entry in result.get("experiments", [])}
        for entry in (result.get("replay") or {}).get("experiments", []):
            about = {name: known.get(entry["experiment"], {}).get(name) for name in ("model", "workload")}
            flags = {
                name: bool(entry.get(name, entry["saturated"]))
                for name in ("saturated_measured", "saturated_predicted")
            }
            errors = {time: _known(entry[f"{time}_mean_error"]) for time in TIMES}
            found.append({"experiment": entry["experiment"], **about, **errors, **flags})
    return found


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _diverges(run: dict) -> bool:
    return run["saturated_predicted"] and not run["saturated_measured"]


def _parts(runs: list[dict]) -> dict:
    bounded = [run for run in runs if not run["saturated_measured"]]
    return {
        "sub_saturation": errors(bounded),
        "unsaturated": errors([run for run in bounded if not run["saturated_predicted"]]),
        "all": errors(runs),
    }


def errors(runs: list[dict]) -> dict:
    """n, and median, mean and worst |error of the mean| of each time, %; over the runs that have it, None
    without one.
    """
    out: dict = {"n": len(runs)}
    for time in TIMES:
        values = [abs(run[time]) for run in runs if run[time] is not None]
        out |= {
            f"{time}_{name}": float(compute(values)) if values else None
            for name, compute in STATISTICS.items()
        }
    return out


def blis_default() -> dict:
    """BLIS's default backend on the measured logs as a row like the predictors', and run by run."""
    runs = [vars(reference) for reference in BLIS]
    return {
        "n_runs": len(runs),
        "n_diverging": sum(_diverges(run) for run in runs),
        **_parts(runs),
        "runs": runs,
    }
