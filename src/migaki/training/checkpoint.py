"""What is needed to go on: trained weights, optimizer, generator, position, metrics. Safetensors and JSON only."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from migaki.core.errors import DamagedError
from migaki.core.store import commit, read_json, remove, verify

__all__ = [
    "PINNED",
    "START_FILE",
    "WEIGHTS_FILE",
    "Progress",
    "Start",
    "checkpoint_bytes",
    "checkpoint_folders",
    "load_progress",
    "load_weights",
    "prune",
    "save_checkpoint",
]

PINNED = "PINNED"
START_FILE = ".start.safetensors"
WEIGHTS_FILE = "weights.safetensors"

_OPTIMIZER, _STATE = "optimizer.safetensors", "state.json"


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
    evaluated_step: int | None = None
    """The last step at which the validation split was judged."""
    history_bytes: int = 0
    """Length of history.jsonl at this point: what stands behind it was done again."""


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
    """Commit `step-NNNNNNNN`; one that is there already holds the same weights and is left alone. Where a stop wrote it before
    the evaluation that was due, whoever goes on from it judges the rows again."""
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
    with commit(folder, {"step": progress.step}, checkpoint_bytes(parameters)) as temporary:
        save_file({name: parameters[name].detach().contiguous() for name in names}, temporary / WEIGHTS_FILE)
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
    tensors = load_file(folder / WEIGHTS_FILE)
    if set(tensors) != set(parameters):
        raise DamagedError(f"{folder} holds other parameters than this method trains.")
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise DamagedError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, not {tuple(parameters[name].shape)}."
            )
    _copy(tensors, parameters)


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


def prune(checkpoints: Path, keep: int | None) -> None:
    """Remove all checkpoints but the newest two, the best ones that these name, `keep`, and those that hold a file PINNED.

    The newest one may name another best one than the run has by now: saved on a signal, it is judged when the run goes
    on. And where it turns out damaged, the one before it is of use only together with the best one of its own time.
    """
    folders = checkpoint_folders(checkpoints)
    kept = {keep, *map(_best_named, folders[:2])}
    for folder in folders[2:]:
        if int(folder.name.removeprefix("step-")) not in kept and not (folder / PINNED).exists():
            remove(folder)


def _best_named(folder: Path) -> int | None:
    try:
        return read_json(folder / _STATE)["progress"]["best_step"]  # type: ignore[no-any-return]
    except (DamagedError, KeyError, TypeError):
        return None  # damaged, which is said where it is read to go on


def checkpoint_bytes(parameters: Mapping[str, torch.nn.Parameter]) -> int:
    """Size of one checkpoint: the weights and AdamW's two numbers for each."""
    return 3 * sum(p.numel() * p.element_size() for p in parameters.values())


class Start:
    """The weights before the first step, beside the run while it goes on.

    They are needed once more when the run has ended, to judge the base, and can always be made again from the seed: so
    they are no checkpoint and cost no fsync.
    """

    def __init__(self, run: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self._path = run / START_FILE
        self._parameters = parameters
        save_file({name: p.detach().contiguous() for name, p in parameters.items()}, self._path)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Within this the parameters are as they were before the first step, afterwards as they are now."""
        now = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.load()
        try:
            yield
        finally:
            _copy(now, self._parameters)

    def load(self) -> None:
        """Put the weights back for good."""
        _copy(self.tensors(), self._parameters)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name, on the processor."""
        return load_file(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


@torch.no_grad()
def _copy(tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.nn.Parameter]) -> None:
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)
