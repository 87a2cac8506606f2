"""From what a command line names, a file or a recipe, to the rows that are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from migaki.audit.audit import Audit, Features, audit
from migaki.audit.large import LARGE_BYTES, audit_file
from migaki.audit.light import text_of
from migaki.audit.outliers import outlying
from migaki.audit.tokens import TokenFacts, chat_facts, token_facts
from migaki.core.errors import UsageError
from migaki.core.types import Record, Row, Splits
from migaki.data import Data, read_records
from migaki.data.cleaning import Change, changes, texts_of
from migaki.data.gathered import KINDS, Gathered, gathered, is_gathered
from migaki.data.recognition import TASKS, Form, recognised
from migaki.data.sources import Table
from migaki.data.streaming import iter_records
from migaki.evaluation.suspicion import out_of_fold, suspects
from migaki.models import Model, hashed, locate
from migaki.recipe import Recipe
from migaki.run import base_features
from migaki.tasks import all_tasks

__all__ = ["Subject", "cleaned_texts", "form_of", "gathered_in", "look_at", "subject_of", "suspicious_rows"]

_LIMITS = {"conversation": 1024}
_LIMIT = 512
_SHOWN = 3


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    data: Data
    content_kind: str
    recipe: Recipe | None
    model: Model | None
    """Whose tokenizer counts the tokens, if one is named."""
    table: Table | None = None
    """The train rows as they stand in their file, where that was read to know its format."""

    @property
    def seed(self) -> int:
        """By which rows are drawn."""
        return self.recipe.seed if self.recipe else 0

    def splits(self) -> Splits:
        """All rows, checked. Raises DataError where they cannot be used."""
        return self.data.load(self.content_kind, self.seed, self.table)


def subject_of(
    named: str | None,
    settings: Sequence[str] = (),
    *,
    train: str | None = None,
    valid: str | None = None,
    test: str | None = None,
    task: str | None = None,
    model: str | None = None,
) -> Subject:
    """A recipe, or files.

    Args:
        named: a recipe (.yaml, .yml) or a data file.
        settings: overrides of a recipe, KEY=VALUE.
        train: with valid and test: files instead of `named`.
        task: its kind, where the columns do not tell.
        model: reference of the model whose tokenizer is asked.
    Raises:
        UsageError: nothing, or too much, is named, or the recipe cannot be used.
        DataError: the columns are of no known form.
    """
    if (named is None) == (train is None):
        raise UsageError(
            "Name a data file, a recipe, or the splits: migaki data check --train A.csv --valid B.csv --test C.csv"
        )
    if named is not None and named.endswith((".yaml", ".yml")):
        recipe = Recipe.from_file(named, settings)
        wanted = Model(reference=model) if model else recipe.model
        return Subject(recipe.data, recipe.task.content_kind, recipe, wanted)
    if settings:
        raise UsageError("--set changes a recipe, but a data file is named.")
    files = {"train": named or train, "valid": valid, "test": test}
    data = Data.model_validate({name: str(Path(p).absolute()) for name, p in files.items() if p is not None})
    train, table = str(data.train), None
    if task:
        content = _content_of(task, files=True)
    elif is_gathered(train):
        content = gathered(train).content_kind
    else:
        form, table = _form_and_table(train)
        content = form.content_kind
    return Subject(data, content, None, Model(reference=model) if model else None, table)


def gathered_in(source: str, task: str | None = None) -> tuple[Gathered, str] | None:
    """What a folder or an archive of files is, and the kind of the task that learns from it; None where it is neither.

    Args:
        source: path.
        task: its kind, where it is known.
    Raises:
        UsageError: there is no such task, or its rows are no files.
        DataError: there is nothing of the kind in it, or nothing says what the files show.
    """
    if not is_gathered(source):
        return None
    wanted = _content_of(task, files=True) if task else None
    if wanted and wanted not in KINDS:
        raise UsageError(f"--task {task} learns from texts, and {source} is a folder of files. Name a data file.")
    found = gathered(source, wanted)
    kinds = [str(part.model_fields["kind"].default) for part in all_tasks() if part.content_kind == found.content_kind]
    return found, (kinds or [""])[0]


def form_of(source: str, task: str | None = None) -> Form:
    """The format of a data file, with its first rows as they are read; of a large file only these are read.

    Args:
        source: path, or `demo:NAME`.
        task: its kind, where the columns do not tell.
    Raises:
        UsageError: there is no such task.
        DataError: the file cannot be read, or is in no known format.
    """
    return _form_and_table(source, _content_of(task) if task else None)[0]


def _form_and_table(source: str, wanted: str | None = None) -> tuple[Form, Table | None]:
    """The format, and all rows of a file that is not large."""
    if _size(source) >= LARGE_BYTES:
        first = [r for r in islice(iter_records(source), _SHOWN) if isinstance(r, Record)]
        return recognised(source, list(first[0].values) if first else [], first, wanted), None
    table = read_records(source, "train")
    return recognised(table.source, table.columns, table.records, wanted), table


def _content_of(task: str, files: bool = False) -> str:
    """The kind of content a task learns from; with `files` also where rows are files, whose format nothing is told by."""
    kinds = {kind: content for content, kind in TASKS.items() if kind}
    if files:
        kinds |= {part.model_fields["kind"].default: part.content_kind for part in all_tasks()}
    if task not in kinds:
        raise UsageError(f"--task {task} is not known here. Valid: {', '.join(kinds)}.")
    return kinds[task]


def look_at(subject: Subject, runs: Path, labels_too: bool = False) -> Audit:
    """All checks; with `labels_too` also which labels are probably wrong, which loads the model. A file that is too large
    for the memory is gone through once, with the checks that this allows.

    Raises:
        DataError: the data cannot be used at all.
        ModelError: the model cannot be used.
    """
    train = subject.data.train
    if subject.recipe is None and isinstance(train, str) and _size(train) >= LARGE_BYTES:
        return audit_file(train, subject.content_kind)
    splits = subject.splits()
    rows = [row for part in (splits.train, splits.valid, splits.test) for row in part.rows]
    tokens, limit = _tokens(subject, rows)
    features = None
    # Which model files are shown to, only a recipe can tell.
    if labels_too and (subject.content_kind == "labelled" or (subject.recipe and subject.recipe.task.one_label)):
        features = _features(subject, splits, runs)
    return audit(splits, subject.content_kind, tokens, limit, features)


def cleaned_texts(subject: Subject) -> Iterator[Change]:
    """Every change that the steps of data.clean make, in all files of the subject; none where it has no steps."""
    data = subject.data
    if data.clean:
        as_they_are = data.model_copy(update={"clean": []})
        for source in (data.train, data.valid, data.test):
            if not isinstance(source, float):
                yield from changes(as_they_are.read(source, subject.content_kind, True)[0].rows, data.clean)


def _tokens(subject: Subject, rows: Sequence[Row]) -> tuple[TokenFacts | None, int | None]:
    """What the tokenizer of the model makes of the rows, and how many tokens the model sees; None without a tokenizer."""
    if subject.model is None or subject.model.reference.startswith("run:") or not any(map(texts_of, rows[:1])):
        return None, None
    located = locate(subject.model)
    weights = hashed(located) if located.packed else None
    folder = weights.folder if weights else located.folder
    if not (folder / "tokenizer.json").is_file():
        return None, None
    task = subject.recipe.task if subject.recipe else None
    limit = getattr(task, "max_length", None) or _LIMITS.get(subject.content_kind, _LIMIT)
    if subject.content_kind == "conversation":
        template, learn = getattr(task, "template", "model"), getattr(task, "learn", "all")
        return chat_facts(folder, [row.content for row in rows], template, learn, limit), limit
    return token_facts(folder, [text_of(row) for row in rows]), limit


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0  # whoever reads it says what is wrong


def suspicious_rows(subject: Subject, splits: Splits, runs: Path) -> list[tuple[Row, str, float]]:
    """Rows of all splits whose label a classifier on frozen features, fitted without them, does not believe."""
    found = _features(subject, splits, runs)
    return list(found.suspicious) if found else []


def _features(subject: Subject, splits: Splits, runs: Path) -> Features | None:
    """What the features of the frozen model tell; None where the method has no model."""
    recipe = subject.recipe or Recipe(
        task="classify_text",
        method="probe",
        data=subject.data,
        model=subject.model or Model(reference="bundled:minilm"),
    )
    rows = [row for part in (splits.train, splits.valid, splits.test) for row in part.rows]
    features_ND = base_features(recipe, runs, splits.train, rows)
    if features_ND is None:
        return None
    labels = sorted({row.content.label for row in splits.train.rows})
    label_N = np.array([labels.index(row.content.label) for row in rows])
    p_NC = out_of_fold(features_ND, label_N, [row.content.key() for row in rows], subject.seed)
    wrong = [(rows[s.row], labels[s.suggested], s.suggested_confidence) for s in suspects(p_NC, label_N)]
    return Features(wrong, [rows[i] for i in outlying(features_ND, label_N)])
