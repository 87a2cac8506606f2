"""Workers as processes of their own: each loads rows and weights once, and one that dies is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

from migaki.core.errors import MigakiError, RunError
from migaki.search.display import Board
from migaki.search.job import Job
from migaki.search.ledger import Ledger

__all__ = ["prepare_workers", "run_workers"]

_LOOK_S = 0.5
_MOST_DEATHS = 50
"""In a row, without any trial ending in between: then something is wrong that no new process mends."""


def _context() -> Any:
    """A server that has imported everything and used nothing forks the processes: quick, and no thread of torch is there to
    be lost."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["migaki.search.worker", "migaki.training.loop", "migaki.models.base", "optuna"])
    return context


def prepare_workers() -> None:
    """Let the server import everything while the caller still reads rows and weights."""
    _context()
    forkserver.ensure_running()


def run_workers(job: Job, ledger: Ledger, board: Board) -> None:
    """Start them and wait until everything is trained.

    Raises:
        RunError: a worker failed, and why; or they died again and again.
    """
    context = _context()
    said = context.SimpleQueue()
    processes = [_started(context, job, said) for _ in range(job.workers)]
    deaths, ended_before = 0, -1
    try:
        while processes:
            time.sleep(_LOOK_S)
            entries = ledger.entries()
            board.update(entries)
            ended = sum(e.state not in ("running", "waiting") for e in entries)
            deaths, ended_before = (0 if ended > ended_before else deaths), max(ended, ended_before)
            while not said.empty():
                board.note(said.get())
            for process in [p for p in processes if not p.is_alive()]:
                processes.remove(process)
                if process.exitcode == 0:
                    continue
                if (process.exitcode or 0) > 0:
                    raise RunError(_last_word(said) or f"a worker ended with exit code {process.exitcode}.")
                deaths += 1
                if deaths > _MOST_DEATHS:
                    raise RunError(
                        f"workers were killed {deaths} times and no trial ended in between; perhaps the memory does not suffice "
                        f"for {job.workers} of them. Lower --workers."
                    )
                board.note(f"a worker was ended by signal {-(process.exitcode or 0)}; another one takes up its trial")
                processes.append(_started(context, job, said))
    finally:
        _end(processes)


def _last_word(said: Any) -> str:
    words = ""
    while not said.empty():
        words = said.get()
    return words


def _end(processes: list[BaseProcess]) -> None:
    """Let them write their checkpoints, then be sure that they are gone."""
    for process in processes:
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.join(timeout=60)
        if process.is_alive():
            process.kill()


def _started(context: Any, job: Job, said: Any) -> BaseProcess:
    process: BaseProcess = context.Process(target=_work, args=(job, said, os.getpid()))
    process.start()
    return process


def _work(job: Job, said: Any, parent: int) -> None:
    """A worker's whole life."""
    import torch

    from migaki.search.shared import Shared
    from migaki.search.worker import Worker

    torch.set_num_threads(max(1, torch.get_num_threads() // job.workers))
    watched = multiprocessing.parent_process()

    def wanted() -> bool:
        return watched is None or watched.is_alive()

    try:
        Worker(job, Shared(job.runs), job.ledger(), wanted=wanted).run()
    except MigakiError as error:
        if wanted():
            said.put(str(error))
        raise SystemExit(error.exit_code) from None
