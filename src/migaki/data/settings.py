"""The `data:` section of a recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator, model_validator

from migaki.core.errors import DataError
from migaki.core.parts import Part
from migaki.core.types import Dataset, Finding, Record, Row, Several, Splits
from migaki.data.cleaning import Step, clean_rows, texts_of
from migaki.data.corrections import apply_corrections
from migaki.data.duplicates import copy_form
from migaki.data.formats import READERS
from migaki.data.prepared import prepare, read_prepared
from migaki.data.problems import refuse_rows
from migaki.data.sources import Table, is_address, read_records
from migaki.data.splits import (
    check_labels_known,
    conflicting,
    fold_off,
    groups_of,
    newest,
    rare_labels,
    repeats_between,
    repeats_within,
    split_off,
    times_of,
)

__all__ = ["Data", "absolute_path"]

_ROLES = (
    *("text", "text_pair", "file", "label", "speaker", "spans", "tokens", "tags"),
    *("prompt", "completion", "messages", "system", "input", "history", "chosen", "rejected"),
)
_LARGEST_SHARE = 0.9
_EXAMPLES = 5

Source = str | list[dict[str, Any]]


@dataclass(frozen=True)
class _Read:
    """One source, read and checked."""

    dataset: Dataset
    records: tuple[Record, ...]
    columns: dict[str, str]
    findings: list[Finding]


class Division(Part):
    """How shares of the train rows are taken for valid and test, where drawing them by label is not fair."""

    by: str | None = None
    """Column whose equal values stay on one side: a customer, a document, a machine. Rows of one group are alike, so a
    model that has seen some of them looks better than it will be."""
    time: str | None = None
    """Column with a date, a time or a number: the newest rows become test, the newest of the rest valid. What the figures
    then say is how the model does on what comes later."""
    near: Annotated[float, Field(ge=0.7, le=1)] | None = None
    """Texts whose character 3-grams overlap by this share (Jaccard) stay on one side, also over several steps; of images those
    whose small grey copies correlate by it (0.98: the same picture in another size, format or light)."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Divide the rows into so many parts of equal size, one of which is test: each row is a test row in one of as many runs."""
    fold: NonNegativeInt = 0
    """Which part is test, counted from 0."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.time is not None and (self.by is not None or self.near is not None or self.folds is not None):
            raise ValueError("time divides by itself; leave by, near and folds out.")
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold is {self.fold}, but the parts are counted from 0 to {(self.folds or 1) - 1}.")
        return self


class Data(Part):
    """Where the rows are, and which columns are what. Paths are relative to the recipe."""

    train: Source
    """CSV, TSV, JSONL, JSON, Parquet or Excel file, the texts also as .gz or .zst; the folder of a saved Hugging Face data
    set; `demo:NAME`; `hf:OWNER/NAME[/CONFIG[/SPLIT]]` of the Hugging Face hub; or a list of mappings. Where rows are about files, also a folder (or a .zip of it) with one folder for
    each label, or with a metadata.csv."""
    valid: Source | float = 0.1
    """A file or list, or the share of the train rows to hold out for choosing the best model."""
    test: Source | float = 0.2
    """A file or list, or the share of the train rows to hold out for the final figures."""
    text: str | None = None
    """Column of the text to classify; guessed where it is left out."""
    text_pair: str | None = None
    """Column of a second text that is judged together with the first one (premise and hypothesis, two sentences); guessed
    where the text's column has a usual partner."""
    file: str | None = None
    """Column with the path of an image or a recording, relative to the table it stands in; guessed where it is left out."""
    broken_files: Literal["refuse", "leave_out"] = "refuse"
    """What happens where images or recordings cannot be read: the run does not start and names them, or their rows are left
    out, counted and named with the reason."""
    label: str | None = None
    """Column of the label, or of the list of labels; guessed where it is left out."""
    speaker: str | None = None
    """Column of who speaks in a recording; guessed where it is left out. Errors are then told speaker by speaker."""
    spans: str | None = None
    """Column with the named parts of a text, a list of {start, end, label}; guessed where it is left out."""
    tokens: str | None = None
    """Column with the list of tokens of a text, beside one of their tags; guessed where it is left out."""
    tags: str | None = None
    """Column with the list of tags (B-NAME, I-NAME, O), one a token; guessed where it is left out."""
    prompt: str | None = None
    """Column of the question or instruction; guessed where it is left out."""
    completion: str | None = None
    """Column of the wanted answer; guessed where it is left out."""
    messages: str | None = None
    """Column with a list of {role, content}; guessed where it is left out."""
    system: str | None = None
    """Column of the system prompt."""
    input: str | None = None
    """Column of further text that belongs to the instruction (Alpaca); guessed beside a column called instruction."""
    history: str | None = None
    """Column with what was said before the prompt, a list of [question, answer] pairs; guessed where it is left out."""
    chosen: str | None = None
    """Column of the better one of two answers; guessed where it is left out."""
    rejected: str | None = None
    """Column of the worse one of two answers; guessed where it is left out."""
    encoding: str | None = None
    """Encoding of the text files, where it is not UTF-8 and cannot be told from the bytes (cp932, euc_jp, cp1252)."""
    sheet: str | None = None
    """Sheet of an Excel file, where more than one holds something."""
    clean: list[Step] = Field(default=[])
    """Steps by which every text is cleaned, in this order, also the texts a tuned model is asked about: line_ends,
    control_characters, invisible_characters, spaces, nfkc, width, html, remove, mask, mojibake. Each says how many rows it
    changed and shows the first ones."""
    seed: NonNegativeInt | None = None
    """Which rows a share takes; null: by the recipe's seed, so that another seed also draws other splits."""
    split: Division = Field(default=Division())
    """How the shares are taken: by group, by time, in folds, near duplicates together."""
    drop_repeats: bool = False
    """Leave out train rows that also stand in a given valid or test file; otherwise they are reported."""
    min_rows_per_label: PositiveInt = 1
    """Labels with fewer train rows are left out of all splits, and counted."""
    prepared: str | None = None
    """Folder that `migaki data prepare` made of this section. The rows are then read from it alone, and it is refused where
    the section has changed since."""
    corrections: str | None = None
    """A list that `migaki evaluate RUN --errors FILE` wrote. Where a row of kind relabel has yes under accept, the row of
    train, valid or test with that place and that text gets the suggested label. Which rows are test rows does not
    change, so that two runs can be compared; other rows of the list change nothing."""

    @field_validator("train", "valid", "test")
    @classmethod
    def _source(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float) and not 0 < value <= _LARGEST_SHARE:
            raise ValueError(
                f"{value:g} is not a share above 0 and up to {_LARGEST_SHARE}; "
                "every run needs rows to choose and to judge by."
            )
        if not isinstance(value, str) or is_address(value):
            return value
        if info.field_name != "train" and _is_number(value):
            raise ValueError(f"{value!r} is a text; write the share without quotes: {info.field_name}: {value}.")
        return absolute_path(value, info, "give a file, demo:NAME or a list of rows")

    @field_validator("corrections", "prepared")
    @classmethod
    def _beside_the_recipe(cls, value: str | None, info: ValidationInfo) -> str | None:
        remedy = "give the file of corrections" if info.field_name == "corrections" else "give the folder"
        return value if value is None else absolute_path(value, info, remedy)

    @model_validator(mode="after")
    def _rows_are_left_to_train(self) -> Self:
        shares = [share for share in (self.valid, self.test) if isinstance(share, float)]
        if sum(shares) > _LARGEST_SHARE:
            raise ValueError(
                f"valid and test together take {sum(shares):g} of the rows, so too few are left to train; "
                f"take {_LARGEST_SHARE} at most."
            )
        return self

    @model_validator(mode="after")
    def _division_has_something_to_divide(self) -> Self:
        if self.split != Division() and not any(isinstance(share, float) for share in (self.valid, self.test)):
            raise ValueError("split divides the train rows, but valid and test are both given; leave split out.")
        if self.split.folds is not None and not isinstance(self.test, float):
            raise ValueError("split.folds makes the test split, but test is a file; leave one of the two out.")
        return self

    def load(self, content_kind: str, seed: int, table: Table | None = None) -> Splits:
        """All rows, checked, in three splits.

        Args:
            content_kind: the reader in `formats.READERS`.
            seed: which rows a share takes, where the section has no seed of its own; the order of the rows in their file
                has no influence.
            table: the train rows, where their file was read already.
        Raises:
            DataError: lists what cannot be used, with file and line.
        """
        seed = seed if self.seed is None else self.seed
        if self.prepared is not None:
            return read_prepared(Path(self.prepared), content_kind, self._drawn_by(seed), self._section())
        train = self._read(self.train, "train", content_kind, table=table)
        findings = list(train.findings)
        given: dict[str, Dataset] = {}
        for name, source in (("valid", self.valid), ("test", self.test)):
            if not isinstance(source, float):
                other = self._read(source, name, content_kind)
                findings += other.findings
                given[name] = other.dataset
        corrected: dict[Row, Row] = {}
        if self.corrections is not None:
            corrected, note = apply_corrections(self.corrections, [train.dataset, *given.values()])
            findings.append(note)

        rows = self._without_rare(train.dataset, given, corrected, findings)
        findings += [finding for finding in (repeats_within(rows), conflicting(_right(rows, corrected))) if finding]
        rows = self._without_leaks(rows, given, findings)
        kept, n_rows = rows, len(rows)
        take = self._taker(train, seed)
        for name, share in (("test", self.test), ("valid", self.valid)):
            if isinstance(share, float):
                # The share is of all train rows, also where test was already taken from them.
                kept, taken = take(kept, min(share * n_rows / len(kept), 1.0), name)
                given[name] = Dataset(name, tuple(taken))
        if self.split.time is not None:
            kept = self._without_leaks(
                kept, {n: s for n, s in given.items() if isinstance(getattr(self, n), float)}, findings
            )
        # Only now: rows are drawn by the labels they came with, so that a correction moves none into another split.
        found = {"train": kept, "valid": given["valid"].rows, "test": given["test"].rows}
        sets = {name: Dataset(name, _right(rows, corrected)) for name, rows in found.items()}
        splits = Splits(sets["train"], sets["valid"], sets["test"], tuple(findings), train.columns)
        _check(splits, n_rows)
        return splits

    def prepare(self, folder: Path, content_kind: str, seed: int) -> tuple[Splits, str]:
        """Write the rows of all splits into a folder, to be named as `prepared`; they and their content hash come back.

        Raises:
            DataError: as for `load`; the folder is there, or the rows are files.
            StorageError: the disk is full or not writable.
        """
        seed = seed if self.seed is None else self.seed
        splits = self.model_copy(update={"prepared": None}).load(content_kind, seed)
        return splits, prepare(folder, splits, content_kind, self._drawn_by(seed), self._section())

    def _section(self) -> dict[str, Any]:
        """What the rows depend on, but for the seed."""
        return self.model_dump(mode="json", exclude={"seed", "prepared"})

    def _drawn_by(self, seed: int) -> int | None:
        return seed if isinstance(self.valid, float) or isinstance(self.test, float) else None

    def _taker(self, train: _Read, seed: int) -> Callable[[list[Row], float, str], tuple[list[Row], list[Row]]]:
        """From rows, a share of them and the split's name to the rows that stay and those that are taken."""
        division = self.split
        if division.time is not None:
            times = times_of(train.dataset.rows, train.records, division.time)
            return lambda rows, share, _: newest(rows, share, times)
        together = groups_of(train.dataset.rows, train.records, division.by, division.near)
        if division.folds is None:
            return lambda rows, share, name: split_off(rows, share, seed, name, together)

        def taken(rows: list[Row], share: float, name: str) -> tuple[list[Row], list[Row]]:
            if name == "test":
                return fold_off(rows, division.folds or 1, division.fold, seed, together)
            return split_off(rows, share, seed, name, together)

        return taken

    def read(self, source: Source, content_kind: str, need_target: bool) -> tuple[Dataset, tuple[Record, ...]]:
        """Rows of one more file or list with the records they came from, in the same order and number.

        Columns are those the recipe names. Rows without a target may lack the target's column; those of a list may
        also carry the usual names instead of the recipe's.

        Raises:
            DataError: as for `load`.
        """
        found = self._read(source, "data", content_kind, need_target)
        return found.dataset, found.records

    def _read(
        self, source: Source, name: str, content_kind: str, need_target: bool = True, table: Table | None = None
    ) -> _Read:
        reader = READERS[content_kind]
        table = table or getattr(reader, "table", read_records)(source, name, self.encoding, self.sheet)
        if beside := getattr(reader, "beside", None):
            reader = beside(Path(table.source) if isinstance(source, str) else None)
        self._check_meant_for_texts(reader)
        if self.clean and getattr(reader, "counts_characters", False):
            raise DataError(
                "data.clean changes texts, but this task counts the characters in which the named parts lie, so they would move. "
                "Clean the file before its parts are named, and leave data.clean out."
            )
        named = {role: column for role in _ROLES if (column := getattr(self, role)) is not None}
        if not need_target:
            optional = (*reader.targets, *getattr(reader, "told", ())) if isinstance(source, str) else _ROLES
            named = {role: col for role, col in named.items() if role not in optional or col in table.columns}
        try:
            columns = reader.choose(table.columns, named, need_target)
        except ValueError as error:
            raise DataError(f"{table.source}: {error}") from None
        rows, problems = [], []
        for record in table.records:
            try:
                rows.append(Row(record.place, reader(record.values, columns, need_target)))
            except ValueError as error:
                problems.append(f"{record.place}: {error}")
        refuse_rows(problems, len(table.records))
        records, found = table.records, list(table.notes)
        if examine := getattr(reader, "examine", None):
            rows, broken, seen = examine(rows)
            rows, records, left_out = self._without_broken(rows, records, broken)
            found += [*seen, *left_out]
        cleaned, changes = clean_rows(rows, self.clean, name)
        refuse_rows(_emptied(rows, cleaned), len(rows))
        findings = found + changes + _notes(table, {role: col for role, col in columns.items() if role not in named})
        if remarks := getattr(reader, "remarks", None):
            findings += remarks(table.records, columns)
        return _Read(Dataset(name, cleaned), records, columns, findings)

    def _check_meant_for_texts(self, reader: Any) -> None:
        """Raises DataError where a setting for texts meets rows that have none."""
        if self.clean and not getattr(reader, "has_texts", True):
            raise DataError("data.clean is for texts, and the rows of this task are files. Leave it out.")

    def _without_broken(
        self, rows: Sequence[Row], records: Sequence[Record], broken: Mapping[int, str]
    ) -> tuple[list[Row], tuple[Record, ...], list[Finding]]:
        """The rows whose files can be used, with their records, and what is told of the others.

        Raises:
            DataError: lists the files that cannot be used, unless they are to be left out.
        """
        if not broken:
            return list(rows), tuple(records), []
        reasons = [f"{rows[number].place}: {reason}" for number, reason in broken.items()]
        if self.broken_files == "refuse" or len(broken) == len(rows):
            remedy = "Replace or remove the files, or leave their rows out by data.broken_files: leave_out."
            refuse_rows(reasons, len(rows), remedy)
        message = f"{len(broken)} of {len(rows)} rows are left out, because their files cannot be read"
        kept = [number for number in range(len(rows)) if number not in broken]
        finding = Finding("warning", message, len(broken), tuple(reasons), "Replace or remove the files")
        return [rows[i] for i in kept], tuple(records[i] for i in kept), [finding]

    def _without_rare(
        self, train: Dataset, given: dict[str, Dataset], corrected: Mapping[Row, Row], findings: list[Finding]
    ) -> list[Row]:
        """The train rows whose right label is frequent enough; the others leave the given splits too."""
        right = _right(train.rows, corrected)
        if self.min_rows_per_label > 1 and isinstance(right[0].content, Several):
            raise DataError(
                "data.min_rows_per_label leaves out rows of a rare label, but a row of this task may have other labels too. "
                "Leave it out, and take rare labels out of the file."
            )
        rare = rare_labels(right, self.min_rows_per_label) - {None}
        if not rare:
            return list(train.rows)
        if len(rare) == len({row.content.stratum() for row in right}):
            raise DataError(
                f"No label of {train.rows[0].place.source} has {self.min_rows_per_label} rows. "
                "Lower data.min_rows_per_label, or give more rows."
            )

        def frequent(split: Dataset) -> tuple[Row, ...]:
            pairs = zip(split.rows, _right(split.rows, corrected), strict=True)
            return tuple(row for row, right in pairs if right.content.stratum() not in rare)

        n_before = len(train) + sum(map(len, given.values()))
        rows = frequent(train)
        given |= {name: Dataset(name, frequent(split)) for name, split in given.items()}
        n_out = n_before - len(rows) - sum(map(len, given.values()))
        names = ", ".join(sorted(map(str, rare)))
        message = f"{n_out} rows are left out: {len(rare)} labels have fewer than {self.min_rows_per_label} train rows"
        remedy = "Lower data.min_rows_per_label to keep them"
        findings.append(Finding("note", f"{message} ({names})", n_out, (), remedy))
        return list(rows)

    def _without_leaks(self, rows: list[Row], given: dict[str, Dataset], findings: list[Finding]) -> list[Row]:
        """The train rows, without those that also stand in a given split if the recipe says so."""
        leaked: set[str] = set()
        for other in given.values():
            shared = repeats_between(Dataset("train", tuple(rows)), other)
            if not shared:
                continue
            leaked |= {copy_form(row.content.key()) for row, _ in shared}
            message = f"{len(shared)} of {len(other)} {other.name} rows are also in train"
            if self.drop_repeats:
                findings.append(_overlap("note", f"{message}; their train copies are left out", shared))
            else:
                message += ", so the score would be too high"
                findings.append(_overlap("warning", message, shared, "Set data.drop_repeats: true"))
        if len(given) == 2:
            shared = repeats_between(given["valid"], given["test"])
            if shared:
                n_test = len(given["test"])
                message = f"{len(shared)} of {n_test} test rows are also in valid, by which the model is chosen"
                findings.append(_overlap("warning", message, shared, "Remove them from one of the two files"))
        kept = [row for row in rows if not (leaked and self.drop_repeats and copy_form(row.content.key()) in leaked)]
        if not kept:
            raise DataError(
                f"All {len(rows)} train rows are also in valid or test (first: {rows[0].place}), so none is left to "
                "learn from. Give other rows as data.train, or a share as data.valid and data.test."
            )
        return kept


def _emptied(rows: Sequence[Row], cleaned: Sequence[Row]) -> list[str]:
    """What is left without text by data.clean."""
    return [
        f"{row.place}: nothing is left of a text of this row after data.clean. Remove the row, or the step that empties it."
        for row, after in zip(rows, cleaned, strict=True)
        if row is not after and not all(map(str.strip, texts_of(after)))
    ]


def _right(rows: Sequence[Row], corrected: Mapping[Row, Row]) -> tuple[Row, ...]:
    """The rows with their labels corrected."""
    return tuple(corrected.get(row, row) for row in rows) if corrected else tuple(rows)


def absolute_path(path: str, info: ValidationInfo, remedy: str) -> str:
    """The path of a file, relative to the recipe's folder until here; for the validator of a field.

    Raises:
        ValueError: it is no path; ends with the remedy.
    """
    if not path.strip():
        raise ValueError(f"the path is empty; {remedy}.")
    if "\x00" in path:
        raise ValueError("the path holds a NUL character, which no file name can; write it again.")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {path!r}; write the path out.") from None
    folder = (info.context or {}).get("folder") or Path()
    return os.path.abspath(Path(folder) / expanded)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _overlap(level: Any, message: str, shared: Sequence[tuple[Row, Row]], remedy: str = "") -> Finding:
    examples = tuple(f"{row.place} = {twin.place}" for row, twin in shared[:_EXAMPLES])
    return Finding(level, message, len(shared), examples, remedy)


def _notes(table: Table, guessed: dict[str, str]) -> list[Finding]:
    notes = []
    if table.encoding not in (None, "utf-8", "utf-8-sig"):
        message = f"{table.source} was read as {table.encoding}"
        notes.append(Finding("note", message, 1, (), "Set data.encoding if that is wrong"))
    if table.separator not in (None, ",") and not table.source.lower().endswith(".tsv"):
        notes.append(Finding("note", f"{table.source} is separated by {table.separator!r}", 1))
    unusual = {role: column for role, column in guessed.items() if column != role}
    if unusual:
        columns = ", ".join(f"{role} from column {column!r}" for role, column in unusual.items())
        remedy = f"If that is wrong: data.{next(iter(unusual))}: COLUMN"
        notes.append(Finding("note", f"{table.source}: guessed {columns}", len(unusual), (), remedy))
    return notes


def _check(splits: Splits, n_rows: int) -> None:
    for split in (splits.train, splits.valid, splits.test):
        if not split.rows:
            raise DataError(
                f"The {split.name} split is empty: {n_rows} train rows are too few to divide. "
                f"Give more rows, or a file as data.{split.name}."
            )
    if isinstance(splits.train.rows[0].content, Several):
        if not any(row.content.names() for row in splits.train.rows):
            raise DataError(
                f"None of the {len(splits.train)} train rows has a label, so there is nothing to learn. Give rows with some "
                f"(first row: {splits.train.rows[0].place})."
            )
        for split in (splits.valid, splits.test):
            check_labels_known(splits.train, split)
        return
    labels = {row.content.stratum() for row in splits.train.rows}
    if None in labels:
        return
    if len(labels) < 2:
        raise DataError(
            f"All {len(splits.train)} train rows have the label {next(iter(labels))!r}, so there is nothing to tell "
            f"apart. Give rows of at least two labels (first row: {splits.train.rows[0].place})."
        )
    for split in (splits.valid, splits.test):
        check_labels_known(splits.train, split)
