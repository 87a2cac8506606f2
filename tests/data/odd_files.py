"""Hundreds of files in every format, container and encoding: some only odd, some broken in one stated place.

`CASES` are made by crossing, so that no combination is left out because nobody thought of it. What an odd file has to give
is told by its values as a list in memory; a broken one has to be refused at its line.
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Values = dict[str, Any]
N_ROWS, BROKEN = 6, 3
"""Rows of a file, and the number of the one that is broken, from 0."""


@dataclass(frozen=True)
class Case:
    """A file; `line` is where it is broken, None where it is whole, 0 where no line can be told."""

    kind: str
    name: str
    data: bytes
    values: tuple[Values, ...]
    line: int | None
    may_be_refused: bool = False
    """Whole, but in bytes that may be another encoding as well: either read right or refused."""


# The formats


def _turns(n: int) -> list[Values]:
    return [{"role": "user", "content": f"質問は {n}"}, {"role": "assistant", "content": f"答えは {n}"}]


def _said(text: str) -> list[Values]:
    return [{"role": "assistant", "content": text}]


def _spans(n: int) -> Values:
    return {"text": f"東京の店 {n}", "spans": [{"start": 0, "end": 2, "label": "LOC"}]}


def _tokens(n: int) -> Values:
    return {"tokens": ["東京", f"の店{n}"], "tags": ["B-LOC", "O"]}


FLAT: dict[str, tuple[str, Callable[[int], Values]]] = {
    "label": ("labelled", lambda n: {"text": f"これは文 {n} です", "label": ("あ", "い")[n % 2]}),
    "pair": ("labelled", lambda n: {"premise": f"前の文 {n}", "hypothesis": f"後の文 {n}", "label": "あい"[n % 2]}),
    "several": ("multi_labelled", lambda n: {"text": f"これは文 {n}", "labels": ("あ|い", "い", "う|あ")[n % 3]}),
    "completion": ("conversation", lambda n: {"prompt": f"質問は {n}", "completion": f"答えは {n}"}),
    "alpaca": ("conversation", lambda n: {"instruction": f"せよ {n}", "input": f"これを {n}", "output": f"した {n}"}),
    "preferred": ("preferred", lambda n: {"prompt": f"質問は {n}", "chosen": f"よい {n}", "rejected": f"わるい {n}"}),
    "judged": (
        "judged",
        lambda n: {"prompt": f"質問は {n}", "completion": f"答えは {n}", "label": ("true", "false")[n % 2]},
    ),
}
"""Every value is a text, so that tables can hold them."""
NESTED: dict[str, tuple[str, Callable[[int], Values]]] = {
    "messages": ("conversation", lambda n: {"messages": _turns(n)}),
    "sharegpt": (
        "conversation",
        lambda n: {
            "conversations": [{"from": "human", "value": f"質問は {n}"}, {"from": "gpt", "value": f"答えは {n}"}]
        },
    ),
    "history": (
        "conversation",
        lambda n: {"instruction": f"次は {n}", "output": f"した {n}", "history": [["前の", f"答えは {n}"]]},
    ),
    "spans": ("tagged", _spans),
    "tokens": ("tagged", _tokens),
    "lists": ("multi_labelled", lambda n: {"text": f"これは文 {n}", "labels": ["あ", f"い{n % 2}"]}),
    "openai": (
        "preferred",
        lambda n: {
            "input": {"messages": _turns(n)[:1]},
            "preferred_output": _said(f"よい {n}"),
            "non_preferred_output": _said(f"わるい {n}"),
        },
    ),
    "kto": ("judged", lambda n: {"prompt": _turns(n)[:1], "completion": _said(f"答えは {n}"), "label": n % 2 == 0}),
}


# The containers


def _separated(rows: list[Values], separator: str) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_lines(rows: list[Values]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _list(rows: list[Values]) -> str:
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


TABLES: dict[str, Callable[[list[Values]], str]] = {
    "csv": lambda rows: _separated(rows, ","),
    "tsv": lambda rows: _separated(rows, "\t"),
}
JSONS: dict[str, Callable[[list[Values]], str]] = {"jsonl": write_lines, "json": _list}
_FIRST_LINE = {"csv": 2, "tsv": 2, "jsonl": 1, "json": 2}


def parquet(rows: list[Values]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def packed(data: bytes, ending: str) -> bytes:
    if ending == "gz":
        return gzip.compress(data)
    import pyarrow as pa

    with pa.BufferOutputStream() as found:
        with pa.CompressedOutputStream(found, "zstd") as stream:
            stream.write(data)
        return found.getvalue().to_pybytes()


# What is only odd

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp932", "euc_jp", "iso2022_jp")
_CERTAIN = ("utf-8", "utf-8-sig", "utf-16", "iso2022_jp")
TEXTS = {
    "spaces around": "  a b  ",
    "a tab": "a\tb",
    "line ends": "a\nb\r\nc",
    "quotes": 'he said "no", twice ""',
    "separators": "a,b;c\td|e",
    "a line separator": "a\u2028b\u2029c\x85d",
    "invisible characters": "a\u200bb\ufeffc\u00ad",
    "letters in parts": "か\u3099 e\u0301 ｶﾞ",
    "emoji of several": "👩\u200d👩\u200d👧 🏳️\u200d🌈",
    "like nothing": "NA",
    "like a number": "007",
    "like a formula": "=1+1",
    "like JSON": '{"a": [1, null]}',
    "very long": "長い " * 50_000,
}
"""Texts that must come through to the last character."""


def odd() -> Iterator[Case]:
    """Whole files: every format in every container and encoding, and texts that a careless reader changes."""
    for form, (kind, make) in {**FLAT, **NESTED}.items():
        rows = [make(n) for n in range(N_ROWS)]
        for ending, write in ({**TABLES, **JSONS} if form in FLAT else JSONS).items():
            for encoding in ENCODINGS:
                data = write(rows).encode(encoding)
                yield Case(kind, f"{form}-{encoding}.{ending}", data, tuple(rows), None, encoding not in _CERTAIN)
            for packing in ("gz", "zst"):
                data = packed(write(rows).encode(), packing)
                yield Case(kind, f"{form}.{ending}.{packing}", data, tuple(rows), None)
        yield Case(kind, f"{form}.parquet", parquet(rows), tuple(rows), None)
    for name, text in TEXTS.items():
        rows = [{"text": f"{text}{'' if n == 0 else n}", "label": ("x", "NA")[n % 2]} for n in range(N_ROWS)]
        for ending, write in {**TABLES, **JSONS}.items():
            yield Case("labelled", f"{name}.{ending}", write(rows).encode(), tuple(rows), None)
        yield Case("labelled", f"{name}.parquet", parquet(rows), tuple(rows), None)


# What is broken


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a row there is something that is neither a list nor an object."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield path
        return
    for key, inner in pairs:
        yield from _leaves(inner, (*path, key))


def _with(row: Values, path: tuple[Any, ...], value: Any) -> Values:
    found = copy.deepcopy(row)
    at: Any = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


_NOT_NEEDED = {("alpaca", ("input",)), ("several", ("labels",))}
"""Cells that may be empty: there is no further text, or no label."""
_ODD_BUT_RIGHT = {("label", ("label",)), ("pair", ("label",)), ("several", ("labels",))}
"""Where a number is a label."""


def _wrong_values() -> Iterator[Case]:
    """One value of one row is of another type, or missing."""
    for form, (kind, make) in {**FLAT, **NESTED}.items():
        rows = [make(n) for n in range(N_ROWS)]
        for path in _leaves(rows[BROKEN]):
            for name, value in (("null", None), ("object", {"a": 1}), ("number", 0.5)):
                if (name == "null" and (form, path) in _NOT_NEEDED) or (name == "null" and form == "lists"):
                    continue
                broken = [*rows[:BROKEN], _with(rows[BROKEN], path, value), *rows[BROKEN + 1 :]]
                place = "-".join(map(str, path))
                yield Case(kind, f"{form}-{place}-{name}.jsonl", write_lines(broken).encode(), (), BROKEN + 1)
        for ending, write in TABLES.items() if form in FLAT else ():
            for column in rows[0]:
                if (form, (column,)) not in _NOT_NEEDED:
                    broken = [*rows[:BROKEN], {**rows[BROKEN], column: "  "}, *rows[BROKEN + 1 :]]
                    yield Case(kind, f"{form}-{column}-empty.{ending}", write(broken).encode(), (), BROKEN + 2)


def _wrong_bytes() -> Iterator[Case]:
    """Something in one line of the file is damaged."""
    for form, (kind, make) in {**FLAT, **NESTED}.items():
        rows = [make(n) for n in range(N_ROWS)]
        for ending, write in ({**TABLES, **JSONS} if form in FLAT else JSONS).items():
            lines = write(rows).encode().splitlines(keepends=True)
            number = BROKEN + _FIRST_LINE[ending]
            line = lines[number - 1]
            middle = len(line.decode()) // 2
            first, second = (part.encode() for part in (line.decode()[:middle], line.decode()[middle:]))
            for name, damage in (("byte", b"\xff"), ("nul", b"\0"), ("cut-letter", "文".encode()[:2])):
                data = b"".join([*lines[: number - 1], first + damage + second, *lines[number:]])
                yield Case(kind, f"{form}-{name}.{ending}", data, (), number)
            if ending in TABLES:
                separator = {"csv": b",", "tsv": b"\t"}[ending]
                more = line.rstrip(b"\n") + separator + b"x\n"
                fewer = line.rpartition(separator)[0] + b"\n"
                for name, other in (("more-cells", more), ("fewer-cells", fewer), ("open-quote", b'"' + line)):
                    data = b"".join([*lines[: number - 1], other, *lines[number:]])
                    yield Case(kind, f"{form}-{name}.{ending}", data, (), number)
                header = lines[0].split(separator)
                data = b"".join([separator.join([*header[:-1], header[0]]) + b"\n", *lines[1:]])
                yield Case(kind, f"{form}-twice.{ending}", data, (), 1)
                last = lines[-1].rpartition(separator)[0]
                yield Case(kind, f"{form}-end.{ending}", b"".join([*lines[:-1], last]), (), len(lines))
            else:
                brace = line.index(b"{") + 1
                key = line[brace : line.index(b":")]
                for name, other in (
                    ("no-colon", line.replace(b":", b"", 1)),
                    ("twice", line[:brace] + key + b": 1, " + line[brace:]),
                    ("nan", line[:brace] + b'"more": NaN, ' + line[brace:]),
                    ("half-letter", line[:brace] + b'"more": "\\ud83d", ' + line[brace:]),
                    ("deep", line[:brace] + b'"more": ' + b"[" * 50_000 + b", " + line[brace:]),
                    ("no-object", b"[1, 2]" + (b",\n" if ending == "json" else b"\n")),
                ):
                    data = b"".join([*lines[: number - 1], other, *lines[number:]])
                    yield Case(kind, f"{form}-{name}.{ending}", data, (), number)
                last_row = lines[-1] if ending == "jsonl" else lines[-2]
                cut = last_row.decode()[: len(last_row.decode()) // 2].encode()
                before = lines[:-1] if ending == "jsonl" else lines[:-2]
                yield Case(kind, f"{form}-end.{ending}", b"".join([*before, cut]), (), len(before) + 1)
        data = parquet(rows)
        yield Case(kind, f"{form}-end.parquet", data[: len(data) // 2], (), 0)
        yield Case(kind, f"{form}-nothing.jsonl", b" \n\n", (), 0)
        for packing in ("gz", "zst"):
            data = packed(write_lines(rows).encode(), packing)
            yield Case(kind, f"{form}-end.jsonl.{packing}", data[: len(data) // 2], (), 0)


def broken() -> Iterator[Case]:
    yield from _wrong_values()
    yield from _wrong_bytes()


def write(case: Case, folder: Path) -> Path:
    path = folder / case.name
    path.write_bytes(case.data)
    return path
