"""The model as files: a bundle folder, its manifest, its golden vectors, and coefficients for an unmodified
BLIS.

bundle.write({"dense": fitted, "moe": fitted}, "dist/blis", provenance, overheads)
bundle.read("dist/blis").predict(table)
"""

from h3.bundle.bundle import Bundle, OtherPhysics, copy, predict, read, verify, write

__all__ = ["Bundle", "OtherPhysics", "copy", "predict", "read", "verify", "write"]
