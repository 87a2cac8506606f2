"""A data set as `datasets` saves it to disk: Arrow files, and what the columns mean. Read with pyarrow alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import shorten
from migaki.data.parquet import class_names, named_classes

__all__ = ["is_dataset_folder", "read_dataset_folder"]


def is_dataset_folder(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote it."""
    # Not pathlib, which raises where a name is too long to be one.
    return any(os.path.isfile(folder / name) for name in ("state.json", "dataset_dict.json"))  # noqa: PTH113


def read_dataset_folder(folder: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Column names, and the rows in order; class numbers become the names of the classes.

    Raises:
        DataError: a folder of several splits, of which one has to be named; or a file of it is missing or damaged.
    """
    if not (folder / "state.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits", [])
        raise DataError(
            f"{folder} holds the splits {', '.join(splits)}. Name one: {folder / (splits or ['train'])[0]}."
        )
    import pyarrow as pa

    named = [entry["filename"] for entry in _json(folder / "state.json").get("_data_files", [])]
    classes = class_names(_json(folder / "dataset_info.json").get("features"))
    try:
        tables = []
        for name in named:
            with pa.memory_map(str(folder / name)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        table = pa.concat_tables(tables)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{folder} is not whole ({shorten(str(error), 120)}). Save the data set again.") from None

    def rows() -> Iterator[dict[str, Any]]:
        for batch in table.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                yield named_classes(row, classes)

    return list(table.column_names), rows()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({shorten(str(error))}). Save the data set again.") from None
    return found if isinstance(found, dict) else {}
