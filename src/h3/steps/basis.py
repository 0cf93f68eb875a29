"""What a step table rests on, in words: measurements or a simulation.

>>> table = pd.DataFrame({"log": ["requests", "traces"], "hardware": "H100", "experiment": ["a", "b"]})
>>> described(table)
'measured on H100: request logs and step traces, 2 experiments'
>>> short(described(table))
'measured on H100'

Every result, figure, verdict, card and table of folds says it, since a number from simulated data says
nothing about real servers.
"""

from __future__ import annotations

import pandas as pd

SIMULATED = "simulated"
# `log` of the step table → what it is.
MEASURED = {
    "requests": "request logs",
    "traces": "step traces",
    "stage_means": "means of load stages",
    "measured": "single steps of a card",
}


def described(table: pd.DataFrame) -> str:
    """What the rows rest on: measured or simulated, hardware, kinds of logs, number of experiments."""
    simulated = (table["log"] == SIMULATED).to_numpy()
    parts = [_measured(table[~simulated])] if not simulated.all() else []
    if simulated.any():
        parts.append(f"{SIMULATED} {_hardware(table[simulated])}: {_experiments(table[simulated])}")
    return "; ".join(parts) or "no data"


def _measured(table: pd.DataFrame) -> str:
    kinds = [MEASURED.get(log, log) for log in sorted(table["log"].unique())]
    return f"measured on {_hardware(table)}: {' and '.join(kinds)}, {_experiments(table)}"


def _hardware(table: pd.DataFrame) -> str:
    return ", ".join(sorted(table["hardware"].unique()))


def _experiments(table: pd.DataFrame) -> str:
    count = table["experiment"].nunique()
    return f"{count} experiment{'s' if count != 1 else ''}"


def short(description: str) -> str:
    """The same in a few words, for titles; "" for results of before, which do not say it."""
    return " and ".join(part.partition(":")[0] for part in description.split("; ")) if description else ""


def is_measured(description: str) -> bool:
    """Whether all of it was measured; results of before do not say, and count as simulated."""
    return bool(description) and SIMULATED not in short(description)


def observed(description: str) -> str:
    """What a time in such data is called."""
    if not description:
        return "observed"
    return "measured" if is_measured(description) else SIMULATED
