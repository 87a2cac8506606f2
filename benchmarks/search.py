"""Trials per hour of `migaki search`, beside Optuna around transformers' Trainer, on the same space and rows.

    python benchmarks/search.py FOLDER        with train.csv, valid.csv and test.csv of columns text and label

The last block of MiniLM and a head are trained. migaki searches with as many workers as the machine has cores; the peer
runs once as its documentation shows it, in one process with all threads, and once in as many processes as there are
cores, with one thread each and one study for all. Each of the two has half of its trials before and half after
migaki's, in fresh processes, so that what else happens on the machine hits all. Start and imports count, and migaki begins
with an empty cache, so that making what its trials share counts too; its final trainings with fresh seeds, which the peer
does not do, are left out.
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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import HERE, OURS, PEERS, _cores, _processor, _versions, calibrate, models_of

TRIALS = 24


def migaki_side(folder: Path, runs: Path, workers: int) -> None:
    """One search; prints one JSON line. In a process of its own."""
    began = time.monotonic()
    from migaki.search import read_space, search
    from migaki.search.display import Board
    from migaki.search.ledger import Entry

    class DoneError(Exception):
        """All trials have ended; the final trainings are not counted."""

    class Watch(Board):
        def update(self, entries: Sequence[Entry]) -> None:
            if len(entries) == TRIALS and not any(e.state in ("running", "waiting") for e in entries):
                raise DoneError(entries)

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
    try:
        search(read_space(recipe), runs, trials=TRIALS, workers=workers, board_for=Watch)
    except DoneError as done:
        values = [entry.facts["scores"]["accuracy"] for entry in done.args[0] if "scores" in entry.facts]
    print(json.dumps({"best": max(values), "trials": TRIALS, "seconds": time.monotonic() - began}))


def timed(commands: list[list[str]], threads: int, **more: str) -> tuple[float, list[dict]]:
    """Seconds until the last of the processes ended, and what each said in its last line; `more` is for their environment."""
    # Threads that wait without spinning lose their turn to whatever else runs; `migaki` sets it for itself.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000", **more}
    began = time.monotonic()
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for words in commands
    ]
    said = [process.communicate() for process in running]
    seconds = time.monotonic() - began
    for process, (_, errors) in zip(running, said, strict=True):
        if process.returncode:
            raise SystemExit(errors[-2000:])
    return seconds, [json.loads(out.strip().splitlines()[-1]) for out, _ in said]


@dataclass
class Peer:
    """Optuna around the Trainer, in so many processes with one study."""

    data: Path
    study: Path
    encoder: str
    processes: int
    started: int = 0
    seconds: float = 0.0
    said: dict = field(default_factory=dict)

    def run(self, trials: int) -> None:
        words = [str(PEERS), str(HERE / "side_optuna.py"), str(self.data), str(self.study), self.encoder]
        if not self.study.exists():  # two processes would both create the tables
            timed([[*words, "0", "0"]], 1)
        each = str(max(1, trials // self.processes))
        seconds, said = timed(
            [[*words, each, str(self.started + n)] for n in range(self.processes)], _cores() // self.processes
        )
        self.started += self.processes
        self.seconds += seconds
        self.said = max(said, key=lambda words: words["trials"])  # who ended last has seen all


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer-trials", type=int, default=TRIALS, help=f"migaki always has {TRIALS}")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=sorted({1, _cores()}), help="of the peer, each in turn"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--side", choices=["migaki"], help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        migaki_side(arguments.data, arguments.runs, _cores())
        return 0
    data, work = arguments.data.resolve(), Path(tempfile.mkdtemp())
    (work / "runs").mkdir()
    encoder = models_of()["encoder"]
    speeds = [calibrate()]
    peers = {n: Peer(data, work / f"study-{n}.db", encoder, n) for n in arguments.processes}

    def half_of(peers: Iterable[Peer]) -> None:
        for peer in peers:
            peer.run(arguments.peer_trials // 2)
            speeds.append(calibrate())
            print(f"optuna + Trainer, {peer.processes} processes: {peer.said} {peer.seconds:.0f} s", flush=True)

    half_of(peers.values())
    own = [str(OURS), str(HERE / "search.py"), str(data), "--side", "migaki", "--runs", str(work / "runs")]
    _, (ours,) = timed([own], _cores(), MIGAKI_CACHE=str(work / "cache"))
    print(f"migaki: {ours}", flush=True)
    speeds.append(calibrate())
    half_of(reversed(peers.values()))
    ours["trials_per_hour"] = 3600 * ours["trials"] / ours["seconds"]
    theirs = {f"{n} processes": {**peer.said, "seconds": peer.seconds} for n, peer in peers.items()}
    for side in theirs.values():
        side["trials_per_hour"] = 3600 * side["trials"] / side["seconds"]
        side["ratio"] = ours["trials_per_hour"] / side["trials_per_hour"]
    result = {
        "work": "search-frozen",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": _processor(), "cores": _cores(), "system": platform.platform()},
        "versions": {"migaki": _versions(OURS), "peers": _versions(PEERS)},
        "gflops": [round(speed, 1) for speed in speeds],
        "migaki": ours,
        "optuna + Trainer": theirs,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "search-frozen.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
