"""Tags on tokens: to parts and back, the likeliest valid sequence, windows."""

# Shapes: T tokens, C tags

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migaki.core.types import Span
from migaki.tasks.bio import best_tags, own_places, spans_of, tag_names, tags_of, windows

LABELS = ("A", "B")


def places(*ends: tuple[int, int]) -> np.ndarray:
    return np.array(ends, dtype=np.int32).reshape(-1, 2)


def named(tags: np.ndarray) -> list[str]:
    return [tag_names(LABELS)[tag] for tag in tags]


def test_the_first_token_of_a_part_begins_it_and_all_others_go_on():
    """play|ing| |in| |kyo|to : two parts of two and two tokens."""
    found = tags_of([Span(0, 7, "A"), Span(11, 16, "B")], places((0, 4), (4, 7), (8, 10), (11, 14), (14, 16)), LABELS)
    assert named(found) == ["B-A", "I-A", "O", "B-B", "I-B"]


def test_two_parts_side_by_side_are_told_apart():
    where = places((0, 2), (2, 4), (4, 6))
    spans = (Span(0, 2, "A"), Span(2, 6, "A"))
    tags = tags_of(spans, where, LABELS)
    assert named(tags) == ["B-A", "B-A", "I-A"]
    assert spans_of(tags.tolist(), where, LABELS) == spans


@pytest.mark.parametrize(
    ("span", "tags"),
    [
        (Span(1, 4, "A"), ["B-A", "O"]),  # three of the first token's four characters
        (Span(2, 6, "A"), ["B-A", "I-A"]),  # half of each
        (Span(3, 8, "A"), ["O", "B-A"]),  # one of four
        (Span(3, 5, "A"), ["O", "O"]),  # no token is at least half inside
    ],
)
def test_a_token_belongs_to_a_part_if_at_least_half_of_it_does(span, tags):
    assert named(tags_of([span], places((0, 4), (4, 8)), LABELS)) == tags


def test_a_token_that_two_parts_share_by_half_belongs_to_the_first():
    assert named(tags_of([Span(0, 2, "A"), Span(2, 4, "B")], places((0, 4)), LABELS)) == ["B-A"]


def test_a_character_that_several_tokens_stand_for_belongs_to_the_first():
    """A byte-level tokenizer makes three tokens of 京, all with its place; the others stand for nothing."""
    assert own_places("京都", [(0, 1), (0, 1), (0, 1), (1, 2)]) == [(0, 1), (1, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("text", "found", "wanted"),
    [
        ("ｶﾞ京", [(0, 1), (2, 3)], [(0, 2), (2, 3)]),  # half-width kana, composed
        ("e\u0301a", [(0, 1), (2, 3)], [(0, 2), (2, 3)]),  # an accent of its own, dropped
        ("か\u3099\u200b", [(0, 1)], [(0, 2)]),  # what nobody sees is no mark
        ("ab c", [(0, 1), (3, 4)], [(0, 1), (3, 4)]),  # a letter that was left out is none either
        ("\u0301a", [(1, 2)], [(1, 2)]),
    ],
)
def test_a_mark_that_no_token_stands_for_belongs_to_the_character_it_is_written_on(text, found, wanted):
    assert own_places(text, found) == wanted


def test_white_space_belongs_to_no_token():
    """A sentence-piece token has the space before its word, Japanese ones too."""
    assert own_places("a  bc　京 ", [(0, 1), (1, 5), (5, 8)]) == [(0, 1), (3, 5), (6, 7)]
    assert own_places("a b", [(0, 1), (1, 2), (2, 3)]) == [(0, 1), (2, 2), (2, 3)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 2))
def test_the_tags_are_the_likeliest_of_all_valid_sequences(seed, length, n_labels):
    """Held against every sequence there is."""
    names = tag_names(LABELS[:n_labels])
    log_p_TC = np.log(np.random.default_rng(seed).dirichlet(np.full(len(names), 0.4), length) + 1e-9)

    def valid(tags: tuple[int, ...]) -> bool:
        return all(tag == 0 or tag % 2 == 1 or (i > 0 and tags[i - 1] in (tag, tag - 1)) for i, tag in enumerate(tags))

    every = (tags for tags in itertools.product(range(len(names)), repeat=length) if valid(tags))
    best = max(log_p_TC[np.arange(length), list(tags)].sum() for tags in every)
    (found,) = best_tags([log_p_TC])
    assert valid(tuple(found.tolist()))
    assert log_p_TC[np.arange(length), found].sum() == pytest.approx(best)


def test_rows_of_other_lengths_beside_it_change_nothing():
    dice = np.random.default_rng(0)
    rows = [np.log(dice.dirichlet(np.ones(5), n)) if n else np.zeros((0, 5)) for n in (3, 0, 9, 1, 3)]
    together = best_tags(rows)
    assert [tags.tolist() for tags in together] == [best_tags([row])[0].tolist() for row in rows]
    assert best_tags([]) == []


@given(st.lists(st.sampled_from(["O", "A", "B"]), max_size=12), st.integers(0, 5))
def test_parts_become_tags_and_the_same_parts_again(labels, seed):
    dice = np.random.default_rng(seed)
    ends = np.cumsum(dice.integers(1, 4, 2 * len(labels) + 1))
    where = places(*((int(ends[2 * i]), int(ends[2 * i + 1])) for i in range(len(labels))))
    spans = [Span(int(a), int(b), label) for (a, b), label in zip(where, labels, strict=True) if label != "O"]
    tags = tags_of(spans, where, LABELS)
    assert list(spans_of(tags.tolist(), where, LABELS)) == spans


def test_the_confidence_of_a_part_is_the_geometric_mean_over_its_tokens():
    log_p_T = np.log(np.array([0.9, 0.4, 0.5]))
    (first, second) = spans_of([1, 2, 3], places((0, 1), (1, 2), (2, 3)), LABELS, log_p_T)
    assert first.confidence == pytest.approx((0.9 * 0.4) ** 0.5)
    assert second.confidence == pytest.approx(0.5)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 60))
def test_every_token_is_answered_in_exactly_one_window(n, room, overlap):
    found = windows(n, room, overlap)
    assert [at for w in found for at in range(w.own_start, w.own_end)] == list(range(n))
    assert all(0 <= w.start <= w.own_start < w.own_end <= w.end <= n for w in found)
    assert all(w.end - w.start == min(room, n) for w in found)


@given(st.integers(41, 200), st.integers(0, 30))
def test_a_token_is_answered_where_it_stands_farther_from_the_edge(n, overlap):
    found = windows(n, 40, overlap)
    for w in found:
        for at in range(w.own_start, w.own_end):
            # The ends of the text are no edges: nothing was cut there.
            def far(v, at=at):
                left = at - v.start if v.start else n
                right = v.end - 1 - at if v.end < n else n
                return min(left, right)

            others = [far(v) for v in found if v.start <= at < v.end]
            assert far(w) >= max(others) - 1
