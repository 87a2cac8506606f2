"""A folder of files to records: one folder for each label, or a table beside the files; and the same out of a zip archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from migaki.core.errors import DataError
from migaki.core.types import Finding, Place, Record
from migaki.data.archives import unpacked_archive
from migaki.data.sources import Table

__all__ = ["folder_of", "folder_table", "media_files", "splits_in"]

_TABLES = tuple(f"metadata{ending}" for ending in (".csv", ".tsv", ".jsonl", ".parquet"))
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of folders that are splits and no labels, and the setting of a recipe that names each."""
_SHOWN = 5


class Files(Protocol):
    """Which files of a folder are meant: those of one `MediaKind`."""

    @property
    def name(self) -> str: ...

    @property
    def endings(self) -> frozenset[str]: ...


def folder_table(source: str, files: Files, read: Callable[[str], Table]) -> Table:
    """The records of a folder, or of a zip archive that is unpacked first.

    Where `metadata.csv` (.tsv, .jsonl, .parquet) lies in it, that is the table, with a column of paths relative to the
    folder. Else every folder in it is a label, and all files below it, however deep, are of this label; they are numbered
    in the order of their names.

    Args:
        source: path of the folder or archive.
        files: which ones count.
        read: reads a table.
    Raises:
        DataError: there is nothing of the kind in it, or it holds splits of which one has to be named.
    """
    folder = folder_of(source)
    tables = [folder / name for name in _TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{source} holds {' and '.join(t.name for t in tables)}. Name the one to read: {tables[0]}.")
    if tables:
        return read(str(tables[0]))
    found = _labelled(folder, files)
    if not found:
        raise DataError(_nothing(source, folder, files))
    labels = {label for label, _ in found}
    if labels <= _SPLITS.keys():
        named = " and ".join(f"data.{_SPLITS[name]}: {Path(source) / name}" for name in sorted(labels))
        raise DataError(f"{source} holds splits and no labels. Name them one by one: {named}.")
    records = [
        Record(Place(source, number), {"file": str(path), "label": label})
        for number, (label, path) in enumerate(found, 1)
    ]
    return Table(source, tuple(records), ("file", "label"), notes=_left_out(folder, files))


def folder_of(source: str) -> Path:
    """The folder itself, or the one with the content of an archive. Raises DataError where it must not be unpacked."""
    return Path(source) if Path(source).is_dir() else _inside(unpacked_archive(Path(source)))


def splits_in(folder: Path) -> dict[str, Path]:
    """The splits that a folder holds instead of labels, by the setting of a recipe that names each (train, valid, test);
    empty where any of its folders is a label."""
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_meant(path)]
    names = [path.name for path in below]
    return {_SPLITS[path.name]: path for path in below} if names and set(names) <= _SPLITS.keys() else {}


def media_files(folder: Path, files: Files) -> list[Path]:
    """All files of a kind in a folder, however deep, in the order of their names."""
    return _files_below(folder, files)


def _inside(folder: Path) -> Path:
    """Of an archive that holds one folder and nothing else, that folder: it was packed from outside."""
    entries = [path for path in folder.iterdir() if _is_meant(path)]
    holds_folders = (
        len(entries) == 1 and entries[0].is_dir() and any(p.is_dir() or p.name in _TABLES for p in entries[0].iterdir())
    )
    return entries[0] if holds_folders else folder


def _is_meant(path: Path) -> bool:
    """Whether it was put there by people: not what systems leave behind (.DS_Store, __MACOSX)."""
    return not path.name.startswith((".", "__")) and path.name.lower() not in (
        "thumbs.db",
        "desktop.ini",
        "manifest.json",
    )


def _labelled(folder: Path, files: Files) -> list[tuple[str, Path]]:
    """Label and path of every file that counts, in the order of their names."""
    return [
        (below.name, path)
        for below in sorted(folder.iterdir())
        if below.is_dir() and _is_meant(below)
        for path in _files_below(below, files)
    ]


def _files_below(folder: Path, files: Files) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in files.endings and _is_meant(path) and not path.is_dir()
    )


def _left_out(folder: Path, files: Files) -> tuple[Finding, ...]:
    """What lies beside the files that are read and is not read because of its name."""
    others = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and _is_meant(path) and (path.suffix.lower() not in files.endings or path.parent == folder)
    )
    if not others:
        return ()
    message = f"{len(others)} files in {folder} are no {files.name}s by their names, or lie in no label's folder, and are left out"
    return (Finding("note", message, len(others), tuple(str(path) for path in others[:_SHOWN])),)


def _nothing(source: str, folder: Path, files: Files) -> str:
    there = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in files.endings]
    if there:
        return (
            f"{source} holds {len(there)} {files.name}s but no folder for each label, so it is not known what they show (first: "
            f"{there[0].name}). Sort them into one folder for each label, or put a metadata.csv with the columns file_name "
            "and label beside them."
        )
    endings = ", ".join(sorted(files.endings))
    return (
        f"{source} holds no folders with {files.name}s ({endings}) and no metadata.csv. Give a folder with one folder for each "
        "label, or a table of paths and labels."
    )
