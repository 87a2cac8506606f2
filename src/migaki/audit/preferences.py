"""Checks of answers that were compared or judged: what a preference would teach beside what is meant."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from migaki.audit.light import EXAMPLES, Light, places, text_of
from migaki.core.types import Row, shorten
from migaki.data.duplicates import compared_form, copy_form

__all__ = ["judged_lights", "preferred_lights", "sign_test"]

_CERTAIN = 0.01
_LONGER_SHARE = 0.6
_UNEVEN = 4.0


def preferred_lights(rows: Sequence[Row]) -> Iterator[Light]:
    """Of rows with a chosen and a rejected answer."""
    equal = [row for row in rows if compared_form(row.content.chosen) == compared_form(row.content.rejected)]
    if equal:
        yield Light(
            "equal pairs",
            "red",
            f"{len(equal)} rows have the same answer as chosen and as rejected (case, width and spaces aside): nothing can be learned from them",
            len(equal),
            places(equal),
            "remove the rows",
        )
    yield from _turned(rows)
    biased = list(_length_bias(rows))
    yield from biased
    if not equal and not biased:
        yield Light(
            "preferences", "green", f"{len(rows)} pairs of different answers, neither kind longer beyond chance"
        )


def _turned(rows: Sequence[Row]) -> Iterator[Light]:
    """The same two answers once this way and once that way round."""
    first: dict[tuple[str, str, str], Row] = {}
    found = []
    for row in rows:
        asked, content = copy_form(row.content.key()), row.content
        chosen, rejected = compared_form(content.chosen), compared_form(content.rejected)
        if chosen != rejected and (asked, rejected, chosen) in first:
            found.append((row, first[asked, rejected, chosen]))
        first.setdefault((asked, chosen, rejected), row)
    if found:
        yield Light(
            "contradicting pairs",
            "red",
            f"{len(found)} rows prefer what another row of the same question rejects",
            len(found),
            tuple(f"{row.place} against {other.place}" for row, other in found[:EXAMPLES]),
            "decide on one of the two",
        )


def _length_bias(rows: Sequence[Row]) -> Iterator[Light]:
    longer = [row for row in rows if len(row.content.chosen) > len(row.content.rejected)]
    shorter = [row for row in rows if len(row.content.chosen) < len(row.content.rejected)]
    n = len(longer) + len(shorter)
    most = max(longer, shorter, key=len)
    if n and len(most) > _LONGER_SHARE * n and sign_test(len(most), n) < _CERTAIN:
        word = "longer" if most is longer else "shorter"
        yield Light(
            "length bias",
            "yellow",
            f"the chosen answer is the {word} one in {len(most)} of {n} pairs: the model may learn to write {word} answers instead of better ones",
            len(most),
            tuple(f"{row.place}: {len(row.content.chosen)} and {len(row.content.rejected)} characters" for row in most)[
                :EXAMPLES
            ],
            "add pairs in which the other one is better, or judge the tuned model at equal length",
        )


def sign_test(most: int, n: int) -> float:
    """Two-sided chance that of n fair coins at least so many fall on one side, by the exact binomial distribution.

    >>> sign_test(8, 10)  # 2 x (45 + 10 + 1) / 1024
    0.109375
    """
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        for k in range(most, n + 1)
    )
    return round(min(2 * tail, 1.0), 12)


def judged_lights(rows: Sequence[Row]) -> Iterator[Light]:
    """Of rows with an answer and whether it was found good."""
    counts = Counter(row.content.good for row in rows)
    verdicts: dict[tuple[str, str], set[bool]] = defaultdict(set)
    for row in rows:
        verdicts[copy_form(row.content.key()), compared_form(row.content.answer)].add(row.content.good)
    both = [
        row
        for row in rows
        if len(verdicts[copy_form(row.content.key()), compared_form(row.content.answer)]) > 1 and row.content.good
    ]
    if both:
        yield Light(
            "contradicting verdicts",
            "red",
            f"{len(both)} answers to a question are found good in one row and bad in another",
            len(both),
            tuple(f"{row.place}: {shorten(text_of(row), 40)!r}" for row in both[:EXAMPLES]),
            "decide on one of the two",
        )
    if len(counts) < 2:
        verdict = "good" if counts[True] else "bad"
        text = f"all {len(rows)} answers are {verdict}: there is nothing to tell apart"
        yield Light("verdicts", "red", text, len(rows), (), "add rows with the other verdict")
    elif max(counts.values()) > _UNEVEN * min(counts.values()):
        text = f"{counts[True]} answers are good and {counts[False]} bad"
        yield Light("verdicts", "yellow", text, len(rows), (), "weigh the rarer ones more, or collect more of them")
    elif not both:
        yield Light("verdicts", "green", f"{counts[True]} answers are good and {counts[False]} bad", len(rows))
