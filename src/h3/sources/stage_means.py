"""Means of a load stage as steps: rate, lengths, mean E2E and TTFT, as benchmark summaries have them.

    ingested = load(SourceConfig(name="stage_means"))                      # the table inside the package
    ingested = load(SourceConfig(name="stage_means", path="stages.csv"))   # one's own, same columns

A row is the mean step of its stage. Of a request with n output tokens, n - 1 steps lie between first and last
token, so period = (E2E - TTFT) / (n - 1), and the requests that decode at once are rate x (E2E - TTFT)
(Little's law: Little 1961, doi:10.1287/opre.9.3.383). Their contexts run from prompt + 1 to prompt + n - 1
tokens, prompt + n / 2 in the mean. Each request prefills once, so a mean step holds rate x period of them;
how much of a prompt is new is the assumption of request logs. A workload called <name>-lite is <name> at a
lighter load: what leaves <name> out leaves both out.

gap_steps is n - 1, over which a request averages. It is the same for the stages of an experiment, which so
weigh the same; experiments of a model weigh the same (steps/weights.py), however many rows a log has.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from h3.common import bounded, packaged
from h3.common.bounded import Bounds
from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.server.requests import Limits
from h3.sources import h100
from h3.sources.experiment import Experiment, Ingested, assumptions_record, combine
from h3.sources.requests import caching
from h3.sources.requests.plausible import least_step_us
from h3.sources.requests.steps import new_prompt_tokens
from h3.steps import catalog, hardware_file, sampling, schema
from h3.steps.sampling import Sampling

PACKAGED = "h100_stage_means.csv"
NAMES = ("experiment", "model", "hardware", "workload")
NUMBERS = (
    *("tensor_parallelism", "requests_per_s", "prompt_tokens", "output_tokens"),
    *("e2e_mean_ms", "ttft_mean_ms"),
)
# Read where they are there; in a row that leaves one empty it is as unknown as in a file without it.
OPTIONAL_NUMBERS = ("max_num_seqs", "max_num_batched_tokens", "itl_mean_ms")
PERCENTILES = ("e2e_p90_ms", "e2e_p99_ms", "ttft_p90_ms", "ttft_p99_ms")  # may be there, are not read
OPTIONAL = ("precision", "stage", *OPTIONAL_NUMBERS, *PERCENTILES)
PRECISIONS = {"FP16": 2.0, "BF16": 2.0, "FP8": 1.0}
# What is one in an experiment.
SETUP = (
    *("model", "hardware", "tensor_parallelism", "precision", "workload"),
    *("max_num_seqs", "max_num_batched_tokens"),
)
# Counts of a client's own tokenizer: the same requests then have another mean time between tokens.
MOST_MISCOUNT = 0.1
LIGHTER = "-lite"
MOST_BYTES, MOST_STAGES, MOST_NAME = 16 << 20, 10_000, 250
# Beyond these a number is no server's: a week of latency, ten thousand GPUs.
MOST_NUMBER, MOST = 1e9, {"e2e_mean_ms": 6.1e8, "ttft_mean_ms": 6.1e8, "tensor_parallelism": 1e4}
# Assumptions on prefill_tokens that need no request to look at.
WITHOUT_LOG = ("repeat", "uncached", "none")


def load(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """A row a stage; raises InputError naming file and row for one that cannot be, or where none is left."""
    paths = source.folders() if source.path else [packaged.checked(PACKAGED)]
    read = [_read(Path(path), source.bounds) for path in paths]
    table = _staged(pd.concat(read, ignore_index=True))
    parts = []
    for name, rows in table.groupby("experiment", sort=True):
        if progress:
            progress(str(name))
        parts.append(_experiment_steps(rows, source))
    ingested = combine(parts)
    if ingested.table.empty:
        reasons = "; ".join(entry["reason"] for entry in ingested.record["left_out"][:3])
        raise InputError(f"source=stage_means: no stage is left ({reasons}); expected at least one")
    return ingested


def load_wide(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """The built-in request logs, and with them the stage means: the built-in ones, or those of
    `source.path`.
    """
    return combine([h100.load(source, progress), load(source, progress)])


def _read(path: Path, bounds: Bounds) -> pd.DataFrame:
    """One CSV with its columns checked; `where` says file and row of each."""
    try:
        unpacked = bounded.read(path, bounds)
        if unpacked.damage or len(unpacked.content) > MOST_BYTES:
            found = unpacked.damage or f"{len(unpacked.content)} bytes"
            raise InputError(f"{path}: {found}; expected a whole CSV of at most {MOST_BYTES} bytes")
        table = pd.read_csv(io.BytesIO(unpacked.content))
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        said = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: cannot be read ({said}); expected a CSV of stage means") from None
    _check_columns(list(table.columns), path)
    if len(table) > MOST_STAGES:
        raise InputError(f"{path}: {len(table)} stages; expected at most {MOST_STAGES}")
    if table.empty or not isinstance(table.index, pd.RangeIndex):
        found = "no row below the header" if table.empty else "rows with more cells than the header"
        raise InputError(f"{path}: {found}; expected a row a stage")
    # The header is the first row.
    table = table.assign(where=[f"{path}: row {number}" for number in range(2, len(table) + 2)])
    return _numbered(_named(table))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its names as text; raises InputError for the first that is empty."""
    for name in NAMES:
        _first(table, table[name].isna().to_numpy(), f"{name} is empty; expected a name")
        table[name] = table[name].astype(str)
        long = (table[name].str.len() > MOST_NAME).to_numpy()
        _first(table, long, f"{name} has more than {MOST_NAME} characters; expected a name")
    return table


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its numbers as such; raises InputError for the first that cannot be one."""
    for name in (*NUMBERS, *(name for name in OPTIONAL_NUMBERS if name in table)):
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        bad = ~(np.isfinite(numbers) & (numbers > 0))
        if name in OPTIONAL_NUMBERS:
            bad &= table[name].notna().to_numpy()
        _first(table, bad, f"{name}={{{name}!s:.60}}; expected a number above 0")
        most = MOST.get(name, MOST_NUMBER)
        _first(table, numbers > most, f"{name}={{{name}!s:.60}}; expected a number of at most {most:g}")
        table[name] = numbers
    ranks, tokens = table["tensor_parallelism"].to_numpy(), table["output_tokens"].to_numpy()
    late = (table["e2e_mean_ms"] <= table["ttft_mean_ms"]).to_numpy()
    _first(
        table, ranks != np.floor(ranks), "tensor_parallelism={tensor_parallelism}; expected a whole number"
    )
    _first(table, late, "e2e_mean_ms={e2e_mean_ms} is not above ttft_mean_ms={ttft_mean_ms}")
    _first(table, tokens < 2, "output_tokens={output_tokens}; expected 2 or more")
    return table


def _staged(table: pd.DataFrame) -> pd.DataFrame:
    """The table with whole numbers as stages, a stage's place in its experiment where it has none; raises
    InputError for another value and for a stage that is there twice.
    """
    given = table["stage"] if "stage" in table else pd.Series(np.nan, index=table.index)
    stage = pd.to_numeric(given, errors="coerce").to_numpy(float)
    known = given.notna().to_numpy()
    bad = known & ~(np.isfinite(stage) & (stage >= 0) & (stage == np.floor(stage)))
    _first(table, bad, "stage={stage}; expected a whole number")
    place = table.groupby("experiment").cumcount().to_numpy()
    table = table.assign(stage=np.where(known, stage, place).astype("int64"))
    twice = table.duplicated(["experiment", "stage"]).to_numpy()
    _first(
        table, twice, "stage {stage} of experiment {experiment!r} is there twice; expected one row a stage"
    )
    return table


def _check_columns(there: Sequence[str], path: Path | str) -> None:
    known = (*NAMES, *NUMBERS, *OPTIONAL)
    unknown = next((name for name in there if name not in known), None)
    missing = next((name for name in (*NAMES, *NUMBERS) if name not in there), None)
    if unknown or missing:
        what = f"unknown column {unknown!r:.60}" if unknown else f"column {missing!r} is missing"
        optional = ", ".join(OPTIONAL)
        raise InputError(
            f"{path}: {what}; expected {', '.join((*NAMES, *NUMBERS))}, and where they are known {optional}"
        )


def _first(table: pd.DataFrame, bad: np.ndarray, said: str) -> None:
    """Raises InputError for the first row that is bad, with `said` filled from it."""
    if bad.any():
        row = table[bad].iloc[0]
        raise InputError(f"{row['where']}: {said.format_map(row.to_dict())}")


def _experiment_steps(rows: pd.DataFrame, source: SourceConfig) -> Ingested:
    """The stages of one experiment that can be a mean step, and why the others cannot."""
    experiment = _described(rows, source)
    frame = _steps(rows, experiment, source)
    reasons = _unusable(rows, frame, experiment)
    kept = np.array([not reason for reason in reasons])
    left_out = [
        {"experiment": f"{experiment.name}, stage {stage}", "reason": reason}
        for stage, reason in zip(frame["step_id"], reasons, strict=True)
        if reason
    ]
    record = {
        **assumptions_record(source),
        "left_out": left_out,
        "experiments": {experiment.name: {"log": "stage_means", "steps": int(kept.sum())}},
    }
    table = schema.check(frame[kept].reset_index(drop=True), f"{experiment.path}: {experiment.name}")
    return Ingested(table, schema.empty_rejects(), record)


def _described(rows: pd.DataFrame, source: SourceConfig) -> Experiment:
    """What ran; raises InputError where one experiment has two setups, or its model is not known."""
    first = rows.iloc[0]
    for name in (name for name in SETUP if name in rows):
        other = rows[(rows[name] != first[name]) & ~(rows[name].isna() & pd.isna(first[name]))]
        if len(other):
            raise InputError(
                f"{other.iloc[0]['where']}: {name}={other.iloc[0][name]} in an experiment whose first row"
                f" ({first['experiment']!r}) has {first[name]}; expected one {name} an experiment"
            )
    try:
        architecture = catalog.architecture(first["model"], source.model_configs)
        hardware = hardware_file.named(first["hardware"])
    except InputError as error:
        raise InputError(f"{first['where']}: {error}") from None
    tp = int(first["tensor_parallelism"])
    catalog.check_tensor_parallelism(architecture, tp, first["where"])
    return Experiment(
        name=str(first["experiment"]),
        path=Path(str(first["where"])),
        model=catalog.model_name(first["model"]),
        workload=catalog.workload_name(first["workload"]).removesuffix(LIGHTER),
        hardware=hardware,
        tensor_parallelism=tp,
        max_num_seqs=_number(first, "max_num_seqs", Limits.max_num_seqs),
        max_num_batched_tokens=_number(first, "max_num_batched_tokens", float("nan")),
        block_size_tokens=source.assume.block_size_tokens,
        architecture=_at_precision(architecture, first),
        sampling=sampling.of_model(first["model"])
        or Sampling(sampling.WORDS[source.assume.sampling], "assumed"),
    )


def _number(row: pd.Series, name: str, default: float) -> float:
    value = float(row.get(name, default))
    return default if np.isnan(value) else value


def _at_precision(architecture: catalog.Architecture, row: pd.Series) -> catalog.Architecture:
    """The architecture with the bytes of the row's precision; its own where the row names none."""
    given = row.get("precision")
    if given is None or pd.isna(given):
        return architecture
    stored = PRECISIONS.get(str(given).upper())
    if stored is None:
        raise InputError(f"{row['where']}: precision={given}; expected one of {', '.join(PRECISIONS)}")
    return architecture if stored == architecture.bytes_per_parameter else architecture.at(stored)


def _steps(rows: pd.DataFrame, experiment: Experiment, source: SourceConfig) -> pd.DataFrame:
    """A mean step a row."""
    decode_us = 1e3 * (rows["e2e_mean_ms"] - rows["ttft_mean_ms"]).to_numpy()
    prompt, output = rows["prompt_tokens"].to_numpy(), rows["output_tokens"].to_numpy()
    per_us = rows["requests_per_s"].to_numpy() / 1e6
    period_us, batch = decode_us / (output - 1), per_us * decode_us
    new = _new_tokens(prompt, experiment, source)
    done, prefills = prompt - new, per_us * period_us
    return pd.DataFrame(
        {
            "step_id": rows["stage"].to_numpy(),
            "num_prefill_reqs": prefills,
            "num_decode_reqs": batch,
            "prefill_tokens": prefills * new,
            "decode_tokens": batch,
            "decode_kv_tokens_sum": batch * (prompt + output / 2),
            "decode_kv_tokens_mean": prompt + output / 2,
            "prefill_kv_tokens_sum": prefills * done,
            "prefill_attended_tokens": prefills * (new * done + new * (new + 1) / 2),
            "period_us": period_us,
            "gap_steps": np.rint(output - 1).astype("int64"),
        },
        index=rows.index,
    ).assign(**experiment.columns(), log="stage_means", clock=0)


def _new_tokens(prompt_tokens: np.ndarray, experiment: Experiment, source: SourceConfig) -> np.ndarray:
    """Prompt tokens that a request computes, by the assumption of request logs; what only a log can tell is
    assumed as "repeat".
    """
    requests = pd.DataFrame({"prompt_tokens": prompt_tokens, "cached_tokens": np.nan})
    assume = source.assume
    if assume.prefill_tokens not in WITHOUT_LOG:
        assume = assume.model_copy(update={"prefill_tokens": "repeat"})
    return new_prompt_tokens(requests, caching.decide(requests, experiment, assume), experiment)


def _unusable(rows: pd.DataFrame, frame: pd.DataFrame, experiment: Experiment) -> list[str]:
    """Why each stage is left out; "": it is not."""
    batch, most = frame["num_decode_reqs"].to_numpy(), experiment.max_num_seqs
    itl_ms = rows["itl_mean_ms"].to_numpy(float) if "itl_mean_ms" in rows else np.full(len(rows), np.nan)
    period_ms, least_ms = frame["period_us"].to_numpy() / 1e3, least_step_us(experiment) / 1e3
    reasons = []
    for requests, itl, period in zip(batch, itl_ms, period_ms, strict=True):
        if requests > most:
            reasons.append(
                f"saturated: rate and latency imply {requests:.0f} requests at once, more than"
                f" max_num_seqs={most:.0f}"
            )
        elif period < least_ms:
            reasons.append(
                f"impossible: a step of {period:.3g} ms, less than the weights take to be read"
                f" ({least_ms:.3g} ms); expected times in ms"
            )
        elif abs(period / itl - 1) > MOST_MISCOUNT:
            reasons.append(
                f"token counts do not fit: (E2E - TTFT) / (output tokens - 1) is {period:.2f} ms, the mean"
                f" time between tokens {itl:.2f}"
            )
        else:
            reasons.append("")
    return reasons
