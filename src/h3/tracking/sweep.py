"""The parent run of a multirun: opened before the first job, closed after the last, also when a job fails or
is killed.

Hydra calls it through `hydra.callbacks` (conf/config.yaml). The jobs, which may be processes of their own,
find the parent's id in an environment variable.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from h3.common.config import SourceConfig, TrackingConfig
from h3.common.progress import Progress
from h3.evaluation.fold_table import FoldRow, markdown
from h3.sources.load import load
from h3.tracking.store import Store, open_store

PARENT_VARIABLE = "H3_PARENT_RUN"


class SweepParent(Callback):
    """Opens and closes the parent run of a multirun."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self.parent, self.process = "", 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the parent run and make the simulated data once; Hydra calls it before the first job."""
        tracking = TrackingConfig(**config.tracking)
        self.store = open_store(tracking.uri, tracking.experiment)
        overrides = " ".join(config.hydra.overrides.task)
        self.parent = self.store.start_parent(
            "sweep", {"overrides": overrides, "source": str(config.source.name)}
        )
        self.process = os.getpid()
        os.environ[PARENT_VARIABLE] = self.parent
        self._warm_cache(config)
        # Hydra does not call on_multirun_end when a job failed; the parent must not stay RUNNING.
        atexit.register(self._close, True)

    def _warm_cache(self, config: DictConfig) -> None:
        """Simulate once, before jobs that may run side by side all want the same data."""
        if config.source.name == "simulated":
            source = OmegaConf.to_container(config.source, resolve=True)
            say = Progress("sweep")
            load(SourceConfig.model_validate(source), lambda text: say("data", detail=text))
            say.finish()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent run and print the fold table; Hydra calls it after the last job, if none
        failed.
        """
        self._close(False)

    def _close(self, failed: bool) -> None:
        if self.store is None or os.getpid() != self.process:
            return
        store, self.store = self.store, None
        os.environ.pop(PARENT_VARIABLE, None)
        rows = store.finish_parent(self.parent, failed)
        print_table(rows)
        print(f"parent run {self.parent}", file=sys.stderr)


def print_table(rows: list[FoldRow]) -> None:
    """Print the fold table, and how to look at the runs."""
    print("\n" + markdown(rows))
    print("Look at the runs with `make ui`, then open http://127.0.0.1:5000 in a browser.")
