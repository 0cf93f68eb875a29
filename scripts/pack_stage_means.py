"""Make the built-in stage means from the table they come from (src/h3/data/README.md).

    python scripts/pack_stage_means.py stage_means.csv

Adds max_num_seqs, which all these servers had at 128, and drops nothing. Writes src/h3/data and its
SHA256SUMS.
"""

from __future__ import annotations

import sys

import pandas as pd

from h3.common import packaged
from h3.sources.stage_means import PACKAGED

MAX_NUM_SEQS = 128


def main(path: str) -> None:
    """Pack the table at `path`."""
    table = pd.read_csv(path)
    table.insert(table.columns.get_loc("max_num_batched_tokens"), "max_num_seqs", MAX_NUM_SEQS)
    table.to_csv(packaged.FOLDER / PACKAGED, index=False)
    packaged.write_sums()
    print(f"{len(table)} stages of {table['model'].nunique()} models: {packaged.FOLDER / PACKAGED}")


if __name__ == "__main__":
    main(sys.argv[1])
