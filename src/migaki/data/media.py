"""Rows that are about a file: how their paths are read, and how all files of a source are looked into before anything else.

What an image or a sound is, its `MediaKind` says; the rest is the same for all. A kind is written once (`images.IMAGES`),
and a reader over it is put into `formats.READERS` under the name of a content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from migaki.core.cache import Cache
from migaki.core.codec import nearest
from migaki.core.store import file_sha256, read_json
from migaki.core.types import Finding, LabelledMedia, Media, Row
from migaki.data.columns import check_named, guess, label_of, need_roles, text_in
from migaki.data.exhibits import Exhibit
from migaki.data.folders import folder_table
from migaki.data.sources import Table, read_records

__all__ = ["Look", "MediaKind", "MediaReader", "refused_file"]

_CACHE_BYTES = 1 << 28
_EXAMPLES = 5
_FILE_NAMES = ("file_name", "filename", "file", "path", "filepath", "ファイル", "ファイル名", "パス")
_LABEL_NAMES = (
    *("label", "labels", "category", "class", "target", "tag"),
    *("ラベル", "カテゴリ", "カテゴリー", "分類", "種別"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look into a file found."""

    traits: Mapping[str, float]
    """Name and number, see `Media.traits`."""
    remarks: tuple[str, ...] = ()
    """Names, from `MediaKind.remarks`, of the rules that had to be applied to it."""
    likeness: str = ""
    """See `Media.likeness`."""


class MediaKind(Protocol):
    """One kind of files: by which names it goes, and how one of them is looked into."""

    @property
    def name(self) -> str:
        """In messages, in the singular: image, recording."""
        ...

    @property
    def version(self) -> str:
        """Part of the key under which looks are remembered; another one where `look` finds something else than before."""
        ...

    @property
    def endings(self) -> frozenset[str]:
        """Of file names, small, with their dot."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Column names under which people store the path of such a file, beside the general ones."""
        ...

    @property
    def told(self) -> Mapping[str, Sequence[str]]:
        """What a table may tell of such a file beside its answer, and under which column names: parts of the rows are formed
        by it."""
        ...

    @property
    def remarks(self) -> Mapping[str, str]:
        """What is told of the files to which a rule was applied: name of the rule -> the rule in words."""
        ...

    def look(self, path: Path) -> Look:
        """Read the whole file once. Raises ValueError with the reason where it is not whole or not of this kind."""
        ...

    def show(self, path: Path) -> Exhibit:
        """It as a page shows it. Raises ValueError where it cannot be read."""
        ...


class MediaReader:
    """A path and one label: of a table (CSV, TSV, JSONL ...), or of a folder with one folder for each label.

    Paths are relative to the table they stand in; those of a list, to the working directory.
    """

    counts_characters = False
    has_texts = False
    """Nothing of it can be cleaned or compared letter by letter."""
    asked = "file"
    """The role of what is given to be predicted."""

    def __init__(self, kind: MediaKind, beside: Path | None = None) -> None:
        self.kind = kind
        self._beside = beside
        self.roles: Mapping[str, Sequence[str]] = {
            "file": (*_FILE_NAMES, *kind.columns),
            "label": _LABEL_NAMES,
            **kind.told,
        }
        self.targets: Sequence[str] = ("label",)
        self.told: Sequence[str] = tuple(kind.told)

    def beside(self, table: Path | None) -> MediaReader:
        """The same, with paths relative to the folder in which the table lies."""
        return type(self)(self.kind, table.parent if table else None)

    def table(self, source: Any, name: str, encoding: str | None, sheet: str | None) -> Table:
        """The records of a source, of a folder too.

        Raises:
            DataError: it cannot be read; says the remedy.
        """
        if isinstance(source, str) and (Path(source).is_dir() or Path(source).suffix.lower() == ".zip"):
            return folder_table(source, self.kind, lambda file: read_records(file, name, encoding, sheet))
        return read_records(source, name, encoding, sheet)

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        check_named(names, named, self.roles)
        found = guess(names, named, self.roles)
        need_roles(names, found, ("file", *self.targets) if need_target else ("file",))
        return found

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Any:
        label = (
            label_of(values.get(columns["label"]), f"the label in column {columns['label']!r}")
            if "label" in columns
            else None
        )
        if label is None and need_target:
            raise ValueError(f"the label in column {columns['label']!r} is empty; fill it in or remove the row")
        return LabelledMedia(self.media(values, columns), label)

    def media(self, values: Mapping[str, Any], columns: Mapping[str, str]) -> Media:
        """The file a record names, not looked into yet. Raises ValueError where there is none."""
        named = text_in(values, columns["file"], "path")
        if named is None:
            raise ValueError(f"the path in column {columns['file']!r} is empty; fill it in or remove the row")
        if "\x00" in named or "://" in named:
            raise ValueError(f"{named!r} is no path of a file on this machine; get the file and name its path")
        path = os.path.abspath((self._beside or Path()) / Path(named.strip()))
        if reason := refused_file(path):
            raise ValueError(f"{path} {reason}")
        # A name for who speaks is read as a label is: 7 and 7.0 are one.
        told = {role: label_of(values.get(columns[role]), f"the {role}") for role in self.told if role in columns}
        return Media(path, "", tuple((role, value) for role, value in told.items() if value))

    def examine(self, rows: Sequence[Row]) -> tuple[list[Row], dict[int, str], list[Finding]]:
        """All rows with the hash and the traits of their files; by number those whose file cannot be used, with the reason;
        and how many files a rule was applied to.

        Every file is read to its end once, and what was found is remembered under the hashes of the files.
        """
        paths = list(dict.fromkeys(row.content.media.path for row in rows))
        hashes = dict(zip(paths, _in_threads(_hash_of, paths), strict=True))
        looks = self._looks({sha256: path for path, sha256 in hashes.items()})
        whole, broken = [], {}
        for number, row in enumerate(rows):
            media = row.content.media
            look = looks[hashes[media.path]]
            if isinstance(look, str):
                broken[number] = f"{media.path} {look}"
            if not isinstance(look, str):
                media = replace(media, traits=(*media.traits, *look.traits.items()), likeness=look.likeness)
            whole.append(replace(row, content=replace(row.content, media=replace(media, sha256=hashes[media.path]))))
        return whole, broken, self._findings(whole, looks)

    def _looks(self, path_of: Mapping[str, str]) -> dict[str, Look | str]:
        """For each hash what was found in the file, or why it cannot be used."""
        hashes = sorted(path_of)
        key = hashlib.sha256("\x1f".join([self.kind.name, self.kind.version, *hashes]).encode()).hexdigest()[:32]

        def make(folder: Path) -> None:
            looked = _in_threads(self._look, [path_of[sha256] for sha256 in hashes])
            found = {
                sha256: look if isinstance(look, str) else [dict(look.traits), list(look.remarks), look.likeness]
                for sha256, look in zip(hashes, looked, strict=True)
            }
            (folder / "looks.json").write_text(json.dumps(found) + "\n", encoding="utf-8")

        kept = read_json(Cache("looks", _CACHE_BYTES).get(key, make) / "looks.json")
        return {
            sha256: look if isinstance(look, str) else Look(look[0], tuple(look[1]), look[2])
            for sha256, look in kept.items()
        }

    def _look(self, path: str) -> Look | str:
        try:
            return self.kind.look(Path(path))
        except ValueError as error:
            return str(error)

    def _findings(self, rows: Sequence[Row], looks: Mapping[str, Look | str]) -> list[Finding]:
        """Of every rule that was applied, to how many files and to which first."""
        touched: dict[str, list[str]] = {}
        for row in rows:
            look = looks[row.content.media.sha256]
            for remark in () if isinstance(look, str) else look.remarks:
                touched.setdefault(remark, []).append(row.content.media.path)
        findings = []
        for remark, paths in sorted(touched.items()):
            few = list(dict.fromkeys(paths))
            message = f"{len(few)} {self.kind.name}s {self.kind.remarks[remark]}"
            findings.append(Finding("note", message, len(few), tuple(few[:_EXAMPLES])))
        return findings


def refused_file(path: str) -> str | None:
    """Why no rows can be about what is found under this path; None where it is an ordinary file with something in it."""
    if not os.path.exists(path):  # noqa: PTH110 - pathlib raises on long names
        if os.path.islink(path):  # noqa: PTH114
            return f"is a link to {os.readlink(path)}, which does not exist; remove it, or put the file there"  # noqa: PTH115
        folder = Path(path).parent
        if not folder.is_dir():
            return "does not exist, nor does its folder; paths are relative to the table they stand in"
        return f"does not exist; {nearest(Path(path).name, sorted(os.listdir(folder)))}"  # noqa: PTH208
    if not os.path.isfile(path):  # noqa: PTH113
        return "is not an ordinary file; copy what it gives into one"
    return None if os.path.getsize(path) else "is empty; get it again, or remove its row"  # noqa: PTH202


_hashes: dict[tuple[str, int, int], str] = {}


def _hash_of(path: str) -> str:
    """Of an unreadable file a hash of its path: `look` then says why it cannot be read."""
    try:
        stat = os.stat(path)  # noqa: PTH116
        known = (path, stat.st_size, stat.st_mtime_ns)
        if known not in _hashes:
            _hashes[known] = file_sha256(Path(path))
        return _hashes[known]
    except OSError:
        return hashlib.sha256(path.encode()).hexdigest()


def _in_threads(work: Callable[[str], Any], paths: Sequence[str]) -> list[Any]:
    """The results in order; decoding and hashing let go of Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, paths))
