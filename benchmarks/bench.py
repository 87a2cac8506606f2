"""Side by side with what people use today: interleaved, in fresh processes, each side in its own environment.

    make bench            all works, three rounds
    python benchmarks/bench.py --work text-full --rounds 5

A round runs every side once, in turn, so that what else happens on the machine hits all of them. The machine is
measured before and after each run; a run during which it drifted by more than a tenth is repeated once. What counts
is the ratio of medians with its range over rounds, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
OURS, PEERS = HERE.parent / ".venv/bin/python", HERE.parent / ".venv-peers/bin/python"
DRIFT = 0.10

# work -> (steps, [(side, variant)])
WORKS = {
    "chat-lora": (
        6,
        [
            ("migaki", "with-prefix"),
            ("migaki", "without-prefix"),
            ("trainer", "best"),
            ("trainer", "best-bf16"),
            ("trainer", "defaults"),
            ("trl", "best"),
            ("trl", "defaults"),
        ],
    ),
    "text-full": (12, [("migaki", "best"), ("trainer", "best"), ("trainer", "best-bf16"), ("trainer", "defaults")]),
    "text-top": (40, [("migaki", "best"), ("trainer", "best"), ("trainer", "best-bf16")]),
    "lite0-full": (12, [("migaki", "best"), ("images", "best"), ("images", "best-bf16"), ("images", "defaults")]),
    "resnet50-full": (6, [("migaki", "best"), ("images", "best"), ("images", "best-bf16"), ("images", "defaults")]),
    "vit-full": (8, [("migaki", "best"), ("images", "best"), ("images", "best-bf16"), ("images", "defaults")]),
    "lite0-top": (10, [("migaki", "best"), ("images", "best"), ("images", "best-bf16")]),
    "resnet50-top": (8, [("migaki", "best"), ("images", "best"), ("images", "best-bf16")]),
    "vit-top": (8, [("migaki", "best"), ("images", "best"), ("images", "best-bf16")]),
}
SCRIPTS = {
    "migaki": "side_migaki.py",
    "trainer": "side_trainer.py",
    "trl": "side_trainer.py",
    "images": "side_images.py",
}


def calibrate() -> float:
    """GFLOP/s of a float32 multiplication, in a process of its own."""
    code = (
        "import torch,time\na=torch.randn(1024,1024);b=0\n"
        "for _ in range(12):\n t=time.perf_counter();a@a;b=max(b,2*1024**3/(time.perf_counter()-t)/1e9)\nprint(b)"
    )
    return float(subprocess.run([OURS, "-c", code], capture_output=True, text=True, check=True).stdout)


def run(side: str, work: str, variant: str, folder: Path, steps: int, models: dict[str, str]) -> dict:
    script, python = SCRIPTS[side], OURS if side == "migaki" else PEERS
    words = [work, variant, str(folder), str(steps)]
    if side != "migaki":
        words = [side, *words, json.dumps(models)]
    for attempt in (1, 2):
        before = calibrate()
        done = subprocess.run([str(python), str(HERE / script), *words], capture_output=True, text=True)
        after = calibrate()
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1] if done.stderr else "no message"}
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        figures["gflops_before"], figures["gflops_after"] = round(before, 1), round(after, 1)
        if abs(after / before - 1) <= DRIFT or attempt == 2:
            return figures
    raise AssertionError("unreachable")


def models_of() -> dict[str, str]:
    """Folders of the bundled models, as migaki itself finds and converts them."""
    code = (
        "import json\nfrom migaki.models import Model, locate\nfrom migaki.models.base import unpacked\n"
        "e,d=(unpacked(locate(Model(reference='bundled:'+n))) for n in ('minilm','smollm2'))\n"
        "print(json.dumps({'encoder':str(e.folder),'decoder':str(d.folder)}))"
    )
    done = subprocess.run([OURS, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def summary(rounds: list[dict[str, dict]], ours: str) -> dict:
    """Median figures of each side, and the ratio of migaki's to every peer's, with its range over rounds."""
    sides = {}
    for name in rounds[0]:
        figures = [r[name] for r in rounds if "error" not in r[name]]
        if not figures:
            sides[name] = {"error": rounds[0][name]["error"]}
            continue
        keys = [key for key, value in figures[0].items() if isinstance(value, int | float)]
        sides[name] = {key: statistics.median(f[key] for f in figures) for key in keys}
    ratios = {}
    for name, figures in sides.items():
        if name.startswith("migaki") or "error" in figures:
            continue
        each = [r[ours]["examples_per_s"] / r[name]["examples_per_s"] for r in rounds if "error" not in r[name]]
        ratios[name] = {
            "speed": sides[ours]["examples_per_s"] / figures["examples_per_s"],
            "speed_range": [min(each), max(each)],
            "peak_memory": sides[ours]["peak_bytes"] / figures["peak_bytes"],
            "first_step": sides[ours]["first_step_s"] / figures["first_step_s"],
        }
    return {"sides": sides, f"ratios of {ours}": ratios}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=[*WORKS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    works = list(WORKS) if arguments.work == "all" else [arguments.work]
    models = {}
    if any(_sees(work) for work in works):
        models |= json.loads(_written(folder, "write_images"))
    if not all(_sees(work) for work in works):
        _written(folder, "write")
        models |= models_of()
    for work in works:
        steps, sides = WORKS[work]
        rounds = []
        for number in range(arguments.rounds):
            found = {}
            for side, variant in sides if number % 2 == 0 else sides[::-1]:
                found[f"{side} {variant}"] = run(side, work, variant, folder, steps, models)
                print(f"{work} round {number + 1} {side} {variant}: {found[f'{side} {variant}']}", flush=True)
            rounds.append(found)
            # After each round, so that what was measured is not lost with what is stopped.
            result = _result(work, rounds)
            arguments.output.mkdir(parents=True, exist_ok=True)
            (arguments.output / f"{work}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({k: v for k, v in result.items() if k.startswith("ratios")}, indent=1), flush=True)
    return 0


def _result(work: str, rounds: list[dict[str, dict]]) -> dict:
    steps, sides = WORKS[work]
    ours = [f"{side} {variant}" for side, variant in sides if side == "migaki"]
    return {
        "work": work,
        "steps": steps,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": _processor(), "cores": _cores(), "system": platform.platform()},
        "versions": {"migaki": _versions(OURS), "peers": _versions(PEERS)},
        **{key: value for name in ours for key, value in summary(rounds, name).items()},
        "rounds": rounds,
    }


def _sees(work: str) -> bool:
    return any(side == "images" for side, _ in WORKS[work][1])


def _written(folder: Path, by: str) -> str:
    """The last line of what a function of work.py says about the files it wrote."""
    code = (
        f"import json, sys, pathlib; sys.path.insert(0, {str(HERE)!r}); import work; "
        f"print(json.dumps(work.{by}(pathlib.Path({str(folder)!r}))))"
    )
    done = subprocess.run([OURS, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _versions(python: Path) -> dict[str, str]:
    code = (
        "import json\nfrom importlib.metadata import version, PackageNotFoundError\nfound={}\n"
        "for n in ('migaki','torch','transformers','peft','trl'):\n"
        " try: found[n]=version(n)\n except PackageNotFoundError: pass\nprint(json.dumps(found))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
