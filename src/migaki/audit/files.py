"""Checks of rows that are files: sizes, tiny and blank images, near copies, lengths, loudness, silence, clipping, voices.

Each check is about something that is measured on a file (`Media.traits`), and says nothing where that is not known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from migaki.audit.light import EXAMPLES, Light
from migaki.core.types import Dataset, Row
from migaki.core.units import seconds_text
from migaki.data.likeness import LIKE
from migaki.data.near_images import near_images
from migaki.data.splits import labels_of
from migaki.evaluation.intervals import wilson

__all__ = ["file_lights"]

_TINY_PIXELS = 24
_BLANK = 0.01
"""Standard deviation of the luma (0..1): two or three of 256 shades."""
_SHORT_S, _LONG = 0.1, 10.0
_QUIET_DB = -45.0
_MOSTLY = 0.5
_CLIPPED = 1e-3
_SHARED_SPEAKERS = 0.05
_TELLING = 0.1
_FEW_ROWS = 20

_Traits = Mapping[str, float | str]


def file_lights(parts: Sequence[Dataset], columns: Mapping[str, str]) -> Iterator[Light]:
    """What is told about files, by what was measured on them.

    Args:
        parts: train, valid and test.
        columns: role -> column, for remedies.
    """
    rows = [row for part in parts for row in part.rows]
    known = {id(row): dict(row.content.media.traits) for row in rows}
    measured = set.intersection(*(set(traits) for traits in known.values())) if known else set()
    if {"width", "height"} <= measured:
        yield from _sizes(rows, known)
        yield from _which(rows, known, *_TINY)
        yield from _which(rows, known, *_BLANKS)
        yield from _near(parts)
    if "seconds" in measured:
        yield from _lengths(rows, known)
        for check in (_QUIET, _SILENT, _CUT_TOPS):
            yield from _which(rows, known, *check)
    yield from _speakers(parts, known, columns)
    yield from _telling(parts[0], known, sorted(measured & {"width", "height", "rate_hz"}))


_Check = tuple[str, Callable[[_Traits], bool], str, str]

_TINY: _Check = (
    "tiny images",
    lambda t: min(float(t["width"]), float(t["height"])) < _TINY_PIXELS,
    f"{{n}} images have less than {_TINY_PIXELS} pixels on a side, and are enlarged to what the model sees",
    "look at them: icons, thumbnails, failed downloads; remove them, unless this is what will be asked about",
)
_BLANKS: _Check = (
    "blank images",
    lambda t: float(t["contrast"]) < _BLANK,
    "{n} images are of almost a single shade, so nothing is to be seen on them",
    "remove them: covered lenses, empty pages, placeholders",
)
_QUIET: _Check = (
    "quiet recordings",
    lambda t: float(t["level_db"]) < _QUIET_DB,
    f"{{n}} recordings are quieter than {_QUIET_DB:g} dB below full scale",
    "look whether anything is to be heard on them; raise their level or remove them",
)
_SILENT: _Check = (
    "silence",
    lambda t: float(t["silence"]) > _MOSTLY,
    "more than half of {n} recordings is silence, which is computed as speech is and may be written down as words",
    "cut their pauses off",
)
_CUT_TOPS: _Check = (
    "clipping",
    lambda t: float(t["clipped"]) > _CLIPPED,
    f"{{n}} recordings are clipped: more than {_CLIPPED:.1%} of their samples stand at full scale",
    "record them more quietly; what was cut off cannot be restored",
)


def _which(
    rows: Sequence[Row],
    known: Mapping[int, _Traits],
    name: str,
    is_so: Callable[[_Traits], bool],
    message: str,
    remedy: str,
) -> Iterator[Light]:
    """The rows of which something is so; nothing where there are none."""
    found = [row for row in rows if is_so(known[id(row)])]
    if found:
        yield Light(name, "yellow", message.format(n=len(found)), len(found), _named(found), remedy, _files(found))


def _named(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(f"{row.place}: {row.content.media.path}" for row in rows[:EXAMPLES])


def _files(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(row.content.media.path for row in rows[:EXAMPLES])


def _sizes(rows: Sequence[Row], known: Mapping[int, _Traits]) -> Iterator[Light]:
    counts = Counter((int(float(t["width"])), int(float(t["height"]))) for t in (known[id(row)] for row in rows))
    (width, height), n = counts.most_common(1)[0]
    if len(counts) == 1:
        text = f"all images have {width} x {height} pixels"
    else:
        text = (
            f"{len(counts)} sizes; the most frequent, {width} x {height} pixels, has {n / len(rows):.0%} of the images"
        )
    yield Light("sizes", "green", text, len(rows))


def _lengths(rows: Sequence[Row], known: Mapping[int, _Traits]) -> Iterator[Light]:
    seconds = [float(known[id(row)]["seconds"]) for row in rows]
    rates = Counter(int(float(known[id(row)]["rate_hz"])) for row in rows)
    listed = ", ".join(f"{rate} Hz {n / len(rows):.0%}" for rate, n in rates.most_common(4))
    yield Light("length of the recordings", "green", f"{seconds_text(sum(seconds))} in all; {listed}", len(rows))
    median = sorted(seconds)[len(seconds) // 2]
    short = [row for row, s in zip(rows, seconds, strict=True) if s < _SHORT_S]
    if short:
        text = f"{len(short)} recordings are shorter than {_SHORT_S:g} s, too short for a word"
        yield Light("short recordings", "yellow", text, len(short), _named(short), "remove them", _files(short))
    long = [row for row, s in zip(rows, seconds, strict=True) if s > _LONG * max(median, 1.0)]
    if long:
        yield Light(
            "very long recordings",
            "yellow",
            f"{len(long)} recordings are more than {_LONG:.0f} times as long as the median of {median:.1f} s",
            len(long),
            _named(long),
            "cut them into parts, or look whether the recorder was left on",
        )


def _near(parts: Sequence[Dataset]) -> Iterator[Light]:
    """Images that are almost the same; exact copies are told while reading."""
    rows = [(part.name, row) for part in parts for row in part.rows]
    media = [row.content.media for _, row in rows]
    if not all(one.likeness for one in media):
        return
    pairs = [pair for pair in near_images(media, LIKE) if media[pair[0]].sha256 != media[pair[1]].sha256]
    across = [(a, b, share) for a, b, share in pairs if rows[a][0] != rows[b][0]]
    inside = [(a, b, share) for a, b, share in pairs if rows[a][0] == rows[b][0]]

    def shown(found: Sequence[tuple[int, int, float]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        few = found[:EXAMPLES]
        texts = tuple(
            f"{rows[b][1].place} ({rows[b][0]}) ~ {rows[a][1].place} ({rows[a][0]}): {share:.3f}" for a, b, share in few
        )
        return texts, tuple(media[number].path for a, b, _ in few for number in (b, a))

    if across:
        n_rows = len({b for _, b, _ in across})
        examples, files = shown(across)
        yield Light(
            "near leaks",
            "red" if n_rows > 0.01 * len(rows) else "yellow",
            f"{n_rows} valid or test images are almost the same as one of another split (correlation of small grey copies at least {LIKE}), so the score would be too high",
            n_rows,
            examples,
            f"data.split: {{near: {LIKE}}} where migaki divides the rows; else remove them from train",
            files,
        )
    if inside:
        examples, files = shown(inside)
        text = f"{len(inside)} pairs of images inside a split are almost the same"
        yield Light("near duplicates", "green", text, len(inside), examples, "", files)
    if not pairs:
        yield Light(
            "near duplicates", "green", "no two images are almost the same, turned, mirrored and cut ones aside"
        )


def _speakers(parts: Sequence[Dataset], known: Mapping[int, _Traits], columns: Mapping[str, str]) -> Iterator[Light]:
    """Voices of test that speak in train too: what is measured then is how well known voices are understood."""
    if "speaker" not in columns:
        return
    of = [[known[id(row)].get("speaker") for row in part.rows] for part in parts]
    in_train = set(of[0]) - {None}
    again = [row for row, speaker in zip(parts[2].rows, of[2], strict=True) if speaker in in_train]
    if len(again) > _SHARED_SPEAKERS * len(parts[2]):
        yield Light(
            "speakers",
            "yellow",
            f"{len(again)} of {len(parts[2])} test rows are spoken by somebody who speaks in train too, so the score says little about new voices",
            len(again),
            _named(again),
            f"data.split: {{by: {columns['speaker']}}}",
        )
    else:
        text = f"{len(in_train)} speakers in train; hardly a test row is spoken by one of them"
        yield Light("speakers", "green", text, len(in_train))


def _telling(train: Dataset, known: Mapping[int, _Traits], names: Sequence[str]) -> Iterator[Light]:
    """A form of the files by which their labels can be guessed: then a model may learn where they came from."""
    rows = [row for row in train.rows if len(labels_of(row) - {None}) == 1]
    if len(rows) < _FEW_ROWS:
        return
    labels = [str(next(iter(labels_of(row)))) for row in rows]
    most = max(Counter(labels).values()) / len(rows)
    for name in names:
        hits = _guessed([known[id(row)][name] for row in rows], labels)
        if wilson(hits, len(rows))[0] > most + _TELLING:
            yield Light(
                "labels told by the form",
                "yellow",
                f"by {_FORMS[name]} alone the label of {hits / len(rows):.0%} of the train rows can be guessed (the most frequent label: {most:.0%}), so a model may learn where a file came from",
                hits,
                (),
                "collect files of every label from every source, or bring all to one form",
            )


_FORMS = {"width": "the width of an image", "height": "the height of an image", "rate_hz": "the sample rate"}


def _guessed(values: Sequence[float | str], labels: Sequence[str]) -> int:
    """Rows whose label is the most frequent one among the other rows of the same value; a tie is no guess.

    >>> _guessed([8, 8, 8, 16, 16], ["a", "a", "b", "b", "b"])
    2
    """
    counts: dict[float | str, Counter[str]] = defaultdict(Counter)
    for value, label in zip(values, labels, strict=True):
        counts[value][label] += 1

    def right(value: float | str, label: str) -> bool:
        others = max((n for other, n in counts[value].items() if other != label), default=0)
        return counts[value][label] - 1 > others

    return sum(right(value, label) for value, label in zip(values, labels, strict=True))
