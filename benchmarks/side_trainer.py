"""The same training by transformers' Trainer (+ peft) or TRL's SFTTrainer, in a process and environment of its own.

Variants: `defaults` (what a user gets who sets only model, data, batch size and rate) and `best` (the documented
settings that were fastest on a CPU: float32, no dropout, `group_by_length`, padding-free packing for TRL). `best-bf16` is
the same in bfloat16, which a processor with units for it computes faster.
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


def main(side: str, work: str, variant: str, folder: Path, steps: int, models: dict[str, str]) -> None:
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Clock(TrainerCallback):
        """Tokens and seconds of each optimiser step; the first one is counted apart."""

        def __init__(self) -> None:
            self.first_step_s, self.marks = 0.0, []

        def on_step_end(self, args, state, control, **_):
            now = time.monotonic()
            self.first_step_s = self.first_step_s or now - BEGAN
            self.marks.append((now, seen["tokens"], seen["rows"]))

    seen = {"tokens": 0, "rows": 0}

    def counted(collate):
        def wrapped(features):
            batch = collate(features)
            mask = batch.get("attention_mask")
            seen["tokens"] += int(mask.sum()) if mask is not None else batch["input_ids"].numel()
            seen["rows"] += len(features)
            return batch

        return wrapped

    rows = [json.loads(line) for line in (folder / f"{work.split('-')[0]}s.jsonl").read_text().splitlines()]
    test = [json.loads(line) for line in (folder / f"{work.split('-')[0]}s-test.jsonl").read_text().splitlines()]
    chat = work == "chat-lora"
    path = models["decoder" if chat else "encoder"]
    tokenizer = AutoTokenizer.from_pretrained(path)
    clock = Clock()
    best = variant.startswith("best")
    common = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": 16,
        "max_steps": steps,
        "learning_rate": 2e-4 if chat else 5e-5,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    if chat:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    if side == "trl":
        from trl import SFTConfig, SFTTrainer

        # TRL's own defaults hold bf16 and gradient checkpointing.
        settings = {"bf16": False, "gradient_checkpointing": False, "packing": False} if best else {}
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**common, **settings, completion_only_loss=None, assistant_only_loss=False),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[clock],
        )
        trainer.data_collator = counted(trainer.data_collator)
        trainer.train()
        quality = None
    else:
        if chat:
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), lora)
            encode = lambda row: _chat(tokenizer, row)  # noqa: E731
            collate = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
        else:
            names = sorted({row["label"] for row in rows})
            dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if best else {}
            model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(names), **dropout)
            if work == "text-top":
                model.requires_grad_(False)
                model.classifier.requires_grad_(True)
                model.bert.encoder.layer[-1].requires_grad_(True)
            encode = lambda row: {  # noqa: E731
                **tokenizer(row["text"], truncation=True, max_length=512),
                "labels": names.index(row["label"]),
            }
            collate = DataCollatorWithPadding(tokenizer)
        grouped = {"train_sampling_strategy": "group_by_length"} if best else {}
        grouped["bf16"] = variant == "best-bf16"
        keep = {"input_ids", "attention_mask", "labels"}
        data = [{k: v for k, v in encode(row).items() if k in keep} for row in rows]
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**common, **grouped),
            train_dataset=Dataset.from_list(data),
            data_collator=counted(collate),
            callbacks=[clock],
            processing_class=tokenizer,
        )
        trainer.train()
        judged = [{k: v for k, v in encode(row).items() if k in keep} for row in test]
        quality = _quality(model.eval(), judged, chat)
    (first_at, first_tokens, first_rows), (last_at, tokens, n_rows) = clock.marks[0], clock.marks[-1]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "tokens_per_s": (tokens - first_tokens) / (last_at - first_at),
                "examples_per_s": (n_rows - first_rows) / (last_at - first_at),
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "first_step_s": clock.first_step_s,
                "peak_bytes": usage.ru_maxrss * 1024,
                "quality": quality,
                "steps": len(clock.marks),
            }
        )
    )


def _chat(tokenizer, row):
    """Prompt and answer, the loss on the answer only, as migaki learns them."""
    prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole[len(prompt) :]))
    end = len(after) - after[::-1].index(tokenizer.eos_token_id)
    labels = [-100] * len(before) + after[:end] + [-100] * (len(after) - end)
    return {"input_ids": before + after, "attention_mask": [1] * len(labels), "labels": labels}


def _quality(model, rows, chat):
    """Token loss of chats, accuracy of texts."""
    import torch

    hits, loss, targets = 0, 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            logits = model(input_ids=ids).logits
            if chat:
                labels = torch.tensor(row["labels"])[1:]
                loss += float(torch.nn.functional.cross_entropy(logits[0, :-1], labels, reduction="sum"))
                targets += int((labels != -100).sum())
            else:
                hits += int(logits.argmax()) == row["labels"]
    return loss / targets if chat else hits / len(rows)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), json.loads(sys.argv[6]))
