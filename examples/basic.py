"""The same as `loop.py`, with migaki: intervals, validation, the best model kept, a report, and a run to use later.

python examples/basic.py                    SmolLM2-135M, which is converted once
python examples/basic.py --model FOLDER     any decoder with a chat template, in Hugging Face layout
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import migaki

TEST_ROWS = 6


def main() -> None:
    options = argparse.ArgumentParser(description="LoRA fine-tuning with migaki.")
    options.add_argument("--model", default="bundled:smollm2", help="what `model:` in a recipe may say")
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--runs", default="runs", help="folder of the runs")
    options = options.parse_args()

    lines = Path(__file__).with_name("helpdesk.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    recipe = migaki.Recipe(
        task={"kind": "generate", "max_new_tokens": 40, "generated_rows": TEST_ROWS},
        model=options.model,
        data={"train": rows[:-TEST_ROWS], "valid": 0.2, "test": rows[-TEST_ROWS:]},
        method={"kind": "lora", "rank": 8},
        training={"epochs": options.steps, "max_steps": options.steps, "learning_rate": 5e-4, "batch_size": 6},
    )
    run = migaki.train(recipe, runs=options.runs)

    before, after = run.baseline["loss"], run.metrics["loss"]
    print(f"loss on {after.n} rows it never saw: {before.value:.4f} before, {after.value:.4f} after")
    print(f"95 % interval after: {after.low:.4f} to {after.high:.4f}; report: {run.path / 'report.html'}")

    question = rows[-1]["prompt"]
    again = migaki.load(run.id, runs=options.runs)  # as tomorrow, in another process
    print(f"question: {question}\n  after:  {again.predict([question])[0].output}")


if __name__ == "__main__":
    main()
