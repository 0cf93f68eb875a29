"""The report of a comparison, section by section, the verdict first. report_parts.py turns it into Markdown and HTML.

    parts = sections(content, predictions)           # content: verdict.json; predictions of the judged model by fold
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3 import report_plots, verdict
from h3.report_parts import Picture, Section, Table, number, span

INSIDE = " †"  # marks a predictor that was trained on held-out truth
INSIDE_NOTE = "† trained inside the held-out group: no generaliser, it shows what generalising costs, scored on steps that it did not see"
MARKS = {"supported": "holds", "between": "undecided", "refuted": "refuted", "missing": "missing", "failed": "failed"}


def sections(content: dict, predictions: dict[str, pd.DataFrame]) -> list[Section]:
    """The report in its order; sections without data say what would give it."""
    return [
        _folds(content), _waterfall(content), _distributions(content, predictions), _predictors(content), _stability(content),
        _diagnostics(content), _worst(content), *_within(content), _left_out(content), _provenance(content),
    ]


def fold_table(content: dict) -> Table:
    """A row a fold: error, interval, threshold, what follows from it."""
    rows = [
        [row["fold"] + (" (MoE)" if row["moe"] else ""), number(row["mape"], 2), span(row["interval"], 2), f"{row['threshold']:g}",
         MARKS[row["status"]], number(row.get("mape_base"), 2), number(row.get("mape_train"), 2), number(row.get("bias"), 2, sign=True),
         number(row.get("n_test"), 0)]
        for row in content["folds"]
    ]
    columns = ["held out", "MAPE %", "95 % interval", "below", "so it", "base alone %", "on training rows %", "bias %", "steps"]
    return Table(columns, rows)


def _folds(content: dict) -> Section:
    ours, study = content["ours"], content["study"]
    rows = [
        [f"models left out ({kind.upper()}), mean MAPE %" if kind == "lomo" else f"workloads left out ({kind.upper()}), mean MAPE %",
         number(study[f"{kind}_mean_mape"]), number(ours[f"{kind}_mean_mape"], 2), number(ours[f"{kind}_worst_mape"], 2)]
        for kind in ("lomo", "lowo")
    ]
    texts = [
        f"A fold holds one whole model or workload out; `{content['model']}` never sees it. Each error is the mean over held-out "
        f"experiments of the per-step error. A fold holds if the upper bound of its interval is below its threshold, and is refuted if "
        f"the lower bound is above {content['refute']:g} %; the intervals resample blocks of consecutive steps.",
    ]
    texts += [f"`{content['model']}`{INSIDE}: {INSIDE_NOTE}."] if content["sees_held_out"] else []
    picture = report_plots.svg(report_plots.fold_intervals(content["folds"], content["refute"]))
    beside = Table(["", "study", "h3, mean", "h3, worst fold"], rows, "The study beside it (its numbers are from its own data)")
    return Section("The eight folds", texts, [fold_table(content), beside], [Picture("MAPE of each fold with interval", picture)])


def _waterfall(content: dict) -> Section:
    if not content["ablation"]:
        text = "No ablation on the same data is in the store: `python -m h3.train -m experiment=ablation`, then compare again."
        return Section("From the study to h3, step by step", [text])
    steps, variants = content["ablation"]["waterfall"], content["ablation"]["variants"]
    pictures = [Picture("held-out error after each step", report_plots.svg(report_plots.waterfall(steps)))] if steps else []
    rows = [
        [row["variant"], row["meaning"], str(row["n_folds"]), *(number(row[name], 1, "effect" in name) for name in (
            "lomo_mape", "lomo_effect", "lomo_train", "lomo_train_effect", "lowo_mape", "lowo_effect", "lowo_train", "lowo_train_effect"))]
        for row in variants if not row["variant"].startswith("step_")
    ]
    columns = ["variant", "what", "folds", "LOMO %", "effect", "training %", "effect", "LOWO %", "effect", "training %", "effect"]
    texts = [
        "Mean error on held-out models. The first bar is the study's own number on its own data, the second the same recipe here.",
        "In the table one idea or one group of features is off at a time; an effect is the change against `none` in points. What lowers "
        "the training error but raises the held-out error memorises.",
    ]
    if not content["stability"][content["model"]]["lomo"]["folds"]:
        texts.append("No LOMO fold of h3 as it is uses trees, so there feature groups can have no effect; they can on LOWO.")
    failed = content["ablation"]["failed"]
    texts += [f"Failed and left out: {', '.join(failed)}."] if failed else []
    return Section("From the study to h3, step by step", texts, [Table(columns, rows, "One idea at a time")], pictures)


def _distributions(content: dict, predictions: dict[str, pd.DataFrame]) -> Section:
    if not predictions:
        return Section("Error distributions", ["No predictions."])
    picture = report_plots.svg(report_plots.error_distributions(predictions, content["model"]))
    text = "Signed error of every held-out step; dashed: mean, shaded: 5–95 %."
    return Section("Error distributions", [text], [], [Picture("signed error by fold", picture)])


def _predictors(content: dict) -> Section:
    rows = content["predictors"]
    names = [row["predictor"] + (INSIDE if row["sees_held_out"] else "") for row in rows]
    columns = [*verdict.NAMES, "LOMO mean", "LOWO mean", "mean"]
    values = np.array([
        [np.nan if value is None else value for value in [*row["folds"].values(), row["lomo_mean"], row["lowo_mean"], row["mean"]]]
        for row in rows
    ])
    judged = {(row["predictor"], row["fold"]): row["verdict"] for row in content["significance"]}
    signs = {"better": "", "noise": "≈", "worse": "<"}
    texts = np.array([
        [("–" if np.isnan(value) else f"{value:,.1f}") + signs.get(judged.get((row["predictor"], column)), "")
         for column, value in zip(columns, line, strict=True)] for row, line in zip(rows, values, strict=True)
    ])
    picture = report_plots.svg(report_plots.heat_map((names, columns), values, "MAPE, % (darker: larger)", texts))
    said = [
        f"Every predictor on the same folds and the same data. Beside a rival's number: `≈` its difference to {content['model']} is noise "
        "(the 95 % interval of the paired difference holds 0), `<` the rival is better, nothing: ours is better.",
        INSIDE_NOTE + ".", *_ahead(content),
    ]
    return Section("Against every other predictor", said, [_significance(content)], [Picture("predictors by folds", picture)])


def _ahead(content: dict) -> list[str]:
    """Where a rival is ahead, in words."""
    rivals = [row for row in content["significance"] if not row["sees_held_out"]]
    lost = [
        f"{row['predictor']} on {row['fold']} by {row['difference']:.1f} points" for row in rivals if row["verdict"] == "worse"
    ]
    noise = [f"{row['predictor']} on {row['fold']}" for row in rivals if row["verdict"] == "noise"]
    none = "No rival that has not seen the held-out group is ahead on any fold."
    texts = [f"Rivals that are ahead: {'; '.join(lost)}." if lost else none]
    return texts + ([f"No more than noise between ours and {'; '.join(noise)}."] if noise else [])


def _significance(content: dict) -> Table:
    rows = [
        [row["fold"], row["predictor"] + (INSIDE if row["sees_held_out"] else ""), number(row["difference"], 2, True),
         span(row["interval"], 2, True), row["verdict"], number(row["n_steps"], 0)]
        for row in sorted(content["significance"], key=lambda row: (verdict.NAMES.index(row["fold"]), row["difference"]))
    ]
    columns = ["held out", "rival", "ours minus rival, points", "95 % interval", "ours is", "steps compared"]
    return Table(columns, rows, f"Significance: {len(rows)} paired comparisons", folded=True)


def _stability(content: dict) -> Section:
    texts, rows, pictures = [], [], []
    study = content["study"]["shap_rank_std"]
    for name, kinds in content["stability"].items():
        for kind, found in kinds.items():
            rows.append(_stability_row(name, kind, found, study))
        if name == content["model"] or kinds["all"]["ranks"]:
            texts += _without_trees(name, kinds)
        if kinds["all"]["ranks"]:
            pictures.append(_rank_map(name, kinds["all"]))
    columns = ["predictor", "folds", "with trees", "rank std, top 10", "study", "by chance", "Kendall's W", "W by chance (95 %)", "p"]
    intro = (
        "Do the folds agree on which features matter? Rank standard deviation: 0 is full agreement. Kendall's W: 1 is full agreement. "
        "By chance: the same ranks permuted in each fold."
    )
    pairs = [
        [name, " – ".join(pair["folds"]), number(pair["rho"], 2), span(pair["interval"], 2)]
        for name, kinds in content["stability"].items() for pair in kinds["all"]["spearman"]
    ]
    columns_of_pairs = ["predictor", "folds", "Spearman", "95 % interval"]
    spearman = Table(columns_of_pairs, pairs, "Spearman's correlation of each pair of folds", folded=True)
    tables = [Table(columns, rows), *([spearman] if pairs else [])]
    return Section("Stability of the SHAP rankings", [intro, *texts], tables, pictures)


def _stability_row(name: str, kind: str, found: dict, study: dict) -> list[str]:
    chance = found["baseline"] or {}
    return [
        name, kind.upper() if kind != "all" else "all", f"{len(found['folds'])} of {found['n_folds']}", number(found["rank_std"], 2),
        number(study.get(kind)), number(chance.get("rank_std_mean"), 2), number(found["kendall_w"], 2),
        number(chance.get("kendall_w_95"), 2), number(chance.get("p_value"), 3),
    ]


def _without_trees(name: str, kinds: dict) -> list[str]:
    """Which folds of a predictor rank nothing."""
    absent = kinds["all"]["folds_without_trees"]
    return [f"`{name}`: no tree contributes in {len(absent)} folds ({', '.join(absent)}), so they rank nothing."] if absent else []


def _rank_map(name: str, found: dict) -> Picture:
    values = np.array([[found["ranks"][fold][feature] for fold in found["folds"]] for feature in found["top"]], dtype=float)
    texts = np.array([[f"{value:g}" for value in line] for line in values])
    title = f"{name}: rank of each feature in each fold\n(1: most important, light)"
    picture = report_plots.heat_map((found["top"], found["folds"]), values, title, texts, log=False)
    return Picture(title, report_plots.svg(picture))


def _diagnostics(content: dict) -> Section:
    found = content["diagnostics"]
    whole = [[fold, *_described(each["whole"])] for fold, each in found.items()]
    columns = ["held out", "steps", "MAPE %", "bias %", "overpredicted", "one factor would remove", "so it is"]
    text = (
        "Bias or spread: the share of the squared log error that one multiplicative constant would remove (over one half: bias)."
    )
    tables = [Table(columns, whole, "Each fold, steps weighing the same")]
    groups = {
        "by_phase": "By phase", "by_batch": "By requests in the batch", "by_kv": "By KV tokens read (fifths)",
        "by_period": "By measured time, ms (fifths)", "by_experiment": "By experiment",
    }
    for key, caption in groups.items():
        rows = [[fold, row["label"], *_described(row)] for fold, each in found.items() for row in each[key]]
        tables.append(Table([columns[0], caption.lower().removeprefix("by "), *columns[1:]], rows, caption, folded=True))
    return Section("Where it is wrong, and how", [text], tables)


def _described(row: dict) -> list[str]:
    percent = [f"{100 * row[name]:.0f} %" if row[name] is not None else "–" for name in ("over_share", "bias_share")]
    return [number(row["n"], 0), number(row["mape"], 2), number(row["bias"], 2, True), *percent, row["says"]]


def _worst(content: dict) -> Section:
    columns = [
        "experiment", "step", "measured ms", "predicted ms", "base ms", "error %", "phase", "prefill reqs", "decode reqs",
        "prefill tokens", "KV tokens",
    ]
    tables = [
        Table(columns, [_step(step) for step in each["worst"]], f"{fold}: worst {len(each['worst'])} steps", folded=True)
        for fold, each in content["diagnostics"].items()
    ]
    top = sorted((step for each in content["diagnostics"].values() for step in each["worst"]), key=lambda step: -step["ape"])[:5]
    text = "The five worst of all folds; the twenty worst of each below."
    return Section("Worst steps", [text], [Table(columns, [_step(step) for step in top]), *tables])


def _step(step: dict) -> list[str]:
    times = [number(step[name] / 1e3, 2) for name in ("observed_us", "predicted_us", "base_us")]
    counts = [number(step[name], 0) for name in ("num_prefill_reqs", "num_decode_reqs", "prefill_tokens", "decode_kv_tokens_sum")]
    return [step["experiment"], str(step["step_id"]), *times, number(step["ape"], 0), step["phase"], *counts]


def _within(content: dict) -> list[Section]:
    if not content["within"]:
        return []
    rows = [
        [row["model"], row["holdout"], number(row["mape"], 2), span(row["mape_interval"], 2), number(row["mape_train"], 2),
         number(row["n_test"], 0)]
        for row in content["within"]
    ]
    text = "A control: trained on three workloads of Mixtral alone, tested on its fourth. It does not count for the verdict."
    return [Section("Within Mixtral", [text], [Table(["predictor", "held out", "MAPE %", "95 % interval", "training %", "steps"], rows)])]


def _left_out(content: dict) -> Section:
    absent = [[row["fold"], row["reason"]] for row in content["folds"] if row["status"] in ("missing", "failed")]
    rows = absent + [[entry["what"], entry["why"]] for entry in content["left_out"]]
    return Section("What was left out, and why", [] if rows else ["Nothing."], [Table(["what", "why"], rows)] if rows else [])


def _provenance(content: dict) -> Section:
    found = content["provenance"]
    rows = [
        ["sweep", found["sweep"]], ["started", f"{found['started']} UTC"], ["runs", f"{found['n_finished']} of {found['n_runs']} finished"],
        ["source", found["source"]], ["data digest", found["data_digest"]], ["commits", ", ".join(found["commits"])],
        ["seeds", ", ".join(str(seed) for seed in found["seeds"])],
        ["packages", ", ".join(f"{name} {version}" for name, version in found["versions"].items())],
        ["assumptions", ", ".join(f"{name}: {value}" for name, value in found["assumptions"].items()) or "none"],
    ]
    if content["ablation"]:
        rows.append(["ablation sweep", f"{content['ablation']['sweep']} ({content['ablation']['overrides']})"])
    text = "Again from the start: " + " then ".join(f"`{line}`" for line in found["commands"])
    return Section("Data and provenance", [text], [Table(["", ""], rows)])
