"""The `data:` section of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import PositiveInt, ValidationInfo, field_validator

from migaki.core.errors import DataError
from migaki.core.parts import Part
from migaki.core.types import Dataset, Finding, Record, Row, Splits
from migaki.data.formats import READERS
from migaki.data.sources import Table, read_records
from migaki.data.splits import check_labels_known, conflicting, rare_labels, repeats_between, repeats_within, split_off

__all__ = ["Data"]

_PROBLEMS_SHOWN = 20
_ROLES = ("text", "label", "prompt", "completion", "messages", "system")

Source = str | list[dict[str, Any]]


class Data(Part):
    """Where the rows are, and which columns are what. Paths are relative to the recipe."""

    train: Source
    """CSV, TSV, JSONL, JSON or Parquet file, `demo:NAME`, or a list of mappings."""
    valid: Source | float = 0.1
    """A file or list, or the share of the train rows to hold out for choosing the best model."""
    test: Source | float = 0.2
    """A file or list, or the share of the train rows to hold out for the final figures."""
    text: str | None = None
    """Column of the text to classify; guessed where it is left out."""
    label: str | None = None
    """Column of the label; guessed where it is left out."""
    prompt: str | None = None
    """Column of the question or instruction; guessed where it is left out."""
    completion: str | None = None
    """Column of the wanted answer; guessed where it is left out."""
    messages: str | None = None
    """Column with a list of {role, content}; guessed where it is left out."""
    system: str | None = None
    """Column of the system prompt."""
    encoding: str | None = None
    """Encoding of the text files, where it is not UTF-8 and cannot be told from the bytes (cp932, euc_jp, latin-1)."""
    drop_repeats: bool = False
    """Leave out train rows that also stand in a given valid or test file; otherwise they are reported."""
    min_rows_per_label: PositiveInt = 1
    """Labels with fewer rows in all are left out, and counted."""

    @field_validator("train", "valid", "test")
    @classmethod
    def _source(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float) and not 0 < value <= 0.9:
            raise ValueError(f"{value} is not a share between 0 and 0.9; every run needs rows to choose and to judge by.")
        if not isinstance(value, str) or value.startswith("demo:"):
            return value
        folder = (info.context or {}).get("folder")
        return str((Path(folder) / value if folder else Path(value)).expanduser().resolve())

    def load(self, content_kind: str, seed: int) -> Splits:
        """All rows, checked, in three splits.

        Raises:
            DataError: lists what cannot be used, with file and line.
        """
        train, _, table = self._dataset(self.train, "train", content_kind)
        findings = _notes(table)
        rows = self._without_rare(train.rows, findings)
        parts: dict[str, list[Row]] = {}
        given = {name: source for name in ("test", "valid") if not isinstance(source := getattr(self, name), float)}
        for name in given:
            other, _, other_table = self._dataset(given[name], name, content_kind)
            findings += _notes(other_table)
            parts[name] = list(other.rows)
        findings += [f for f in (repeats_within(rows), conflicting(rows)) if f]
        kept = rows
        for name in ("test", "valid"):
            if name not in given:
                # The share is of all train rows, also where test was already taken from them.
                share = getattr(self, name) * len(rows) / len(kept)
                kept, parts[name] = split_off(kept, min(share, 0.99), seed, name)
        datasets = {name: Dataset(name, tuple(parts[name])) for name in ("valid", "test")}
        kept, findings = self._leaks(kept, [datasets[name] for name in given], findings)
        splits = Splits(Dataset("train", tuple(kept)), datasets["valid"], datasets["test"], tuple(findings), self._columns(table, content_kind))
        _check(splits, len(rows))
        return splits

    def read(self, source: Source, content_kind: str, need_target: bool) -> tuple[Dataset, tuple[Record, ...]]:
        """Rows of one more file or list, with the records they came from.

        Raises:
            DataError: as for `load`.
        """
        dataset, records, _ = self._dataset(source, "data", content_kind, need_target)
        return dataset, records

    def _columns(self, table: Table, content_kind: str) -> dict[str, str]:
        named = {role: name for role in _ROLES if (name := getattr(self, role)) is not None}
        try:
            return READERS[content_kind].choose(table.columns, {r: n for r, n in named.items() if r in READERS[content_kind].roles})
        except ValueError as error:
            raise DataError(f"{table.source}: {error}") from None

    def _dataset(self, source: Source, name: str, content_kind: str, need_target: bool = True) -> tuple[Dataset, tuple[Record, ...], Table]:
        table = read_records(source, name, self.encoding)
        columns = self._columns(table, content_kind)
        rows, problems = [], []
        for record in table.records:
            try:
                rows.append(Row(record.place, READERS[content_kind](record.values, columns, need_target)))
            except ValueError as error:
                problems.append(f"{record.place}: {error}")
        if problems:
            more = f"\n  ... and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
            shown = "\n".join(f"  - {problem}" for problem in problems[:_PROBLEMS_SHOWN])
            raise DataError(f"{len(problems)} of {len(table.records)} rows cannot be used:\n{shown}{more}")
        return Dataset(name, tuple(rows)), table.records, table

    def _without_rare(self, rows: Sequence[Row], findings: list[Finding]) -> list[Row]:
        rare = rare_labels(rows, self.min_rows_per_label) if self.min_rows_per_label > 1 else set()
        left = [row for row in rows if row.content.stratum() in rare]
        if left:
            names = ", ".join(sorted(map(str, rare)))
            findings.append(Finding("note", f"{len(left)} rows of {len(rare)} labels with fewer than {self.min_rows_per_label} rows are left out ({names})", len(left), (), "Lower data.min_rows_per_label to keep them"))
        return [row for row in rows if row.content.stratum() not in rare]

    def _leaks(self, train: list[Row], others: Sequence[Dataset], findings: list[Finding]) -> tuple[list[Row], list[Finding]]:
        leaked: set[str] = set()
        for other in others:
            shared = repeats_between(Dataset("train", tuple(train)), other)
            if not shared:
                continue
            leaked |= {row.content.key() for row, _ in shared}
            examples = tuple(f"{row.place} = {twin.place}" for row, twin in shared[:5])
            message = f"{len(shared)} of {len(other)} {other.name} rows are also in train"
            if self.drop_repeats:
                findings = [*findings, Finding("note", f"{message}; their train copies are left out", len(shared), examples)]
            else:
                findings = [*findings, Finding("warning", f"{message}, so the score would be too high", len(shared), examples, "Set data.drop_repeats: true")]
        return [row for row in train if not (self.drop_repeats and row.content.key() in leaked)], findings


def _notes(table: Table) -> list[Finding]:
    notes = []
    if table.encoding not in (None, "utf-8", "utf-8-sig"):
        notes.append(Finding("note", f"{table.source} was read as {table.encoding}", 1, (), "Set data.encoding if that is wrong"))
    if table.separator == ";":
        notes.append(Finding("note", f"{table.source} is separated by semicolons", 1))
    return notes


def _check(splits: Splits, n_rows: int) -> None:
    for split in (splits.train, splits.valid, splits.test):
        if not split.rows:
            raise DataError(f"The {split.name} split is empty: {n_rows} train rows are too few to divide. Give more rows, or a file as data.{split.name}.")
    labels = {row.content.stratum() for row in splits.train.rows}
    if None in labels:
        return
    if len(labels) < 2:
        raise DataError(f"All {len(splits.train)} train rows have the label {next(iter(labels))!r}, so there is nothing to tell apart. Give rows of at least two labels (first row: {splits.train.rows[0].place}).")
    for split in (splits.valid, splits.test):
        check_labels_known(splits.train, split)


