"""A disk that fills up at any moment: a clean stop that names the bytes, and the same end once there is room again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from durability.faults import Undisturbed, differences, forked, outcome, prepare, trained
from migaki.core.errors import StorageError
from migaki.core.store import check_space, list_runs
from migaki.training import loop

SIZE = 4 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("full"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(disk).free - left, 1))
    return ballast


def test_too_small_a_disk_is_refused_before_any_work_with_the_bytes_needed_and_free(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StorageError, match=r"TiB|GiB are needed in .* and .* are free.*--runs"):
        check_space(tmp_path, free + (1 << 40))


def test_a_run_on_a_disk_that_fills_up_stops_cleanly_and_goes_on_when_there_is_room(folder, small_disk, monkeypatch):
    # The check before the work would refuse these disks at once; here the disk fills up behind its back.
    monkeypatch.setattr(loop, "check_space", lambda *_: None)
    reference = Undisturbed("decoder-lora", folder)
    stopped = 0
    for at in range(20):
        runs = small_disk / "runs"
        ballast = fill(small_disk, 20_000 + at * 20_000)
        code = forked(trained("decoder-lora", folder, runs))
        assert code in (0, 1), f"{20_000 + at * 20_000} bytes free"
        stopped += code == 1
        assert all(run.state()["state"] in ("failed", "killed", "finished") for run in list_runs(runs))
        ballast.unlink()
        if code == 1:
            assert forked(trained("decoder-lora", folder, runs)) == 0
        assert differences(reference.files, outcome(runs)) == []
        shutil.rmtree(runs)
    assert stopped >= 10
