"""A snapshot of a data section: the rows of its splits as they are learned from, in Arrow files with a hash of their content.

Whoever trains from it opens no other file, so that a source that changes, moves or is read by a later version changes
nothing. How texts are cleaned still stands in the recipe, which is asked when rows are predicted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from migaki.core.errors import DamagedError, DataError
from migaki.core.store import commit, read_json, verify
from migaki.core.types import Dataset, Finding, Place, Row, Splits
from migaki.data.formats import READERS

__all__ = ["content_hash", "prepare", "read_prepared"]

_SPLITS = ("train", "valid", "test")
_FACTS = "prepared.json"
_PLACE = ("_source", "_line")
"""Columns beside the content: where the row came from."""


def content_hash(splits: Splits) -> str:
    """Of all three splits, in order; `sha256:` and the hash of theirs."""
    digest = hashlib.sha256()
    for name in _SPLITS:
        digest.update(getattr(splits, name).fingerprint().encode())
    return f"sha256:{digest.hexdigest()}"


def prepare(folder: Path, splits: Splits, content_kind: str, seed: int | None, section: Mapping[str, Any]) -> str:
    """Write the snapshot; its content hash comes back.

    Args:
        folder: made here; one that is there is never overwritten.
        seed: by which rows were drawn; None where none were.
        section: the data section the rows were read by.
    Raises:
        DataError: the folder is there, or the rows are files, of which a snapshot would hold only the names.
        StorageError: the disk is full or not writable.
    """
    import pyarrow as pa

    if not getattr(READERS[content_kind], "has_texts", True):
        raise DataError(
            "The rows of this task are files, and a snapshot would hold only their names. Keep a copy of them."
        )
    if folder.exists():
        raise DataError(f"{folder} is already there and is not overwritten. Name another folder, or remove it.")
    found = content_hash(splits)
    facts = {
        "content_kind": content_kind,
        "seed": seed,
        "section": dict(section),
        "hash": found,
        "columns": dict(splits.columns),
        "findings": [asdict(finding) for finding in splits.findings],
    }
    with commit(folder, {"hash": found}) as temporary:
        for name in _SPLITS:
            rows = [
                {"_source": row.place.source, "_line": row.place.line, **row.content.as_json()}
                for row in getattr(splits, name).rows
            ]
            table = pa.Table.from_pylist(rows)
            with pa.OSFile(str(temporary / f"{name}.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as to:
                to.write_table(table)
        text = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
        (temporary / _FACTS).write_text(text, encoding="utf-8")
    return found


def read_prepared(folder: Path, content_kind: str, seed: int | None, section: Mapping[str, Any]) -> Splits:
    """The splits, bit by bit those that were written.

    Raises:
        DataError: it is no such folder, it is damaged, or it was made by another data section, seed or for another kind of
            task; names what differs.
    """
    if not (folder / _FACTS).is_file():
        raise DataError(f"{folder} holds no prepared data. Make it with: migaki data prepare RECIPE --output {folder}")
    again = "Prepare the data again (migaki data prepare RECIPE --output FOLDER), or leave data.prepared out."
    try:
        verify(folder)
        facts = read_json(folder / _FACTS)
    except DamagedError as error:
        raise DataError(f"{error} {again}") from None
    differs = [key for key in {**facts["section"], **section} if facts["section"].get(key) != section.get(key)]
    if facts["content_kind"] != content_kind:
        raise DataError(f"{folder} was prepared for rows of kind {facts['content_kind']}, not {content_kind}. {again}")
    if differs:
        names = ", ".join(f"data.{name}" for name in differs)
        raise DataError(f"{folder} was prepared by another data section; {names} differs. {again}")
    if facts["seed"] != seed:
        raise DataError(
            f"{folder} was prepared with seed {facts['seed']}, and the splits of seed {seed} are others. {again}"
        )
    train, valid, test = (_rows(folder, name, content_kind) for name in _SPLITS)
    splits = Splits(train, valid, test, tuple(_finding(f) for f in facts["findings"]), facts["columns"])
    if content_hash(splits) != facts["hash"]:
        raise DataError(f"{folder} gives other rows than were written into it. {again}")
    return splits


def _rows(folder: Path, name: str, content_kind: str) -> Dataset:
    import pyarrow as pa

    reader = READERS[content_kind]
    with pa.memory_map(str(folder / f"{name}.arrow")) as file:
        values = pa.ipc.open_file(file).read_all().to_pylist()
    columns = reader.choose([column for column in values[0] if column not in _PLACE], {})
    return Dataset(name, tuple(Row(Place(v["_source"], v["_line"]), reader(v, columns, True)) for v in values))


def _finding(facts: Mapping[str, Any]) -> Finding:
    return Finding(**{**facts, "examples": tuple(facts["examples"])})
