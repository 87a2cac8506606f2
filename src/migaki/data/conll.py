"""Text files with one token and its tag in each line (CoNLL 2002 and 2003 and their many kin)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from migaki.core.errors import DataError

__all__ = ["CONLL_ENDINGS", "conll_sentences"]

CONLL_ENDINGS = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bilou")
"""How the names of such files end."""

_TAG = re.compile(r"O|[BIESLUM][-_].+")


def conll_sentences(text: str, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each sentence with the line on which it begins: its `tokens` and their `tags`, from the first and last column.

    Columns are divided by tabs where there is one in the line, else by white space. An empty line ends a sentence;
    `-DOCSTART-` and, before a sentence, comments (a line that begins with `#` and does not end with a tag) are left out.

    Raises:
        DataError: a line has one column only, or another number of columns than the first one of its sentence.
    """
    sentence: list[list[str]] = []
    begin = 0
    for number, line in enumerate(text.split("\n"), 1):
        cells = _cells(line)
        if not cells or cells[0] == "-DOCSTART-":
            if sentence:
                yield begin, _sentence(sentence)
            sentence = []
            continue
        if not sentence:
            if cells[0].startswith("#") and not _TAG.fullmatch(cells[-1]):
                continue
            begin = number
        width = len(sentence[0]) if sentence else max(len(cells), 2)
        if len(cells) != width:
            wanted = f"{width} columns as line {begin}" if sentence else "a token and its tag"
            raise DataError(
                f"{source}:{number}: {line.strip()!r} has {len(cells)} columns, not {wanted}. Write one token, white space "
                "and its tag in each line, and an empty line between sentences."
            )
        sentence.append(cells)
    if sentence:
        yield begin, _sentence(sentence)


def _cells(line: str) -> list[str]:
    line = line.rstrip("\r")
    if "\t" in line:
        return [cell.strip() for cell in line.split("\t")] if line.strip() else []
    # Only spaces divide: an ideographic space may be a token.
    return [cell for cell in re.split(" +", line.strip(" ")) if cell]


def _sentence(lines: list[list[str]]) -> dict[str, Any]:
    return {"tokens": [cells[0] for cells in lines], "tags": [cells[-1] for cells in lines]}
