"""Training on images by transformers' Trainer, in a process and environment of its own; prints one JSON line of figures.

Variants: `defaults` (what a user gets who sets only model, data, batch size and rate; images are read by the model's own
processor in the training process) and `best` (images read and prepared once before the training and kept in memory,
channels-last, which convolutions on a processor like best). `best-bf16` is the same in bfloat16.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.monotonic()


def main(work: str, variant: str, folder: Path, steps: int, models: dict[str, str]) -> None:
    import lite0
    import numpy as np
    import torch
    from PIL import Image
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Clock(TrainerCallback):
        """When each optimiser step ended; the first one is counted apart."""

        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, args, state, control, **_):
            self.marks.append(time.monotonic())

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, folder: Path, kept: bool) -> None:
            self.paths = sorted(folder.rglob("*.png"))
            self.kept = [self.read(i) for i in range(len(self.paths))] if kept else None

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> dict:
            return self.kept[i] if self.kept else self.read(i)

        def read(self, i: int) -> dict:
            image = Image.open(self.paths[i]).convert("RGB")
            pixels = processor(image, return_tensors="np")["pixel_values"][0].astype(np.float32)
            return {"pixel_values": torch.from_numpy(pixels), "labels": names.index(self.paths[i].parent.name)}

    model_name, what = work.split("-")
    path, best = models[model_name], variant.startswith("best")
    processor = AutoImageProcessor.from_pretrained(path)
    names = sorted(p.name for p in (folder / "images").iterdir())
    torch.manual_seed(0)
    if model_name == "lite0":
        model = lite0.pretrained(path, len(names))
        tops = [model.blocks[-1], model.top, model.top_norm, model.classifier]
    else:
        model = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(path, num_labels=len(names)))
        tops = (
            [model.resnet.encoder.stages[-1].layers[-1], model.classifier]
            if model_name == "resnet50"
            else [model.vit.layers[-1], model.vit.layernorm, model.classifier]
        )
    if what == "top":
        model.requires_grad_(False)
        for part in tops:
            part.requires_grad_(True)
    if best:
        model = model.to(memory_format=torch.channels_last)
    clock = Clock()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=16,
            max_steps=steps,
            learning_rate=3e-4,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
            bf16=variant == "best-bf16",
            remove_unused_columns=False,
        ),
        train_dataset=Pictures(folder / "images", best),
        callbacks=[clock],
    )
    trainer.train()
    test = Pictures(folder / "images-test", False)
    model.eval()
    with torch.no_grad():
        hits = sum(
            int(model(pixel_values=row["pixel_values"][None])["logits"].argmax()) == row["labels"] for row in test
        )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "examples_per_s": 16 * (len(clock.marks) - 1) / (clock.marks[-1] - clock.marks[0]),
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "first_step_s": clock.marks[0] - BEGAN,
                "peak_bytes": usage.ru_maxrss * 1024,
                "quality": hits / len(test),
                "steps": len(clock.marks),
            }
        )
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), json.loads(sys.argv[6]))
