"""Workers: the same results in the same order whatever their number, the same errors, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import processes
from migaki.core.errors import DataError, RunError
from migaki.data.workers import Ahead, Workers, at_hand, in_order, workers
from readers import DAMAGED, DEADLY, LOUD, REFUSED, SLOW, UNKNOWN, squared


@pytest.fixture(scope="module")
def two():
    pool = Workers(2)
    yield pool
    pool.close()


def first(results) -> list[float]:
    return [float(one[0, 0]) for one in results]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_results_come_in_order_however_many_work(n):
    with workers(n):
        found = list(in_order(squared, [1, SLOW, LOUD, 2, 3, 4, 5]))
    assert first(found) == [1, SLOW**2, LOUD**2, 4, 9, 16, 25]
    assert all(one.flags.writeable for one in found)


def test_nobody_is_started_before_there_is_work_and_nobody_is_left_after_it():
    with workers(2):
        pool = at_hand()
        assert pool is not None
        assert pool.process_ids() == []
        list(in_order(squared, [1, 2]))
        ids = pool.process_ids()
        assert len(ids) == 2
    assert at_hand() is None
    assert not any(alive(pid) for pid in ids)


@pytest.mark.parametrize("number", [DAMAGED, REFUSED])
def test_an_error_of_a_worker_is_the_one_that_this_process_would_have_met(two, number):
    with pytest.raises((ValueError, DataError)) as here:
        squared(number)
    with pytest.raises(type(here.value)) as there:
        two.submit(squared, number).result()
    assert str(there.value) == str(here.value)
    assert first([two.submit(squared, 3).result()]) == [9]  # and it goes on


def test_an_error_that_cannot_travel_is_told_in_words(two):
    with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
        two.submit(squared, UNKNOWN).result()


def test_a_worker_that_is_killed_is_told_with_what_it_read_and_what_to_do():
    pool = Workers(1)
    doomed, after = pool.submit(squared, DEADLY), pool.submit(squared, 1)
    with pytest.raises(RunError, match=r"ended by SIGKILL while it read 95.*lower training\.workers"):
        doomed.result()
    with pytest.raises(RunError):
        after.result()
    with pytest.raises(RunError, match="SIGKILL"):
        pool.submit(squared, 1)
    pool.close()


def test_at_most_so_many_are_read_ahead_and_what_nobody_expects_is_left_to_who_asks(two):
    drawn: list[int] = []

    def items():
        for number in range(10):
            drawn.append(number)
            yield number, number

    ahead = Ahead(two, squared, items(), most=3)
    assert drawn == [0, 1, 2]
    assert ahead.take(7) is None
    for number in range(10):
        future = ahead.take(number)
        assert future is not None
        assert float(future.result()[0, 0]) == number**2
        assert len(drawn) == min(10, number + 4)
    assert ahead.take(0) is None
    ahead.close()


def test_what_is_expected_twice_can_be_taken_twice(two):
    ahead = Ahead(two, squared, [("a", 2), ("b", 3), ("a", 2)], most=3)
    assert [float(ahead.take(key).result()[0, 0]) for key in ("a", "a", "b")] == [4, 4, 9]
    assert ahead.take("a") is None


def test_what_nobody_asks_for_any_more_is_forgotten(two):
    ahead = Ahead(two, squared, ((n, n) for n in range(50)), most=20)
    ahead.close()
    assert ahead.take(0) is None
    assert first([two.submit(squared, 5).result()]) == [25]


READING = """
import signal, time
from migaki.data.workers import Workers
from readers import SLOW, squared
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
pool = Workers(2)
coming = [pool.submit(squared, n) for n in (1, 2, *[SLOW] * 40)]
coming[1].result()
print(*pool.process_ids(), flush=True)
time.sleep(60)
"""


def reading() -> tuple[subprocess.Popen[str], list[int]]:
    """A process in the middle of its work, and its workers; no guard around what its script does."""
    parent = processes.start(READING)
    assert parent.stdout is not None
    return parent, [int(word) for word in parent.stdout.readline().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them_however_it_ends(number):
    parent, ids = reading()
    assert len(ids) == 2
    assert all(alive(pid) for pid in ids)
    parent.send_signal(number)
    parent.communicate(timeout=30)
    until = time.monotonic() + 20
    while any(alive(pid) for pid in ids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in ids)


def test_ctrl_c_at_a_terminal_does_not_reach_a_worker(two):
    """A terminal signals the group of the process in front; a worker has a group of its own."""
    assert first([two.submit(squared, 2).result()]) == [4]
    for pid in two.process_ids():
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)  # and if somebody sends one, it goes on
    assert first([two.submit(squared, 3).result(), two.submit(squared, 4).result()]) == [9, 16]


def test_a_worker_needs_neither_torch_nor_transformers():
    code = """
import sys
from migaki.data.workers import Workers
from readers import modules
print(Workers(1).submit(modules, "torch transformers pandas").result())
"""
    assert processes.lines(processes.run(code))[-1] == "[]"


def test_large_results_do_not_wait_for_somebody_to_look(two):
    """Twenty results of 3 MB are there although nobody asked for one: a full pipe would hold the worker up."""
    coming = [two.submit(squared, n) for n in range(20)]
    until = time.monotonic() + 30
    while not all(future.done() for future in coming) and time.monotonic() < until:
        time.sleep(0.02)
    assert all(future.done() for future in coming)
    assert np.array_equal(coming[7].result(), squared(7))
