"""Signals: the first is remembered until the work asks, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from migaki.core.errors import StoppedError
from migaki.training.interrupts import Interrupts
from processes import start

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_until_the_work_asks(number: signal.Signals, code: int) -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        # Nothing happened yet: a step that has begun is finished first.
        with pytest.raises(StoppedError) as error:
            interrupts.check(7)
    assert error.value.exit_code == code
    assert number.name in str(error.value)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_ways_of_the_process_come_back(number: signal.Signals) -> None:
    def own(*_: object) -> None: ...

    before = signal.signal(number, own)
    try:
        with Interrupts():
            assert signal.getsignal(number) is not own
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before)


TWICE = """
import os, signal, sys
from migaki.training.interrupts import Interrupts

number = int(sys.argv[1])
with Interrupts():
    os.kill(os.getpid(), number)
    print("worked on", flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
    print("never", flush=True)
"""


@pytest.mark.parametrize(("first", "second"), [(15, 2), (2, 2)])
def test_the_second_signal_ends_the_process_at_once(first: int, second: int) -> None:
    process = start(TWICE, first, second)
    out, _ = process.communicate(timeout=60)
    assert out == "worked on\n"
    assert process.returncode == 128 + second


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.check()
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before
