"""A sample of `python -m durability.search_kills`: a search that is killed loses nothing and counts nothing twice."""

from __future__ import annotations

import random

import pytest

from durability.search_kills import parallel, prepare, sequential


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("searched"))


def test_a_search_that_is_killed_again_and_again_ends_with_the_same_trials_and_the_same_answer(path, tmp_path):
    hits, found = sequential(path, tmp_path, trials=8, kills=6, dice=random.Random(3))
    assert found == []
    assert hits > 0


def test_two_workers_that_are_killed_lose_no_trial_and_count_none_twice(path, tmp_path):
    hits, found = parallel(path, tmp_path, trials=8, kills=2, dice=random.Random(5))
    assert found == []
    assert hits > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [sequential, parallel], ids=["one process", "two workers"])
def test_thirty_kills_during_thirty_trials(path, tmp_path, kind):
    hits, found = kind(path, tmp_path, trials=30, kills=30, dice=random.Random(0))
    assert found == []
    assert hits == 30
