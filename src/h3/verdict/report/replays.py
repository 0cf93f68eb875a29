"""The report's section on replays: what each predictor's step times mean for E2E, TTFT and ITL, beside
published numbers.

part = section(content)          # content: verdict.json, whose `replay` is replay_table.compared's
"""

from __future__ import annotations

from h3.verdict.replays import TIMES
from h3.verdict.report.parts import Section, Table, number

TITLE = "Replays: what users would feel"
CAPTIONS = {
    "lomo": "Models left out (LOMO): the replayed model was never seen",
    "lowo": "Workloads left out (LOWO)",
}
SHOWN = ("e2e_median", "e2e_worst", "ttft_median", "itl_median")
NAMES = ("E2E median", "E2E worst", "TTFT median", "ITL median")
COLUMNS = [
    "size of the error of the mean, %",
    "runs",
    "diverges",
    *NAMES,
    *(f"all: {name}" for name in NAMES),
    "notes",
]
SAW = "trained on steps of the runs that it replays"
MEASURED = ("requests", "logs", "traces")  # sources of the runs that the references are of


def section(content: dict) -> Section:
    """A row a predictor for models and for workloads left out, with the references; says so where replay was
    off.
    """
    found = content["replay"]
    inside = {row["predictor"] for row in content["predictors"] if row["sees_held_out"]}
    if not any(row["n_runs"] for row in found["rows"]):
        text = (
            "Replay was off in this sweep: `python -m h3.train -m … replay.enabled=true`, then compare again."
        )
        return Section(TITLE, [text], [_table("lomo", [], found["references"], inside)])
    texts = [
        (
            "Each held-out run replayed request by request through the scheduler with the fold's step times;"
            " errors are of the mean over requests. The first four errors are over sub-saturation runs (the"
            " measured queue is bounded), the same runs for every predictor; `diverges` counts those of them"
            " that the predictor alone drives into a queue without bound, where E2E and TTFT say little but"
            " that. The last four are over all runs."
        ),
        _beside(content),
    ]
    kinds = [kind for kind in CAPTIONS if any(row["n_runs"] for row in found["rows"] if row["kind"] == kind)]
    order = [row["predictor"] for row in content["predictors"]]
    ranked = sorted(found["rows"], key=lambda row: order.index(row["predictor"]))
    rows = {kind: [row for row in ranked if row["kind"] == kind] for kind in kinds}
    return Section(
        TITLE,
        texts,
        [*(_table(kind, rows[kind], found["references"], inside) for kind in kinds), *_run_by_run(content)],
    )


def _beside(content: dict) -> str:
    source = content["provenance"]["source"]
    same = (
        "the same measured runs"
        if source in MEASURED
        else f"the measured runs, not of this sweep's source ({source})"
    )
    return (
        f"The references are of {same}: the best published LOMO on them (a power law in the number of"
        " parameters; mean of the E2E errors), and stock BLIS with its default backend, which was not held"
        " out from anything."
    )


def _table(kind: str, rows: list[dict], references: dict, inside: set[str]) -> Table:
    blis, published = references["blis_default"], number(references["published_lomo_e2e_mean"])
    lines = []
    for row in rows:
        line = _line(row, row["predictor"])
        if row["predictor"] in inside:
            line = [f"{line[0]} †", *line[1:-1], "; ".join(filter(None, [SAW, line[-1]]))]
        lines.append(line)
    if kind == "lomo":
        lines.append(["published LOMO", "–", "–", f"{published} (mean)", *["–"] * 7, "reference, not of h3"])
    lines.append(
        [*_line({**blis, "not_replayed": [], "failed": []}, "BLIS default")[:-1], "reference, not of h3"]
    )
    return Table(COLUMNS, lines, CAPTIONS[kind])


def _line(row: dict, name: str) -> list[str]:
    failed = [f"{len(row['failed'])} failed, see below"] if row["failed"] else []
    without = [f"not replayed: {'; '.join(row['not_replayed'])}"] if row["not_replayed"] else []
    parts = [number(row[part][shown]) for part in ("sub_saturation", "all") for shown in SHOWN]
    counts = (
        [str(row["n_runs"]), f"{row['n_diverging']} of {row['sub_saturation']['n']}"]
        if row["n_runs"]
        else ["–", "–"]
    )
    return [name, *counts, *parts, "; ".join(without + failed)]


def _run_by_run(content: dict) -> list[Table]:
    """Ours run by run, signed; beside BLIS's where the source is the measured runs."""
    found = content["replay"]
    measured = content["provenance"]["source"] in MEASURED
    blis = (
        {(run["model"], run["workload"]): run for run in found["references"]["blis_default"]["runs"]}
        if measured
        else {}
    )
    rows = []
    for run in found["runs"]:
        other = blis.get((run["model"], run["workload"]), {})
        state = "saturated" if run["saturated_measured"] else "diverges" if run["saturated_predicted"] else ""
        ours, theirs = ([number(each.get(time), 1, True) for time in TIMES] for each in (run, other))
        rows.append([run["experiment"], run["kind"].upper(), *ours, *(theirs if measured else []), state])
    beside = ["BLIS E2E %", "BLIS TTFT %", "BLIS ITL %"] if measured else []
    columns = ["run", "left out by", "E2E %", "TTFT %", "ITL %", *beside, "queue"]
    return (
        [Table(columns, rows, f"{content['model']}, run by run: signed errors of the mean", folded=True)]
        if rows
        else []
    )
