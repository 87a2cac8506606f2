"""Records to a file, so that reading it gives the same texts again."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from migaki.core.errors import StorageError, UsageError

__all__ = ["check_output", "write_records"]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")


def check_output(path: str, option: str = "--output") -> None:
    """Refuse a name under which rows cannot be written, before hours of work are spent on them. `option` is what gave it.

    Raises:
        UsageError: another extension than .csv, .tsv or .jsonl, a folder, or a file in a folder that is not there.
    """
    _kind(path, option)
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{path} is a folder. Choose the name of a file for {option}.")
    if not target.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {target.parent}. Make it, or choose another.")


def _kind(path: str, option: str = "--output") -> str:
    kind = Path(path).suffix.lower()
    if kind not in (*_SEPARATORS, *_LINES):
        name = repr(kind) if kind else "a file without extension"
        raise UsageError(
            f"{path}: can be written as .csv, .tsv or .jsonl, not as {name}. Choose another name for {option}."
        )
    return kind


def write_records(path: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV, TSV or JSONL (UTF-8), by the extension; the file appears whole or not at all.

    Args:
        path: the file; one that is there is replaced.
        rows: names and values. A value that is no text becomes JSON in a cell, None an empty cell.
        columns: the order of the columns; names that only later rows have are added behind them.
    Raises:
        UsageError: another extension.
        StorageError: the file cannot be written.
    """
    kind = _kind(path)
    target = Path(path)
    rows = list(rows)
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    lines = map(_json, rows) if kind in _LINES else _separated(rows, names, _SEPARATORS[kind])
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(f"{path} cannot be written ({why}). Choose another place for it.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _separated(rows: Sequence[Mapping[str, Any]], names: Sequence[str], separator: str) -> Iterable[str]:
    yield separator.join(_cell(name, len(names)) for name in names)
    for row in rows:
        yield separator.join(_cell(row.get(name), len(names)) for name in names)


def _cell(value: Any, n_cells: int) -> str:
    """One cell, quoted where it has to be.

    csv.writer leaves a lone carriage return unquoted before Python 3.13, and a reader then sees two rows.
    """
    text = value if isinstance(value, str) else "" if value is None else _json(value)
    # A line with one empty cell would be a blank line, which is no row.
    if any(ch in text for ch in '",;\t\r\n') or (not text and n_cells == 1):
        return '"' + text.replace('"', '""') + '"'
    return text
