"""A fold's run while it is computed: RUNNING from the start, sent whole at the end. Where the store is lost
the record waits on disk for `h3 sync`.

    folds = Folds(opened, config, say)
    with folds.run(folds.left().run_id) as sending:
        sending.sealed = ...                    # the complete record
    sending.result                              # with the run's id, if the store took it
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from h3.common import interrupts
from h3.common.config import TrainConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation.result import FoldResult
from h3.tracking import resume, send, unsent
from h3.tracking.connect import Lost
from h3.tracking.record import Sealed
from h3.tracking.resume import KEY_TAG, Left
from h3.tracking.store import FOLD_TAG, MODEL_TAG
from h3.tracking.sweep import Opened

WAIT_S = 1.0


@dataclass
class Sending:
    """What a fold's block gives (the record) and gets (the result as sent, or as it is where it waits)."""

    sealed: Sealed | None = None
    sent: FoldResult | None = None

    @property
    def result(self) -> FoldResult:
        """The fold's result."""
        assert self.sealed is not None
        return self.sent or self.sealed.result


@dataclass(frozen=True)
class Folds:
    """The runs of a configuration's fold below a parent run."""

    opened: Opened
    config: TrainConfig
    say: Progress

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.config.fold.name}-{self.config.model.name}"

    def left(self) -> Left:
        """What the sweep has left of this fold; nothing, unless it is to be gone on with."""
        store, parent, known = self.opened.store, self.opened.place.parent, resume.key(self.config)
        if not self.config.resume or store is None:
            return Left()
        while process := resume.busy(store, parent, known):  # of a sweep that was killed alone
            self.say("wait", detail=f"for process {process}, which computes this fold")
            time.sleep(WAIT_S)
        return resume.left_of(store, parent, known)

    @contextmanager
    def run(self, again: str) -> Iterator[Sending]:
        """The fold's run while the block computes its record, which is then sent; `again`: the id of a run
        that goes on.

        A record that is complete is never lost: where the store does not take it a note in mlruns/unsent says
        where it is.
        """
        sending = Sending()
        try:
            with self._tracked(again) as run_id:
                yield sending
                assert sending.sealed is not None
                note = unsent.fold(sending.sealed.folder, self.opened.place, run_id, self.name)
                self.say("track")
                if self.opened.store is not None:
                    sending.sent = send.fold(self.opened.store, run_id, sending.sealed)
            if self.opened.store is not None:
                note.unlink()
            interrupts.check()
        except Lost as lost:
            if sending.sealed is None:
                raise
            self.say.note(f"finished, not tracked: {lost}; kept in {sending.sealed.folder}")
        except (InputError, OSError) as error:
            self.say.note(f"failed: {error}")
            raise

    @contextmanager
    def _tracked(self, again: str) -> Iterator[str]:
        store, parent = self.opened.store, self.opened.place.parent
        named = {FOLD_TAG: self.config.fold.name, MODEL_TAG: self.config.model.name}
        tags = {KEY_TAG: resume.key(self.config), **named}
        with store.fold_run(parent, self.name, tags, again) if store else nullcontext("") as run_id:
            yield run_id
