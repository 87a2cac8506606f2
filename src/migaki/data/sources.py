"""Files, lists and demo sets to records: column names and values, each with file and line."""

from __future__ import annotations

import io
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
from migaki.data.hub import hub_records
from migaki.data.json_rows import json_lines, json_list
from migaki.data.parquet import parquet_rows
from migaki.data.problems import refuse_rows
from migaki.data.separated import check_header, separated_records, separator_of
from migaki.data.sheets import read_sheet
from migaki.data.unpacking import PACKED, unpacked

__all__ = ["Table", "ending", "is_address", "numbered", "read_records", "text_lines"]


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
    """All records of a file (by its extension), a data set folder, a demo set (`demo:NAME`), a data set of the
    hub (`hf:OWNER/NAME`) or a list of mappings.

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
        table = Table(source, tuple(numbered(rows, source)), tuple(columns))
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
    separator = "\t" if ending(Path(source)) == ".tsv" else separator_of(text)
    header, rows = separated_records(io.StringIO(text, newline=""), source, separator)
    return Table(source, _whole(rows), header, found, separator)


def _jsonl(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    records = _whole(json_lines(io.StringIO(text, newline="\n"), source))
    return Table(source, records, _columns(records), found)


def _json_array(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    records = tuple(json_list(text, source))
    return Table(source, records, _columns(records), found)


def _text(data: bytes, source: str, encoding: str | None) -> Table:
    text, found = decode(data, source, encoding)
    return Table(source, _whole(text_lines(io.StringIO(text, newline="\n"), source)), ("text",), found)


def text_lines(lines: Iterable[str], source: str) -> Iterator[Record]:
    """A record with a `text` for each line that holds something; without the line's end, else to the character."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Record(Place(source, number), {"text": line.removesuffix("\n").removesuffix("\r")})


def _whole(rows: Iterable[Record | str]) -> tuple[Record, ...]:
    """The records. Raises DataError with the first of the others, if there are any."""
    found = list(rows)
    refuse_rows([row for row in found if isinstance(row, str)], len(found))
    return tuple(row for row in found if isinstance(row, Record))


def _excel(data: bytes, source: str, sheet: str | None) -> Table:
    header, rows = read_sheet(data, source, sheet)
    check_header(header, f"{source}:1")
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

    columns, rows = parquet_rows(pa.BufferReader(data), source)
    check_header(columns, source)
    return Table(source, tuple(numbered(rows, source)), tuple(columns))


def numbered(rows: Iterable[dict[str, Any]], source: str) -> Iterator[Record]:
    """Rows that stand on no line, by their number."""
    for number, row in enumerate(rows, 1):
        yield Record(Place(source, number), row)


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
    ".txt": _text,
    ".parquet": _parquet,
    **dict.fromkeys(CONLL_ENDINGS, _conll),
}
_SCHEMES: dict[str, Callable[[str], list[Record]]] = {"demo": demo_records, "hf": hub_records}
