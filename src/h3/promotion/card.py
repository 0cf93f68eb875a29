"""The model card: what a version is, its data, its folds with intervals, what it was not tested on.

    text = card(table, tags, held_out, recipe_rows, uncertainty)

It is Markdown, kept with the version and shown as its description in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from h3.bundle.uncertainty import WORDS
from h3.bundle.uncertainty_model import Uncertainty
from h3.evaluation.fold_table import FoldRow, markdown
from h3.steps import basis, catalog
from h3.tracking.registry import NAME


def card(
    table: pd.DataFrame,
    tags: Mapping[str, str],
    held_out: list[FoldRow],
    recipe: list[FoldRow],
    uncertainty: Uncertainty,
) -> str:
    """The card, Markdown. held_out: the sweep's folds; recipe: the parameters that ship on the same folds."""
    return "\n".join(
        [
            *_head(table, tags),
            "Held-out folds of the sweep:",
            "",
            markdown(held_out),
            (
                "The parameters that ship, on the same folds. These hyperparameters are a consensus of the"
                " same folds' tuning, so only the first"
            ),
            "table is held out in every respect:",
            "",
            markdown(recipe),
            "Intervals of a step by what is new (half width, and the share of held-out steps inside):",
            "",
            coverage_table(uncertainty),
            f"Not tested: {'; '.join(_untested(table, _listed(table['hardware'])))}.",
            "",
        ]
    )


def _head(table: pd.DataFrame, tags: Mapping[str, str]) -> list[str]:
    """What it is, and the data behind it."""
    why = tags.get("trees_left_out", "")
    models, workloads = (_listed(table[name]) for name in ("model", "workload"))
    return [
        f"# {NAME}: period of one step of an LLM inference server, us",
        "",
        (
            f"{tags['winner']}, {tags['routing']}, parameters {tags['params']}."
            f" Commit {tags['commit']}, sweep {tags['sweep']}."
        ),
        "",
        (
            f"Data: {basis.described(table)}; digest {tags['data_digest']}, {len(table)} steps;"
            f" models {models}; workloads {workloads}."
        ),
        "",
        *([f"Trees left out: {why}. The physical base answers alone.", ""] if why else []),
    ]


def coverage_table(uncertainty: Uncertainty) -> str:
    """A row a kind of novelty: held-out groups, and by level the upper end in % and the measured coverage in
    %, Markdown; a kind without an interval is not in it.
    """
    levels = [f"{100 * level:g} %" for level in uncertainty.levels]
    lines = [["what is new", "held-out groups", *levels, "from"], ["---"] * (len(levels) + 3)]
    for name, kind in uncertainty.kinds.items():
        covered = ["not measured"] * len(levels)
        if kind.coverage is not None:
            covered = [f"covers {100 * share:.0f}" for share in kind.coverage]
        cells = [f"+{100 * (high - 1):.1f}, {said}" for high, said in zip(kind.high, covered, strict=True)]
        lines.append([WORDS[name], str(kind.groups), *cells, kind.words])
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"{uncertainty.words}.", ""])


def _listed(values: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(values.unique()))


def _untested(table: pd.DataFrame, hardware: str) -> list[str]:
    other = ", ".join(sorted(set(catalog.HARDWARE) - set(table["hardware"])))
    moe = _listed(table.loc[catalog.is_moe(table), "model"]) or "none"
    names = ["tensor_parallelism", "num_decode_reqs", "decode_kv_tokens_mean", "prefill_tokens"]
    most = table[names].max()
    weights = ", ".join(f"{value:g}" for value in sorted(table["bytes_per_parameter"].unique()))
    return [
        f"hardware other than {hardware} ({other})",
        f"weights of other than {weights} bytes",
        f"tensor parallelism above {most['tensor_parallelism']:.0f}",
        f"more than {most['num_decode_reqs']:.0f} decoding requests",
        f"mean contexts above {most['decode_kv_tokens_mean']:.0f} tokens",
        f"more than {most['prefill_tokens']:.0f} prompt tokens a step",
        f"MoE models other than: {moe}",
        "pipeline, data and expert parallelism",
        "speculative decoding",
    ]
