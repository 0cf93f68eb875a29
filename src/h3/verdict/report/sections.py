"""The report of a comparison, section by section, the verdict first. report_parts.py turns it into Markdown
and HTML.

parts = sections(content, predictions)           # content: verdict.json; predictions of the judged model by
fold
"""

from __future__ import annotations

import pandas as pd

from h3.verdict import hypothesis as verdict
from h3.verdict.report import plots as report_plots
from h3.verdict.report import replays as report_replay
from h3.verdict.report import stability as report_stability
from h3.verdict.report.parts import Picture, Section, Table, number, shades, span

INSIDE = " †"  # marks a predictor that was trained on held-out truth
INSIDE_NOTE = (
    "† trained inside the held-out group: no generaliser, it shows what generalising costs, scored on steps"
    " that it did not see"
)
MARKS = {
    "supported": "holds",
    "between": "undecided",
    "refuted": "refuted",
    "missing": "missing",
    "failed": "failed",
}


def sections(content: dict, predictions: dict[str, pd.DataFrame]) -> list[Section]:
    """The report in its order; sections without data say what would give it."""
    return [
        _folds(content),
        _waterfall(content),
        _distributions(content, predictions),
        _predictors(content),
        report_replay.section(content),
        report_stability.section(content),
        _diagnostics(content),
        _worst(content),
        *_within(content),
        _left_out(content),
        _provenance(content),
    ]


def fold_table(content: dict) -> Table:
    """A row a fold: error, interval, threshold, what follows from it."""
    rows = [
        [
            row["fold"] + (" (MoE)" if row["moe"] else ""),
            number(row["mape"], 2),
            span(row["interval"], 2),
            f"{row['threshold']:g}",
            MARKS[row["status"]],
            number(row.get("mape_base"), 2),
            number(row.get("mape_train"), 2),
            number(row.get("bias"), 2, sign=True),
            number(row.get("n_test"), 0),
        ]
        for row in content["folds"]
    ]
    columns = [
        "held out",
        "MAPE %",
        "95 % interval",
        "threshold %",
        "verdict",
        "base alone %",
        "on training rows %",
        "bias %",
        "steps",
    ]
    return Table(columns, rows)


def _folds(content: dict) -> Section:
    ours, study = content["ours"], content["study"]
    rows = [
        [
            (
                f"models left out ({kind.upper()}), mean MAPE %"
                if kind == "lomo"
                else f"workloads left out ({kind.upper()}), mean MAPE %"
            ),
            number(study[f"{kind}_mean_mape"]),
            number(ours[f"{kind}_mean_mape"], 2),
            number(ours[f"{kind}_worst_mape"], 2),
        ]
        for kind in ("lomo", "lowo")
    ]
    texts = [
        (
            f"A fold holds one whole model or workload out; `{content['model']}` never sees it. Each error is"
            " the mean over held-out experiments of the per-step error. A fold holds if the upper bound of"
            " its interval is below its threshold, and is refuted if the lower bound is above"
            f" {content['refute']:g} %; the intervals resample blocks of consecutive steps."
        ),
    ]
    texts += [f"`{content['model']}`{INSIDE}: {INSIDE_NOTE}."] if content["sees_held_out"] else []
    picture = report_plots.svg(report_plots.fold_intervals(content["folds"], content["refute"]))
    beside = Table(
        ["", "study", "h3, mean", "h3, worst fold"],
        rows,
        "The study beside it (its numbers are from its own data)",
    )
    return Section(
        "The eight folds",
        texts,
        [fold_table(content), beside],
        [Picture("MAPE of each fold with interval", picture)],
    )


def _waterfall(content: dict) -> Section:
    if not content["ablation"]:
        text = (
            "No ablation on the same data is in the store: `python -m h3.train -m experiment=ablation`, then"
            " compare again."
        )
        return Section("From the study to h3, step by step", [text])
    steps, variants = content["ablation"]["waterfall"], content["ablation"]["variants"]
    pictures = (
        [Picture("held-out error after each step", report_plots.svg(report_plots.waterfall(steps)))]
        if steps
        else []
    )
    rows = [
        [
            row["variant"],
            row["meaning"],
            str(row["n_folds"]),
            *(
                number(row[name], 1, "effect" in name)
                for name in (
                    "lomo_mape",
                    "lomo_effect",
                    "lomo_train",
                    "lomo_train_effect",
                    "lowo_mape",
                    "lowo_effect",
                    "lowo_train",
                    "lowo_train_effect",
                )
            ),
        ]
        for row in variants
        if not row["variant"].startswith("step_")
    ]
    columns = [
        "variant",
        "what",
        "folds",
        "LOMO %",
        "effect",
        "training %",
        "effect",
        "LOWO %",
        "effect",
        "training %",
        "effect",
    ]
    texts = [
        (
            "Mean error on held-out models. The first bar is the study's own number on its own data, the"
            " second the same recipe here."
        ),
        (
            "In the table one idea or one group of features is off at a time; an effect is the change against"
            " `none` in points. What lowers the training error but raises the held-out error memorises."
        ),
    ]
    if not content["stability"][content["model"]]["lomo"]["folds"]:
        texts.append(
            "No LOMO fold of h3 as it is uses trees, so there feature groups can have no effect; they can on"
            " LOWO."
        )
    failed = content["ablation"]["failed"]
    texts += [f"Failed and left out: {', '.join(failed)}."] if failed else []
    return Section(
        "From the study to h3, step by step", texts, [Table(columns, rows, "One idea at a time")], pictures
    )


def _distributions(content: dict, predictions: dict[str, pd.DataFrame]) -> Section:
    if not predictions:
        return Section("Error distributions", ["No predictions."])
    text = (
        f"Signed error of `{content['model']}` on every held-out step, % of the measured time, a fold each on"
        f" the same axis: mean (dashed) and 5–95 % (shaded); steps beyond ±{report_plots.SIGNED_EDGE:g} % are"
        " at the edge."
    )
    pictures = [
        Picture(
            f"signed error of {fold}",
            report_plots.svg(report_plots.error_distribution(frame, fold)),
            small=True,
        )
        for fold, frame in predictions.items()
    ]
    return Section("Error distributions", [text], [], pictures)


def _predictors(content: dict) -> Section:
    judged = {(row["predictor"], row["fold"]): row["verdict"] for row in content["significance"]}
    signs = {"better": "", "noise": " ≈", "worse": " <"}
    rows, values = [], []
    for row in content["predictors"]:
        numbers = [*row["folds"].values(), row["lomo_mean"], row["lowo_mean"], row["mean"]]
        marks = [signs.get(judged.get((row["predictor"], fold)), "") for fold in row["folds"]] + [""] * 3
        name = row["predictor"] + (INSIDE if row["sees_held_out"] else "")
        rows.append([name, *(number(value) + mark for value, mark in zip(numbers, marks, strict=True))])
        values.append([None, *numbers])
    columns = [
        "MAPE %",
        *(name.replace("_", " ") for name in verdict.NAMES),
        "LOMO mean",
        "LOWO mean",
        "mean",
    ]
    said = [
        (
            "Every predictor on the same folds and the same data. Beside a rival's number: `≈` its"
            f" difference to `{content['model']}` is noise (the 95 % interval of the paired difference holds"
            " 0), `<` the rival is better, nothing: ours is better. A mean is over the folds that the"
            " predictor has a number for."
        ),
        INSIDE_NOTE + ".",
        *_ahead(content),
    ]
    heat = Table(
        columns, rows, "Predictors × folds (darker: larger error, log scale)", shades=shades(values, log=True)
    )
    return Section("Against every other predictor", said, [heat, _significance(content)])


def _ahead(content: dict) -> list[str]:
    """Where a rival is ahead, in words."""
    rivals = [row for row in content["significance"] if not row["sees_held_out"]]
    lost = [
        f"{row['predictor']} on {row['fold']} by {row['difference']:.1f} points"
        for row in rivals
        if row["verdict"] == "worse"
    ]
    noise = [f"{row['predictor']} on {row['fold']}" for row in rivals if row["verdict"] == "noise"]
    none = "No rival that has not seen the held-out group is ahead on any fold."
    texts = [f"Rivals that are ahead: {'; '.join(lost)}." if lost else none]
    texts += _ahead_in_the_mean(content)
    return texts + ([f"No more than noise between ours and {'; '.join(noise)}."] if noise else [])


def _ahead_in_the_mean(content: dict) -> list[str]:
    """Ours against the best rival in the mean over folds; rivals with as many folds, not trained inside the
    held-out group.
    """
    ours = next(
        (row for row in content["predictors"] if row["predictor"] == content["model"] and row["n_folds"]),
        None,
    )
    if ours is None:
        return []
    rivals = [
        row
        for row in content["predictors"]
        if not row["sees_held_out"] and row["n_folds"] == ours["n_folds"] and row is not ours
    ]
    if not rivals:
        return []
    best = min(rivals, key=lambda row: row["mean"])
    placed = "ahead of" if ours["mean"] < best["mean"] else "behind"
    return [
        f"In the mean over {ours['n_folds']} folds `{content['model']}`, {number(ours['mean'], 2)} %, is"
        f" {placed} the best rival, `{best['predictor']}`, {number(best['mean'], 2)} %."
    ]


def _significance(content: dict) -> Table:
    rows = [
        [
            row["fold"],
            row["predictor"] + (INSIDE if row["sees_held_out"] else ""),
            number(row["difference"], 2, True),
            span(row["interval"], 2, True),
            row["verdict"],
            number(row["n_steps"], 0),
        ]
        for row in sorted(
            content["significance"], key=lambda row: (verdict.NAMES.index(row["fold"]), row["difference"])
        )
    ]
    columns = ["held out", "rival", "ours minus rival, points", "95 % interval", "ours is", "steps compared"]
    return Table(columns, rows, f"Significance: {len(rows)} paired comparisons", folded=True)


def _diagnostics(content: dict) -> Section:
    found = content["diagnostics"]
    whole = [[fold, *_described(each["whole"])] for fold, each in found.items()]
    columns = [
        "held out",
        "steps",
        "MAPE %",
        "bias %",
        "overpredicted",
        "one factor would remove",
        "so it is",
    ]
    text = (
        "Bias or spread: the share of the squared log error that one multiplicative constant would remove"
        " (over one half: bias)."
    )
    tables = [Table(columns, whole, "Each fold, steps weighing the same")]
    groups = {
        "by_phase": "By phase",
        "by_batch": "By requests in the batch",
        "by_kv": "By KV tokens read (fifths)",
        "by_period": "By measured time, ms (fifths)",
        "by_experiment": "By experiment",
    }
    for key, caption in groups.items():
        rows = [[fold, row["label"], *_described(row)] for fold, each in found.items() for row in each[key]]
        tables.append(
            Table([columns[0], caption.lower().removeprefix("by "), *columns[1:]], rows, caption, folded=True)
        )
    return Section("Where it is wrong, and how", [text], tables)


def _described(row: dict) -> list[str]:
    percent = [
        f"{100 * row[name]:.0f} %" if row[name] is not None else "–" for name in ("over_share", "bias_share")
    ]
    return [number(row["n"], 0), number(row["mape"], 2), number(row["bias"], 2, True), *percent, row["says"]]


def _worst(content: dict) -> Section:
    columns = [
        "experiment",
        "step",
        "measured ms",
        "predicted ms",
        "base ms",
        "error %",
        "phase",
        "prefill reqs",
        "decode reqs",
        "prefill tokens",
        "KV tokens",
    ]
    tables = [
        Table(
            columns,
            [_step(step) for step in each["worst"]],
            f"{fold}: worst {len(each['worst'])} steps",
            folded=True,
        )
        for fold, each in content["diagnostics"].items()
    ]
    top = sorted(
        ((fold, step) for fold, each in content["diagnostics"].items() for step in each["worst"]),
        key=lambda pair: -pair[1]["ape"],
    )[:5]
    first = Table(["held out", *columns], [[fold, *_step(step)] for fold, step in top])
    return Section(
        "Worst steps", ["The five worst of all folds; the twenty worst of each below."], [first, *tables]
    )


def _step(step: dict) -> list[str]:
    times = [number(step[name] / 1e3, 2) for name in ("observed_us", "predicted_us", "base_us")]
    counts = [
        number(step[name], 0)
        for name in ("num_prefill_reqs", "num_decode_reqs", "prefill_tokens", "decode_kv_tokens_sum")
    ]
    return [step["experiment"], str(step["step_id"]), *times, number(step["ape"], 0), step["phase"], *counts]


def _within(content: dict) -> list[Section]:
    if not content["within"]:
        return []
    rows = [
        [
            row["model"],
            row["holdout"],
            number(row["mape"], 2),
            span(row["mape_interval"], 2),
            number(row["mape_train"], 2),
            number(row["n_test"], 0),
        ]
        for row in content["within"]
    ]
    text = (
        "A control: trained on three workloads of Mixtral alone, tested on its fourth. It does not count for"
        " the verdict."
    )
    return [
        Section(
            "Within Mixtral",
            [text],
            [Table(["predictor", "held out", "MAPE %", "95 % interval", "training %", "steps"], rows)],
        )
    ]


def _left_out(content: dict) -> Section:
    rows = [
        [row["fold"], row["reason"]] for row in content["folds"] if row["status"] in ("missing", "failed")
    ]
    rows += [[entry["what"], entry["why"]] for entry in content["left_out"]]
    rows += [
        [f"replays ({row['kind'].upper()}) of {row['predictor']}", why]
        for row in content["replay"]["rows"]
        for why in row["failed"]
    ]
    return Section(
        "What was left out, and why",
        [] if rows else ["Nothing."],
        [Table(["what", "why"], rows, wordy=True)] if rows else [],
    )


def _provenance(content: dict) -> Section:
    found = content["provenance"]
    rows = [
        ["sweep", found["sweep"]],
        ["started", f"{found['started']} UTC"],
        ["runs", f"{found['n_finished']} of {found['n_runs']} finished"],
        ["source", found["source"]],
        ["data digest", found["data_digest"]],
        ["commits", ", ".join(found["commits"])],
        ["seeds", ", ".join(str(seed) for seed in found["seeds"])],
        ["packages", ", ".join(f"{name} {version}" for name, version in found["versions"].items())],
        [
            "assumptions",
            ", ".join(f"{name}: {value}" for name, value in found["assumptions"].items()) or "none",
        ],
    ]
    if content["ablation"]:
        rows.append(
            ["ablation sweep", f"{content['ablation']['sweep']} ({content['ablation']['overrides']})"]
        )
    text = "Again from the start: " + " then ".join(f"`{line}`" for line in found["commands"])
    return Section("Data and provenance", [text], [Table(["what", "value"], rows, wordy=True)])
