"""Images and recordings on a page: which ones are shown, where, and how many there is room for.

A run keeps small copies of the files that its page shows in `exhibits.json` (`migaki.exhibits` makes it). The page has room
for a few megabytes of them; what does not fit is counted and said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from migaki.core.store import read_json

__all__ = ["EXHIBITS_FILE", "MOST_CHARACTERS", "Hung", "Use", "hang", "kept_exhibits", "uses_of", "wrong_first"]

Json = Mapping[str, Any]

EXHIBITS_FILE = "exhibits.json"
MOST_CHARACTERS = 4_000_000
"""Of all pictures and sounds of a page, as they stand in it; the rest of a page is some hundred thousand."""
_WORST, _EACH = 30, 6
_CELLS_LABELS = 12
"""Above so many labels the cells of a matrix are too narrow for pictures."""
_HIGH = 40


@dataclass(frozen=True)
class Use:
    """A place on the page and the row whose file is shown there."""

    where: tuple[str, ...]
    """worst, suspicious; pair or cell with the wanted label and the answer; right, missed or given with the label."""
    row: Json
    """A line of predictions.jsonl, or one of the same names: `text` is the path."""


@dataclass
class Hung:
    """What found room, by place."""

    views: dict[tuple[str, ...], list[tuple[Json, Json]]] = field(default_factory=lambda: defaultdict(list))
    """Rows, each with what the template needs to show its file."""
    kind: str | None = None
    """image or recording; None where nothing is shown."""
    shown: int = 0
    left_out: int = 0
    """How often a file of the plan is not shown: no room, or it could not be read any more."""

    def at(self, *where: str) -> list[tuple[Json, Json]]:
        return self.views.get(where, [])

    def of(self, where: str, row: Json) -> Json | None:
        """The view of one row at a place."""
        return next((view for shown, view in self.at(where) if shown is row), None)

    @property
    def sounds(self) -> bool:
        return self.kind == "recording"


def kept_exhibits(folder: Path) -> dict[str, Json]:
    """An exhibit for each path, of those that were kept with a run or a comparison; none where there are none.

    Raises:
        DamagedError: they cannot be read.
    """
    path = folder / EXHIBITS_FILE
    return dict(read_json(path)["items"]) if path.is_file() else {}


def wrong_first(predictions: Sequence[Json]) -> list[Json]:
    """Wrongly answered rows, the most confident first."""
    wrong = [row for row in predictions if row["output"] != row["target"]]
    return sorted(wrong, key=lambda row: -(row["confidence"] or 0))


def uses_of(predictions: Sequence[Json], details: Json, suspicious: Sequence[Json] = ()) -> list[Use]:
    """Every place of the page where a file belongs, in the order in which they matter.

    Worst errors first; then labels that are probably wrong; then, turn by turn, the confused pairs, the cells of the matrix,
    and of each label what was right, missed and wrongly given. Of rows with a transcript those with most errors.

    Args:
        predictions: lines of predictions.jsonl.
        details: of evaluation.json.
        suspicious: of errors.json.
    """
    if "per_class" not in details:
        of_place = {(row["source"], row["line"]): row for row in predictions}
        worst = [of_place.get((one["source"], one["line"])) for one in details.get("worst", ())]
        return [Use(("worst",), row) for row in worst[:_WORST] if row]
    wrong = wrong_first(predictions)
    pairs: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for row in wrong:
        pairs[row["target"], row["output"]].append(row)
    listed = [(pair["target"], pair["output"]) for pair in details.get("confused_pairs", ())]
    of_pairs = [[Use(("pair", *pair), row) for row in pairs.get(pair, ())[:_EACH]] for pair in listed]
    of_labels = _of_labels(predictions, wrong, details)
    return [
        *(Use(("worst",), row) for row in wrong[:_WORST]),
        *(Use(("suspicious",), row) for row in suspicious),
        *_by_turns(of_pairs),
        *_cells(predictions, pairs, details),
        *_by_turns(of_labels),
    ]


def _cells(
    predictions: Sequence[Json], pairs: Mapping[tuple[str, str], Sequence[Json]], details: Json
) -> Iterator[Use]:
    """One file for each cell of a matrix that is small enough: the surest answer in it."""
    if len(details["labels"]) > _CELLS_LABELS:
        return
    surest: dict[tuple[str, str], Json] = {}
    for row in sorted(_right(predictions), key=lambda row: -(row["confidence"] or 0)):
        surest.setdefault((row["target"], row["output"]), row)
    for pair, row in {**surest, **{pair: rows[0] for pair, rows in pairs.items()}}.items():
        yield Use(("cell", *pair), row)


def _of_labels(predictions: Sequence[Json], wrong: Sequence[Json], details: Json) -> list[list[Use]]:
    right: dict[str, list[Json]] = defaultdict(list)
    for row in sorted(_right(predictions), key=lambda row: -(row["confidence"] or 0)):
        right[row["target"]].append(row)
    lists = []
    for label in details["per_class"]:
        rows = right[label]
        # The surest say what the model takes the label for, the least sure where it ends.
        ends = [*rows[: _EACH // 2], *rows[_EACH // 2 :][-_EACH // 2 :]]
        missed = [row for row in wrong if row["target"] == label][:_EACH]
        given = [row for row in wrong if row["output"] == label][:_EACH]
        for where, chosen in (("right", ends), ("missed", missed), ("given", given)):
            lists.append([Use((where, label), row) for row in chosen])
    return lists


def _right(predictions: Sequence[Json]) -> list[Json]:
    return [row for row in predictions if row["output"] == row["target"]]


def _by_turns(lists: Sequence[Sequence[Use]]) -> Iterator[Use]:
    """The first of each, then the second of each."""
    return (use for turn in zip_longest(*lists) for use in turn if use is not None)


def hang(uses: Sequence[Use], items: Mapping[str, Json], most_characters: int = MOST_CHARACTERS) -> Hung:
    """What of the uses has room, the first ones first.

    Args:
        uses: in the order in which they matter.
        items: an exhibit for each path, as `data.exhibits` makes them.
        most_characters: of all data URIs together.
    """
    hung = Hung(kind=next((item["kind"] for item in items.values()), None))
    if hung.kind is None:
        return hung
    left = most_characters
    for use in uses:
        if hung.kind != "image" and use.where[0] == "cell":
            continue
        whole = use.where[0] in ("worst", "suspicious")
        item = items.get(use.row["text"])
        view = _view(item, use.row, whole) if item else None
        size = sum(len(value) for value in view.values() if isinstance(value, str)) if view else 0
        if view is None or size > left:
            hung.left_out += 1
            continue
        left -= size
        hung.shown += 1
        hung.views[use.where].append((use.row, view))
    return hung


def _view(item: Json, row: Json, whole: bool) -> dict[str, Any] | None:
    """What the template needs; of recordings in rows of many the sound alone."""
    name = PurePath(row["text"]).name
    if not all(item.get(part, "data:").startswith(f"data:{kind}/") for part, kind in _PARTS if part in item):
        return None
    if item["kind"] == "image":
        return {"kind": "image", "name": name, **{part: item[part] for part in ("picture", "width", "height")}}
    view = {"kind": "recording", "name": name, **{part: item[part] for part in ("sound", "seconds", "heard_s")}}
    if not whole:
        return view
    peak = f"{item['peak_db']:.1f}".replace("-", "−")
    return {**view, "picture": item["picture"], "peak_db": peak, "outline": _outline(item["outline"])}


_PARTS = (("picture", "image"), ("sound", "audio"))


def _outline(heights: Sequence[int]) -> Markup:
    """A wave as an area around its middle line, as wide as the picture below it."""
    half = _HIGH // 2
    tops = [f"{x},{half - round(half * height / 100)}" for x, height in enumerate(heights)]
    bottoms = [f"{x},{half + round(half * height / 100)}" for x, height in enumerate(heights)]
    points = " ".join([*tops, *reversed(bottoms)])
    return Markup(
        '<svg class="outline" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true"><polygon points="{}"/></svg>'
    ).format(max(len(heights) - 1, 1), _HIGH, points)
