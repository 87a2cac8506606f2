"""The `training:` section of a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from migaki.core.parts import Part

__all__ = ["Replay", "Training"]


class Replay(Part):
    """General rows that are trained on between those of the task, against forgetting."""

    rows: str | list[dict[str, Any]]
    """A file as for data.train, with the same columns, or a list: rows of the task's own format, such as general
    conversations. A classifier takes only rows that carry its labels."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Their share of the rows of an epoch; as many are drawn from the file by the seed, the same in every epoch."""

    @field_validator("rows")
    @classmethod
    def _beside_the_recipe(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str) or value.startswith("demo:") or "://" in value:
            return value
        if not value.strip() or "\x00" in value:
            raise ValueError("this is no path; give a file, demo:NAME or a list of rows.")
        folder = (info.context or {}).get("folder") or Path()
        try:
            return os.path.abspath(Path(folder) / Path(value).expanduser())
        except RuntimeError:
            raise ValueError(f"there is no home folder for {value!r}; write the path out.") from None


class Training(Part):
    """How the loop runs: AdamW, a schedule with warm-up, validation beside it, and the best model kept."""

    epochs: PositiveInt = 3
    """Times that every row is seen, unless early stopping or max_steps ends it before."""
    max_steps: PositiveInt | None = None
    """Optimiser steps at most; the schedule is laid over these. null: as many as the epochs need."""
    learning_rate: PositiveFloat | None = None
    """Highest rate of the schedule; null: what is usual for the method (full 5e-5, lora 2e-4, frozen 5e-4, reft 9e-4)."""
    batch_size: PositiveInt = 16
    """Rows in one optimiser step, however many are computed at once."""
    accumulate: PositiveInt = 1
    """Compute a step in at least this many parts to save memory; the update is the same."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up: down to zero along a half cosine or a line, or level."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps over which the rate rises from zero."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled decay of matrices, times the rate; norms and biases never decay. Source: arXiv:1711.05101."""
    clip: PositiveFloat | None = 1.0
    """Longest gradient (L2 norm over all trained parameters); longer ones are shortened to it. null: never."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = 0.0
    """Rate for every dropout of the base and before the head. The default is none, because drawing masks more than
    halves the speed on a CPU; null keeps the rates that the model was pretrained with."""
    mask_tokens: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each text's tokens that are hidden behind the mask token, drawn anew in every epoch: augmentation for
    encoders."""
    resample: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How evenly the labels are visited in an epoch: 0 as often as they stand in the rows, 1 all equally often, 0.5 by the
    square root of their rows. An epoch has as many rows as before: rows of rare labels come more than once, those of
    frequent ones in turn over the epochs. Only for rows with one label each, and instead of task.class_weights."""
    l2_sp: NonNegativeFloat = 0.0
    """Pull of every trained weight towards where it started, which is what it was pretrained to: w -= rate x l2_sp x
    (w - start), apart from the gradient like weight_decay, at most the whole way; 0: none. Keeps more of what the base
    could do. At a rate of 1e-4 a step goes a hundredth of the way back for l2_sp: 100. What was not pretrained is pulled to
    its own start: a head to its first values, LoRA's B to zero and its A to what was drawn. It acts beside weight_decay,
    which pulls to zero: set that to 0. Costs the trained weights once more in memory.
    Source: Li et al. 2018, arXiv:1802.01483."""
    replay: Replay | None = None
    """General rows mixed into the training ({rows: general.jsonl, share: 0.1}); null: none."""
    interpolate: Annotated[float, Field(ge=0, le=1)] | Literal["best"] | None = None
    """Keep the model that has gone this share of the way from the base to the tuned one, or the best of 0, 0.25, 0.5, 0.75
    and 1 by the validation split; evaluation.json then holds the scores at each. Gives up some of the gain for more of
    what the base could do. null: the tuned one. Source: Wortsman et al. 2021, arXiv:2109.01903."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target's probability that is spread over all classes or tokens."""
    evaluations_per_epoch: PositiveInt = 1
    """How often the validation split is judged; each time a checkpoint is written."""
    checkpoint_minutes: PositiveFloat | None = 10.0
    """Write a checkpoint at least this often, beside those at each evaluation; null: only there."""
    checkpoint_steps: PositiveInt | None = None
    """Write a checkpoint every so many steps as well."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that read files ahead of the steps, so that a step need not wait for them: images are decoded, altered and
    brought to size; recordings, which are decoded once and kept, are decoded side by side. 0: this process reads them itself.
    However many there are, the same numbers come out, to the last bit. Each takes about 70 MB and what its file needs. Pays
    where a graphics card computes, or where cores are idle. Tasks on texts read no files and take 0 alone."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products; auto: the fastest by a short measurement on this machine, see the run's
    environment.json."""
    early_stopping: PositiveInt | None = None
    """Stop after this many evaluations without a better one; null: never."""
    keep_best_by: Literal["metric", "loss"] = "metric"
    """What chooses the best model on validation: the task's main metric, or the loss. Equal ones keep the earlier."""
