"""Turn logs into a step table without training.

    python -m h3.ingest source=requests source.path=DIR out=steps.parquet
    python -m h3.ingest source=requests source.path=DIR out=steps       # a folder, experiment by experiment

Rejected rows lie beside the table, with file, line and reason.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from h3.common import cli
from h3.common.config import SourceConfig, Strict, from_hydra
from h3.common.progress import Progress
from h3.sources.experiment import add_record, counted
from h3.sources.load import load, parts
from h3.sources.requests import caching
from h3.steps import partitions, schema


class IngestConfig(Strict):
    """conf/ingest.yaml: the step table goes to `out`, its rejects beside it."""

    source: SourceConfig
    out: str


@dataclass(frozen=True)
class Written:
    """What was written, and where: number of steps and experiments, rejects in words, and the record."""

    steps: int
    experiments: int
    rejected: str
    record: dict[str, Any]
    out: Path

    def report(self) -> str:
        """The counts as printed."""
        beside = self.out if is_folder(self.out) else schema.rejects_path(self.out)
        lines = [
            f"{self.steps} steps of {self.experiments} experiments: {self.out}",
            f"{self.rejected}: {beside}",
        ]
        lines += caching.lines(self.record)
        for entry in self.record.get("left_out", []):
            lines.append(f"left out {entry['experiment']}: {entry['reason']}")
        return "\n".join(lines)


def is_folder(out: Path) -> bool:
    """Whether steps go to a folder of parts, not to one file."""
    return out.suffix != ".parquet"


def ingest(config: IngestConfig) -> Written:
    """Write the steps to `out` and their rejects beside: to one file NAME.parquet, or to a folder, experiment
    by experiment.
    """
    say = Progress("ingest")
    say("data")
    write = _folder if is_folder(Path(config.out)) else _file
    written = write(config, lambda text: say("data", detail=text))
    say.finish()
    return written


def _file(config: IngestConfig, progress: Callable[[str], None]) -> Written:
    ingested, out = load(config.source, progress), Path(config.out)
    record = {"source": config.source.name, "record": ingested.record}
    schema.write(ingested.table, ingested.rejects, out, record)
    experiments = ingested.table["experiment"].nunique()
    return Written(len(ingested.table), experiments, ingested.rejected(), ingested.record, out)


def _folder(config: IngestConfig, progress: Callable[[str], None]) -> Written:
    record: dict[str, Any] = {}
    with partitions.writing(Path(config.out)) as folder:
        for part in parts(config.source, progress):
            folder.add(part.table, part.rejects)
            add_record(record, part.record)
        index = folder.close({"source": config.source.name, "record": record})
    experiments = {name for part in index["parts"] for name in part["experiments"]}
    return Written(index["rows"], len(experiments), counted(folder.rejected), record, Path(config.out))


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    print(ingest(from_hydra(cfg, IngestConfig)).report())


if __name__ == "__main__":
    cli.run(main, "ingest", sys.argv[1:])
