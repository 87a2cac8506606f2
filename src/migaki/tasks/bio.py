"""Tags on tokens: how named parts become tags and tags become parts again, and how a long text is divided.

The tags are O, and for each label B- at its first token and I- at every further one. Every token that stands for
characters of its own has a tag; there are no words, so the rule is the same in every language. A token belongs to a
part if at least half of its characters do.
"""

# Shapes: N rows, T tokens of a row, C tags

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migaki.core.types import Span

__all__ = ["OUTSIDE", "Window", "best_tags", "own_places", "spans_of", "tag_names", "tags_of", "windows"]

OUTSIDE = 0
_AT_ONCE = 256


def tag_names(labels: Sequence[str]) -> list[str]:
    """Every tag in its order.

    >>> tag_names(["LOC"])
    ['O', 'B-LOC', 'I-LOC']
    """
    return ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]


def own_places(text: str, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The characters that each token alone stands for: without white space at its ends, and without those of earlier tokens.

    A tokenizer may give one character to several tokens (bytes of a Japanese letter), of which the first one has it. Where it
    composes two characters into one (ｶ and ﾞ) or drops an accent that is a character of its own, it gives its place to the
    first of them; the second one belongs to the same token.

    >>> own_places("Aki 京", [(0, 3), (3, 5), (4, 5), (5, 5)])
    [(0, 3), (4, 5), (5, 5), (5, 5)]
    >>> own_places("ｶﾞs", [(0, 1), (2, 3)])
    [(0, 2), (2, 3)]
    """
    found, taken = [], 0
    for start, end in places:
        start = max(start, taken)
        while start < end and text[start].isspace():
            start += 1
        stop = end
        while stop > start and text[stop - 1].isspace():
            stop -= 1
        found.append((start, stop) if start < stop else (end, end))
        taken = max(taken, end)
    return _with_marks(text, found)


def _with_marks(text: str, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Tokens with the marks behind them that no token stands for."""
    found, begin = [], len(text)
    for start, end in reversed(places):
        if start < end:
            stop = end
            while stop < begin and _is_mark(text[stop - 1], text[stop]):
                stop += 1
            begin = start
            end = stop
        found.append((start, end))
    return found[::-1]


def _is_mark(before: str, character: str) -> bool:
    """Whether the character is written on the one before it, or normalisation makes one of both."""
    if unicodedata.category(character).startswith("M"):
        return True
    one, other = (unicodedata.normalize("NFKC", ch) for ch in (before, character))
    return len(unicodedata.normalize("NFKC", before + character)) < len(one) + len(other)


def tags_of(spans: Sequence[Span], places_T2: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The tag of each token, (T,) int64.

    Args:
        spans: in order, none over another.
        places_T2: first character of each token and the one behind its last.
        labels: in the order of the tags.
    """
    start_T, end_T = places_T2[:, 0].astype(np.int64), places_T2[:, 1].astype(np.int64)
    tags_T = np.full(len(places_T2), OUTSIDE, dtype=np.int64)
    index = {label: i for i, label in enumerate(labels)}
    for span in spans:
        inside_T = np.minimum(end_T, span.end) - np.maximum(start_T, span.start)
        # Of two parts that share a token half and half, the first one has it.
        own_T = (inside_T > 0) & (2 * inside_T >= end_T - start_T) & (tags_T == OUTSIDE)
        tags_T[own_T] = 2 + 2 * index[span.label]
        if own_T.any():
            tags_T[int(own_T.argmax())] -= 1
    return tags_T


def spans_of(
    tags_T: Sequence[int], places_T2: np.ndarray, labels: Sequence[str], log_p_T: np.ndarray | None = None
) -> tuple[Span, ...]:
    """The named parts that a valid sequence of tags says, in characters.

    Args:
        tags_T: as `best_tags` gives them.
        places_T2: of the tokens.
        labels: in the order of the tags.
        log_p_T: log-probability of each of these tags, for the confidence of the parts.
    """
    found, begin = [], 0
    for i, tag in enumerate([*tags_T, OUTSIDE]):
        goes_on = tag != OUTSIDE and tag % 2 == 0
        if i and tags_T[i - 1] != OUTSIDE and not goes_on:
            confidence = None if log_p_T is None else float(np.exp(log_p_T[begin:i].mean()))
            label = labels[(tags_T[begin] - 1) // 2]
            found.append(Span(int(places_T2[begin, 0]), int(places_T2[i - 1, 1]), label, confidence))
        if not goes_on:
            begin = i
    return tuple(found)


def best_tags(log_p: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each row the likeliest sequence of tags in which every I- stands behind a B- or I- of its label, (T,).

    The likeliest tags one by one need not be such a sequence. Source: Viterbi 1967, doi:10.1109/TIT.1967.1054010, with
    transitions that are allowed or not.

    Args:
        log_p: log-probabilities (T, C) of the tags of each row.

    >>> best_tags([np.log(np.array([[0.5, 0.1, 0.4], [0.3, 0.1, 0.6]]))])[0].tolist()  # I I is no sequence: .5 x .3 beats .1 x .6
    [0, 0]
    """
    order = sorted(range(len(log_p)), key=lambda i: -len(log_p[i]))
    found: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(log_p)
    for at in range(0, len(order), _AT_ONCE):
        few = order[at : at + _AT_ONCE]
        for i, tags_T in zip(few, _viterbi([log_p[i] for i in few]), strict=True):
            found[i] = tags_T
    return found


def _viterbi(log_p: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`best_tags` of some rows at once, the longest one first."""
    lengths = [len(row) for row in log_p]
    n, t, c = len(log_p), max(lengths, default=0), log_p[0].shape[1] if log_p else 0
    p_NTC = np.zeros((n, t, c))
    for i, row in enumerate(log_p):
        p_NTC[i, : len(row)] = row
    begins, goes_on = np.arange(1, c, 2), np.arange(2, c, 2)
    back_NTC = np.zeros((n, t, c), dtype=np.int32)
    score_NC = np.full((n, c), -np.inf)
    ends = [np.zeros(0)] * n
    for step in range(t):
        # Rows stand longest first, so those that have ended are at the end.
        m = sum(length > step for length in lengths)
        if step == 0:
            score_NC[:m] = p_NTC[:m, 0]
            score_NC[:m, goes_on] = -np.inf
        else:
            old_MC = score_NC[:m].copy()
            best_M = old_MC.argmax(1)
            from_M = old_MC[np.arange(m), best_M]
            score_NC[:m] = p_NTC[:m, step] + from_M[:, None]
            back_NTC[:m, step] = best_M[:, None]
            after_b, after_i = old_MC[:, begins], old_MC[:, goes_on]
            score_NC[:m, goes_on] = p_NTC[:m, step][:, goes_on] + np.maximum(after_b, after_i)
            back_NTC[:m, step][:, goes_on] = np.where(after_b >= after_i, begins, goes_on)
        for i in range(m):
            if lengths[i] == step + 1:
                ends[i] = score_NC[i].copy()
    found = []
    for i, length in enumerate(lengths):
        tags_T = np.zeros(length, dtype=np.int64)
        if length:
            tags_T[-1] = int(ends[i].argmax())
            for step in range(length - 1, 0, -1):
                tags_T[step - 1] = back_NTC[i, step, tags_T[step]]
        found.append(tags_T)
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a long text that is seen at once, and which of its tokens are answered in it."""

    start: int
    end: int
    own_start: int
    own_end: int


def windows(n_tokens: int, room: int, overlap: int) -> list[Window]:
    """How a text is divided: each token is answered exactly once, in the window in which it stands farther from the edge.

    Args:
        n_tokens: of the text, without special tokens.
        room: tokens of a window.
        overlap: tokens that two neighbours have in common; at most half of the room counts.

    >>> [(w.start, w.end, w.own_start, w.own_end) for w in windows(10, 6, 2)]
    [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    if n_tokens <= room:
        return [Window(0, n_tokens, 0, n_tokens)]
    stride = room - min(overlap, room // 2)
    starts = [*range(0, n_tokens - room, stride), n_tokens - room]
    borders = [0, *((then + start + room) // 2 for start, then in itertools.pairwise(starts)), n_tokens]
    return [
        Window(start, start + room, own, own_end)
        for start, (own, own_end) in zip(starts, itertools.pairwise(borders), strict=True)
    ]
