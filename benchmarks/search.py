"""Trials per hour of `migaki search`, beside Optuna around transformers' Trainer, on the same space and rows.

    python benchmarks/search.py FOLDER        with train.csv, valid.csv and test.csv of columns text and label

The last block of MiniLM and a head are trained, by both sides in as many processes as the machine has cores, each with
one thread and one study for all (`--workers 1`: one process with all threads). The peer's trials come half before and
half after migaki's, in fresh processes, so that what else happens on the machine hits both. Start and imports count on
both sides; migaki's final trainings with fresh seeds, which the peer does not do, are counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import HERE, OURS, PEERS, _cores, _processor, _versions, calibrate, models_of

TRIALS = 24


def migaki_side(folder: Path, runs: Path, workers: int) -> None:
    """One search; prints one JSON line. In a process of its own."""
    began = time.monotonic()
    from migaki.search import read_space, search
    from migaki.search.display import Board
    from migaki.search.ledger import Entry

    ends: list[float] = []

    class Watch(Board):
        def update(self, entries: Sequence[Entry]) -> None:
            if len(entries) == TRIALS and not ends and not any(e.state in ("running", "waiting") for e in entries):
                ends.append(time.monotonic() - began)

    space = {
        "task": "classify_text",
        "model": "bundled:minilm",
        "data": {
            **{name: str(folder / f"{name}.csv") for name in ("train", "valid", "test")},
            "text": "text",
            "label": "label",
        },
        "method": {"kind": "frozen", "blocks": 1},
        "training": {
            "learning_rate": {"log": [5e-5, 5e-3]},
            "epochs": {"int": [2, 6]},
            "warmup": {"uniform": [0, 0.2]},
            "batch_size": 32,
        },
        "seed": 0,
    }
    recipe = runs / "space.json"
    recipe.write_text(json.dumps(space))
    found = search(read_space(recipe), runs, trials=TRIALS, workers=workers, board_for=Watch)
    values = [trial["value"] for trial in found.facts["trials"] if trial["value"] is not None]
    figures = {"best": max(values), "trials": len(found.facts["trials"]), "trials_s": ends[0]}
    print(json.dumps({**figures, "whole_s": time.monotonic() - began, "beats_default": found.facts["beats_default"]}))


def timed(words: list[str], threads: int, copies: int = 1) -> tuple[float, list[dict]]:
    """Seconds until the last of equal processes ended, and what each said in its last line."""
    # Threads that wait without spinning lose their turn to whatever else runs; `migaki` sets it for itself.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}
    began = time.monotonic()
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(copies)
    ]
    said = [process.communicate() for process in running]
    seconds = time.monotonic() - began
    for process, (_, errors) in zip(running, said, strict=True):
        if process.returncode:
            raise SystemExit(errors[-2000:])
    return seconds, [json.loads(out.strip().splitlines()[-1]) for out, _ in said]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer-trials", type=int, default=TRIALS, help=f"migaki always has {TRIALS}")
    parser.add_argument("--workers", type=int, default=_cores())
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--side", choices=["migaki"], help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        migaki_side(arguments.data, arguments.runs, arguments.workers)
        return 0
    data, work = arguments.data.resolve(), Path(tempfile.mkdtemp())
    (work / "runs").mkdir()
    encoder = models_of()["encoder"]
    workers, cores = arguments.workers, _cores()
    study = [str(PEERS), str(HERE / "side_optuna.py"), str(data), str(work / "study.db")]
    peer = [*study, str(arguments.peer_trials // 2 // workers), encoder]
    own = [str(OURS), str(HERE / "search.py"), str(data), "--side", "migaki", "--workers", str(workers)]
    timed([*study, "0", encoder], cores)  # two processes would both create the tables
    speeds, peer_s = [calibrate()], 0.0
    seconds, half = timed(peer, cores // workers, workers)
    peer_s += seconds
    speeds.append(calibrate())
    print(f"optuna + Trainer: {half[-1]} {seconds:.0f} s", flush=True)
    _, (ours,) = timed([*own, "--runs", str(work / "runs")], cores)
    print(f"migaki: {ours}", flush=True)
    speeds.append(calibrate())
    seconds, whole = timed(peer, cores // workers, workers)
    peer_s += seconds
    speeds.append(calibrate())
    theirs = max(whole, key=lambda said: said["trials"])  # who ended last has seen all
    theirs["trials_s"] = peer_s
    for side in (ours, theirs):
        side["trials_per_hour"] = 3600 * side["trials"] / side["trials_s"]
    result = {
        "work": "search-frozen",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": _processor(), "cores": _cores(), "system": platform.platform()},
        "versions": {"migaki": _versions(OURS), "peers": _versions(PEERS)},
        "workers": workers,
        "gflops": [round(speed, 1) for speed in speeds],
        "migaki": ours,
        "optuna + Trainer": theirs,
        "ratio": ours["trials_per_hour"] / theirs["trials_per_hour"],
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "search-frozen.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
