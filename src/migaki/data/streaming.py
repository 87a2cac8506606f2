"""Records of a file that is larger than the memory: line by line, nothing kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import Place, Record, shorten
from migaki.data.sources import ending, json_record, separator_of
from migaki.data.unpacking import opened

__all__ = ["STREAMED", "iter_records"]

STREAMED = (".csv", ".tsv", ".jsonl", ".ndjson")
_PIECE = 1 << 20
_LONGEST_LINE = 64 << 20


def iter_records(source: str) -> Iterator[Record | str]:
    """The records of a UTF-8 file in order, and in the place of each that cannot be read what is wrong with it.

    Raises:
        DataError: the file is of another kind, is not UTF-8, or its header cannot be used.
    """
    path = Path(source)
    if ending(path) not in STREAMED:
        raise DataError(
            f"{source} is too large to be read at once, and only {', '.join(STREAMED)} can be read line by line."
        )
    return _separated(path, source) if ending(path) in (".csv", ".tsv") else _json_lines(path, source)


def _lines(path: Path, source: str) -> Iterator[str]:
    """Decoded lines with their ends."""
    rest, number = b"", 0
    with opened(path) as stream:  # type: ignore[attr-defined]
        while True:
            piece = stream.read(_PIECE)
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            if not piece:
                lines, rest = ([rest] if rest else []), b""
            elif len(rest) > _LONGEST_LINE:
                raise DataError(
                    f"{source}:{number + 1}: this line is longer than {_LONGEST_LINE >> 20} MiB. Is it a table?"
                )
            for line in lines:
                number += 1
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield line.decode("utf-8") + "\n"
                except UnicodeDecodeError:
                    raise DataError(
                        f"{source}:{number}: is not UTF-8, which a file of this size has to be. Convert it first: "
                        f"iconv -f CP932 -t UTF-8 {path.name} > utf8-{path.name}"
                    ) from None
            if not piece:
                return


def _json_lines(path: Path, source: str) -> Iterator[Record | str]:
    for number, line in enumerate(_lines(path, source), 1):
        if line.strip():
            try:
                yield Record(Place(source, number), json_record(line))
            except (json.JSONDecodeError, ValueError, RecursionError) as error:
                yield f"{source}:{number}: cannot be read ({shorten(str(error))}). Correct this line."


def _separated(path: Path, source: str) -> Iterator[Record | str]:
    lines = _lines(path, source)
    first = next(lines, "")
    separator = "\t" if ending(path) == ".tsv" else separator_of(first)

    def all_lines() -> Iterator[str]:
        yield first
        yield from lines

    reader: Any = csv.reader(all_lines(), delimiter=separator, strict=True)
    header: list[str] = next(reader, [])
    if not header or len(set(header)) < len(header) or not all(name.strip() for name in header):
        raise DataError(f"{source}:1: the header has columns without a name, or two of one name. Correct it.")
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f'{source}:{line}: the quotes do not fit ({error}). Write a quote inside a text twice ("").'
            ) from None
        if len(cells) == len(header):
            yield Record(Place(source, line), dict(zip(header, cells, strict=True)))
        elif cells:
            yield f"{source}:{line}: this row has {len(cells)} cells, the header has {len(header)}. Correct this line."
