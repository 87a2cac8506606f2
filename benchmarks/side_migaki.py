"""One training by migaki, in a process of its own; prints one JSON line of figures."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.monotonic()


def main(work: str, variant: str, folder: Path, steps: int) -> None:
    import migaki
    from migaki.training.monitor import Monitor

    class Watch(Monitor):
        first_step_s = 0.0

        def step(self, facts: dict) -> None:
            self.first_step_s = self.first_step_s or time.monotonic() - BEGAN

    if variant == "without-prefix":
        from migaki.tasks import body

        body._PREFIX_TOKENS = 1 << 30  # no common beginning is long enough
    training = {"max_steps": steps, "batch_size": 16, "warmup": 0.1, "checkpoint_minutes": None}
    chats = {
        "train": str(folder / "chats.jsonl"),
        "valid": str(folder / "chats-test.jsonl"),
        "test": str(folder / "chats-test.jsonl"),
    }
    texts = {
        "train": str(folder / "texts.jsonl"),
        "valid": str(folder / "texts-test.jsonl"),
        "test": str(folder / "texts-test.jsonl"),
    }
    # transformers judges a text by its first token, so that is what is compared.
    classify = {"kind": "classify_text", "head": "random", "pooling": "cls"}
    recipes = {
        "chat-lora": {
            "task": {"kind": "generate", "generated_rows": 0},
            "data": chats,
            "method": {"kind": "lora", "rank": 16, "alpha": 32},
            "training": {**training, "learning_rate": 2e-4},
        },
        "text-full": {
            "task": classify,
            "data": texts,
            "method": "full",
            "training": {**training, "learning_rate": 5e-5},
        },
        "text-top": {
            "task": classify,
            "data": texts,
            "method": {"kind": "frozen", "blocks": 1},
            "training": {**training, "epochs": 2, "max_steps": None, "learning_rate": 5e-4},
        },
    }
    recipe = recipes[work] if work in recipes else image_recipe(work, folder, steps)
    watch = Watch()
    run = migaki.train(recipe, runs=tempfile.mkdtemp(), monitor=watch)
    lines = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    done = [line for line in lines if line["event"] == "step"]
    # The first epoch of the kept activations includes making them; from the second on it is what an epoch costs.
    counted = [line for line in done if line["epoch"] > 1] if work.endswith("-top") else done[1:]
    seconds = sum(line["seconds"] for line in counted)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    metric = "loss" if work == "chat-lora" else "accuracy"
    print(
        json.dumps(
            {
                "tokens_per_s": sum(line["tokens"] for line in counted) / seconds,
                "examples_per_s": sum(line["rows"] for line in counted) / seconds,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "first_step_s": watch.first_step_s,
                "peak_bytes": run.summary()["peak_bytes"],
                "quality": run.metrics[metric].value,
                "steps": len(done),
            }
        )
    )


def image_recipe(work: str, folder: Path, steps: int) -> dict:
    """Of the model that a work begins with; all of it, or its last block and the head."""
    model, what = work.split("-")
    training = {"batch_size": 16, "learning_rate": 3e-4, "schedule": "linear", "checkpoint_minutes": None}
    return {
        "task": {"kind": "classify_image", "head": "random"},
        "model": "bundled:efficientnet-lite0" if model == "lite0" else str(folder / model),
        "data": {
            "train": str(folder / "images"),
            "valid": str(folder / "images-test"),
            "test": str(folder / "images-test"),
        },
        "method": "full" if what == "full" else {"kind": "frozen", "blocks": 1},
        "training": {**training, **({"max_steps": steps} if what == "full" else {"epochs": 3})},
        "generality": "off",
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
