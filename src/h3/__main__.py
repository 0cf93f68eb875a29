"""One entry point for the verbs.

    h3 train fold=lomo_mixtral              # the same as python -m h3.train fold=lomo_mixtral
    h3 --version

A verb runs as its own module, in place of this process.
"""

from __future__ import annotations

import os
import sys

from h3 import __version__

VERBS = {
    "train": "folds: tune, fit, evaluate, track      h3 train fold=lomo_mixtral",
    "ingest": "logs to a step table, no training      h3 ingest source=requests source.path=DIR",
    "compare": "verdict and report on a sweep          h3 compare",
    "promote": "the sweep's winner becomes champion    h3 promote",
    "replay": "requests with predicted step times     h3 replay bundle=champion source.path=DIR",
    "export": "a model as files for BLIS              h3 export bundle=champion out=dist/blis",
    "calibrate": "the champion adapted to one's own log  h3 calibrate source=requests source.path=DIR",
    "sync": "send folds that a lost server has not  h3 sync",
    "predict": "step times of a model never seen       h3 predict config=config.json tp=2 bundle=dist/blis",
}
USAGE = "\n".join(
    [
        "usage: h3 VERB [key=value ...]    (h3 VERB --help: its keys)",
        "",
        *(f"  {verb:9} {what}" for verb, what in VERBS.items()),
        "",
        "  --version, --help",
    ]
)


def main() -> None:
    """Run the verb of the command line; status 2, and one line, for one that is none."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in VERBS:
        os.execv(sys.executable, [sys.executable, "-m", f"h3.{verb}", *sys.argv[2:]])
    if verb in ("--help", "-h", "help"):
        print(USAGE)
    elif verb in ("--version", "version"):
        print(f"h3 {__version__}")
    else:
        print(f"error: unknown verb {verb!r}; expected one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
