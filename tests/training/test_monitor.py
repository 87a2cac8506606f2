"""What a person sees: nothing lost, nothing mangled, no cursor movement in a log."""

from __future__ import annotations

import io
import resource
import sys
from typing import Any

import pytest

from migaki.training.monitor import LiveMonitor, Monitor, PlainMonitor, monitor_for, peak_bytes


def step(number: int, **facts: Any) -> dict[str, Any]:
    return {"step": number, "loss": 0.5, "learning_rate": 1e-4, "tokens": 300, "seconds": 2.0, **facts}


def evaluation(number: int, best: bool) -> dict[str, Any]:
    return {"step": number, "epoch": 1.5, "metrics": {"loss": 0.25, "accuracy": 0.875}, "best": best}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_rows_have_no_tokens_they_are_counted_themselves():
    out = io.StringIO()
    monitor = PlainMonitor(out, every_s=0.0)
    monitor.start(10, 0)
    monitor.step(step(5, tokens=0, rows=32))
    assert "  16.0 rows/s  " in out.getvalue()


def test_a_log_gets_plain_lines_with_loss_rate_and_speed() -> None:
    out = io.StringIO()
    monitor = PlainMonitor(out, every_s=0.0)
    monitor.start(10, 0)
    monitor.step(step(5))
    (line,) = out.getvalue().splitlines()
    assert line.startswith("step 5/10  loss 0.5000  rate 1.00e-04  150 tokens/s  ")
    assert line.endswith(" left")
    assert "\x1b" not in line
    assert "\r" not in line


def test_lines_come_no_more_often_than_asked_but_the_last_step_always() -> None:
    out = io.StringIO()
    monitor = PlainMonitor(out, every_s=3600.0)
    monitor.start(50, 0)
    for number in range(1, 51):
        monitor.step(step(number))
    printed = [line.split()[1] for line in out.getvalue().splitlines()]
    assert printed[-1] == "50/50"
    assert len(printed) <= 2


def test_a_resumed_run_estimates_from_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started at step 90 of 100; the 91st took 2 s, so 9 steps take 18 s. All 91 in 2 s would promise 0.2 s."""
    now = iter([100.0, 102.0])
    monkeypatch.setattr("migaki.training.monitor.time.monotonic", lambda: next(now))
    out = io.StringIO()
    monitor = PlainMonitor(out, every_s=0.0)
    monitor.start(100, 90)
    monitor.step(step(91))
    assert out.getvalue().rstrip().endswith("18 s left")


def test_an_evaluation_is_told_with_all_its_figures() -> None:
    out = io.StringIO()
    monitor = PlainMonitor(out)
    monitor.evaluation(evaluation(20, best=True))
    monitor.evaluation(evaluation(30, best=False))
    first, second = out.getvalue().splitlines()
    assert first == "validation at step 20 (epoch 1.50): loss 0.2500  accuracy 0.8750  best so far"
    assert "best" not in second


@pytest.mark.parametrize(
    "text", ["train.csv:100: no label", "[bold]not markup[/bold] [x]", "a:x:b 100 %", "日本語 :smile:"]
)
def test_a_note_on_a_terminal_is_printed_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rich reads `:100:` as an emoji and `[bold]` as markup; file:line and label lists are full of both."""
    monitor = LiveMonitor()
    monitor.note(text)
    assert text in capsys.readouterr().err


def test_notes_and_evaluations_are_seen_while_the_bar_moves(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = LiveMonitor()
    monitor.start(4, 1)
    monitor.step(step(2))
    monitor.note("train.csv:100: no label")
    monitor.evaluation(evaluation(2, best=True))
    monitor.stop()
    monitor.stop()
    said = capsys.readouterr().err
    assert "train.csv:100: no label" in said
    assert "validation at step 2" in said
    assert "2/4" in said


def test_a_terminal_gets_the_bar_and_a_file_the_lines() -> None:
    assert isinstance(monitor_for(Terminal()), LiveMonitor)
    assert isinstance(monitor_for(io.StringIO()), PlainMonitor)


def test_the_silent_monitor_takes_every_call(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor()
    monitor.note("x")
    monitor.start(1, 0)
    monitor.step(step(1))
    monitor.evaluation(evaluation(1, best=True))
    monitor.stop()
    assert capsys.readouterr() == ("", "")


def test_peak_memory_is_in_bytes() -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    in_bytes = peak if sys.platform == "darwin" else peak * 1024
    assert in_bytes <= peak_bytes() <= 1.5 * in_bytes
    assert peak_bytes() > 10 * 2**20
