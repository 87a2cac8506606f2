"""How far the learning rate that `migaki rates` suggests is from the best one of a ladder of whole trainings.

python benchmarks/rates.py --output results/MACHINE [minilm-full] [minilm-lora] [smollm2-lora]

The ladder goes in factors of 1.8 from a sixth to six times the suggestion, and on where its best rate is its last one. A
rate is as good as the least validation loss of a training by it, which is as long as the recipes say: `classify-full.yaml`,
`classify-lora.yaml`, `generate-lora.yaml`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import work

HERE = Path(__file__).parent
EPOCHS = {"minilm-full": 4, "minilm-lora": 6, "smollm2-lora": 3}
FACTOR, EACH_SIDE, FURTHEST = 1.8, 3, 6
TEXTS, WORDS, CHATS = 1000, 24, 160


def recipe_of(setup: str, folder: Path) -> dict:
    model, method = setup.split("-")
    if model == "minilm":
        task, rows, batch = {"kind": "classify_text", "head": "random"}, "short-texts", 32
    else:
        task, rows, batch = {"kind": "generate", "generated_rows": 0}, "short-chats", 8
    return {
        "task": task,
        "model": f"bundled:{model}",
        "method": method,
        "data": {"train": str(folder / f"{rows}.jsonl"), "valid": 0.2, "test": 0.1},
        "training": {"epochs": EPOCHS[setup], "batch_size": batch, "checkpoint_minutes": None, "keep_best_by": "loss"},
        "generality": "off",
    }


def write_rows(folder: Path) -> None:
    """Real sentences, cut to a length that keeps the ladder short."""
    work.write(folder)
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()[:TEXTS]]
    cut = [{**row, "text": " ".join(row["text"].split()[:WORDS])} for row in texts]
    (folder / "short-texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cut))
    chats = sorted((folder / "chats.jsonl").read_text().splitlines(), key=len)[:CHATS]
    (folder / "short-chats.jsonl").write_text("".join(chat + "\n" for chat in chats))


def loss_at(rate: float, recipe: dict) -> float:
    """The least validation loss of a training at this rate; infinite where it diverges."""
    import migaki
    from migaki.core.errors import NonFiniteError

    training = {**recipe["training"], "learning_rate": rate}
    try:
        run = migaki.train({**recipe, "training": training}, runs=tempfile.mkdtemp())
    except NonFiniteError:
        return float("inf")
    lines = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    return min(line["loss"] for line in lines if line["event"] == "evaluation" and line["step"] > 0)


def measured(setup: str, folder: Path) -> dict:
    from migaki.recipe import Recipe
    from migaki.search.rates import range_test

    recipe = recipe_of(setup, folder)
    suggestion = range_test(Recipe(**recipe)).suggestion
    losses: dict[int, float] = {}
    ahead = list(range(-EACH_SIDE, EACH_SIDE + 1))
    while ahead:
        for place in ahead:
            losses[place] = loss_at(suggestion * FACTOR**place, recipe)
            print(f"{setup}: {suggestion * FACTOR**place:.2g} -> {losses[place]:.4f}", flush=True)
        best = min(losses, key=lambda place: losses[place])
        beyond = best + (1 if best == max(losses) else -1 if best == min(losses) else 0)
        ahead = [] if beyond in losses or abs(beyond) > FURTHEST else [beyond]
    return {
        "suggestion": suggestion,
        "best": suggestion * FACTOR**best,
        "ratio": FACTOR**-best,
        "losses": {f"{suggestion * FACTOR**place:.3g}": losses[place] for place in sorted(losses)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setups", nargs="*", metavar="SETUP", help=", ".join(EPOCHS))
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    path = arguments.output / "rates.json"
    results = json.loads(path.read_text())["setups"] if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform()}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        for setup in arguments.setups or EPOCHS:
            found = results[setup] = measured(setup, Path(folder))
            print(f"{setup}: suggested {found['suggestion']:.2g}, best {found['best']:.2g}: {found['ratio']:.2f} of it")
            path.write_text(json.dumps({**facts, "setups": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
