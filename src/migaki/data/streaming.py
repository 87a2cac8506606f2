"""Records of a file that is larger than the memory: one after another, nothing kept."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import Record, shorten
from migaki.data.encodings import encoding_of
from migaki.data.hf_folder import is_dataset_folder, read_dataset_folder
from migaki.data.json_rows import json_lines
from migaki.data.parquet import parquet_rows
from migaki.data.separated import separated_records, separator_of
from migaki.data.sources import ending, numbered, text_lines
from migaki.data.unpacking import opened

__all__ = ["STREAMED", "iter_records"]

STREAMED = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", ".parquet")
_PIECE = 1 << 20
_LONGEST = 1 << 25
"""Characters of one line, or of one row of CSV; four bytes each while they are put together."""


def iter_records(source: str, encoding: str | None = None) -> Iterator[Record | str]:
    """The records of a file or data set folder in order, and in the place of each that cannot be read what is wrong with it.

    They are those that `read_records` gives, but for an encoding that is only told by a part of the file: by the first
    mebibyte in which there is a character beyond ASCII.

    Args:
        source: path.
        encoding: of a text file; None finds it out.
    Raises:
        DataError: the file is of another kind, is not in its encoding, or its header cannot be used.
    """
    path = Path(source)
    if is_dataset_folder(path):
        return numbered(read_dataset_folder(path)[1], source)
    if ending(path) not in STREAMED:
        raise DataError(
            f"{source} is too large to be read at once, and only {', '.join(STREAMED)} can be read row by row. "
            "Convert it to one of them."
        )
    if ending(path) == ".parquet":
        return numbered(parquet_rows(path, source)[1], source)
    return _texts(path, source, encoding)


def _texts(path: Path, source: str, encoding: str | None) -> Iterator[Record | str]:
    kind = ending(path)
    piece, before = (b"", 0) if encoding else _telling(path)
    encoding = encoding_of(piece, source, encoding, before)
    # At a carriage return alone a line ends in CSV, but not in JSON.
    lines = _lines(path, source, encoding, "" if kind in (".csv", ".tsv") else "\n")
    if kind == ".txt":
        yield from text_lines(lines, source)
    elif kind in (".jsonl", ".ndjson"):
        yield from json_lines(lines, source)
    else:
        first = next((line for line in _lines(path, source, encoding, "") if line.strip()), "")
        separator = "\t" if kind == ".tsv" else separator_of(first)
        yield from separated_records(lines, source, separator, _LONGEST)[1]


def _telling(path: Path) -> tuple[bytes, int]:
    """The piece of the file by which its encoding is told, the first with something beyond ASCII, and the lines before it."""
    lines, begun = 0, b""
    with opened(path) as stream:
        while piece := stream.read(_PIECE):
            # The last line of a piece goes on in the next one.
            piece = begun + piece
            if len(piece) > _LONGEST or (b"\n" in piece and not (piece.isascii() and b"\x1b" not in piece)):
                return piece, lines
            begun = piece[piece.rfind(b"\n") + 1 :]
            lines += piece.count(b"\n")
    return begun, lines


def _lines(path: Path, source: str, encoding: str, newline: str) -> Iterator[str]:
    """Decoded lines with their ends, without the file's byte order mark."""
    number = 0
    with opened(path) as stream:
        text = io.TextIOWrapper(stream, encoding, newline=newline)
        try:
            while line := text.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST and not line.endswith("\n"):
                    raise DataError(
                        f"{source}:{number}: this line is longer than {_LONGEST / 1e6:.0f} million characters, so this is no file "
                        "of rows. Export it with one row in each line."
                    )
                if "\x00" in line:
                    raise DataError(
                        f"{source}:{number}: holds a NUL character, so the file is damaged. Remove it, or export again."
                    )
                yield line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeError:
            raise _undecodable(path, source, encoding) from None
        except OSError as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise DataError(f"{path} is damaged after line {number} ({reason}). Get it again.") from None


def _undecodable(path: Path, source: str, encoding: str) -> DataError:
    """Where the file leaves its encoding. The reader is some lines ahead of what was handed out, so it is looked for anew."""
    decoder: Any = codecs.getincrementaldecoder(encoding)()
    line, last = 1, b""
    with opened(path) as stream:
        while piece := stream.read(_PIECE):
            try:
                line += decoder.decode(piece).count("\n")
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                line += good.count(b"\n")
                last = error.object[good.rfind(b"\n") + 1 : error.start + 30].split(b"\n")[0]
                break
    return DataError(
        f"{source}:{line}: is not {encoding}, as the file is before it: {shorten(repr(last))}. Correct the line, or convert the "
        f"file: iconv -f {'CP932' if encoding.startswith('utf') else encoding.upper()} -t UTF-8 {path.name} > utf8-{path.name}"
    )
