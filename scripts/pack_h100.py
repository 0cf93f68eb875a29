"""Make the built-in measurements from the request logs they come from (src/h3/data/README.md).

    python scripts/pack_h100.py DIR              # a folder an experiment, BLIS TraceV2 beside exp-config.yaml

Writes h100_requests.parquet and h100_experiments.csv to src/h3/data and their digests to SHA256SUMS there.
The same logs give the same bytes with the locked pyarrow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from h3.common import packaged
from h3.common.config import SourceConfig
from h3.sources.experiment import describe, find
from h3.sources.h100 import EXPERIMENTS, REQUESTS

COLUMNS = {
    "arrival_us": "arrival_time_us",
    "first_us": "first_chunk_time_us",
    "last_us": "last_chunk_time_us",
    "prompt_tokens": "input_tokens",
    "output_tokens": "output_tokens",
}
SMALL = ("prompt_tokens", "output_tokens")
SERVER = "vLLM 0.15.1"
SCHEMA = pa.schema(
    [
        ("experiment", pa.dictionary(pa.int8(), pa.string())),
        *((name, pa.int32() if name in SMALL else pa.int64()) for name in COLUMNS),
        ("status", pa.dictionary(pa.int8(), pa.string())),
    ]
)


def requests(folder: Path) -> pd.DataFrame:
    """One experiment's requests in the order of the log; times of failed ones are 0, as there."""
    log = pd.read_csv(folder / "data.csv.gz")
    kept = pd.DataFrame({name: log[column] for name, column in COLUMNS.items()})
    return kept.assign(experiment=folder.name, status=log["status"])


def setup(folder: Path) -> dict[str, object]:
    """One experiment's setup, as h3 reads it from exp-config.yaml and header.yaml."""
    found = describe(folder, SourceConfig(name="requests"))
    counts = ("max_num_seqs", "max_num_batched_tokens", "block_size_tokens")
    return {
        "experiment": found.name,
        "model": found.model,
        "workload": found.workload,
        "hardware": found.hardware,
        "tensor_parallelism": found.tensor_parallelism,
        **{name: int(getattr(found, name)) for name in counts},
        "server": SERVER,
    }


def main(root: str) -> None:
    """Pack the experiments below `root`."""
    folders = find(root, ("data.csv.gz",))
    table = pd.concat([requests(folder) for folder in folders], ignore_index=True)
    arrow = pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)
    encodings = dict.fromkeys(COLUMNS, "DELTA_BINARY_PACKED")
    pq.write_table(
        arrow,
        packaged.FOLDER / REQUESTS,
        compression="zstd",
        compression_level=19,
        use_dictionary=["experiment", "status"],
        column_encoding=encodings,
    )
    pd.DataFrame([setup(folder) for folder in folders]).to_csv(packaged.FOLDER / EXPERIMENTS, index=False)
    packaged.write_sums()
    print(f"{len(table)} requests of {len(folders)} experiments: {packaged.FOLDER}")


if __name__ == "__main__":
    main(sys.argv[1])
