"""How well `migaki choose` foretells memory and time: each training in a process of its own, beside its estimate.

python benchmarks/estimates.py          writes results/estimates.json; about ten minutes on two idle cores
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import work

HERE = Path(__file__).parent
SIDES = [
    ("bundled:minilm", "classify_text", method, texts)
    for texts in ("short", "long")
    for method in ("probe", "lora", "full")
] + [("bundled:smollm2", "generate", method, texts) for texts in ("short", "long") for method in ("lora", "full")]
ROWS = {"classify_text": 640, "generate": 96}


def write_rows(folder: Path) -> None:
    """Real sentences, short as they are and joined to long ones."""
    work.write(folder)
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()][: ROWS["classify_text"]]
    chats = [json.loads(line)["messages"] for line in (folder / "chats.jsonl").read_text().splitlines()]
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


def one(model: str, task: str, method: str, texts: str, folder: Path) -> dict[str, float]:
    """In this process: the estimate, then the training itself."""
    import migaki
    from migaki.choosing import model_cards
    from migaki.choosing.estimate import Work, estimate
    from migaki.choosing.speed import measured_speed
    from migaki.recipe import Recipe
    from migaki.training.monitor import present_bytes

    kind = {"kind": task, "head": "random"} if task == "classify_text" else {"kind": task, "generated_rows": 0}
    recipe = Recipe(
        task=kind,
        model=model,
        method=method,
        data={"train": str(folder / f"{task}-{texts}.jsonl")},
        training={"epochs": 1, "checkpoint_minutes": None},
        generality="off",
    )
    import transformers.modeling_utils  # noqa: F401

    before = present_bytes()
    card = next(c for c in model_cards() if c.reference == model)
    speed = measured_speed(card)
    run = migaki.train(recipe, runs=tempfile.mkdtemp())
    splits = json.loads((run.path / "data.json").read_text())["splits"]
    rows = Work(
        train_rows=splits["train"]["rows"],
        judged_rows=splits["valid"]["rows"],
        mean_tokens=splits["train"]["tokens"] / splits["train"]["rows"],
        longest_tokens=0,
        epochs=1,
        labels=len(run.learner.labels) if task == "classify_text" else 2,
    )
    found = estimate(card, method, rows, speed, before)
    cost = run.results["cost"]
    return {
        "tokens_a_row": rows.mean_tokens,
        "peak_bytes": cost["peak_bytes"],
        "peak_estimated": found.peak_bytes,
        "seconds": cost["train_seconds"],
        "seconds_estimated": found.seconds,
    }


def main() -> int:
    if len(sys.argv) > 1:
        print(json.dumps(one(*sys.argv[1:5], Path(sys.argv[5]))))
        return 0
    folder = Path(tempfile.mkdtemp())
    write_rows(folder)
    results = []
    for side in SIDES:
        done = subprocess.run([sys.executable, __file__, *side, str(folder)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        figures["memory_ratio"] = figures["peak_estimated"] / figures["peak_bytes"]
        figures["time_ratio"] = figures["seconds_estimated"] / figures["seconds"]
        results.append({"model": side[0], "method": side[2], "texts": side[3], **figures})
        print(
            f"{side[0]:16} {side[2]:6} {side[3]:6} {figures['tokens_a_row']:6.1f} tokens a row  "
            f"memory {figures['peak_bytes'] / 2**30:.2f} GiB, estimated {figures['peak_estimated'] / 2**30:.2f} ({figures['memory_ratio']:.2f})  "
            f"time {figures['seconds']:.1f} s, estimated {figures['seconds_estimated']:.1f} ({figures['time_ratio']:.2f})",
            flush=True,
        )
    for name in ("memory_ratio", "time_ratio"):
        print(name, "median", round(statistics.median(r[name] for r in results), 2))
    (HERE / "results" / "estimates.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
