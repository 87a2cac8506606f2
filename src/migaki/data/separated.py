"""Rows of CSV and TSV, one after another, each with the line on which it starts."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from migaki.core.errors import DataError
from migaki.core.types import Place, Record, shorten

__all__ = ["check_header", "separated_records", "separator_of"]

# The csv module's own limit is 128 KiB a cell; it can only be set for the process, and a higher one harms nobody.
csv.field_size_limit(1 << 30)
_HEADER_CHARACTERS = 1 << 16


def separated_records(
    lines: Iterable[str], source: str, separator: str, longest: int | None = None
) -> tuple[tuple[str, ...], Iterator[Record | str]]:
    """The column names, and the records in order; in the place of each row that cannot be read, what is wrong with it.

    A quoted cell may run over several lines, blank lines are no rows.

    Args:
        lines: with their ends, as they stand in the file.
        source: its name, for places.
        separator: between two cells.
        longest: characters of one row; a quote that is never closed would make a row of all that follows.
    Raises:
        DataError: there is no header, a column has no name or another one's, or the quotes do not fit, so that where a row
            ends is not known.
    """
    counted = _Counted(lines, source, longest)
    rows = _rows(counted, source, separator)
    line, header = next(rows, (1, []))
    if not header:
        raise DataError(f"{source} is empty. Give a file with a header and at least one row.")
    check_header(header, f"{source}:{line}")
    return tuple(header), _records(rows, header, counted, source, separator)


class _Counted:
    """Lines, with what is known of the last one that was handed out."""

    def __init__(self, lines: Iterable[str], source: str, longest: int | None) -> None:
        self._lines = iter(lines)
        self._source, self._longest = source, longest
        self.first = 1
        """The line on which the row begins that is being read."""
        self.characters = 0
        """Of this row."""
        self.ended = True
        """Whether the last line had an end; where it had none, the file stops there."""

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.ended = line.endswith(("\n", "\r"))
        self.characters += len(line)
        if self._longest and self.characters > self._longest:
            raise DataError(
                f"{self._source}:{self.first}: the row that begins here is longer than {self._longest / 1e6:.0f} million characters, so "
                'a quote is probably opened and never closed. Write a quote inside a text twice ("") and close every quoted cell.'
            )
        return line


def _rows(lines: _Counted, source: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        lines.first, lines.characters = reader.line_num + 1, 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            never = "unexpected end" in str(error)
            what = "a quote is opened here and never closed" if never else f"the quotes do not fit ({error})"
            raise DataError(
                f'{source}:{lines.first}: {what}. Write a quote inside a text twice ("") and close every quoted cell.'
            ) from None
        if cells:
            yield lines.first, cells


def _records(
    rows: Iterator[tuple[int, list[str]]], header: Sequence[str], lines: _Counted, source: str, separator: str
) -> Iterator[Record | str]:
    for line, cells in rows:
        if len(cells) == len(header):
            yield Record(Place(source, line), dict(zip(header, cells, strict=True)))
            continue
        cut = len(cells) < len(header) and not lines.ended
        yield (
            f"{source}:{line}: this row has {len(cells)} cells, the header has {len(header)} "
            f'({shorten(separator.join(cells))!r}). Put a text that holds {separator!r} into double quotes ("...").'
            + (" Or the file was cut off in this last line; export it again." if cut else "")
        )


def separator_of(text: str) -> str:
    """The separator of the header: the one of comma, semicolon and tab that stands in it most often, unquoted.

    >>> separator_of('"a;b","c"'), separator_of("a;b")
    (',', ';')
    """
    unquoted = re.sub(r'"[^"]*"', "", text.lstrip("\r\n")[:_HEADER_CHARACTERS])
    return max(",;\t", key=re.split(r"[\r\n]", unquoted)[0].count)


def check_header(header: Sequence[str], place: str) -> None:
    """Raises DataError where a column has no name, or the name of another one."""
    for number, name in enumerate(header, 1):
        if not name.strip():
            raise DataError(f"{place}: column {number} has no name. Give every column a name in this line.")
        if header.index(name) != number - 1:
            raise DataError(f"{place}: the column {name!r} stands twice. Rename one of them.")
