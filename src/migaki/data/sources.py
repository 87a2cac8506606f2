"""Files, lists and demo sets to records: column names and values, each with file and line."""

from __future__ import annotations

import csv
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migaki.core.codec import nearest
from migaki.core.errors import DataError, StorageError, UsageError
from migaki.core.types import Place, Record, shorten
from migaki.data.demo import demo_records
from migaki.data.encodings import decode

__all__ = ["Table", "read_records", "write_records"]

csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Table:
    """Records of one source, its column names in order, and what was noticed while reading."""

    source: str
    records: tuple[Record, ...]
    columns: tuple[str, ...]
    encoding: str | None = None
    separator: str | None = None


def read_records(source: str | Sequence[Mapping[str, Any]], name: str = "train", encoding: str | None = None) -> Table:
    """All records of a file (by its extension), a demo set (`demo:NAME`) or a list of mappings.

    Raises:
        DataError: names file and line, what was found there, and the remedy.
    """
    if not isinstance(source, str):
        return _from_list(source, name)
    if source.startswith("demo:"):
        records = demo_records(source)
        return Table(source, tuple(records), tuple(records[0].values))
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{source} is a folder. Name one file in it.")
    if reader is None:
        raise DataError(f"{source}: files that end in {path.suffix!r} are not read; known: {', '.join(_READERS)}. Convert it, or rename it if only the name is wrong.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        there = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        hint = nearest(path.name, there) if there else f"the folder {path.parent} does not exist." if not path.parent.is_dir() else "the folder is empty."
        raise DataError(f"There is no file {source}; {hint} Paths in a recipe are relative to the recipe.") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}). Check its permissions.") from None
    if not data.strip():
        raise DataError(f"{source} is empty. Give a file with at least one row.")
    table = reader(data, source, encoding)
    if not table.records:
        raise DataError(f"{source} has no rows{' below its header' if table.columns else ''}. Give a file with at least one row.")
    return table


def _from_list(rows: Sequence[Mapping[str, Any]], name: str) -> Table:
    records = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(f"{name}:{number}: {shorten(repr(row))} is not a mapping of column names to values.")
        records.append(Record(Place(name, number), {str(key): value for key, value in row.items()}))
    if not records:
        raise DataError(f"The list of {name} rows is empty. Give at least one row.")
    return Table(name, tuple(records), _columns(records))


def _columns(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for record in records for name in record.values))


def _separated(separator: str | None) -> Callable[[bytes, str, str | None], Table]:
    def read(data: bytes, source: str, encoding: str | None) -> Table:
        text, found = decode(data, source, encoding)
        chosen = separator or _sniff(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=chosen, strict=True)
        rows = _rows_with_lines(reader, source)
        _, header = next(rows, (1, []))
        _check_header(header, source)
        records = []
        for line, cells in rows:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{source}:{line}: this row has {len(cells)} cells, the header has {len(header)} ({shorten(chosen.join(cells))!r}). "
                    'Put a text that holds the separator into double quotes ("...").'
                )
            records.append(Record(Place(source, line), dict(zip(header, cells, strict=True))))
        return Table(source, tuple(records), tuple(header), found, chosen)

    return read


def _rows_with_lines(reader: Any, source: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line on which each starts; a quoted cell may run over several lines."""
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
            raise DataError(f'{source}:{line}: {what}. Write a quote inside a text twice ("") and close every quoted cell.') from None
        yield line, cells
        line = reader.line_num + 1


def _sniff(text: str) -> str:
    """The separator of the header: the one of comma, semicolon and tab that stands in it most often."""
    header = text.split("\n", 1)[0]
    return max(",;\t", key=header.count)


def _check_header(header: Sequence[str], source: str) -> None:
    for number, name in enumerate(header, 1):
        if not name.strip():
            raise DataError(f"{source}:1: column {number} has no name. Give every column a name in the first line.")
        if header.index(name) != number - 1:
            raise DataError(f"{source}:1: the column {name!r} stands twice. Rename one of them.")


def _jsonl(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    lines = text.split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        is_last = number == len(lines)
        try:
            value = json.loads(line, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            cut = "The file seems to be cut off in its last line; export it again." if is_last else "One JSON object in each line, text in double quotes."
            raise DataError(f"{source}:{number}: is not valid JSON ({error.msg} at character {error.pos + 1}: {shorten(line)!r}). {cut}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}:{number}: {error or 'is nested too deeply'}. Correct this line.") from None
        records.append(Record(Place(source, number), _mapping(value, Place(source, number))))
    return Table(source, tuple(records), _columns(records), found)


def _json_array(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    decoder = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{source}:1: does not begin with '['. A .json file holds a list of objects; one object in each line is a .jsonl file.")
    records: list[Record] = []
    at = _skip(text, at + 1)
    line, counted = text.count("\n", 0, at) + 1, at
    while text[at : at + 1] != "]":
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(f"{source}:{error.lineno}: is not valid JSON ({error.msg}). Look at this line, or export the file again.") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}:{line}: {error or 'is nested too deeply'}. Correct this object.") from None
        records.append(Record(Place(source, line), _mapping(value, Place(source, line))))
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise DataError(f"{source}:{text.count(chr(10), 0, at) + 1}: after this object ',' or ']' is missing. The file may be cut off; export it again.")
    return Table(source, tuple(records), _columns(records), found)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in one object, so one of its values would be lost")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is not a JSON value; write null or a number")


def _mapping(value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f'{place}: holds {shorten(repr(value))}, not an object. Each row is an object such as {{"text": "...", "label": "..."}}.')
    return value


def _parquet(data: bytes, source: str, encoding: str | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source} is not a readable Parquet file ({shorten(str(error), 120)}). Export it again.") from None
    records = tuple(Record(Place(source, number), row) for number, row in enumerate(table.to_pylist(), 1))
    return Table(source, records, tuple(table.column_names))


_READERS: dict[str, Callable[[bytes, str, str | None], Table]] = {
    ".csv": _separated(None),
    ".tsv": _separated("\t"),
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json_array,
    ".parquet": _parquet,
}


def write_records(path: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV, TSV or JSONL, by the extension; the file appears whole or not at all.

    Raises:
        UsageError: another extension.
        StorageError: the folder cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl"):
        raise UsageError(f"{path}: can be written as .csv, .tsv or .jsonl, not as {kind or 'a file without extension'!r}. Choose another name for --output.")
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            if kind == ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
            else:
                writer = csv.writer(file, delimiter="\t" if kind == ".tsv" else ",", lineterminator="\n")
                writer.writerow(columns)
                writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written ({error.strerror}). Choose another place for --output.") from error


def _cell(value: Any) -> Any:
    """A cell as text; lists and mappings, which a table cannot hold, as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
