"""Whether the order of `migaki choose --probe` is the order after fine-tuning, for the models at hand and cards of your own.

python benchmarks/probe_order.py FOLDER [--cards FILE] [--seeds 3]      FOLDER holds train.csv, valid.csv and test.csv

Every candidate is trained as `recipes/clinc150-full.yaml` says (all weights, three epochs), once for each seed. Two models
are in order where they are told apart neither by the probe nor after training, or where both name the same better one.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).parent
TRAINING = {"epochs": 3, "batch_size": 32, "checkpoint_minutes": None}


def probe(data: dict[str, str], cards: Path | None) -> dict[str, dict]:
    """Model -> what the command measured of it, in the command's order."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(json.dumps({"task": "classify_text", "data": data}))
        words = [sys.executable, "-m", "migaki", "choose", "--data", str(recipe), "--probe", "--json"]
        done = subprocess.run([*words, *(["--cards", str(cards)] if cards else [])], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.strip().splitlines()[-1])["candidates"]
    return {candidate["model"]: candidate["probe"] for candidate in found if candidate["probe"]}


def trained(model: str, data: dict[str, str], seed: int) -> list[float]:
    """Of every test row whether the fine-tuned model is right."""
    import migaki

    recipe = {"task": "classify_text", "model": model, "data": data, "method": "full", "training": TRAINING}
    run = migaki.train({**recipe, "seed": seed, "generality": "off"}, runs=tempfile.mkdtemp())
    rows = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]
    return [float(row["output"] == row["target"]) for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cards", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()

    from migaki.evaluation.comparison import ALPHA, Outcomes, difference

    data = {part: str((arguments.folder / f"{part}.csv").resolve()) for part in ("train", "valid", "test")}
    probed = probe(data, arguments.cards)
    tuned = {}
    for model, found in probed.items():
        hits = [trained(model, data, seed) for seed in range(arguments.seeds)]
        tuned[model] = Outcomes.of(hits, [1.0] * len(hits[0]))
        print(f"{model}: probe {found['value']:.3f}, fine-tuned {tuned[model].seeds}", flush=True)
    pairs = []
    for first, second in combinations(probed, 2):
        gap, p = difference(tuned[first], tuned[second], 0)
        alike = probed[first]["group"] == probed[second]["group"]
        holds = p > ALPHA if alike else p <= ALPHA and gap.value > 0
        pairs.append({"better": first, "worse": second, "alike": alike, **gap.as_json(), "p": p, "holds": holds})
        words = "alike to" if alike else "better than"
        print(f"{first} {words} {second} by the probe; after training {gap.value:+.3f}, p {p:.3g}: {holds}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "rows": len(hits[0])}
    models = {name: {"probe": probed[name], "fine_tuned": tuned[name].seeds} for name in probed}
    content = {**facts, "models": models, "pairs": pairs}
    (arguments.output / "probe_order.json").write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
