"""The verdict over a sweep: does the hypothesis hold, for whom, why, against whom. Writes verdict.json,
report.md and report.html.

    python -m h3.compare                                  # the newest sweep
    python -m h3.compare sweep=RUN_ID out=DIR             # another
    python -m h3.compare predictor=roofline_layers        # the same question about a rival

Reads predictions and results from the tracking store; trains nothing. The files are also logged to the
sweep's parent run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from h3.common import cli, files, strict_json
from h3.common.config import from_hydra
from h3.common.errors import InputError
from h3.models import zoo
from h3.tracking.runs import log_files, said_of
from h3.tracking.store import open_store
from h3.verdict import report
from h3.verdict.content import Verdict
from h3.verdict.make import CompareConfig, Made, make


def compare(config: CompareConfig) -> Verdict:
    """Judge the sweep, write the three files to config.out and log them to the parent run.

    Raises InputError for a sweep that is not there or that mixes data, and for a store that cannot be
    reached.
    """
    _check(config)
    store = open_store(config.tracking.uri, config.tracking.experiment)
    made = make(store, config)
    if note := said_of(store, made.sweep):
        print(f"note: {note}", file=sys.stderr)
    log_files(store, made.sweep.run_id, _write(made, Path(config.out)))
    return made.verdict


def _check(config: CompareConfig) -> None:
    if config.predictor not in zoo.PREDICTORS:
        there = ", ".join(zoo.PREDICTORS)
        raise InputError(f"predictor={config.predictor}: unknown; expected one of {there}")
    if Path(config.out).exists() and not Path(config.out).is_dir():
        raise InputError(f"out={config.out} is a file; expected a folder")


def _write(made: Made, out: Path) -> list[Path]:
    """The three files, each whole or not at all."""
    texts = {
        "verdict.json": strict_json.dumps(made.verdict.model_dump()),
        "report.md": report.markdown(made.verdict),
        "report.html": report.html(made.verdict, made.predictions),
    }
    for name, text in texts.items():
        files.write_text(out / name, text)
    return [out / name for name in texts]


def main(cfg: DictConfig) -> None:
    """One Hydra job: print what follows, the fold table and where the report is."""
    config = from_hydra(cfg, CompareConfig)
    verdict = compare(config)
    print("\n".join(report.said(verdict)) + "\n")
    print(report.fold_table(verdict))
    print(f"report: {config.out}/report.html")


if __name__ == "__main__":
    cli.run(main, "compare", sys.argv[1:], renamed={"model": "predictor"})
