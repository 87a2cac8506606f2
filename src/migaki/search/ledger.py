"""The list of trials: who tries what, how far it came, and how it ended. Optuna's storage holds it, a journal on disk or
a database, so that many processes and machines share one list and its dashboards can show it.

A trial is counted once: its number is given by the storage, and a finished one is never written again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from migaki.core.errors import UsageError
from migaki.search.pruning import Figure, Standing, State
from migaki.search.samplers import distribution_of, parameters_of
from migaki.search.space import Settings, Space

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

__all__ = ["Entry", "Ledger", "host"]

_JOURNAL = "journal.jsonl"
_BEAT_S, _DEAD_AFTER_S = 30, 120
_SETTINGS, _ORIGIN, _WHERE, _LIVES, _EVALUATIONS, _FIGURES, _FACTS = (
    *("settings", "origin", "worker", "lives", "evaluations", "figures", "facts"),
)


def host() -> str:
    """The name of this machine, by which a worker is known in the list."""
    return socket.gethostname()


@dataclass(frozen=True)
class Entry:
    """One line of the list."""

    id: int
    """The storage's own number."""
    number: int
    state: State
    settings: Settings
    origin: str
    """Why it is tried."""
    evaluations: int
    """That a whole training of it has."""
    figures: Mapping[int, Figure] = field(default_factory=dict)
    """Best so far, by the number of evaluations seen: see `pruning`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known once it has ended: scores, seconds, the reason of a failure."""
    worker: str = ""
    """The machine that works on it."""
    lives: int = 0
    """How often it was taken up since it last came further."""

    @property
    def name(self) -> int:
        """As people count: from 1."""
        return self.number + 1

    @property
    def standing(self) -> Standing:
        return Standing(self.number, self.evaluations, self.figures, self.state)

    @property
    def figure(self) -> Figure | None:
        """The best figure that is known."""
        return self.figures[max(self.figures)] if self.figures else None


class Ledger:
    """The list of one search, shared by all its workers."""

    def __init__(
        self, folder: Path, name: str, directions: Sequence[Literal["maximize", "minimize"]], url: str | None = None
    ) -> None:
        """Open it, or begin it.

        Args:
            folder: where the journal lies.
            name: of the search, under which a database knows it.
            url: of a database, as SQLAlchemy writes it; None: a journal in the folder.
        Raises:
            UsageError: the database cannot be reached.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = _database(url) if url else _journal(folder / _JOURNAL)
        self._beats = url is not None
        study = optuna.create_study(
            storage=self._storage, study_name=name, directions=list(directions), load_if_exists=True
        )
        self._study_id = study._study_id

    def entries(self) -> list[Entry]:
        """All trials in the order of their numbers; those beyond the wanted number are left out."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return [_entry(trial) for trial in trials if "surplus" not in trial.user_attrs]

    def add(self, space: Space, settings: Settings, origin: str, evaluations: int, limit: int) -> Entry | None:
        """A new trial, running from now on; None where other machines have filled the list in this moment."""
        from optuna.trial import TrialState, create_trial

        inside = space.inside(settings)
        template = create_trial(
            state=TrialState.RUNNING,
            params=parameters_of(space, settings) if inside else {},
            distributions={path: distribution_of(r) for path, r in space.ranges.items()} if inside else {},
            user_attrs={
                _SETTINGS: dict(settings),
                _ORIGIN: origin,
                _EVALUATIONS: evaluations,
                _WHERE: host(),
                _LIVES: 1,
            },
        )
        made = self._storage.create_new_trial(self._study_id, template_trial=template)
        entry = self._read(made)
        if entry.number >= limit:
            self._storage.set_trial_user_attr(made, "surplus", True)
            self._storage.set_trial_state_values(made, TrialState.FAIL)
            return None
        self._beat(made)
        return entry

    def take_up(self, entry: Entry) -> Entry | None:
        """Work on a halted trial, or on one whose worker is gone; None where somebody else does already."""
        from optuna.trial import TrialState

        with _ended_meanwhile():
            if entry.state == "waiting" and not self._storage.set_trial_state_values(entry.id, TrialState.RUNNING):
                return None
            self._storage.set_trial_user_attr(entry.id, _WHERE, host())
            self._storage.set_trial_user_attr(entry.id, _LIVES, entry.lives + 1)
            self._beat(entry.id)
            return self._read(entry.id)
        return None

    def record(self, entry: Entry, evaluation: int, figure: Figure) -> Entry:
        """The best figure after so many evaluations; the same one again changes nothing."""
        now = self._read(entry.id)
        if now.figures.get(evaluation) != figure:
            figures = {**{str(k): list(v) for k, v in now.figures.items()}, str(evaluation): list(figure)}
            with _ended_meanwhile():
                self._storage.set_trial_intermediate_value(entry.id, evaluation, figure[0])
                self._storage.set_trial_user_attr(entry.id, _FIGURES, figures)
                self._storage.set_trial_user_attr(entry.id, _LIVES, 1)
        return self._read(entry.id)

    def halt(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        """It waits, with its checkpoint."""
        from optuna.trial import TrialState

        with _ended_meanwhile():
            self._storage.set_trial_user_attr(entry.id, _FACTS, dict(facts))
            self._storage.set_trial_state_values(entry.id, TrialState.WAITING)

    def end(self, entry: Entry, state: State, values: Sequence[float], facts: Mapping[str, Any]) -> None:
        """It is finished, stopped for good, or failed; where somebody else has ended it, that stands."""
        from optuna.trial import TrialState

        states = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
        with _ended_meanwhile():
            self._storage.set_trial_user_attr(entry.id, _FACTS, dict(facts))
            self._storage.set_trial_state_values(entry.id, states[state], list(values) or None)

    def is_dead(self, entry: Entry) -> bool:
        """Whether the worker of another machine has not been heard of for too long; of this one the folder's lock tells."""
        from optuna.storages._heartbeat import BaseHeartbeat

        if not self._beats or not isinstance(self._storage, BaseHeartbeat):
            return False
        return entry.id in self._storage._get_stale_trial_ids(self._study_id)

    @contextlib.contextmanager
    def alive(self, entry: Entry) -> Iterator[None]:
        """Inside, other machines can see that this trial is being worked on."""
        if not self._beats:
            yield
            return
        done = threading.Event()

        def beat() -> None:
            while not done.wait(_BEAT_S):
                self._beat(entry.id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, trial: int) -> None:
        from optuna.storages._heartbeat import BaseHeartbeat

        if self._beats and isinstance(self._storage, BaseHeartbeat):
            self._storage.record_heartbeat(trial)

    def _read(self, trial: int) -> Entry:
        return _entry(self._storage.get_trial(trial))


@contextlib.contextmanager
def _ended_meanwhile() -> Iterator[None]:
    """A trial that another worker has ended stays as it is."""
    from optuna.exceptions import UpdateFinishedTrialError

    with contextlib.suppress(UpdateFinishedTrialError):
        yield


def _entry(trial: FrozenTrial) -> Entry:
    from optuna.trial import TrialState

    states: dict[TrialState, State] = {
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "stopped",
        TrialState.FAIL: "failed",
    }
    known = trial.user_attrs
    return Entry(
        trial._trial_id,
        trial.number,
        states[trial.state],
        known.get(_SETTINGS, {}),
        known.get(_ORIGIN, ""),
        known.get(_EVALUATIONS, 1),
        {int(k): (v[0], v[1]) for k, v in known.get(_FIGURES, {}).items()},
        known.get(_FACTS, {}),
        known.get(_WHERE, ""),
        known.get(_LIVES, 0),
    )


def _database(url: str) -> BaseStorage:
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(url, heartbeat_interval=_BEAT_S, grace_period=_DEAD_AFTER_S)
    except (ImportError, ArgumentError, NoSuchModuleError) as error:
        raise UsageError(
            f"--storage {url}: {error}. Give a URL such as sqlite:////shared/search.db or postgresql://USER@HOST/DB, and install "
            "the driver that it names."
        ) from None
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UsageError(
            f"--storage {url} cannot be reached ({reason}). Start the database, or leave --storage out."
        ) from None


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._file import BaseJournalFileLock

    class Lock(BaseJournalFileLock):
        """Dies with its process, where Optuna's own lock files would stay behind and be waited for."""

        _descriptor = -1

        def acquire(self) -> bool:
            self._descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            _mend(path)
            return True

        def release(self) -> None:
            os.close(self._descriptor)

    return JournalStorage(JournalFileBackend(str(path), lock_obj=Lock()))


def _mend(path: Path) -> None:
    """Cut off a line that a killed process or a crashed machine did not finish: behind it no other could be read."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
