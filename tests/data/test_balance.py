"""Rows with several labels, dealt out label by label."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from migaki.core.types import MultiLabelled, Place, Row
from migaki.data.balance import dealt
from migaki.data.splits import fold_off, split_off


def rows_of(*labels: str) -> list[Row]:
    return [Row(Place("r", i), MultiLabelled(f"text {i}", tuple(said.split()))) for i, said in enumerate(labels, 1)]


def counted(rows: Any) -> Counter[str]:
    return Counter(label for row in rows for label in row.content.names())


def test_every_label_keeps_its_share_also_a_rare_one():
    """200 rows: a in all, b in every second, c in every tenth: a fifth of each is 40, 20, 4."""
    rows = rows_of(*("a" + (" b" if i % 2 == 0 else "") + (" c" if i % 10 == 0 else "") for i in range(200)))
    kept, taken = split_off(rows, 0.2, 0, "test")
    assert counted(taken) == {"a": 40, "b": 20, "c": 4}
    assert len(kept) + len(taken) == 200


def test_labels_that_go_together_are_nearer_to_their_shares_than_by_chance():
    dice = np.random.default_rng(0)
    said = [" ".join(f"l{j}" for j in range(8) if dice.random() < 0.6 / (j + 1)) for _ in range(300)]
    rows = rows_of(*said)
    total = counted(rows)

    def gap(taken: Any) -> float:
        found = counted(taken)
        return sum(abs(found[label] - 0.2 * n) / n for label, n in total.items())

    _, taken = split_off(rows, 0.2, 0, "test")
    by_chance = [gap([rows[i] for i in dice.permutation(300)[:60]]) for _ in range(20)]
    assert abs(len(taken) - 60) <= 3
    assert gap(taken) < min(by_chance)


def test_a_label_with_one_row_stays_in_train():
    rows = rows_of(*["a"] * 30, "a b", "c")
    for seed in range(5):
        kept, _ = split_off(rows, 0.3, seed, "test")
        assert {"a", "b", "c"} <= counted(kept).keys()


def test_the_order_of_the_rows_has_no_influence_and_the_seed_has():
    rows = rows_of(*("a b" if i % 3 else "b c" for i in range(40)))
    first = {row.place for row in split_off(rows, 0.2, 0, "test")[1]}
    assert {row.place for row in split_off(rows[::-1], 0.2, 0, "test")[1]} == first
    assert {row.place for row in split_off(rows, 0.2, 1, "test")[1]} != first


def test_equal_texts_stay_together():
    rows = [Row(Place("r", i), MultiLabelled(f"text {i // 2}", ("a",) if i % 2 else ("a", "b"))) for i in range(40)]
    kept, taken = split_off(rows, 0.25, 0, "test")
    assert {r.content.text for r in kept}.isdisjoint(r.content.text for r in taken)


def test_folds_divide_all_rows_and_every_label_evenly():
    rows = rows_of(*("a" + (" b" if i % 2 else "") for i in range(50)))
    folds = [fold_off(rows, 5, k, 0)[1] for k in range(5)]
    assert sorted(row.place.line for fold in folds for row in fold) == list(range(1, 51))
    assert [counted(fold) for fold in folds] == [{"a": 10, "b": 5}] * 5


@pytest.mark.parametrize("n", [2, 5, 9])
def test_a_small_share_of_few_rows_takes_at_least_one(n):
    assert len(split_off(rows_of(*["a"] * n), 0.05, 0, "test")[1]) == 1


def test_rows_without_a_label_are_dealt_by_number():
    groups = {f"k{i}": rows_of("")[:1] for i in range(10)}
    parts = dealt(groups, [0.7, 0.3], 0, "x")
    assert Counter(parts.values()) == {0: 7, 1: 3}
