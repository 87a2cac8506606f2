from __future__ import annotations

import random

import pytest

from migaki.data.duplicates import clusters, compared_form, jaccard, near_earlier, near_pairs

SENTENCE = "the printer does not print my screen is black where is my parcel I want to change the address"
WORDS = SENTENCE.split()


def texts(n: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    found = [" ".join(dice.choices(WORDS, k=dice.randint(4, 14))) for _ in range(n)]
    # A third of them are an earlier one with a word more or less.
    for i in range(n // 3):
        words = found[i].split()
        words.insert(dice.randrange(len(words)), dice.choice(WORDS))
        found.append(" ".join(words))
    return found


def test_the_overlap_is_worked_out_by_hand():
    # " abcd " has the 3-grams " ab", "abc", "bcd", "cd "; " abce " shares the first two of its four: 2 / 6.
    assert jaccard("abcd", "abce") == pytest.approx(1 / 3)


@pytest.mark.parametrize("threshold", [0.75, 0.85, 0.95])
def test_every_pair_that_an_exhaustive_search_finds_is_found_and_no_other(threshold):
    rows = texts(240, 1)
    forms: dict[str, int] = {}
    wanted = set()
    for j, text in enumerate(rows):
        first = forms.setdefault(compared_form(text), j)
        if first != j:
            wanted.add((first, j))
            continue
        wanted |= {
            (i, j) for i in range(j) if forms[compared_form(rows[i])] == i and jaccard(rows[i], text) >= threshold
        }
    found = near_pairs(rows, threshold)
    assert {(i, j) for i, j, _ in found} == wanted
    assert all(share == pytest.approx(jaccard(rows[i], rows[j])) for i, j, share in found)
    assert len(wanted) >= 20


def test_width_case_and_spaces_do_not_make_a_text_another_one():
    assert near_pairs(["Ｈｅｌｌｏ  World", "x", "hello world\n"], 0.9) == [(0, 2, 1.0)]


def test_japanese_texts_are_compared_by_characters():
    rows = [
        "プリンターが動きません。どうすればいいですか。",
        "請求書の宛名を変更したい。",
        "プリンターが動きません。どうしたらいいですか。",
    ]
    assert [(i, j) for i, j, _ in near_pairs(rows, 0.6)] == [(0, 2)]


def test_a_thousand_copies_are_paired_with_the_first_only():
    assert len(near_pairs(["the same"] * 1000, 0.8)) == 999


def test_pairs_text_by_text_are_those_that_are_given_at_once():
    rows = [*texts(60, 2), *texts(60, 2)[:20]]
    found = {
        (int(i), j): share
        for j, earlier, shares in near_earlier(rows, 0.7)
        for i, share in zip(earlier, shares, strict=True)
    }
    assert found == {(i, j): share for i, j, share in near_pairs(rows, 0.7)}
    assert len(found) >= 25


def test_of_many_texts_that_are_all_alike_each_has_the_first_ones_beside_it():
    """A thousand of them are half a million pairs, of which no more is held at once than those of one text."""
    rows = [f"{SENTENCE} {i}" for i in range(1000)]
    counts = {j: len(earlier) for j, earlier, _ in near_earlier(rows, 0.8)}
    assert counts[100] == 100
    assert max(counts.values()) < 1000
    assert len(counts) == 999


def test_no_texts_and_empty_texts_are_no_pairs_of_others():
    assert near_pairs([], 0.8) == []
    assert near_pairs(["", "a"], 0.8) == []


def test_what_hangs_together_over_several_steps_is_one_cluster():
    assert clusters(6, [(4, 5), (0, 4), (2, 3)]).tolist() == [0, 1, 2, 2, 0, 0]
