"""Files, lists and demo sets to records: column names and values, each with file and line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migaki.core.codec import nearest
from migaki.core.errors import DataError
from migaki.core.types import Finding, Place, Record, shorten
from migaki.data.conll import CONLL_ENDINGS, conll_sentences
from migaki.data.demo import demo_records
from migaki.data.encodings import decode
from migaki.data.hf_folder import is_dataset_folder, read_dataset_folder
from migaki.data.problems import refuse_rows
from migaki.data.sheets import read_sheet
from migaki.data.unpacking import PACKED, unpacked

__all__ = ["Table", "ending", "is_address", "json_record", "read_records", "separator_of"]

# The csv module's own limit is 128 KiB a cell; it can only be set for the process, and a higher one harms nobody.
csv.field_size_limit(1 << 30)
_HEADER_CHARACTERS = 1 << 16


@dataclass(frozen=True)
class Table:
    """Records of one source, its column names in order, and what was noticed while reading."""

    source: str
    records: tuple[Record, ...]
    columns: tuple[str, ...]
    encoding: str | None = None
    separator: str | None = None
    notes: tuple[Finding, ...] = ()


def read_records(
    source: str | Sequence[Mapping[str, Any]],
    name: str = "train",
    encoding: str | None = None,
    sheet: str | None = None,
) -> Table:
    """All records of a file (by its extension), a data set folder, a demo set (`demo:NAME`) or a list of mappings.

    Cells of CSV and TSV stay the texts they are: `NA` is a label, `007` is no number. A record's place is the line on
    which it starts, the row's number in Parquet, the item's number in a list.

    Args:
        source: path, address or rows.
        name: what a list is called in messages.
        encoding: of text files; None finds it out, see `encodings.decode`.
        sheet: of an Excel file.
    Raises:
        DataError: names file and line, what was found there, and the remedy.
    """
    if not isinstance(source, str):
        return _from_list(source, name)
    if is_address(source):
        return _from_address(source)
    path = Path(source)
    if is_dataset_folder(path):
        columns, rows = read_dataset_folder(path)
        records = tuple(Record(Place(source, number), row) for number, row in enumerate(rows, 1))
        table = Table(source, records, tuple(columns))
    elif ending(path) == ".xlsx":
        table = _excel(_bytes(path), source, sheet)
    else:
        data = _bytes(path)  # first, for it says what is wrong with the name
        table = _READERS[ending(path)](data, source, encoding)
    if not table.records:
        below = " below its header" if table.columns else ""
        raise DataError(f"{source} has no rows{below}. Give a file with at least one row.")
    return table


def ending(path: Path) -> str:
    """What the name says about the content: `.jsonl` of `a.jsonl` and of `a.jsonl.gz`.

    >>> ending(Path("a.JSONL.gz")), ending(Path("b.csv"))
    ('.jsonl', '.csv')
    """
    return Path(path.stem if path.suffix.lower() in PACKED else path).suffix.lower()


def is_address(source: str) -> bool:
    """Whether a source is `scheme:name` rather than the path of a file.

    >>> is_address("demo:helpdesk-chat"), is_address("a:b.csv"), is_address("https://example.org/a.csv")
    (True, False, True)
    """
    if "://" in source:
        return True
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source)) and ending(Path(source)) not in (*_READERS, ".xlsx")


def _from_address(source: str) -> Table:
    scheme = source.partition(":")[0]
    if scheme not in _SCHEMES:
        raise DataError(
            f"{source}: there is no source {scheme + ':'!r}; {nearest(scheme, list(_SCHEMES))} "
            "What is on the web has to be downloaded first; a file is given by its path."
        )
    records = _SCHEMES[scheme](source)
    return Table(source, tuple(records), _columns(records))


def _bytes(path: Path) -> bytes:
    try:
        data = unpacked(_file(path))
    except FileNotFoundError:
        raise DataError(
            f"There is no file {path}; {_neighbours(path)} Paths in a recipe are relative to the recipe."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its name and its permissions.") from None
    if not data.strip():
        raise DataError(f"{path} is empty. Give a file with at least one row.")
    return data


def _file(path: Path) -> Path:
    """The path, unless it leads to something of which no rows can be read. A missing file is left to who opens it."""
    known = (*_READERS, ".xlsx")
    kinds = ", ".join((*known, *(f"any of them with {packed}" for packed in PACKED)))
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if ending(p) in known)
        raise DataError(f"{path} is a folder. Name one file in it{': ' + ', '.join(inside[:10]) if inside else ''}.")
    if ending(path) not in known:
        what = f"files that end in {path.suffix!r}" if path.suffix else "files without an extension"
        raise DataError(
            f"{path}: {what} are not read; known: {kinds}. Convert it (a spreadsheet: save as CSV, an archive: unpack "
            "it), or rename it if only the name is wrong."
        )
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not an ordinary file. Copy its rows into a file first.")
    return path


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist."
    there = sorted(p.name for p in path.parent.iterdir() if ending(p) in (*_READERS, ".xlsx"))
    return nearest(path.name, there) if there else "its folder holds no data file."


def _from_list(rows: Sequence[Mapping[str, Any]], name: str) -> Table:
    records = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{name}:{number}: {shorten(repr(row))} is not a mapping of column names to values. "
                'Give {"text": "...", "label": "..."}.'
            )
        records.append(Record(Place(name, number), {str(key): value for key, value in row.items()}))
    if not records:
        raise DataError(f"The list of {name} rows is empty. Give at least one row.")
    return Table(name, tuple(records), _columns(records))


def _columns(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for record in records for name in record.values))


def _separated(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    separator = "\t" if source.lower().endswith(".tsv") else separator_of(text)
    rows = _rows_with_lines(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), source)
    header_line, header = next(rows, (1, []))
    if not header:
        raise DataError(f"{source} is empty. Give a file with a header and at least one row.")
    _check_header(header, f"{source}:{header_line}")
    records, problems = [], []
    for line, cells in rows:
        if len(cells) == len(header):
            records.append(Record(Place(source, line), dict(zip(header, cells, strict=True))))
        else:
            problems.append(
                f"{source}:{line}: this row has {len(cells)} cells, the header has {len(header)} "
                f'({shorten(separator.join(cells))!r}). Put a text that holds {separator!r} into double quotes ("...").'
            )
    if problems and len(cells) < len(header) and not text.endswith(("\n", "\r")):
        problems[-1] += " Or the file was cut off in this last line; export it again."
    refuse_rows(problems, len(records) + len(problems))
    return Table(source, tuple(records), tuple(header), found, separator)


def _rows_with_lines(reader: Any, source: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line on which each starts; a quoted cell may run over several lines, blank lines are no rows."""
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            never = "unexpected end" in str(error)
            what = "a quote is opened here and never closed" if never else f"the quotes do not fit ({error})"
            raise DataError(
                f'{source}:{line}: {what}. Write a quote inside a text twice ("") and close every quoted cell.'
            ) from None
        if cells:
            yield line, cells
        line = reader.line_num + 1


def separator_of(text: str) -> str:
    """The separator of the header: the one of comma, semicolon and tab that stands in it most often, unquoted."""
    unquoted = re.sub(r'"[^"]*"', "", text.lstrip("\r\n")[:_HEADER_CHARACTERS])
    return max(",;\t", key=re.split(r"[\r\n]", unquoted)[0].count)


def _check_header(header: Sequence[str], place: str) -> None:
    for number, name in enumerate(header, 1):
        if not name.strip():
            raise DataError(f"{place}: column {number} has no name. Give every column a name in this line.")
        if header.index(name) != number - 1:
            raise DataError(f"{place}: the column {name!r} stands twice. Rename one of them.")


def _jsonl(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    # Not str.splitlines: it also breaks at characters that may stand inside a JSON text, such as U+2028.
    lines = text.split("\n")
    records, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = Place(source, number)
        try:
            records.append(Record(place, json_record(line)))
        except json.JSONDecodeError as error:
            remedy = "Write one JSON object in each line, texts in double quotes."
            if number == len(lines):
                remedy = "The file seems to be cut off in its last line; export it again."
            at = f"{error.msg} at character {error.pos + 1}"
            problems.append(f"{place}: is not valid JSON ({at}: {shorten(line)!r}). {remedy}")
        except (ValueError, RecursionError) as error:
            problems.append(f"{place}: {_reason(error)}. Correct this line.")
    refuse_rows(problems, len(records) + len(problems))
    return Table(source, tuple(records), _columns(records), found)


def _json_array(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(
            f"{source}:{_line(text, at)}: does not begin with '['. A .json file holds a list of objects; for one "
            "object in each line, rename it to .jsonl."
        )
    records: list[Record] = []
    at = _skip(text, at + 1)
    line, counted = _line(text, at), at
    more = text[at : at + 1] != "]"
    while more:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = _DECODER.raw_decode(text, at)
            records.append(Record(Place(source, line), _object(value)))
        except json.JSONDecodeError as error:
            seen = shorten(text[counted : counted + 200])
            raise DataError(
                f"{source}:{error.lineno}: is not valid JSON ({error.msg}: {seen!r}). "
                "Correct this line; if the file ends here it was cut off, export it again."
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}:{line}: {_reason(error)}. Correct this object.") from None
        at = _skip(text, at)
        more = text[at : at + 1] == ","
        if more:
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise DataError(
                f"{source}:{_line(text, at)}: after the object that starts on line {line} ',' or ']' is missing. "
                "The file may be cut off; export it again."
            )
    after = _skip(text, at + 1)
    if after < len(text):
        raise DataError(
            f"{source}:{_line(text, after)}: after the list's ']' stands {shorten(text[after : after + 200])!r}. "
            "A .json file holds one list; remove the rest."
        )
    return Table(source, tuple(records), _columns(records), found)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} stands twice in one object, so one of its values would be lost")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is not a JSON value; write null or a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_no_constant)
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def json_record(line: str) -> dict[str, Any]:
    """The object in a line of JSON. Raises ValueError (json.JSONDecodeError where it is no JSON) and RecursionError."""
    return _object(_DECODER.decode(line))


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        if _HALF_PAIR.search(json.dumps(value, ensure_ascii=False)):
            raise ValueError("holds half of a character (an escape such as \\ud83d on its own), which no file can hold")
        return value
    example = '{"text": "...", "label": "..."}'
    raise ValueError(f"holds {shorten(repr(value))}, not an object; each row is an object such as {example}")


def _reason(error: ValueError | RecursionError) -> str:
    return "is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _excel(data: bytes, source: str, sheet: str | None) -> Table:
    header, rows = read_sheet(data, source, sheet)
    _check_header(header, f"{source}:1")
    records, problems = [], []
    for number, cells in rows:
        over = [cell for cell in cells[len(header) :] if cell is not None]
        if over:
            problems.append(
                f"{source}:{number}: {shorten(repr(over[0]))} stands right of the last column with a name. Give that column "
                "a name in the first row, or empty the cell."
            )
        padded = [*cells, *[None] * (len(header) - len(cells))]
        records.append(Record(Place(source, number), dict(zip(header, padded, strict=False))))
    refuse_rows(problems, len(records))
    return Table(source, tuple(records), tuple(header))


def _parquet(data: bytes, source: str, encoding: str | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = shorten(str(error), 120)
        raise DataError(f"{source} is not a readable Parquet file ({reason}). Export it again.") from None
    _check_header(table.column_names, source)
    records = tuple(Record(Place(source, number), row) for number, row in enumerate(rows, 1))
    return Table(source, records, tuple(table.column_names))


def _conll(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    records = tuple(Record(Place(source, line), values) for line, values in conll_sentences(text, source))
    return Table(source, records, _columns(records), found)


_READERS: dict[str, Callable[[bytes, str, str | None], Table]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json_array,
    ".parquet": _parquet,
    **dict.fromkeys(CONLL_ENDINGS, _conll),
}
_SCHEMES: dict[str, Callable[[str], list[Record]]] = {"demo": demo_records}
