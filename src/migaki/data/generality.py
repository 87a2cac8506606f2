"""The general probe: rows that have nothing to do with the task, on which every trained model is measured twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import Choice, Dataset, Row
from migaki.data.formats import READERS
from migaki.data.settings import Data
from migaki.data.sources import read_records

__all__ = ["BUNDLED", "OFF", "general_probe"]

BUNDLED, OFF = "bundled", "off"
_HOME = Path(__file__).parent / "general"
_LANGUAGES = ("en", "ja")
_EXAMPLES = 5


def general_probe(setting: str, kinds: Sequence[str], content_kind: str) -> tuple[Dataset, ...]:
    """The sets of the probe, each under its name.

    Args:
        setting: `bundled`, `off`, or a file (`demo:NAME` too) whose columns have their usual names.
        kinds: which of the bundled sets: `topics`, `passages`, `choices`. Each is there in English and Japanese.
        content_kind: the reader of a file, as for the rows of the task.
    Raises:
        DataError: the file cannot be used; names file and line.

    >>> [(s.name, len(s)) for s in general_probe("bundled", ["choices"], "conversation")]
    [('choices-en', 40), ('choices-ja', 20)]
    """
    if setting == OFF:
        return ()
    if setting == BUNDLED:
        return tuple(_bundled(kind, language) for kind in kinds for language in _LANGUAGES)
    try:
        own, _ = Data(train=setting).read(setting, content_kind, need_target=True)
        _check_labels(own.rows)
    except DataError as error:
        raise DataError(f"generality: {error}") from None
    return (Dataset(Path(setting).name, own.rows),)


def _bundled(kind: str, language: str) -> Dataset:
    table = read_records(str(_HOME / f"{kind}-{language}.jsonl"))
    if kind == "choices":
        rows = [Row(record.place, _choice(record.values)) for record in table.records]
    else:
        reader = READERS["labelled" if kind == "topics" else "conversation"]
        columns = {name: name for name in table.columns}
        rows = [Row(record.place, reader(record.values, columns, True)) for record in table.records]
    return Dataset(f"{kind}-{language}", tuple(rows))


def _choice(values: Mapping[str, Any]) -> Choice:
    return Choice(values["question"], tuple(values["options"]), values["options"].index(values["answer"]))


def _check_labels(rows: Sequence[Row]) -> None:
    """Each row is judged by what was learned from the others, so that no label may stand alone."""
    texts: dict[str | None, set[str]] = defaultdict(set)
    for row in rows:
        texts[row.content.stratum()].add(row.content.key())
    if set(texts) == {None}:
        return
    if len(texts) < 2:
        raise DataError(
            f"all {len(rows)} rows of {rows[0].place.source} have the label {rows[0].content.stratum()!r}, so there is nothing "
            "to tell apart. Give rows of at least two labels."
        )
    alone = [row for row in rows if len(texts[row.content.stratum()]) < 2]
    if alone:
        found = ", ".join(f"{row.place} ({row.content.stratum()})" for row in alone[:_EXAMPLES])
        raise DataError(
            f"{len(alone)} of {len(rows)} rows are the only text of their label: {found}. A row is judged by what was learned "
            "from the others: give each label at least two texts, better ten, or remove it."
        )
