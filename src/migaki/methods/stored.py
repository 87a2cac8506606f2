"""Saved tensors put back to where they were trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from migaki.core.errors import DamagedError

__all__ = ["fill"]


@torch.no_grad()
def fill(own: Mapping[str, torch.Tensor], path: Path, place: str) -> None:
    """Copy the tensors of a file into those of the same names; all of them must be there and fit, else none is copied.

    Args:
        own: by the name under which each was saved.
        path: of the safetensors file.
        place: what a tensor belongs to, for messages: "layer", "edit".
    Raises:
        DamagedError: names the tensor that is missing, left over, or of another shape.
    """
    stored = load_file(path)
    for name, tensor in own.items():
        if name not in stored:
            raise DamagedError(f"{path}: {name} is missing.")
        if stored[name].shape != tensor.shape:
            raise DamagedError(f"{path}: {name} is of shape {tuple(stored[name].shape)}, not {tuple(tensor.shape)}.")
    over = sorted(stored.keys() - own.keys())
    if over:
        raise DamagedError(f"{path}: {len(over)} tensors fit no {place} (first: {over[0]}).")
    for name, tensor in own.items():
        tensor.copy_(stored[name])
