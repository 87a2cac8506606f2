"""Kill, starve and damage real trainings, and compare what they end with.

    python -m durability.faults --kills 200        from the folder `tests`, or `make faults`

Every training here is a child that was forked after the heavy imports, so a kill costs a fraction of a second. A run
that was killed is given the same command again until it finishes; then every file that does not hold a time must be
the one of the run that was never disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import migaki
from migaki.training.checkpoint import checkpoint_folders
from pictures import EVERYTHING, save_image_model, write_images
from sentences import several_rows, tagged_rows
from tiny import chat_rows, labelled_rows, save_decoder, save_encoder, write_rows

WORKLOADS = (
    *("encoder-full", "decoder-lora", "encoder-masked", "encoder-frozen", "decoder-reft"),
    *("encoder-tags", "encoder-several", "image-full"),
)
_JUDGED = ("best_step", "best_scores", "evaluations_since_best", "evaluated_step")
"""Of a checkpoint. A signal in the last step before an evaluation leaves one that does not know it yet; whoever goes on judges
the rows again, and the checkpoint stays as it is. What came of it stands in the other files."""
_TIMES = ("seconds", "train_seconds", "peak_bytes", "latency_p50_s", "latency_p95_s")


def prepare(folder: Path) -> Path:
    """Models and rows that all workloads share; the folder itself comes back."""
    save_encoder(folder / "encoder", dropout=0.1)
    save_decoder(folder / "decoder")
    write_rows(folder / "labelled.jsonl", labelled_rows(72))
    write_rows(folder / "tagged.jsonl", [*tagged_rows(36), *tagged_rows(36, "ja")])
    write_rows(folder / "several.jsonl", several_rows(72))
    write_rows(folder / "chats.jsonl", chat_rows(40))
    write_rows(folder / "general.jsonl", chat_rows(60)[40:])
    write_images(folder / "images", 36)
    save_image_model(folder / "image", "lite")
    return folder


def recipe(workload: str, folder: Path) -> dict[str, Any]:
    """Small trainings with everything random switched on, and what depends on the step or the start: dropout, masks,
    adapters; blocks that join one after the other, the pull to the start, the way back to it, replayed rows."""
    training = {"epochs": 3, "batch_size": 4, "learning_rate": 3e-3, "checkpoint_steps": 3, "evaluations_per_epoch": 2}
    labelled = {
        "task": {"kind": "classify_text", "head": "random"},
        "model": str(folder / "encoder"),
        "data": {"train": str(folder / "labelled.jsonl")},
    }
    if workload == "encoder-full":
        method = {"kind": "full", "gradual": True, "layer_decay": 0.8}
        return {**labelled, "method": method, "training": {**training, "dropout": 0.1, "accumulate": 2, "l2_sp": 20.0}}
    if workload == "encoder-masked":
        method = {"kind": "lora", "rank": 2, "dora": True, "b_rate": 4.0}
        return {**labelled, "method": method, "training": {**training, "mask_tokens": 0.3, "interpolate": 0.5}}
    if workload == "encoder-frozen":
        return {**labelled, "method": {"kind": "frozen", "blocks": 1}, "training": {**training, "dropout": None}}
    if workload == "encoder-tags":
        # Windows shorter than most texts, so that a row is several examples.
        task = {"kind": "tag_tokens", "max_length": 12, "overlap": 4}
        data = {"train": str(folder / "tagged.jsonl")}
        return {
            **labelled,
            "task": task,
            "data": data,
            "method": {"kind": "lora", "rank": 2},
            "training": {**training, "dropout": 0.1},
        }
    if workload == "encoder-several":
        data = {"train": str(folder / "several.jsonl")}
        return {
            **labelled,
            "task": "label_text",
            "data": data,
            "method": "full",
            "training": {**training, "dropout": None},
        }
    if workload == "image-full":
        # Images are read by two processes of their own, ahead of the steps and in every way altered.
        return {
            "task": {"kind": "classify_image", "head": "random", "augment": EVERYTHING},
            "model": str(folder / "image"),
            "data": {"train": str(folder / "images")},
            "method": "full",
            "training": {**training, "resample": 0.5, "workers": 2},
        }
    kind = workload.removeprefix("decoder-")
    return {
        "task": {"kind": "generate", "max_new_tokens": 6, "generated_rows": 2},
        "model": str(folder / "decoder"),
        "data": {"train": str(folder / "chats.jsonl")},
        "method": {"kind": kind, "rank": 2, "dropout": 0.2},
        "training": {**training, "early_stopping": 5, "replay": {"rows": str(folder / "general.jsonl"), "share": 0.2}},
    }


def forked(work: Callable[[], object], kill_after_s: float | None = None, number: int = signal.SIGKILL) -> int:
    """Do the work in a child, killed after a while if asked; its exit status as `os.waitstatus_to_exitcode` gives it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        except migaki.MigakiError as error:
            print(f"    {type(error).__name__}: {error}", file=sys.stderr)
            code = error.exit_code
        finally:
            os._exit(code)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def trained(workload: str, folder: Path, runs: Path) -> Callable[[], object]:
    return lambda: migaki.train(recipe(workload, folder), runs=runs)


def finished(runs: Path) -> bool:
    """Whether the run of a folder has its manifest."""
    return any(path.parent.parent == runs for path in runs.glob("*/MANIFEST.json"))


def outcome(runs: Path) -> dict[str, bytes]:
    """Everything that the only run of a folder holds, times left out, by file."""
    (run,) = (path for path in runs.iterdir() if (path / "state.json").is_file())
    newest = f"checkpoints/{checkpoint_folders(run / 'checkpoints')[0].name}/"
    found = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run).as_posix()
        if name in ("MANIFEST.json", "report.html", "environment.json", "state.json", ".lock"):
            continue  # hashes and prints of the others, or facts about the machine
        if name.endswith("MANIFEST.json"):
            continue
        if name.startswith("checkpoints/") and not name.startswith(newest):
            continue  # which older ones are left depends on when somebody stopped it
        data = path.read_bytes()
        if path.suffix == ".json":
            content = _timeless(json.loads(data))
            if name.startswith(newest) and path.name == "state.json":
                content["progress"] = {k: v for k, v in content["progress"].items() if k not in _JUDGED}
            data = json.dumps(content, sort_keys=True).encode()
        elif name == "history.jsonl":
            data = "\n".join(
                json.dumps(_timeless(json.loads(line)), sort_keys=True) for line in data.splitlines()
            ).encode()
        found[name] = data
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in (*_TIMES, "history_bytes")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def differences(reference: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Names of the files that are not the same."""
    return sorted(name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name))


class Undisturbed:
    """The run of a workload that nothing happened to, and how long it took."""

    def __init__(self, workload: str, folder: Path) -> None:
        runs = folder / f"reference-{workload}"
        began = time.monotonic()
        assert forked(trained(workload, folder, runs)) == 0
        self.seconds = time.monotonic() - began
        self.files = outcome(runs)


def killed_run(
    workload: str, folder: Path, reference: Undisturbed, kills: int, dice: random.Random
) -> tuple[int, list[str]]:
    """One run, killed so many times and then left alone: kills that hit it while it worked, and the files that differ."""
    runs = Path(tempfile.mkdtemp(prefix="killed-", dir=folder))
    hits = 0
    for _ in range(kills):
        code = forked(trained(workload, folder, runs), kill_after_s=dice.uniform(0.02, 1.05 * reference.seconds))
        hits += code == -signal.SIGKILL
        # A kill between the last byte and the end of the process hits a run that is finished; the next command would
        # rightly make another.
        if code == 0 or finished(runs):
            break
    else:
        assert forked(trained(workload, folder, runs)) == 0
    odd = differences(reference.files, outcome(runs))
    if not odd:
        shutil.rmtree(runs)
    return hits, odd


def left_behind(folder: Path) -> list[int]:
    """Processes that were started for a training of this folder and are still there, although nothing is trained now."""
    mark, found = f"MIGAKI_CACHE={folder / 'cache'}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue  # it has ended in between, or is somebody else's
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills that hit, over all workloads (default: 200)")
    parser.add_argument("--each", type=int, default=4, help="kills of one run before it is left to finish (default: 4)")
    parser.add_argument("--only", choices=WORKLOADS, action="append", help="this workload, not all of them")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    folder = prepare(Path(tempfile.mkdtemp(prefix="migaki-faults-")))
    os.environ["MIGAKI_CACHE"] = str(folder / "cache")
    workloads = arguments.only or WORKLOADS
    references = {workload: Undisturbed(workload, folder) for workload in workloads}
    hits, runs, odd = dict.fromkeys(workloads, 0), 0, 0
    while sum(hits.values()) < arguments.kills:
        workload = workloads[runs % len(workloads)]
        hit, differing = killed_run(workload, folder, references[workload], arguments.each, dice)
        hits[workload] += hit
        runs += 1
        if differing:
            odd += 1
            print(f"{workload}: {differing} differ", flush=True)
    time.sleep(1)
    left = left_behind(folder)
    print(json.dumps({"kills": hits, "runs": runs, "runs_that_differ": odd, "processes_left_behind": len(left)}))
    return 1 if odd or left else 0


if __name__ == "__main__":
    sys.exit(main())
