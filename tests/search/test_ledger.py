"""The list of trials: one number a trial, one end a trial, whoever writes it and however it dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migaki.core.errors import UsageError
from migaki.search import Space, read_space
from migaki.search.ledger import Ledger


@pytest.fixture
def space(tmp_path: Path) -> Space:
    path = tmp_path / "r.yaml"
    path.write_text(
        "task: classify_text\ndata: {train: rows.csv}\nmodel: some/folder\nmethod: {kind: lora, rank: [4, 8, 16]}\n"
    )
    return read_space(path)


@pytest.fixture(params=["journal", "database"])
def opened(request: Any, tmp_path: Path) -> Any:
    """Opens the same list again, as another process would."""
    url = f"sqlite:///{tmp_path / 'list.db'}" if request.param == "database" else None
    return lambda: Ledger(tmp_path, "search-1", ["maximize"], url)


def add(ledger: Ledger, space: Space, rank: int = 4, limit: int = 9) -> Any:
    return ledger.add(space, {"method.rank": rank}, "tpe", 3, limit)


def test_what_one_process_writes_another_reads(opened, space):
    entry = add(opened(), space)
    opened().record(entry, 1, (0.5, -0.7))
    opened().record(entry, 2, (0.6, -0.6))
    (read,) = opened().entries()
    assert (read.number, read.state, read.settings, read.origin) == (0, "running", {"method.rank": 4}, "tpe")
    assert read.figures == {1: (0.5, -0.7), 2: (0.6, -0.6)}
    assert read.standing.evaluations == 3


def test_a_trial_that_has_ended_stays_as_it_is(opened, space):
    ledger = opened()
    entry = add(ledger, space)
    ledger.end(entry, "finished", [0.9], {"values": [0.9]})
    other = opened()
    other.end(entry, "failed", [], {"reason": "late"})
    other.record(entry, 3, (0.1, 0.0))
    other.halt(entry, {})
    assert other.take_up(entry) is None
    (read,) = opened().entries()
    assert (read.state, read.facts) == ("finished", {"values": [0.9]})
    assert read.figures == {}


def test_only_one_process_takes_up_a_halted_trial(opened, space):
    ledger = opened()
    entry = add(ledger, space)
    ledger.halt(entry, {"seconds": 1.0})
    (halted,) = opened().entries()
    assert halted.state == "waiting"
    taken = [other.take_up(halted) is not None for other in (opened(), opened())]
    assert taken[0]
    assert opened().entries()[0].state == "running"


def test_trials_beyond_the_wanted_number_do_not_count(opened, space):
    ledger = opened()
    assert add(ledger, space, 4, limit=1)
    assert add(opened(), space, 8, limit=1) is None
    assert [e.number for e in opened().entries()] == [0]


def test_settings_outside_of_their_range_are_kept_too(opened, space):
    entry = add(opened(), space, 5)
    assert opened().entries()[0].settings == {"method.rank": 5} == entry.settings


def test_a_line_that_was_cut_off_does_not_hide_what_comes_behind_it(tmp_path, space):
    first = Ledger(tmp_path, "search-1", ["maximize"])
    add(first, space)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker_id":"x')
    add(Ledger(tmp_path, "search-1", ["maximize"]), space, 8)
    assert [e.settings["method.rank"] for e in Ledger(tmp_path, "search-1", ["maximize"]).entries()] == [4, 8]
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize("url", ["nonsense", "oracle9://x", "sqlite:////nowhere/at/all/list.db"])
def test_a_database_that_cannot_be_reached_is_told_with_what_to_do(tmp_path, url):
    with pytest.raises(UsageError, match="--storage"):
        Ledger(tmp_path, "search-1", ["maximize"], url)
