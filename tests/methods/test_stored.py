"""Saved tensors are put back wholly or not at all."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from migaki.core.errors import DamagedError
from migaki.methods.stored import fill


def trained():
    return {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.nn.Parameter(torch.zeros(3))[:2]}


def test_every_tensor_comes_back_also_into_a_part_of_a_larger_one(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.full((2,), 3.0)}, tmp_path / "w")
    own = trained()
    fill(own, tmp_path / "w", "layer")
    assert [t.tolist() for t in own.values()] == [[1, 1], [3, 3]]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a": torch.ones(2)}, "b is missing"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"b is of shape \(3,\), not \(2,\)"),
        ({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(1)}, r"1 tensors fit no edit \(first: c\)"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(tmp_path, stored, message):
    save_file(stored, tmp_path / "w")
    own = trained()
    with pytest.raises(DamagedError, match=message):
        fill(own, tmp_path / "w", "edit")
    assert all(not t.any() for t in own.values())
