"""Labels that a person has corrected: which ones, and putting them over the rows as they are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from migaki.core.codec import nearest
from migaki.core.errors import DataError
from migaki.core.types import Dataset, Finding, Labelled, LabelledMedia, Place, Record, Row, shorten
from migaki.data.problems import refuse_rows
from migaki.data.sources import read_records

__all__ = ["COLUMNS", "Answers", "Correction", "apply_corrections", "read_corrections"]

COLUMNS = ("accept", "kind", "split", "source", "line", "text", "label", "suggested_label", "reason")
"""The columns of a to-do list in order; `read_corrections` needs all but `split` and `reason`."""
_NEEDED = tuple(name for name in COLUMNS if name not in ("split", "reason"))
_EXAMPLES = 5
_ANSWERS = {"yes": True, "true": True, "no": False, "false": False, "": None}


@dataclass(frozen=True, slots=True)
class Correction:
    """One accepted suggestion: the row it is for, the label it had, the label it is to have."""

    record: Record
    """As it stands in the file of corrections."""
    place: Place
    text: str
    label: str
    suggested: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What a person said to the suggestions of a list."""

    accepted: tuple[Correction, ...]
    refused: tuple[Record, ...]
    """Those with a no; an empty cell is no answer."""
    n_suggested: int


def read_corrections(path: str) -> Answers:
    """The answers in a to-do list, in its order.

    Only rows of kind `relabel` count. One is accepted where `accept` is yes (or true in JSON); no, false and an empty
    cell leave the label as it is. Anything else is an error, so that no answer is passed over in silence.

    Raises:
        DataError: a column is missing, or lists the rows that cannot be understood, each with its file:line.
    """
    table = read_records(path, "corrections")
    missing = [name for name in _NEEDED if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} is no list of corrections: it has no column {missing[0]!r}. "
            "Give a file that `migaki evaluate RUN --errors FILE` wrote, with yes under accept where a label is to be changed."
        )
    suggestions = [record for record in table.records if record.values.get("kind") == "relabel"]
    accepted, refused, problems = [], [], []
    for record in suggestions:
        try:
            answer = _answer(record.values.get("accept"))
            if answer:
                accepted.append(_correction(record))
        except ValueError as error:
            problems.append(f"{record.place}: {error}")
            continue
        if answer is False:
            refused.append(record)
    refuse_rows(problems, len(table.records))
    return Answers(tuple(accepted), tuple(refused), len(suggestions))


def _answer(value: Any) -> bool | None:
    answer = "" if value is None else str(value).strip().lower()
    if answer in _ANSWERS:
        return _ANSWERS[answer]
    raise ValueError(f"accept is {shorten(str(value))!r}; write yes or no, or leave it empty")


def _correction(record: Record) -> Correction:
    texts = {
        name: "" if (value := record.values.get(name)) is None else str(value)
        for name in ("source", "line", "text", "label", "suggested_label")
    }
    empty = next((name for name, text in texts.items() if not text.strip()), None)
    if empty is not None:
        raise ValueError(f"{empty} is empty, so it is not known what to change; fill it in, or write no under accept")
    line = texts["line"].strip()
    if not line.isascii() or not line.isdecimal():
        raise ValueError(f"line is {shorten(line)!r}, not a number; restore what stood there")
    place = Place(texts["source"], int(line))
    return Correction(record, place, texts["text"], texts["label"].strip(), texts["suggested_label"].strip())


def apply_corrections(path: str, datasets: Iterable[Dataset]) -> tuple[dict[Row, Row], Finding]:
    """Each row whose label changes with what it becomes, and what to tell about it.

    A row is found by its place and its text. Where the data has moved to another folder, the name of its file is enough
    as long as only one file fits.

    Raises:
        DataError: the rows have no labels, or lists the corrections whose row is not there (any more), whose row has
            another label by now, or that bring in a label which no row has, each with its file:line.
    """
    rows = [row for dataset in datasets for row in dataset.rows]
    if not all(isinstance(row.content, Labelled | LabelledMedia) for row in rows):
        raise DataError("data.corrections holds labels, and the rows of this task have none. Remove it.")
    answers = read_corrections(path)
    there: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        there[Path(row.place.source).name, row.place.line, row.content.text].append(row)
    labels = sorted({row.content.label for row in rows})
    corrected: dict[Row, Row] = {}
    problems = []
    for correction in answers.accepted:
        try:
            row = _find(correction, there)
            if correction.suggested not in labels:
                raise ValueError(
                    f"no row has the label {correction.suggested!r}; {nearest(correction.suggested, labels)}"
                )
            new = replace(row, content=replace(row.content, label=correction.suggested))
            if corrected.setdefault(row, new) != new:
                raise ValueError(f"{row.place} is corrected twice, to different labels; keep one of the two")
        except ValueError as error:
            problems.append(f"{correction.record.place}: {error}")
    refuse_rows(problems, len(answers.accepted))
    changed = {row: new for row, new in corrected.items() if new != row}
    if not answers.accepted:
        message = f"{path} suggests {answers.n_suggested} labels and none is accepted"
        return changed, Finding("warning", message, 0, (), "Write yes under accept where a suggestion is right")
    message = f"{len(changed)} labels are corrected by {path}, which suggests {answers.n_suggested}"
    examples = tuple(f"{row.place} {row.content.label} → {new.content.label}" for row, new in changed.items())
    return changed, Finding("note", message, len(changed), examples[:_EXAMPLES])


def _find(correction: Correction, there: dict[tuple[str, int, str], list[Row]]) -> Row:
    place = correction.place
    found = there.get((Path(place.source).name, place.line, correction.text), [])
    found = [row for row in found if row.place.source == place.source] or found
    if not found:
        raise ValueError(
            f"there is no row {shorten(correction.text)!r} at {place}; the data changed since. "
            "Write no under accept, or evaluate a run on the data as it is now"
        )
    fitting = [row for row in found if row.content.label in (correction.label, correction.suggested)]
    if not fitting:
        raise ValueError(
            f"{place} has the label {found[0].content.label!r}, and {correction.label!r} was to be corrected; the data "
            "changed since. Write no under accept if it is right now"
        )
    if len({row.place.source for row in fitting}) > 1:
        sources = " and ".join(sorted({row.place.source for row in fitting}))
        raise ValueError(f"the row may be one of {sources}; write the right file under source")
    return fitting[0]
