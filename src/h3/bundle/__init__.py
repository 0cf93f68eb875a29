"""The model as files: a bundle folder with manifest and golden vectors, and coefficients for an unmodified
BLIS.

    bundle.write({"dense": fitted, "moe": fitted}, "dist/blis", provenance, overheads)
    bundle.read("dist/blis").predict(table)

Whoever needs no more than this imports h3.bundle; distil.py, which needs SciPy, is imported by its name.
"""

from h3.bundle.bundle import (
    Bundle,
    Report,
    copy,
    copy_verified,
    describe,
    predict,
    read,
    verify,
    write,
)
from h3.bundle.files import inspect
from h3.bundle.manifest import OtherPhysics

__all__ = [
    "Bundle",
    "OtherPhysics",
    "Report",
    "copy",
    "copy_verified",
    "describe",
    "inspect",
    "predict",
    "read",
    "verify",
    "write",
]
