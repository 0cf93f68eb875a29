"""Write the small bundle under go/h3bundle/testdata that both languages are tested against.

    python scripts/make_golden_bundle.py        # go/h3bundle/testdata/bundle: the built-in source, few trees

Two boosters, so that routing is tested: one fitted on dense models, whose trees serve those alone, one on
all, for any. Run it again when physics.py, features.py or the format changes, and commit the result.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from h3 import bundle
from h3.bundle.uncertainty import Evidence, trained_on
from h3.common.config import SourceConfig
from h3.evaluation.intervals import Group
from h3.models.protocol import Context
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.promotion.uncertainty import of_groups
from h3.server.overheads import Overheads
from h3.sources import simulated
from h3.steps import schema

OUT = Path(__file__).parents[1] / "go" / "h3bundle" / "testdata" / "bundle"
ROWS = 20_000
OVERHEADS = Overheads(queueing_us=9300.0, post_decode_us=1850.0)


def main() -> None:
    table = simulated.load(SourceConfig(name="simulated"), print).table
    rows = table.sample(ROWS, random_state=0).sort_index().reset_index(drop=True)
    context = Context(group="workload")
    dense_rows = rows[rows["num_experts"] == 0].reset_index(drop=True)
    dense = XGBoostResidual(Params(n_estimators=40, known_only=True)).fit(dense_rows, context)
    every = XGBoostResidual(Params(n_estimators=60, max_depth=4)).fit(rows, context)
    # Widths that tell kinds apart, with a kind (new_moe) that has no interval.
    groups = {
        name: [
            Group(str(sign), np.array([-size, size, sign * size]), np.full(3, 1 / 3)) for sign in (-1, 1, 1)
        ]
        for name, size in (("known", 0.02), ("new_workload", 0.05), ("new_model", 0.08))
    }
    evidence = Evidence(trained_on(dense_rows), of_groups({**groups, "new_moe": []}))
    provenance = {
        "data_digest": schema.digest(rows),
        "commit": "",
        "folds": [],
        "note": "few trees on few rows: for tests only",
    }
    bundle.write({"dense": dense, "moe": every}, OUT, provenance, OVERHEADS, evidence)
    print(bundle.describe(OUT, bundle.verify(OUT)))


if __name__ == "__main__":
    main()
