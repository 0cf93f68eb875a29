"""Results of measuring become the table of source=measured.

    pack(plan, ["steps.jsonl"], "src/h3/sources/measured_steps.parquet")

There h3 finds it without source.path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from h3.common.errors import InputError
from h3.sources import cost_model, measured
from h3.steps import catalog
from measure import results
from measure.plan import PAGE_TOKENS, Plan, Step

TIMES = ("device_us", "device_p10_us", "device_p90_us", "replays", "mode", "padded_tokens")


def pack(plan: Plan, paths: Iterable[str | Path], out: str | Path) -> dict[str, int]:
    """Write the Parquet; rows written by part, and under "skipped" the steps that no card could hold.

    A step measured several times over (not as a repeat) counts once, the first time. Raises InputError for a
    result that the plan does not have, for results of several cards, and where nothing was measured.
    """
    lines = [line for path in paths for line in results.read(path)]
    sessions = [line for line in lines if line["kind"] == "session"]
    timed = {line["key"]: line for line in reversed(lines) if line["kind"] == "step" and not line["repeat"]}
    steps = {step.key: (number, step) for number, step in enumerate(plan.steps)}
    stray = next((line for line in timed.values() if line["key"] not in steps), None)
    if stray:
        raise InputError(
            f"a result of {stray['model']}, part {stray['part']}, is not in the plan; expected the plan that"
            " was measured"
        )
    if not timed:
        raise InputError("no step was measured; expected results of measure_steps.py run")
    cards = {session["card"] for session in sessions}
    if len(cards) != 1:
        raise InputError(f"results of {len(cards)} cards ({', '.join(sorted(cards))}); expected one")
    hardware = catalog.hardware(cards.pop()).name
    rows = [
        row(plan, *steps[key], timed[key], hardware) for key in sorted(timed, key=lambda key: steps[key][0])
    ]
    skipped = sum(line["kind"] == "skipped" for line in lines)
    measured.write(pd.DataFrame(rows), {"sessions": sessions, "skipped": skipped}, out)
    return {**Counter(entry["part"] for entry in rows), "skipped": skipped}


def row(plan: Plan, number: int, step: Step, timed: dict, hardware: str) -> dict:
    """One row of the measured table."""
    arch = plan.models[step.model]
    name = f"{step.part}-{step.model}-tp{step.tp}"
    identity = step.row or {
        "experiment": name,
        "model": step.model,
        "workload": step.part,
        "clock": 0,
        "step_id": number,
        "start_us": 0.0,
        "block_size_tokens": float(PAGE_TOKENS),
    }
    return {
        **identity,
        "log": "measured",
        "hardware": hardware,
        "tensor_parallelism": step.tp,
        **arch.columns(),
        **step.composition(),
        "part": step.part,
        **{time: timed[time] for time in TIMES},
        "comm_us": comm_us(arch.hidden_size, arch.num_layers, step),
    }


def comm_us(hidden: int, layers: int, step: Step) -> float:
    """Modelled time of the step's all-reduces, two a layer: the curve of measured all-reduce kernels of the
    simulated source.
    """
    message = 2.0 * cost_model.padded_tokens(step.tokens) * hidden
    return 2 * layers * cost_model.all_reduce_us(message, step.tp, step.tokens <= cost_model.GRAPH_SIZES[-1])
