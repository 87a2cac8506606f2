"""A save that fails or is killed at any of its file operations, and checkpoints that were damaged afterwards."""

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import migaki
from durability.faults import Undisturbed, differences, forked, outcome, prepare, recipe
from migaki.core.errors import StorageError
from migaki.core.store import verify
from migaki.training import checkpoint as checkpoints_module
from migaki.training.checkpoint import Progress, checkpoint_folders, load_progress, prune, save_checkpoint
from migaki.training.loop import _Loop

OPERATIONS = [(os, "fsync"), (os, "open"), (Path, "open"), (Path, "rename"), (Path, "mkdir"), (Path, "write_text")]


class World:
    """Two weights and their optimizer, at step 1 or step 2."""

    def __init__(self) -> None:
        self.parameters = {"a": torch.nn.Parameter(torch.arange(6.0)), "b": torch.nn.Parameter(torch.ones(3))}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1)

    def advance(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def save(self, folder: Path, step: int) -> None:
        save_checkpoint(folder, Progress(step=step), self.parameters, self.optimizer, torch.get_rng_state())
        prune(folder, keep=step)


def expected() -> dict[int, torch.Tensor]:
    world, found = World(), {}
    for step in (1, 2):
        world.advance()
        found[step] = world.parameters["a"].detach().clone()
    return found


def disturbed(folder: Path, at: int, mode: str) -> int:
    """Save step 1, then step 2 with the n-th file operation killed or refused; the child's exit status: 0 where there
    were fewer operations than that."""

    def work() -> None:
        world = World()
        world.advance()
        world.save(folder, 1)
        world.advance()
        done = 0

        def counted(original):
            def operation(*arguments, **settings):
                nonlocal done
                done += 1
                if done == at and mode == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if done == at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return original(*arguments, **settings)

            return operation

        for holder, name in [*OPERATIONS, (checkpoints_module, "save_file")]:
            setattr(holder, name, counted(getattr(holder, name)))
        world.save(folder, 2)

    return forked(work)


@pytest.mark.parametrize("mode", ["kill", "fail"])
def test_a_save_that_is_disturbed_at_any_file_operation_leaves_the_old_or_the_new_checkpoint(tmp_path, mode):
    weights = expected()
    at, codes = 0, []
    while not codes or codes[-1] != 0:
        at += 1
        folder = tmp_path / f"{at}"
        codes.append(disturbed(folder, at, mode))
        found = checkpoint_folders(folder)
        assert found, f"operation {at}: no checkpoint is left"
        for one in found:
            verify(one)
        world = World()
        progress, _ = load_progress(found[0], world.parameters, world.optimizer)
        assert torch.equal(world.parameters["a"], weights[progress.step]), f"operation {at}"
    assert at > 15
    disturbed_code = -signal.SIGKILL if mode == "kill" else StorageError.exit_code
    assert set(codes[:-1]) == {disturbed_code}
    assert progress.step == 2


DAMAGE = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "one byte short": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "one bit flipped": lambda data: bytes(
        [*data[: len(data) // 2], data[len(data) // 2] ^ 1, *data[len(data) // 2 + 1 :]]
    ),
}
MEMBERS = ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was killed behind its second checkpoint, and the outcome of one that was not."""
    folder = prepare(tmp_path_factory.mktemp("damage"))
    reference = Undisturbed("encoder-full", folder)

    def work() -> None:
        step = _Loop._step

        def killed_at_eight(loop: _Loop) -> None:
            if loop.progress.step == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            step(loop)

        _Loop._step = killed_at_eight
        migaki.train(recipe("encoder-full", folder), runs=folder / "killed")

    assert forked(work) == -signal.SIGKILL
    return folder, reference


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_member_is_found_and_the_older_checkpoint_is_used(interrupted, tmp_path, member, damage):
    from migaki.training.monitor import Monitor

    class Heard(Monitor):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    folder, reference = interrupted
    runs = tmp_path / "runs"
    shutil.copytree(folder / "killed", runs)
    (checkpoints,) = runs.glob("*/checkpoints")
    path = checkpoint_folders(checkpoints)[0] / member
    data = DAMAGE[damage](path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    monitor = Heard()
    torch.set_num_threads(1)
    migaki.train(recipe("encoder-full", folder), runs=runs, monitor=monitor)
    assert any("is damaged and set aside" in note for note in monitor.notes)
    shutil.rmtree(next(checkpoints.glob(".corrupt-*")))
    assert differences(reference.files, outcome(runs)) == []
