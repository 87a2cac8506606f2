"""Which rows are computed when and together: what must hold for any lengths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from migaki.training import plan
from migaki.training.plan import epoch_steps, pad, step_rows, token_groups

lengths_of_rows = st.lists(st.integers(1, 60), max_size=24)
id_rows = st.lists(st.lists(st.integers(1, 1000), min_size=1, max_size=12), min_size=1, max_size=8)


@given(lengths_of_rows, st.integers(20, 200), st.integers(1, 8), st.sampled_from([0.0, 0.1, 1.0]))
def test_every_row_is_in_one_group_and_no_group_is_too_large(
    lengths: list[int], max_tokens: int, max_rows: int, padding_cost: float
) -> None:
    groups = token_groups(lengths, max_tokens, max_rows, padding_cost)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    for group in groups:
        assert 1 <= len(group) <= max_rows
        tokens = sum(lengths[i] for i in group)
        size = tokens + padding_cost * (len(group) * max(lengths[i] for i in group) - tokens)
        assert len(group) == 1 or size <= max_tokens


@given(lengths_of_rows)
def test_the_longest_rows_come_first(lengths: list[int]) -> None:
    """Memory is highest at the start, so that a step which fits at first fits to its end."""
    order = [lengths[i] for group in token_groups(lengths) for i in group]
    assert order == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(300, 900), st.sampled_from([0.0, 0.25, 1.0]))
def test_no_other_split_of_the_sorted_rows_costs_less(lengths: list[int], max_tokens: int, padding_cost: float) -> None:
    def cost(groups: list[list[int]]) -> float:
        total = 0.0
        for group in groups:
            tokens = sum(group)
            size = tokens + padding_cost * (len(group) * max(group) - tokens)
            if len(group) > 1 and size > max_tokens:
                return float("inf")
            total += size + plan._GROUP_COST
        return total

    ordered = sorted(lengths, reverse=True)
    best = float("inf")
    for cuts in itertools.product((False, True), repeat=len(ordered) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(ordered)]
        best = min(best, cost([ordered[a:b] for a, b in itertools.pairwise(edges)]))
    found = token_groups(lengths, max_tokens, padding_cost=padding_cost)
    assert cost([[lengths[i] for i in group] for group in found]) == pytest.approx(best)


@given(lengths_of_rows, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_change_the_shapes(lengths: list[int], random: object) -> None:
    shuffled = list(lengths)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def shapes(found: list[int]) -> list[list[int]]:
        return [[found[i] for i in group] for group in token_groups(found)]

    assert shapes(lengths) == shapes(shuffled)


def test_a_row_longer_than_the_limit_is_alone() -> None:
    assert token_groups([10, 500, 10], max_tokens=100) == [[1], [0, 2]]


def test_no_rows_make_no_groups() -> None:
    assert token_groups([]) == []


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_visits_every_row_once(n_rows: int, batch_size: int, seed: int, epoch: int) -> None:
    steps = epoch_steps(n_rows, batch_size)
    visited = [step_rows(n_rows, batch_size, seed, epoch * steps + k) for k in range(steps)]
    assert sorted(np.concatenate(visited).tolist()) == list(range(n_rows))
    assert [len(rows) for rows in visited[:-1]] == [batch_size] * (steps - 1)
    assert len(visited[-1]) == n_rows - batch_size * (steps - 1)


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 30))
def test_the_rows_of_a_step_do_not_depend_on_what_was_asked_before(
    n_rows: int, batch_size: int, seed: int, step: int
) -> None:
    alone = step_rows(n_rows, batch_size, seed, step).tolist()
    for earlier in range(step):
        step_rows(n_rows, batch_size, seed, earlier)
    assert step_rows(n_rows, batch_size, seed, step).tolist() == alone


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = (step_rows(50, 50, seed=0, step=step).tolist() for step in (0, 1))
    assert first != second
    assert first != step_rows(50, 50, seed=1, step=0).tolist()


def test_the_order_of_an_epoch_is_the_same_for_every_batch_size() -> None:
    whole = step_rows(20, 20, seed=3, step=1).tolist()
    parts = [i for step in (5, 6, 7, 8, 9) for i in step_rows(20, 4, seed=3, step=step).tolist()]
    assert parts == whole


@given(id_rows, st.booleans())
def test_padding_changes_no_token_and_is_masked(rows: list[list[int]], left: bool) -> None:
    ids_BT, mask_BT = pad(rows, 0, torch.device("cpu"), left)
    width = max(map(len, rows))
    assert ids_BT.shape == mask_BT.shape == (len(rows), width)
    assert ids_BT.dtype == mask_BT.dtype == torch.int64
    for row, ids, mask in zip(rows, ids_BT.tolist(), mask_BT.tolist(), strict=True):
        gap = width - len(row)
        assert mask == ([0] * gap + [1] * len(row) if left else [1] * len(row) + [0] * gap)
        assert [token for token, seen in zip(ids, mask, strict=True) if seen] == row
        assert all(token == 0 for token, seen in zip(ids, mask, strict=True) if not seen)
