"""Whether the order of `migaki choose --probe` is the order after fine-tuning.

python benchmarks/probe_order.py FOLDER [--cards FILE] [--seeds 3]      FOLDER holds train.csv, valid.csv and test.csv

Of the encoders at hand (`migaki models get e5-small` first) and those of a file of cards; without one, two more that differ
clearly: the first two blocks of MiniLM, and SmolLM2 read as an encoder. Each is trained as `recipes/clinc150-full.yaml` says
(all weights, three epochs), once for each seed. Two models are in order where they are told apart neither by the probe nor
after training, or where both name the same better one.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).parent
BLOCKS = 2
TRAINING = {"epochs": 3, "batch_size": 32, "checkpoint_minutes": None}


def more_cards(folder: Path) -> Path:
    """Cards of two models that are made of those at hand."""
    from safetensors.torch import load_file, save_file

    from migaki.choosing import model_cards
    from migaki.models import Model, locate
    from migaki.models.base import unpacked

    source, cut = unpacked(locate(Model(reference="bundled:minilm"))).folder, folder / "minilm-2"
    shutil.copytree(source, cut)
    config = json.loads((cut / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps({**config, "num_hidden_layers": BLOCKS}))
    kept = {
        name: tensor
        for name, tensor in load_file(cut / "model.safetensors").items()
        if not (place := re.search(r"layer\.(\d+)\.", name)) or int(place[1]) < BLOCKS
    }
    save_file(kept, cut / "model.safetensors", metadata={"format": "pt"})
    cards = {card.reference: card for card in model_cards()}
    minilm, smollm2 = cards["bundled:minilm"], cards["bundled:smollm2"]
    millions = sum(tensor.numel() for tensor in kept.values()) / 1e6
    shorter = {"reference": str(cut), "title": "MiniLM, two blocks", "layers": BLOCKS, "millions": millions}
    content = [
        {**minilm.model_dump(mode="json"), **shorter},
        {**smollm2.model_dump(mode="json"), "tasks": ["classify_text"]},
    ]
    (folder / "cards.yaml").write_text(json.dumps(content))
    return folder / "cards.yaml"


def probe(data: dict[str, str], cards: Path) -> dict[str, dict]:
    """Reference of a model -> its title and what the command measured, in the command's order."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(json.dumps({"task": "classify_text", "data": data}))
        words = [sys.executable, "-m", "migaki", "choose", "--data", str(recipe), "--probe", "--json"]
        done = subprocess.run([*words, "--cards", str(cards)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.strip().splitlines()[-1])["candidates"]
    return {c["model"]: {"title": c["title"], **c["probe"]} for c in found if c["probe"]}


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
    probed = probe(data, arguments.cards or more_cards(Path(tempfile.mkdtemp())))
    tuned = {}
    for model, found in probed.items():
        hits = [trained(model, data, seed) for seed in range(arguments.seeds)]
        tuned[model] = Outcomes.of(hits, [1.0] * len(hits[0]))
        print(f"{found['title']}: probe {found['value']:.3f}, fine-tuned {tuned[model].seeds}", flush=True)
    pairs = []
    for first, second in combinations(probed, 2):
        gap, p = difference(tuned[first], tuned[second], 0)
        alike = probed[first]["group"] == probed[second]["group"]
        holds = p > ALPHA if alike else p <= ALPHA and gap.value > 0
        names = probed[first]["title"], probed[second]["title"]
        pairs.append({"better": names[0], "worse": names[1], "alike": alike, **gap.as_json(), "p": p, "holds": holds})
        words = "alike to" if alike else "better than"
        print(f"{names[0]} {words} {names[1]} by the probe; after training {gap.value:+.3f}, p {p:.3g}: {holds}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "rows": len(hits[0])}
    models = [{**found, "fine_tuned": tuned[model].seeds} for model, found in probed.items()]
    content = {**facts, "models": models, "pairs": pairs}
    (arguments.output / "probe_order.json").write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
