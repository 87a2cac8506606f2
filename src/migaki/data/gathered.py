"""What a folder of files, or a zip archive of one, is: of images or of recordings, by labels or beside a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from migaki.core.errors import DataError
from migaki.core.types import Finding, Row
from migaki.data.folders import folder_of, media_files, splits_in
from migaki.data.formats import READERS
from migaki.data.hf_folder import is_dataset_folder
from migaki.data.media import MediaReader

__all__ = ["KINDS", "Gathered", "gathered", "is_gathered"]

KINDS = ("labelled_image", "labelled_recording", "transcribed")
"""Kinds of content that files are gathered for."""
_FIRST = 3


@dataclass(frozen=True)
class Gathered:
    """What was found in a folder."""

    content_kind: str
    name: str
    """The form in words."""
    files: int
    """Of the train rows."""
    labels: Mapping[str, int]
    """Files of each label, by its name; empty where a table tells what is said in them."""
    columns: Mapping[str, str]
    """Role -> column, of the table that lies beside the files; empty where there is none."""
    settings: Mapping[str, str]
    """What stands below `data:` in a recipe."""
    rows: tuple[Row, ...]
    """The first rows as a task will see them."""
    notes: tuple[Finding, ...]


def is_gathered(source: str) -> bool:
    """Whether files lie there, and not rows: a folder that `datasets` did not write, or a zip archive.

    >>> is_gathered("photos.zip"), is_gathered("rows.csv")
    (True, False)
    """
    # Not pathlib, which raises where a name is too long to be one.
    is_folder = os.path.isdir(source)  # noqa: PTH112
    return source.lower().endswith(".zip") or (is_folder and not is_dataset_folder(Path(source)))


def gathered(source: str, wanted: str | None = None) -> Gathered:
    """What is gathered in a folder or an archive. Files are counted and not opened.

    Args:
        source: its path.
        wanted: the kind of content, where it is known; None: what most of the files are.
    Raises:
        DataError: there is nothing of the kind, or nothing says what the files show; says what to do.
    """
    folder = folder_of(source)
    splits = splits_in(folder)
    train = splits.get("train") or next(iter(splits.values()), folder)
    *others, last = [wanted] if wanted else _likely(source, folder)
    for kind in others:
        try:
            return _read_as(kind, source, folder, train, splits)
        except DataError:
            continue  # the last kind says what is missing
    return _read_as(last, source, folder, train, splits)


def _likely(source: str, folder: Path) -> list[str]:
    """Kinds of content to try. Of recordings a table may tell what is said, which is asked first."""
    images, recordings = (len(media_files(folder, _reader(kind).kind)) for kind in KINDS[:2])
    if not images and not recordings:
        there = sorted(path.name for path in folder.iterdir() if path.is_file())[:5]
        named = f", or name one data file in it ({', '.join(there)})" if there else ""
        raise DataError(
            f"{source} holds neither images nor recordings. Give a folder with one folder of files for each label{named}."
        )
    return ["transcribed", "labelled_recording"] if recordings > images else ["labelled_image"]


def _reader(kind: str) -> MediaReader:
    reader = READERS[kind]
    assert isinstance(reader, MediaReader)
    return reader


def _read_as(kind: str, source: str, folder: Path, train: Path, splits: Mapping[str, Path]) -> Gathered:
    reader = _reader(kind)
    table = reader.table(os.path.abspath(train), "train", None, None)
    by_folder = Path(table.source).is_dir()
    try:
        columns = reader.choose(table.columns, {})
        beside = reader.beside(Path(table.source))
        rows = tuple(Row(r.place, beside(r.values, columns, True)) for r in table.records[:_FIRST])
    except ValueError as error:
        raise DataError(f"{table.source}: {error}") from None
    labels = Counter(str(record.values.get(columns["label"])) for record in table.records) if "label" in columns else {}
    what = f"a folder of {reader.kind.name}s for each label"
    if not by_folder:
        what = f"{reader.kind.name}s with the table {Path(table.source).name}"
    of = {name: f"{source}/{path.relative_to(folder)}" for name, path in splits.items()}
    return Gathered(
        kind,
        what,
        len(table.records),
        dict(sorted(labels.items())),
        {} if by_folder else columns,
        of or {"train": source},
        rows,
        table.notes,
    )
