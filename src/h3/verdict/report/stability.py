"""The report's section on the stability of SHAP rankings: a row a predictor and kind of fold, heat maps,
pairs of folds.

part = section(content)          # content: verdict.json
"""

from __future__ import annotations

from h3.verdict.report.parts import Section, Table, number, shades, span


def section(content: dict) -> Section:
    """How much the folds agree on which features matter, for every predictor that ranks them."""
    texts, rows, maps = [], [], []
    study = content["study"]["shap_rank_std"]
    for name, kinds in content["stability"].items():
        for kind, found in kinds.items():
            rows.append(_row(name, kind, found, study))
        if name == content["model"] or kinds["all"]["ranks"]:
            texts += _without_trees(name, kinds)
        if kinds["all"]["ranks"]:
            maps.append(_rank_map(name, kinds["all"]))
    columns = [
        "predictor",
        "folds",
        "with trees",
        "rank std, top 10",
        "study",
        "by chance",
        "Kendall's W",
        "W by chance (95 %)",
        "p",
    ]
    intro = (
        "Do the folds agree on which features matter? Rank standard deviation: 0 is full agreement. Kendall's"
        " W: 1 is full agreement. By chance: the same ranks permuted in each fold."
    )
    pairs = [
        [name, " – ".join(pair["folds"]), number(pair["rho"], 2), span(pair["interval"], 2)]
        for name, kinds in content["stability"].items()
        for pair in kinds["all"]["spearman"]
    ]
    columns_of_pairs = ["predictor", "folds", "Spearman", "95 % interval"]
    spearman = Table(columns_of_pairs, pairs, "Spearman's correlation of each pair of folds", folded=True)
    return Section(
        "Stability of the SHAP rankings",
        [intro, *texts],
        [Table(columns, rows), *maps, *([spearman] if pairs else [])],
    )


def _row(name: str, kind: str, found: dict, study: dict) -> list[str]:
    chance = found["baseline"] or {}
    return [
        name,
        kind.upper() if kind != "all" else "all",
        f"{len(found['folds'])} of {found['n_folds']}",
        number(found["rank_std"], 2),
        number(study.get(kind)),
        number(chance.get("rank_std_mean"), 2),
        number(found["kendall_w"], 2),
        number(chance.get("kendall_w_95"), 2),
        number(chance.get("p_value"), 3),
    ]


def _without_trees(name: str, kinds: dict) -> list[str]:
    """Which folds of a predictor rank nothing."""
    absent = kinds["all"]["folds_without_trees"]
    return (
        [f"`{name}`: no tree contributes in {len(absent)} folds ({', '.join(absent)}), so they rank nothing."]
        if absent
        else []
    )


def _rank_map(name: str, found: dict) -> Table:
    values = [[None, *(found["ranks"][fold][feature] for fold in found["folds"])] for feature in found["top"]]
    rows = [
        [feature, *(f"{value:g}" for value in line[1:])]
        for feature, line in zip(found["top"], values, strict=True)
    ]
    columns = ["feature", *(fold.replace("_", " ") for fold in found["folds"])]
    last = max((value for line in values for value in line[1:]), default=1)
    importance = [[None, *(last - value for value in line[1:])] for line in values]
    return Table(
        columns,
        rows,
        f"{name}: rank of each feature in each fold (1, dark: the most important)",
        shades=shades(importance),
    )
