"""Turn logs into a step table without training.

    python -m h3.ingest source=requests source.path=DIR out=steps.parquet

Rejected rows lie beside the table, with file, line and reason.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from h3.common import cli
from h3.common.config import SourceConfig, Strict, from_hydra
from h3.common.progress import Progress
from h3.sources.experiment import Ingested
from h3.sources.load import load
from h3.sources.requests import caching
from h3.steps import schema


class IngestConfig(Strict):
    """conf/ingest.yaml: the step table goes to `out`, its rejects beside it."""

    source: SourceConfig
    out: str


@dataclass(frozen=True)
class Written:
    """What was written, and where."""

    ingested: Ingested
    out: Path

    def report(self) -> str:
        """The counts as printed."""
        table = self.ingested.table
        lines = [
            f"{len(table)} steps of {table['experiment'].nunique()} experiments: {self.out}",
            f"{self.ingested.rejected()}: {schema.rejects_path(self.out)}",
        ]
        lines += caching.lines(self.ingested.record)
        for entry in self.ingested.record.get("left_out", []):
            lines.append(f"left out {entry['experiment']}: {entry['reason']}")
        return "\n".join(lines)


def ingest(config: IngestConfig) -> Written:
    """Write the step table to `out` and its rejects beside it."""
    say = Progress("ingest")
    say("data")
    ingested = load(config.source, lambda text: say("data", detail=text))
    say.finish()
    out = Path(config.out)
    record = {"source": config.source.name, "record": ingested.record}
    schema.write(ingested.table, ingested.rejects, out, record)
    return Written(ingested, out)


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    print(ingest(from_hydra(cfg, IngestConfig)).report())


if __name__ == "__main__":
    cli.run(main, "ingest", sys.argv[1:])
