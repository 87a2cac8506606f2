"""Rows of Parquet files. What classes a column's numbers stand for, the file may say itself, as the hub's files do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import shorten

__all__ = ["class_names", "named_classes", "parquet_rows"]

_ROWS_AT_ONCE = 1000


def parquet_rows(file: Path | Any, source: str) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Column names, and the rows in order; class numbers become the names of the classes.

    Args:
        file: path, or what pyarrow can read from.
        source: its name, for messages.
    Raises:
        DataError: it is no whole Parquet file; also while the rows are gone through.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    broken = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        parquet = pq.ParquetFile(str(file) if isinstance(file, Path) else file)
        schema = parquet.schema_arrow
    except broken as error:
        raise _unreadable(source, error) from None
    classes = class_names(_features(schema.metadata or {}))

    def rows() -> Iterator[dict[str, Any]]:
        try:
            for batch in parquet.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield named_classes(row, classes)
        except broken as error:
            raise _unreadable(source, error) from None

    return list(schema.names), rows()


def _unreadable(source: str, error: Exception) -> DataError:
    return DataError(f"{source} is not a readable Parquet file ({shorten(str(error), 120)}). Export it again.")


def _features(metadata: Mapping[bytes, bytes]) -> Any:
    """What `datasets` writes into a file about its columns."""
    try:
        return json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}


def class_names(features: Any) -> dict[str, list[str]]:
    """Of each column that holds numbers of classes, the names of the classes.

    Args:
        features: the columns as `datasets` describes them.
    """
    if not isinstance(features, Mapping):
        return {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def named_classes(row: Mapping[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """The row with the names of its classes.

    >>> named_classes({"label": 1, "n": 1}, {"label": ["no", "yes"]}), named_classes({"label": -1}, {"label": ["no"]})
    ({'label': 'yes', 'n': 1}, {'label': None})
    """
    return {name: _named(value, classes.get(name)) for name, value in row.items()}


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or not isinstance(value, int):
        return value
    # -1 stands for a row whose class is not known.
    return names[value] if 0 <= value < len(names) else None
