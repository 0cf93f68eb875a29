"""Send finished folds that the tracking store has not got: its server was lost, or the process was killed.

    python -m h3.sync
    python -m h3.sync to=http://127.0.0.1:5000          # to another store than the one that was lost

A fold is complete on disk before anything is sent. Nothing is computed again, and what is there already is
not sent twice.
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from h3.common import cli
from h3.common.config import Strict, from_hydra
from h3.tracking.waiting import send_all


class SyncConfig(Strict):
    """conf/sync.yaml: `to` is the address of the store, null: where each fold belongs."""

    to: str | None = None


def sync(config: SyncConfig) -> list[str]:
    """Send what waits in mlruns/unsent and close the sweeps that wait for it; a line each.

    Raises InputError where a store cannot be reached: what it has got by then is not sent again.
    """
    return send_all(config.to)


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    print("\n".join(sync(from_hydra(cfg, SyncConfig)) or ["nothing waits to be sent"]))


if __name__ == "__main__":
    cli.run(main, "sync", sys.argv[1:])
