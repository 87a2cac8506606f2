"""The `training:` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from migaki.core.parts import Part

__all__ = ["Training"]


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
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target's probability that is spread over all classes or tokens."""
    evaluations_per_epoch: PositiveInt = 1
    """How often the validation split is judged; each time a checkpoint is written."""
    checkpoint_minutes: PositiveFloat | None = 10.0
    """Write a checkpoint at least this often, beside those at each evaluation; null: only there."""
    checkpoint_steps: PositiveInt | None = None
    """Write a checkpoint every so many steps as well."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products; auto: the fastest by a short measurement on this machine, see the run's
    environment.json."""
    early_stopping: PositiveInt | None = None
    """Stop after this many evaluations without a better one; null: never."""
    keep_best_by: Literal["metric", "loss"] = "metric"
    """What chooses the best model on validation: the task's main metric, or the loss. Equal ones keep the earlier."""
