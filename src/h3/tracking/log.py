"""What the runs of promotions keep: texts, JSON and data sets, logged to the active run.

with store.active_run("promotion", tags):
    log.json("gate.json", checks)
"""

from __future__ import annotations

from typing import Any

import mlflow


def json(name: str, content: Any) -> None:
    """Log JSON."""
    mlflow.log_dict(content, name)


def text(name: str, content: str) -> None:
    """Log a text."""
    mlflow.log_text(content, name)
