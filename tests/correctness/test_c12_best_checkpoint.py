"""C12: through any sequence of evaluations, stops, kills and clock jumps the best and the newest checkpoint are kept."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from migaki.core.errors import StoppedError
from migaki.core.parts import ParameterGroup
from migaki.core.store import RunFolder, verify
from migaki.core.types import Labelled, Place, Row
from migaki.training import Training
from migaki.training.checkpoint import PINNED, checkpoint_folders
from migaki.training.interrupts import Interrupts
from migaki.training.loop import History, Judge, fit
from migaki.training.monitor import Monitor

N_STEPS, N_ROWS = 12, 6


class Example(SimpleNamespace):
    def __len__(self) -> int:
        return 1


ROWS = [
    Example(row=Row(Place("numbers", i), Labelled("", None)), target=float(i + 5), weight=1.0) for i in range(N_ROWS)
]


class Number:
    """One weight that is pulled to the rows' targets, so that every step leaves it at a place of its own."""

    def __init__(self) -> None:
        self.w = torch.nn.Parameter(torch.zeros(1))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([("w", self.w)], decays=False)]

    def settle(self, *_: Any) -> dict[str, Any]:
        return {}

    def groups(self, examples: Sequence[Any], max_rows: int) -> list[list[int]]:
        return [list(range(len(examples)))]

    def loss(self, examples: Sequence[Any], label_smoothing: float) -> torch.Tensor:
        return sum(((self.w - e.target).square().sum() for e in examples), torch.zeros(()))

    def train_mode(self, dropout: float | None) -> None: ...

    def evaluation_mode(self) -> None: ...

    def predict(self, rows: Sequence[Row], **how: Any) -> list[Any]:
        return []


class AtEachStep(Monitor):
    def __init__(self, work: Callable[[int], None]) -> None:
        self._work = work

    def step(self, facts: Any) -> None:
        self._work(facts["step"])


def train(
    run: RunFolder,
    scores: Sequence[float],
    numbered: dict[float, int],
    work: Callable[[int, Interrupts], None],
    **how: Any,
) -> tuple[Number, History]:
    """`scores` are those of the weights after 0, 1, 2 ... steps; `numbered` tells by the weight how many those are."""
    learner, interrupts = Number(), Interrupts()
    judge = Judge(lambda _: {"loss": 1.0, "score": scores[numbered[float(learner.w.detach())]]}, "score", "max")
    training = Training(**({"epochs": 2, "batch_size": 1} | how))
    monitor = AtEachStep(lambda step: work(step, interrupts))
    history = fit(
        learner,  # type: ignore[arg-type]
        training,
        ROWS,
        (),
        judge,
        run,
        learning_rate=0.1,
        seed=0,
        monitor=monitor,
        interrupts=interrupts,
    )
    return learner, history


@contextmanager
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def numbered() -> dict[float, int]:
    """Number of steps by the weight that they leave."""
    found = {0.0: 0}
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder), "reference", {})
        learner = Number()

        def look(step: int) -> None:
            found[float(learner.w.detach())] = step

        judge = Judge(lambda _: {"loss": 1.0}, "loss", "min")
        training = Training(epochs=2, batch_size=1)
        fit(learner, training, ROWS, (), judge, run, learning_rate=0.1, seed=0, monitor=AtEachStep(look))  # type: ignore[arg-type]
        run.unlock()
    assert sorted(found.values()) == list(range(N_STEPS + 1))
    return found


def jump(checkpoints: Path, step: int, forward: bool) -> None:
    """The clock goes an hour back, or forward, at every step: by time the order is another one."""
    for folder in checkpoint_folders(checkpoints):
        number = int(folder.name[-8:])
        at = 10**9 + (3600 if forward else -3600) * number + step
        os.utime(folder, (at, at))


LIVES = st.lists(
    st.tuples(
        st.integers(1, N_STEPS - 1),
        st.sampled_from(["kill", "signal"]),
        st.booleans(),  # whether the newest checkpoint is pinned afterwards
    ),
    max_size=4,
)


# Shrinking takes minutes, and the sequences are short as they are.
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    scores=st.lists(st.integers(0, 4), min_size=N_STEPS + 1, max_size=N_STEPS + 1),
    lives=LIVES,
    times=st.sampled_from([1, 2, 6]),
    every=st.sampled_from([None, 1, 2, 5]),
    forward=st.booleans(),
)
# Stopped before step 9 was judged, which turned out the best one, and killed.
@example(
    scores=[0, 0, 3, 3, 2, 2, 3, 1, 0, 4, 2, 1, 4],
    lives=[(9, "signal", True), (7, "kill", False)],
    times=6,
    every=5,
    forward=False,
)
def test_whatever_happens_the_best_and_the_newest_are_there(
    numbered: dict[float, int],
    scores: list[int],
    lives: list[tuple[int, str, bool]],
    times: int,
    every: int | None,
    forward: bool,
) -> None:
    how = {"evaluations_per_epoch": times, "checkpoint_steps": every, "checkpoint_minutes": None}
    due = [step for step in range(1, N_STEPS + 1) if step * times // N_ROWS > (step - 1) * times // N_ROWS]
    with tempfile.TemporaryDirectory() as folder, no_waiting_for_the_disk():
        run = RunFolder.create(Path(folder), "random", {})
        checkpoints = run.path / "checkpoints"
        pinned: set[int] = set()
        newest_seen = 0

        def numbers() -> list[int]:
            return [int(path.name[-8:]) for path in checkpoint_folders(checkpoints)]

        def look(step: int) -> None:
            nonlocal newest_seen
            there = numbers()
            newest_seen = max([newest_seen, *there])
            assert not newest_seen or there[0] == newest_seen
            assert pinned <= set(there)
            assert len(set(there) - pinned) <= 3
            for path in checkpoint_folders(checkpoints)[:1]:
                best = json.loads((path / "state.json").read_text())["progress"]["best_step"]
                assert not best or best in there
            # At least as new as the last step at which one was due.
            last = max(s for s in range(step) if s == 0 or s in due or (every and s % every == 0))
            assert last == 0 or there[0] >= last
            jump(checkpoints, step, forward)

        for stop_at, means, pins in lives:

            def work(step: int, interrupts: Interrupts, stop_at: int = stop_at, means: str = means) -> None:
                look(step)
                if step == stop_at and means == "kill":
                    raise KeyboardInterrupt
                if step == stop_at:
                    interrupts._remember(signal.SIGTERM, None)

            ended = ""  # as it is where an earlier life has passed that step
            try:
                train(run, scores, numbered, work, **how)
            except KeyboardInterrupt:
                ended = "kill"
            except StoppedError:
                ended = "signal"
            assert ended in ("", means)
            if means == "signal" and numbers() and numbers()[0] == stop_at:
                assert verify(checkpoint_folders(checkpoints)[0])
            if pins and numbers():
                (checkpoints / f"step-{numbers()[0]:08d}" / PINNED).touch()
                pinned.add(numbers()[0])
        learner, history = train(run, scores, numbered, lambda step, _: look(step), **how)
        run.unlock()
        judged = [0, *due]
        # The first of the highest: where nothing is gained the earlier model stays.
        best = max(judged, key=lambda step: (scores[step], -step))
        assert history.best_step == best
        assert numbered[float(learner.w.detach())] == best
        there = numbers()
        assert there[0] == N_STEPS
        assert pinned <= set(there)
        assert len(set(there) - pinned) <= 3
        if best:
            path = checkpoints / f"step-{best:08d}"
            verify(path)
            assert numbered[float(load_file(path / "weights.safetensors")["w"])] == best


@pytest.mark.parametrize(("first", "second"), [(5, 6), (6, 5)])
def test_the_best_is_kept_however_long_ago_it_was(
    first: int, second: int, numbered: dict[float, int], tmp_path: Path
) -> None:
    """Judged twelve times and best at step 5 or 6: that one, and the newest two."""
    scores = [0.0] * (N_STEPS + 1)
    scores[first], scores[second] = 1.0, 0.5
    run = RunFolder.create(tmp_path, "long ago", {})
    with no_waiting_for_the_disk():
        train(run, scores, numbered, lambda step, _: None, evaluations_per_epoch=6)
    run.unlock()
    assert [int(path.name[-8:]) for path in checkpoint_folders(run.path / "checkpoints")] == [12, 11, first]
