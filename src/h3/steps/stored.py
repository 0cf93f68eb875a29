"""Parquet files of strangers: what is checked before their rows are read.

    check(path, "a step table")                 # a file, and no bigger in memory than it may be
    record = metadata(arrow.schema, path)       # the JSON object below `h3`, {} where there is none

A footer of a few bytes can promise any number of rows, and one long text can stand in each of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from h3.common.errors import InputError

# Rows of one value take next to nothing in a file: a table may be large, or packed tightly, not both.
FREE_BYTES = 1 << 30
MOST_RATIO = 1000
LONGEST_NAME = 1000
MOST_COLUMNS = 1000
MOST_METADATA_BYTES = 64 << 20
BYTES_OF_VALUE = 8
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)


def check(path: str | Path, expected: str) -> int:
    """Number of rows of a Parquet file. Raises InputError for what is none, and for one whose table would be
    out of proportion.

    expected: what the file should be, as the message says it.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "no such file"
        raise InputError(f"{path}: {found}; expected {expected}")
    try:
        footer = pq.read_metadata(path)
        _check_size(path, footer)
        _check_names(path, footer.schema.to_arrow_schema())
        return int(footer.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


def unreadable(path: str | Path, error: Exception) -> InputError:
    """The error of a file that pyarrow does not take."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: not a readable Parquet file ({said[:200]}); expected one that h3 wrote")


def _check_size(path: Path, footer: pq.FileMetaData) -> None:
    if footer.num_columns > MOST_COLUMNS:
        raise InputError(f"{path}: {footer.num_columns} columns; expected at most {MOST_COLUMNS}")
    if footer.serialized_size > MOST_METADATA_BYTES:
        raise InputError(
            f"{path}: {footer.serialized_size} bytes of metadata; expected at most {MOST_METADATA_BYTES}"
        )
    size, file_bytes = footer.num_rows * footer.num_columns * BYTES_OF_VALUE, path.stat().st_size
    if size > max(FREE_BYTES, MOST_RATIO * file_bytes):
        raise InputError(
            f"{path}: {footer.num_rows} rows of {footer.num_columns} columns in {file_bytes} bytes; expected"
            f" no more than {MOST_RATIO} times the file"
        )


def _check_names(path: Path, schema: pa.Schema) -> None:
    """Texts are read as a dictionary first, so that a long one is seen once, not once a row."""
    for field in schema:
        if schema.names.count(field.name) > 1:
            raise InputError(f"{path}: column {field.name!r:.60} is there twice; expected each once")
        if not any(is_plain(field.type) for is_plain in (*TEXTS, *NUMBERS)):
            raise InputError(
                f"{path}: column {field.name!r:.60} holds {str(field.type)[:60]}; expected numbers or texts"
            )
    for name in (field.name for field in schema if any(is_text(field.type) for is_text in TEXTS)):
        column = pq.read_table(path, columns=[name], read_dictionary=[name])[name]
        for chunk in column.chunks:
            values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            longest = max((len(value) for value in values.to_pylist() if value is not None), default=0)
            if longest > LONGEST_NAME:
                raise InputError(
                    f"{path}: column {name!r} holds a text of {longest} characters; expected at most"
                    f" {LONGEST_NAME}"
                )


def metadata(schema: pa.Schema, path: str | Path) -> dict[str, Any]:
    """The JSON object in a schema's metadata below `h3`; {} where there is none. Raises InputError for what
    is no JSON object.
    """
    text = (schema.metadata or {}).get(b"h3", b"{}")
    try:
        record = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
        raise InputError(f"{path}: metadata 'h3' is no JSON ({said}); expected an object") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: metadata 'h3' is {json.dumps(record)[:60]}; expected an object")
    return record


def check_digest(record: dict[str, Any], found: str, path: str | Path) -> None:
    """Raises InputError unless the metadata's digest is that of the rows."""
    if "digest" not in record:
        raise InputError(f"{path}: metadata 'h3' has no digest; expected that of the rows")
    if record["digest"] != found:
        raise InputError(
            f"{path}: digest {found} of the rows is not the {str(record['digest'])[:64]} in its metadata"
        )
