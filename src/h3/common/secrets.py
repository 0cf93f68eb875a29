"""No password in a message: addresses of stores are shown without theirs.

>>> hidden("postgresql://h3:geheim@db/mlflow")
'postgresql://h3:***@db/mlflow'
"""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote, urlsplit

# An address as it is, and as Hydra prints it among overrides (\\:).
PASSWORD = re.compile(r"(://[^\s/@:\\]*\\?:)[^\s/]*(@)")


def hidden(text: str, uri: str = "") -> str:
    """The text without the passwords of addresses in it, nor that of `uri` by itself."""
    text = PASSWORD.sub(r"\1***\2", text)
    for password in _passwords(uri):
        text = text.replace(password, "***")
    return text


def _passwords(uri: str) -> list[str]:
    try:
        password = urlsplit(uri).password
    except ValueError:
        return []
    return [password, unquote(password)] if password else []


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        return hidden(super().getMessage())


def keep_out_of_logs() -> None:
    """Hide passwords in all that is logged from now on; Hydra logs the overrides of every job."""
    logging.setLogRecordFactory(_Record)
