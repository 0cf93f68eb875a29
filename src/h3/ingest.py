"""Turn logs into a step table without training.

python -m h3.ingest source=requests source.path=DIR out=steps.parquet
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from h3.common import cli
from h3.common.config import IngestConfig, from_hydra
from h3.common.progress import Progress
from h3.sources import load
from h3.steps import schema


def ingest(config: IngestConfig) -> dict:
    """Write the step table to `out` and its rejects beside it; what was written, as printed."""
    say = Progress("ingest")
    say("data")
    ingested = load.load(config.source, lambda text: say("data", detail=text))
    say.finish()
    out = Path(config.out)
    schema.write(
        ingested.table, ingested.rejects, out, {"source": config.source.name, "record": ingested.record}
    )
    counts = ingested.rejects.groupby("reason").size().to_dict()
    return {
        "steps": len(ingested.table),
        "experiments": int(ingested.table["experiment"].nunique()),
        "out": str(out),
        "rejects": {reason: int(count) for reason, count in counts.items()},
        "rejects_out": str(schema.rejects_path(out)),
        "left_out": ingested.record.get("left_out", []),
    }


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    report = ingest(from_hydra(cfg, IngestConfig))
    print(f"{report['steps']} steps of {report['experiments']} experiments: {report['out']}")
    rejected = ", ".join(f"{reason} {count}" for reason, count in report["rejects"].items()) or "none"
    print(f"rejected rows: {rejected}: {report['rejects_out']}")
    for entry in report["left_out"]:
        print(f"left out {entry['experiment']}: {entry['reason']}")


if __name__ == "__main__":
    cli.run(main, "ingest")
