"""Trials of Optuna around transformers' Trainer, in a process and environment of their own; the study is kept in a file.

Its best documented settings on a processor: no dropout, `group_by_length`, a median pruner that is told the validation
accuracy after each epoch. Rows are tokenised once, and the weights are read from disk once, for all trials.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import sys
import tempfile
from pathlib import Path


def main(folder: Path, study_file: Path, model_path: str, trials: int, seed: int) -> None:
    import optuna
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train, valid = (_rows(folder / f"{name}.csv") for name in ("train", "valid"))
    names = sorted({row["label"] for row in train})
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    encoded = [
        Dataset.from_list(
            [
                {**tokenizer(row["text"], truncation=True, max_length=128), "labels": names.index(row["label"])}
                for row in rows
            ]
        )
        for rows in (train, valid)
    ]
    start = AutoModelForSequenceClassification.from_pretrained(
        model_path, num_labels=len(names), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    start.requires_grad_(False)
    start.classifier.requires_grad_(True)
    start.bert.encoder.layer[-1].requires_grad_(True)

    class Told(TrainerCallback):
        """Tells the study each epoch's accuracy, and ends what it gives up."""

        def __init__(self, trial: optuna.Trial) -> None:
            self.trial, self.best = trial, 0.0

        def on_evaluate(self, args, state, control, metrics, **_):
            self.best = max(self.best, metrics["eval_accuracy"])
            self.trial.report(metrics["eval_accuracy"], int(state.epoch + 0.5))
            if self.trial.should_prune():
                raise optuna.TrialPruned

    def objective(trial: optuna.Trial) -> float:
        told = Told(trial)
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=trial.suggest_float("learning_rate", 5e-5, 5e-3, log=True),
            num_train_epochs=trial.suggest_int("epochs", 2, 6),
            warmup_steps=trial.suggest_float("warmup", 0.0, 0.2),
            lr_scheduler_type="cosine",
            weight_decay=0.01,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
            train_sampling_strategy="group_by_length",
        )
        trainer = Trainer(
            model=copy.deepcopy(start),
            args=arguments,
            train_dataset=encoded[0],
            eval_dataset=encoded[1],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
            callbacks=[told],
        )
        trainer.train()
        return told.best

    study = optuna.create_study(
        study_name="frozen",
        storage=f"sqlite:///{study_file}",
        load_if_exists=True,  # by each of several processes
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),  # of its own, or each process would try the same
        pruner=optuna.pruners.MedianPruner(),
    )
    study.optimize(objective, n_trials=trials)
    states = [trial.state.name for trial in study.trials]
    values = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    print(json.dumps({"best": max(values, default=None), "trials": len(states), "pruned": states.count("PRUNED")}))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
