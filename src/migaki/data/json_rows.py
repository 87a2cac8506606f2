"""Rows of JSON: one object in each line, or a list of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import Place, Record, shorten

__all__ = ["json_lines", "json_list"]

_HALF_PAIR = re.compile("[\ud800-\udfff]")


def json_lines(lines: Iterable[str], source: str) -> Iterator[Record | str]:
    """The records in order; in the place of each line that cannot be read, what is wrong with it. Blank lines are no rows.

    Args:
        lines: with their ends, divided at line feeds alone: U+2028 and its like may stand inside a text of JSON.
        source: name of the file, for places.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = Place(source, number)
        try:
            yield Record(place, _object(_DECODER.decode(line), line))
        except json.JSONDecodeError as error:
            remedy = "Write one JSON object in each line, texts in double quotes."
            if not line.endswith("\n"):
                remedy = "The file seems to be cut off in its last line; export it again."
            at = f"{error.msg} at character {error.pos + 1}"
            yield f"{place}: is not valid JSON ({at}: {shorten(line)!r}). {remedy}"
        except (ValueError, RecursionError) as error:
            yield f"{place}: {_reason(error)}. Correct this line."


def json_list(text: str, source: str) -> list[Record]:
    """The objects of a list, each with the line on which it starts.

    Raises:
        DataError: it is no list of objects; names the line.
    """
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
            records.append(Record(Place(source, line), _object(value, text[counted:at])))
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
    return records


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


def _object(value: Any, written: str) -> dict[str, Any]:
    """The value, if it is an object of whole characters; `written` is how it stands in the file."""
    if isinstance(value, dict):
        # Only an escape can say half a character: the file itself was decoded.
        if "\\u" in written and _HALF_PAIR.search(json.dumps(value, ensure_ascii=False)):
            raise ValueError("holds half of a character (an escape such as \\ud83d on its own), which no file can hold")
        return value
    example = '{"text": "...", "label": "..."}'
    raise ValueError(f"holds {shorten(repr(value))}, not an object; each row is an object such as {example}")


def _reason(error: ValueError | RecursionError) -> str:
    return "is nested too deeply" if isinstance(error, RecursionError) else str(error)
