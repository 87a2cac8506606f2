"""Kill searches at random, and compare what they end with.

    python -m durability.search_kills --kills 30       from the folder `tests`

Every search here is a child with a session of its own, forked after the heavy imports. A kill hits the whole session, the
process that coordinates, or one worker. Afterwards the same command is given until it ends: then there have to be exactly
as many trials as were asked for, each ended once, each with every step once. With one process the list of trials and the
answer have to be those of a search that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from migaki.search import read_space, search
from migaki.search.display import Board
from tiny import LABELS, labelled_rows, save_encoder, write_rows

_STUCK_S = 120
_COMPARED = ("number", "origin", "settings", "state", "value", "loss", "share", "reason")


def prepare(folder: Path) -> Path:
    """The recipe, beside its model and rows."""
    save_encoder(folder / "encoder", dropout=0.1)
    rows = [{**row, "label": LABELS[0]} if i % 5 == 0 else row for i, row in enumerate(labelled_rows(120))]
    write_rows(folder / "rows.jsonl", rows)
    path = folder / "r.yaml"
    path.write_text(
        "task: {kind: classify_text, head: random}\ndata: {train: rows.jsonl, valid: 0.25, test: 0.25}\nmodel: encoder\n"
        "method: {kind: lora, rank: [2, 4, 8]}\n"
        "training: {epochs: 3, batch_size: 8, learning_rate: {log: [1e-4, 3e-2]}, dropout: {uniform: [0, 0.2]}}\n"
    )
    return path


def searched(path: Path, runs: Path, trials: int, workers: int) -> Callable[[], object]:
    """The command that is given again and again."""
    return lambda: search(read_space(path), runs, trials=trials, workers=workers, seeds=1, board_for=Board)


def started(work: Callable[[], object]) -> int:
    """A child in a session of its own; its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    code = 1
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, within_s: float) -> int | None:
    """The exit code of the child, None where it still runs after so long."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def members(session: int) -> list[int]:
    """Processes of the session, its leader left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != session:
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except (ProcessLookupError, PermissionError):
                continue
    return found


def written(runs: Path) -> int:
    """Bytes that the search has written into its list and its logs: as long as they grow it comes on."""
    files = (*runs.glob("search-*/journal.jsonl"), *runs.glob("search-*/*/*/history.jsonl"))
    return sum(file.stat().st_size for file in files)


def moved(pid: int, runs: Path, before: int) -> int | None:
    """Wait until the search has come on; the exit code where it ends before."""
    until = time.monotonic() + _STUCK_S
    while time.monotonic() < until:
        code = ended(pid, 0.02)
        if code is not None or written(runs) > before:
            return code
    os.killpg(pid, signal.SIGKILL)
    raise AssertionError("the search is stuck")


def disturbed(work: Callable[[], object], runs: Path, kills: int, dice: random.Random, longest_s: float) -> int:
    """Give the command and kill it so often, each time a moment after it has come on, then let it end; how many kills hit
    a search that ran."""
    hits = 0
    pid = started(work)
    while hits < kills:
        code = moved(pid, runs, written(runs))
        if code is None:
            code = ended(pid, dice.uniform(0.0, longest_s))
        if code is not None:
            if code == 0:
                return hits  # it was quicker than all the kills that were to come
            pid = started(work)
            continue
        others = members(pid)
        hits += 1
        target = dice.choice(("all", "leader", "worker", "worker")) if others else "leader"
        for victim in {"all": [*others, pid], "leader": [pid], "worker": [dice.choice(others or [pid])]}[target]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if target != "worker":
            ended(pid, 10)
            pid = started(work)
    for _ in range(20):
        code = ended(pid, 300)
        if code == 0:
            return hits
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError("the search is stuck")
        pid = started(work)
    raise AssertionError("the search does not end")


def faults_in(runs: Path, trials: int) -> list[str]:
    """What is lost, counted twice or left over in a search that has ended."""
    (folder,) = runs.glob("search-*")
    facts = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    found = []
    numbers = [trial["number"] for trial in facts["trials"]]
    if numbers != list(range(1, trials + 1)):
        found.append(f"trials are {numbers}")
    for trial in facts["trials"]:
        place = folder / "trials" / f"{trial['number']:04d}"
        if trial["state"] not in ("finished", "stopped"):
            found.append(f"trial {trial['number']} is {trial['state']}: {trial['reason']}")
        lines = [json.loads(line) for line in (place / "history.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [line["step"] for line in lines if line["event"] == "step"]
        if steps != list(range(1, len(steps) + 1)):
            found.append(f"trial {trial['number']} has the steps {steps}")
        if (trial["state"] == "finished") != (place / "trial.json").is_file():
            found.append(f"trial {trial['number']} is {trial['state']}, but its result says otherwise")
        if (place / "checkpoints").exists():
            found.append(f"trial {trial['number']} has left checkpoints")
    settings = [json.dumps(trial["settings"], sort_keys=True) for trial in facts["trials"]]
    if len(set(settings)) < len(settings):
        found.append("settings were tried twice")
    return found


def answer(runs: Path) -> Any:
    """What has to be the same however often a search was killed."""
    (folder,) = runs.glob("search-*")
    facts = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    trials = [{key: trial[key] for key in _COMPARED} for trial in facts["trials"]]
    kept = ("best_is", "best", "default", "gain", "beats_default", "importance", "plateaus", "order", "finals")
    return trials, {key: facts[key] for key in kept}


def sequential(path: Path, home: Path, trials: int, kills: int, dice: random.Random) -> tuple[int, list[str]]:
    """Kills of a search of one process, and what differs from one that nobody disturbed."""
    whole, killed = (searched(path, home / name, trials, 1) for name in ("whole", "killed"))
    if ended(started(whole), 600) != 0:
        raise AssertionError("the undisturbed search failed")
    hits = disturbed(killed, home / "killed", kills, dice, longest_s=0.3)
    found = faults_in(home / "killed", trials)
    for what, one, other in zip(("trials", "answer"), answer(home / "whole"), answer(home / "killed"), strict=True):
        if one != other:
            found.append(f"the {what} differ")
    return hits, found


def parallel(
    path: Path, home: Path, trials: int, kills: int, dice: random.Random, workers: int = 2
) -> tuple[int, list[str]]:
    """Kills of a search of several processes, and what is wrong with what is there in the end."""
    runs = home / "parallel"
    hits = disturbed(searched(path, runs, trials, workers), runs, kills, dice, longest_s=0.3)
    return hits, faults_in(runs, trials)


def main() -> int:
    """Both kinds, so many kills each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIGAKI_CACHE"] = str(Path(folder) / "cache")
        path = prepare(Path(folder))
        for name, kind in (("one process", sequential), ("two workers", parallel)):
            began = time.monotonic()
            hits, found = kind(path, Path(folder), arguments.trials, arguments.kills, random.Random(arguments.seed))
            print(
                f"{name}: {hits} kills, {arguments.trials} trials, {time.monotonic() - began:.0f} s: {found or 'nothing wrong'}"
            )
            wrong |= bool(found)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
