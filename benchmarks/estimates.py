"""How well `migaki choose` foretells memory and time: each training in a process of its own, beside its estimate.

python benchmarks/estimates.py --output results/MACHINE [SIDE ...]   writes estimates.json; a quarter of an hour on two cores

Each training runs twice on rows that no run has seen, and twice the machine is measured behind it; the faster one of both
counts, because a shared machine is slow at times.

A side is MODEL-METHOD-TEXTS, such as minilm-full-long; those that are not named keep what the file holds of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import work

HERE = Path(__file__).parent
TASKS = {"minilm": "classify_text", "smollm2": "generate"}
METHODS = {"minilm": ("probe", "lora", "full"), "smollm2": ("lora", "full")}
SIDES = [f"{model}-{method}-{texts}" for model in TASKS for method in METHODS[model] for texts in ("short", "long")]
ROWS = {"classify_text": 640, "generate": 96}
ROUNDS = 2


def write_rows(folder: Path) -> None:
    """Real sentences, short as they are and joined to long ones."""
    work.write(folder)
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()][: ROWS["classify_text"]]
    chats = [json.loads(line)["messages"] for line in (folder / "chats.jsonl").read_text().splitlines()]
    # Rows that no run has seen: what is kept of the features of earlier ones would spare the work that is measured.
    dice = random.Random(time.time_ns())
    texts = [{**row, "text": " ".join(dice.sample(words := row["text"].split(), len(words)))} for row in texts]
    short = [{**row, "text": " ".join(row["text"].split()[:12])} for row in texts]
    joined = [chats[i : i + 4] for i in range(0, len(chats), 4)][: ROWS["generate"]]
    long = [{"messages": [turn for chat in some for turn in chat]} for some in joined]
    for name, rows in (
        ("classify_text-short", short),
        ("classify_text-long", texts),
        ("generate-short", [{"messages": chat} for chat in chats[: ROWS["generate"]]]),
        ("generate-long", long),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def one(side: str, folder: Path) -> dict[str, float]:
    """In this process: the training, then what was to be expected of it."""
    import transformers.modeling_utils  # noqa: F401 - as `choose` counts the memory of a process

    import migaki
    from migaki.recipe import Recipe
    from migaki.training.monitor import present_bytes

    model, method, texts = side.split("-")
    task = TASKS[model]
    kind = {"kind": task, "head": "random"} if task == "classify_text" else {"kind": task, "generated_rows": 0}
    recipe = Recipe(
        task=kind,
        model=f"bundled:{model}",
        method=method,
        data={"train": str(folder / f"{task}-{texts}.jsonl")},
        training={"epochs": 1, "checkpoint_minutes": None},
        generality="off",
    )
    before = present_bytes()
    run = migaki.train(recipe, runs=folder / "runs")
    cost = run.results["cost"]
    return {
        **expected(recipe, run, before),
        "peak_bytes": cost["peak_bytes"],
        "seconds": cost["train_seconds"],
        "steps": cost["steps"],
    }


def expected(recipe, run, process_bytes: int) -> dict[str, float]:
    """The estimate for the rows as the model's own tokenizer divides them."""
    from migaki.choosing import model_cards
    from migaki.choosing.estimate import Work, estimate
    from migaki.tasks.body import common_prefix

    splits = recipe.data.load(recipe.task.content_kind, recipe.seed)
    train, valid = (run.learner.encode(part) for part in (splits.train, splits.valid))
    rows = Work(
        train=[len(example) for example in train],
        valid=[len(example) for example in valid],
        targets=sum(e.targets for e in train) / len(train) if recipe.task.kind == "generate" else 0.0,
        shared=common_prefix([e.ids for e in train]) if recipe.task.kind == "generate" else 0,
        epochs=1,
        labels=len(getattr(run.learner, "labels", ())),
    )
    card = next(card for card in model_cards() if card.reference == recipe.model.reference)
    found = estimate(card, recipe.method.kind, rows, measured_now(card), process_bytes)
    return {
        "tokens_a_row": sum(rows.train) / len(rows.train),
        "peak_estimated": found.peak_bytes,
        "seconds_estimated": found.seconds,
    }


def measured_now(card):
    """The speed of this machine, measured in a process that has made no kernels yet, and whatever is kept of other times."""
    from migaki.choosing.speed import measured_speed

    code = "import sys; from migaki.choosing import model_cards; from migaki.choosing.speed import measured_speed; "
    code += "measured_speed(next(card for card in model_cards() if card.reference == sys.argv[1]))"
    with tempfile.TemporaryDirectory() as empty:
        os.environ["MIGAKI_CACHE"] = empty
        subprocess.run([sys.executable, "-c", code, card.reference], check=True)
        return measured_speed(card)


def apart(side: str) -> dict[str, float]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        words = [sys.executable, __file__, side, "--rows", folder]
        # As the command sets it for itself: threads that wait sleep soon instead of spinning.
        environment = {**os.environ, "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def shown(side: str, figures: dict[str, float]) -> str:
    """A line of the table."""
    return (
        f"{side:20} {figures['tokens_a_row']:6.1f} tokens a row  "
        f"memory {figures['peak_bytes'] / 2**30:.2f} GiB, estimated {figures['peak_estimated'] / 2**30:.2f} ({figures['memory_ratio']:.2f})  "
        f"time {figures['seconds']:.1f} s, estimated {figures['seconds_estimated']:.1f} ({figures['time_ratio']:.2f})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs="*", metavar="SIDE", help=", ".join(SIDES))
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows:
        print(json.dumps(one(arguments.sides[0], arguments.rows)))
        return 0
    path = arguments.output / "estimates.json"
    results = json.loads(path.read_text())["sides"] if path.is_file() else {}
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform()}
    for side in arguments.sides or SIDES:
        rounds = [apart(side) for _ in range(ROUNDS)]
        figures = min(rounds, key=lambda figures: figures["seconds"])
        figures["seconds_estimated"] = min(figures["seconds_estimated"] for figures in rounds)
        figures["memory_ratio"] = figures["peak_estimated"] / figures["peak_bytes"]
        figures["time_ratio"] = figures["seconds_estimated"] / figures["seconds"]
        results[side] = figures
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**facts, "sides": results}, indent=1) + "\n")
        print(shown(side, figures), flush=True)
    for name in ("memory_ratio", "time_ratio"):
        ratios = [results[side][name] for side in SIDES if side in results]
        print(f"{name}: {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
