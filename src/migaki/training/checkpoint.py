"""What is needed to go on: trained weights, optimizer, generator, position, metrics. Safetensors and JSON only."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from migaki.core.errors import DamagedError
from migaki.core.store import commit, read_json, verify

__all__ = ["Progress", "checkpoint_folders", "load_progress", "load_weights", "prune", "save_checkpoint", "set_aside"]

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class Progress:
    """Where the loop stands. Sums and counts, not means, so that a resumed run reports what an uninterrupted one does."""

    step: int = 0
    """Optimiser steps done."""
    total_steps: int = 0
    best_step: int | None = None
    best_scores: dict[str, float] = field(default_factory=dict)
    evaluations_since_best: int = 0
    loss_sum: float = 0.0
    """Sum over targets of the loss since the last line of the log."""
    loss_weight: float = 0.0
    rows_seen: int = 0
    seconds: float = 0.0


def _folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Committed checkpoints, newest first by step, never by clock."""
    return sorted((p for p in checkpoints.glob("step-*") if re.fullmatch(r"step-\d{8}", p.name)), reverse=True)


def save_checkpoint(
    checkpoints: Path,
    progress: Progress,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generator_state: torch.Tensor,
) -> Path:
    """Commit `step-NNNNNNNN`; one that is there already holds the same and is left alone."""
    folder = _folder(checkpoints, progress.step)
    if folder.exists():
        return folder
    names = list(parameters)
    state = optimizer.state_dict()
    tensors = {"generator": generator_state}
    for number, values in state["state"].items():
        for key, value in values.items():
            tensors[f"{number}.{key}"] = (
                value.detach().contiguous() if isinstance(value, torch.Tensor) else torch.tensor(value)
            )
    with commit(folder, {"step": progress.step}) as temporary:
        save_file({name: parameters[name].detach().contiguous() for name in names}, temporary / _WEIGHTS)
        save_file(tensors, temporary / _OPTIMIZER)
        (temporary / _STATE).write_text(
            json.dumps({"progress": asdict(progress), "parameters": names}, indent=1) + "\n", encoding="utf-8"
        )
    return folder


@torch.no_grad()
def load_weights(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Put the checkpoint's weights into the parameters, after every file was checked.

    Raises:
        DamagedError: a file differs from its manifest, or the names or shapes are not these.
    """
    verify(folder)
    tensors = load_file(folder / _WEIGHTS)
    if set(tensors) != set(parameters):
        raise DamagedError(f"{folder} holds other parameters than this method trains.")
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise DamagedError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, not {tuple(parameters[name].shape)}."
            )
        parameters[name].copy_(tensor)


def load_progress(
    folder: Path, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[Progress, torch.Tensor]:
    """Weights, optimizer state, position and generator state of a checkpoint.

    Raises:
        DamagedError: as for `load_weights`.
    """
    load_weights(folder, parameters)
    stored: dict[str, Any] = read_json(folder / _STATE)
    if stored["parameters"] != list(parameters):
        raise DamagedError(f"{folder} lists its parameters in another order than this method does.")
    tensors = load_file(folder / _OPTIMIZER)
    generator_state = tensors.pop("generator")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**stored["progress"]), generator_state


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that it is never tried again and can still be looked at."""
    number = 0
    while (aside := folder.with_name(f".corrupt-{folder.name}-{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def prune(checkpoints: Path, keep: set[int]) -> None:
    """Remove all checkpoints but the newest and those of the given steps."""
    for folder in checkpoint_folders(checkpoints)[1:]:
        if int(folder.name.removeprefix("step-")) not in keep:
            shutil.rmtree(folder)
