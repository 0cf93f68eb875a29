"""h3 learns how long one step of an LLM inference server takes, and proves that it generalises.

Verbs, one file each: train, ingest, compare, promote, replay, export, predict (`h3 VERB` or `python -m
h3.VERB`).

Nouns, from the top; a room knows the rooms below it and none beside it:

    promotion, verdict       from a sweep to the champion; does the hypothesis hold
    latency, tracking        what a step time means to users; MLflow, and nobody else
    bundle, evaluation       the model as files; one fold
    models, sources          predictors; logs to step tables
    server, steps            a serving engine in a box; what a step is
    common                   errors, configuration, the command line, progress, files
"""

import os

# Two trainings at once spin on each other's threads otherwise (30 times slower); read when XGBoost's libgomp
# loads.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Sums of products in one order, however many cores there are and whichever launcher: by threads the last bits
# of a fit differ, and matrices of this size take twice as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.2.0"
