"""What is written to go on from, and that no damage passes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from migaki.core.cache import set_aside
from migaki.core.errors import DamagedError
from migaki.training.checkpoint import (
    Progress,
    checkpoint_folders,
    load_progress,
    load_weights,
    prune,
    save_checkpoint,
)

Parameters = dict[str, torch.nn.Parameter]


def state(seed: int = 0, steps: int = 3) -> tuple[Parameters, torch.optim.AdamW]:
    """Two parameters and the optimizer that moved them `steps` times."""
    drawn = torch.Generator().manual_seed(seed)
    parameters = {
        "layer.weight": torch.nn.Parameter(torch.randn(3, 4, generator=drawn)),
        "layer.bias": torch.nn.Parameter(torch.randn(3, generator=drawn)),
    }
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, fused=True)
    for _ in range(steps):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=drawn)
        optimizer.step()
    return parameters, optimizer


def progress_at(step: int) -> Progress:
    return Progress(step=step, total_steps=9, best_step=step - 1, best_scores={"loss": 0.1}, rows_seen=7, seconds=1.5)


def saved(folder: Path, step: int = 3) -> Path:
    parameters, optimizer = state()
    return save_checkpoint(folder, progress_at(step), parameters, optimizer, torch.get_rng_state())


def test_what_is_loaded_is_bitwise_what_was_saved(tmp_path: Path) -> None:
    parameters, optimizer = state()
    generator = torch.Generator().manual_seed(77)
    folder = save_checkpoint(tmp_path, progress_at(3), parameters, optimizer, generator.get_state())
    others, fresh = state(seed=1, steps=0)
    progress, generator_state = load_progress(folder, others, fresh)
    assert progress == progress_at(3)
    assert torch.equal(generator_state, generator.get_state())
    for name, parameter in parameters.items():
        assert torch.equal(others[name], parameter)
    old, new = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert old.keys() == new.keys() == {0, 1}
    for number, values in old.items():
        assert values.keys() == new[number].keys()
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(value), new[number][key]), key


def test_training_goes_on_bitwise_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    parameters, optimizer = state()
    folder = save_checkpoint(tmp_path, progress_at(3), parameters, optimizer, torch.get_rng_state())
    others, fresh = state(seed=1, steps=0)
    load_progress(folder, others, fresh)
    for some, its_optimizer in ((parameters, optimizer), (others, fresh)):
        drawn = torch.Generator().manual_seed(9)
        for _ in range(3):
            for parameter in some.values():
                parameter.grad = torch.randn(parameter.shape, generator=drawn)
            its_optimizer.step()
    for name in parameters:
        assert torch.equal(parameters[name], others[name])


def test_the_settings_of_the_optimizer_are_not_taken_from_the_checkpoint(tmp_path: Path) -> None:
    """Rate and decay are the recipe's; only moments and counts are stored."""
    others, _ = state(seed=1, steps=0)
    fresh = torch.optim.AdamW(others.values(), lr=0.7, weight_decay=0.3, fused=True)
    load_progress(saved(tmp_path), others, fresh)
    assert (fresh.param_groups[0]["lr"], fresh.param_groups[0]["weight_decay"]) == (0.7, 0.3)


def test_only_safetensors_and_json_are_written(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert json.loads((folder / "state.json").read_text())["progress"] == asdict(progress_at(3))


def test_a_step_that_is_saved_already_is_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert saved(tmp_path) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


MEMBERS = ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")


@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped", "emptied"])
@pytest.mark.parametrize("member", MEMBERS)
def test_a_damaged_member_is_refused_and_changes_nothing(tmp_path: Path, member: str, damage: str) -> None:
    path = saved(tmp_path) / member
    content = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-1] if member != "MANIFEST.json" else content[: len(content) // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        at = content.index(b"sha256") + 12 if member == "MANIFEST.json" else len(content) // 2
        content[at] ^= 1
        path.write_bytes(content)
    others, fresh = state(seed=1, steps=0)
    before = {name: parameter.detach().clone() for name, parameter in others.items()}
    with pytest.raises(DamagedError):
        load_progress(path.parent, others, fresh)
    assert all(torch.equal(others[name], before[name]) for name in before)
    assert fresh.state_dict()["state"] == {}


def test_any_flipped_bit_of_the_manifest_is_refused_or_harmless(tmp_path: Path) -> None:
    """A bit in a number nobody reads may pass; then what is loaded is what was saved. Nothing else is raised."""
    folder = saved(tmp_path)
    wanted, _ = state()
    path = folder / "MANIFEST.json"
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        others, fresh = state(seed=1, steps=0)
        try:
            progress, _ = load_progress(folder, others, fresh)
        except DamagedError:
            refused += 1
            continue
        assert progress == progress_at(3)
        assert all(torch.equal(others[name], wanted[name]) for name in wanted)
    assert refused > len(content) / 7 / 2


def test_weights_of_another_method_or_shape_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    parameters, _ = state()
    with pytest.raises(DamagedError, match="other parameters"):
        load_weights(folder, {"layer.weight": parameters["layer.weight"]})
    with pytest.raises(DamagedError, match="shape"):
        load_weights(folder, parameters | {"layer.bias": torch.nn.Parameter(torch.zeros(4))})


def test_parameters_in_another_order_are_refused(tmp_path: Path) -> None:
    """The optimizer's moments are stored by number, so another order would mix them up."""
    folder = saved(tmp_path)
    parameters, _ = state(seed=1, steps=0)
    turned = dict(reversed(parameters.items()))
    with pytest.raises(DamagedError, match="order"):
        load_progress(folder, turned, torch.optim.AdamW(turned.values()))


def test_pruning_keeps_the_newest_two_the_best_and_what_is_pinned(tmp_path: Path) -> None:
    """Two, so that there is one to go on from where the newest turns out to be damaged."""
    for step in (0, 2, 4, 6, 8, 10):
        saved(tmp_path, step)
    (tmp_path / "step-00000004" / "PINNED").touch()
    prune(tmp_path, keep=2)
    assert [int(folder.name[-2:]) for folder in checkpoint_folders(tmp_path)] == [10, 8, 4, 2]
    (tmp_path / "step-00000004" / "PINNED").unlink()
    prune(tmp_path, keep=10)
    assert [int(folder.name[-2:]) for folder in checkpoint_folders(tmp_path)] == [10, 8]


def test_pruning_keeps_what_the_newest_two_name_as_the_best(tmp_path: Path) -> None:
    """A resume from either of them wants it; and one whose state is damaged names nothing, and stops nobody."""
    for step, best in ((2, 2), (4, 4), (6, 4), (8, 8), (10, 4)):
        parameters, optimizer = state(seed=0, steps=1)
        progress = Progress(step=step, best_step=best)
        save_checkpoint(tmp_path, progress, parameters, optimizer, torch.get_rng_state())
    prune(tmp_path, keep=10)
    assert [int(folder.name[-2:]) for folder in checkpoint_folders(tmp_path)] == [10, 8, 4]
    (tmp_path / "step-00000010" / "state.json").write_text("{")
    prune(tmp_path, keep=None)
    assert [int(folder.name[-2:]) for folder in checkpoint_folders(tmp_path)] == [10, 8]


def test_the_newest_is_the_highest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    import os

    for step in (8, 10, 100):
        os.utime(saved(tmp_path, step), (10**9 - step, 10**9 - step))
    assert [folder.name[-3:] for folder in checkpoint_folders(tmp_path)] == ["100", "010", "008"]
    prune(tmp_path, keep=None)
    assert [folder.name[-3:] for folder in checkpoint_folders(tmp_path)] == ["100", "010"]


def test_what_was_set_aside_is_kept_and_never_tried_again(tmp_path: Path) -> None:
    first = set_aside(saved(tmp_path))
    second = set_aside(saved(tmp_path))
    assert first != second
    assert first.is_dir()
    assert second.is_dir()
    assert checkpoint_folders(tmp_path) == []
