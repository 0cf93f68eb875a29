"""Which code this is: results of the same code, data and configuration are the same results.

digest()                                    # sha256 of h3's files and of the libraries that decide numbers
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version

from h3.common.config import PACKAGE

# A fit and its errors follow from these beside h3's own files.
LIBRARIES = ("numpy", "optuna", "pandas", "scikit-learn", "scipy", "shap", "xgboost")
SUFFIXES = (".py", ".csv", ".json", ".yaml", "SHA256SUMS")


@cache
def digest() -> str:
    """sha256 (hex) over h3's modules, small packaged tables, digests of the large ones, and versions."""
    sha = hashlib.sha256(" ".join(f"{name}=={version(name)}" for name in LIBRARIES).encode())
    for path in sorted(path for path in PACKAGE.rglob("*") if path.name.endswith(SUFFIXES)):
        sha.update(f"{path.relative_to(PACKAGE)}\0".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()
