"""What one process of a search does: take what is to be done next, train it, write down how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from migaki.core.errors import LockedError, NonFiniteError, UsageError
from migaki.core.store import RunFolder, locked, remove, write_file
from migaki.recipe import Recipe
from migaki.search.finals import Final, plan_of
from migaki.search.job import Job, figure_of, natural
from migaki.search.ledger import Entry, Ledger, host
from migaki.search.pruning import Pruner, pruner_of
from migaki.search.samplers import Known, drawn
from migaki.search.shared import Shared
from migaki.training.monitor import Monitor
from migaki.trial import Trial, attempt

__all__ = ["Worker"]

_MOST_LIVES = 10
"""A trial that ends its worker so often at the same place does it by itself: its memory does not suffice."""
_DRAWS = 20
_WAIT_S = 0.3

Tell = Callable[[Sequence[Entry]], None]


@dataclass
class Worker:
    """Trains trials until there is none left, then the candidates of the end."""

    job: Job
    shared: Shared
    ledger: Ledger
    monitor: Monitor = field(default_factory=Monitor)
    """Told about the training that goes on."""
    tell: Tell = lambda _: None
    """Told the list of trials whenever it has changed."""
    wanted: Callable[[], bool] = lambda: True
    """Whether anybody still waits for this process."""

    def run(self) -> None:
        """Everything but the test rows.

        Raises:
            StoppedError: a signal came; what was done is kept.
            StorageError: the disk is full.
        """
        while self.wanted():
            entry, run = self._next()
            if entry is None:
                break
            if run is None:
                time.sleep(_WAIT_S)
                continue
            try:
                with self.ledger.alive(entry):
                    self._train(entry, run)
            finally:
                run.unlock()
            self.tell(self.ledger.entries())
        self._train_finals()

    # What is done next

    def _next(self) -> tuple[Entry | None, RunFolder | None]:
        """A trial and its locked folder; a trial alone where others have to end first; nothing where all is done."""
        with locked(self.job.folder):
            entries = self.ledger.entries()
            running = [e for e in entries if e.state == "running"]
            for entry in running:
                if found := self._left_behind(entry):
                    return found
            self._give_up(entries, everything=False)
            late = self._is_late(entries)
            if not late and (found := self._promoted(entries) or self._new(entries)):
                return found
            if running:
                return running[0], None
            self._give_up(self.ledger.entries(), everything=True)
            return None, None

    def _left_behind(self, entry: Entry) -> tuple[Entry, RunFolder] | None:
        """The trial, if its worker is gone."""
        folder = self.job.trial_folder(entry.number)
        if entry.worker != host() and not folder.is_dir() and not self.ledger.is_dead(entry):
            return None
        run = self._locked(folder)
        if run is None:
            return None
        if entry.lives > _MOST_LIVES:
            reason = f"its process ended {entry.lives} times at the same place; perhaps the memory does not suffice"
            self.ledger.end(entry, "failed", [], {"reason": reason})
            run.unlock()
            return None
        return self._taken(entry, run)

    def _promoted(self, entries: Sequence[Entry]) -> tuple[Entry, RunFolder] | None:
        """A halted trial that is worth going on with."""
        number = self._pruner.promoted([e.standing for e in entries], self._all_started(entries))
        if number is None:
            return None
        entry = next(e for e in entries if e.number == number)
        run = self._locked(self.job.trial_folder(number))
        return self._taken(entry, run) if run else None

    def _taken(self, entry: Entry, run: RunFolder) -> tuple[Entry, RunFolder] | None:
        taken = self.ledger.take_up(entry)
        if taken is None:
            run.unlock()
            return None
        return taken, run

    def _new(self, entries: Sequence[Entry]) -> tuple[Entry, RunFolder] | None:
        if self._all_started(entries):
            return None
        chosen = self._choose(entries)
        if chosen is None:
            return None
        settings, origin = chosen
        n = self.job.evaluations(self.job.recipe(settings), self.shared)
        entry = self.ledger.add(self.job.space, settings, origin, n, self.job.limit)
        if entry is None:
            return None
        run = self._locked(self.job.trial_folder(entry.number))
        return (entry, run) if run else None

    def _choose(self, entries: Sequence[Entry]) -> tuple[dict[str, Any], str] | None:
        """Settings that were not tried yet, and why they are; None where all were."""
        number, space = len(entries), self.job.space
        if number < len(self.job.firsts):
            return dict(self.job.firsts[number].settings), self.job.firsts[number].origin
        tried = [dict(e.settings) for e in entries]
        known = [self._known(e) for e in entries]
        for again in range(_DRAWS):
            # A sampler that insists on what is known already is helped by chance.
            sampler = self.job.sampler if again < _DRAWS // 2 else "random"
            settings = drawn(space, known, number, self.job.seed, sampler, self.job.directions, again)
            if settings not in tried and self._possible(settings):
                return settings, sampler
        if space.size() is None:
            return None
        left = (s for s in space.grid() if s not in tried and self._possible(s))
        return next(((settings, "what was left") for settings in left), None)

    def _possible(self, settings: Mapping[str, Any]) -> bool:
        """Whether the settings go together: not all combinations were tried before the start."""
        try:
            self.job.recipe(settings)
        except UsageError:
            return False
        return True

    def _known(self, entry: Entry) -> Known:
        if entry.state == "finished":
            return Known(entry.number, entry.settings, entry.facts["values"])
        if entry.figure is None or self.job.second:
            return Known(entry.number, entry.settings, None, running=entry.state != "failed")
        share = max(entry.figures) / entry.evaluations
        return Known(entry.number, entry.settings, [natural(self.job.task, entry.figure)], share)

    def _give_up(self, entries: Sequence[Entry], everything: bool) -> None:
        """End halted trials that will never be taken up, and free their disk."""
        standings = [e.standing for e in entries]
        numbers = self._pruner.hopeless(standings, self.job.limit)
        for entry in entries:
            if entry.state == "waiting" and (everything or entry.number in numbers):
                self._end(entry, "stopped", entry.facts)

    def _all_started(self, entries: Sequence[Entry]) -> bool:
        size = self.job.space.size()
        return len(entries) >= min(self.job.limit, size + len(self.job.firsts) if size is not None else self.job.limit)

    def _is_late(self, entries: Sequence[Entry]) -> bool:
        """Whether what is left of the time is needed for the end."""
        if self.job.deadline_s is None:
            return False
        whole_s = self._whole_seconds(entries)
        reserve_s = whole_s * (2 * self.job.seeds / self.job.workers + 1)
        return time.time() + reserve_s > self.job.deadline_s

    def _whole_seconds(self, entries: Sequence[Entry]) -> float:
        known = [e.facts["seconds"] for e in entries if e.state == "finished"]
        return mean(known) if known else self.job.whole_s

    @property
    def _pruner(self) -> Pruner:
        return pruner_of(self.job.pruner, counted=self.job.deadline_s is None)

    @staticmethod
    def _locked(folder: Path) -> RunFolder | None:
        """The folder, if nobody else writes it."""
        folder.mkdir(parents=True, exist_ok=True)
        run = RunFolder(folder)
        try:
            run.lock()
        except LockedError:
            return None
        return run

    # One trial

    def _train(self, entry: Entry, run: RunFolder) -> None:
        try:
            recipe = self.job.recipe(entry.settings)
            write_file(run.path / "recipe.yaml", recipe.to_yaml())
            trial = self._attempt(recipe, run, entry)
        except NonFiniteError as error:
            self._end(entry, "failed", {"reason": str(error)})
        except (UsageError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            self._end(entry, "failed", {"reason": f"{error}" or "the memory does not suffice"})
        else:
            self._write_down(entry, trial)

    def _attempt(self, recipe: Recipe, run: RunFolder, entry: Entry) -> Trial:
        splits = self.shared.splits(recipe)

        def goes_on(evaluation: int, scores: Mapping[str, float]) -> bool:
            now = self.ledger.record(entry, evaluation, figure_of(self.job.task, scores))
            entries = self.ledger.entries()
            self.tell(entries)
            return self._pruner.goes_on(now.standing, [e.standing for e in entries], self._all_started(entries))

        return attempt(
            recipe,
            splits.train,
            splits.valid,
            self.shared.base(recipe),
            run,
            self.monitor,
            replay=self.shared.replay(recipe),
            goes_on=goes_on,
            start=self.shared.start(recipe),
            timed=self.job.second == "latency",
        )

    def _write_down(self, entry: Entry, trial: Trial) -> None:
        facts: dict[str, Any] = {
            "scores": trial.reached,
            "seconds": trial.seconds,
            "looks": trial.evaluations,
            "steps": trial.steps,
            "parameters": trial.trained,
            "latency": trial.answer_s,
        }
        if trial.complete:
            figure = figure_of(self.job.task, trial.reached)
            self.ledger.record(entry, entry.evaluations, figure)
            values = [natural(self.job.task, figure), *([float(facts[self.job.second])] if self.job.second else [])]
            self._end(entry, "finished", {**facts, "values": values, "ended_s": time.time()})
        elif self._pruner.halts:
            self.ledger.halt(entry, facts)
        else:
            self._end(entry, "stopped", facts)

    def _end(self, entry: Entry, state: Any, facts: Mapping[str, Any]) -> None:
        self.ledger.end(entry, state, facts.get("values", []), facts)
        checkpoints = self.job.trial_folder(entry.number) / "checkpoints"
        if checkpoints.is_dir():
            remove(checkpoints)

    # The candidates of the end

    def _train_finals(self) -> None:
        plan = plan_of(self.job, self.ledger.entries())
        left = [final for final in plan if not self._trained(final)]
        while left and self.wanted():
            for final in left:
                self._train_final(final)
            left = [final for final in left if not self._trained(final)]
            if left:
                time.sleep(_WAIT_S)

    @staticmethod
    def _trained(final: Final) -> bool:
        return final.result() is not None

    def _train_final(self, final: Final) -> None:
        run = self._locked(final.folder)
        if run is None:
            return
        try:
            if not self._trained(final):
                self.monitor.note(f"training {final.name} with seed {final.recipe.seed}")
                splits = self.shared.splits(final.recipe)
                write_file(run.path / "recipe.yaml", final.recipe.to_yaml())
                base, replay = self.shared.base(final.recipe), self.shared.replay(final.recipe)
                attempt(final.recipe, splits.train, splits.valid, base, run, self.monitor, replay=replay, keep=True)
        except NonFiniteError as error:
            final.fail(str(error))
        finally:
            run.unlock()
