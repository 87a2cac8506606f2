"""Small copies of the files that a page shows, made while the files are there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from migaki.core.store import read_json, write_file
from migaki.data.exhibits import Exhibit, exhibits
from migaki.data.formats import READERS
from migaki.report.exhibits import EXHIBITS_FILE, uses_of

__all__ = ["exhibits_of", "keep_exhibits", "keep_exhibits_of_run"]

_MOST_CHARACTERS = 3_500_000
"""Of what is kept beside the figures of a run."""


def exhibits_of(paths: Iterable[str], content_kind: str) -> dict[str, Exhibit]:
    """An exhibit for each of these files as far as 3.5 MB reach, the first ones first; none where rows are no files.

    Args:
        paths: those that matter most first.
        content_kind: the name of the reader in `data.formats`.
    """
    kind = getattr(READERS.get(content_kind), "kind", None)
    return exhibits(paths, kind.show, _MOST_CHARACTERS) if kind else {}


def keep_exhibits(folder: Path, paths: Iterable[str], content_kind: str) -> None:
    """Put them into `exhibits.json` of a folder; nothing is written where there are none."""
    if items := exhibits_of(paths, content_kind):
        write_file(folder / EXHIBITS_FILE, json.dumps({"items": items}, ensure_ascii=False) + "\n")


def keep_exhibits_of_run(folder: Path, content_kind: str) -> None:
    """Keep what the page of a run shows of its test files, by its predictions and its evaluation."""
    if getattr(READERS.get(content_kind), "kind", None) is None:
        return
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    uses = uses_of([json.loads(line) for line in lines], read_json(folder / "evaluation.json")["details"])
    keep_exhibits(folder, (use.row["text"] for use in uses), content_kind)
