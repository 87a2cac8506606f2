"""An artefact is wholly there or not at all, whatever happens at whichever step; and one run has one writer."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import processes
from migaki.core import store
from migaki.core.errors import DamagedError, LockedError, RunNotFoundError, StorageError, UsageError
from migaki.core.store import RunFolder, commit, list_runs, open_run, read_json, seal, sweep, verify, write_file

PLACES = [(os, "fsync"), (os, "mkdir"), (os, "rename"), (store.shutil, "rmtree"), (Path, "open")]
"""Where the store asks the system for something; pathlib calls `os` below."""


def commit_two(folder: Path) -> None:
    with commit(folder / "two", {"step": 7}) as temporary:
        (temporary / "a.txt").write_text("first")
        (temporary / "in").mkdir()
        (temporary / "in" / "b.txt").write_text("second")


def create_run(folder: Path) -> None:
    RunFolder.create(folder, "name", {"recipe.yaml": "seed: 0\n"}).unlock()


def replace_text(folder: Path) -> None:
    write_file(folder / "text.txt", "new")


def disturbed(work: Callable[[Path], None], folder: Path, at: int, disturb: Callable[[], None]) -> int:
    """Do the work in a child, and something to it at file operation `at` (from 1); its exit code.

    0: it was done before so many operations. 3: it ended with StorageError. 4: it was disturbed and done all the same.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code, done = 1, 0
    try:
        for holder, name in PLACES:
            original = getattr(holder, name)

            def counted(*arguments, original=original, **settings):
                nonlocal done
                done += 1
                if done == at:
                    disturb()
                return original(*arguments, **settings)

            setattr(holder, name, counted)
        work(folder)
        code = 0 if done < at else 4
    except StorageError:
        code = 3
    finally:
        os._exit(code)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def at_every_step(work: Callable[[Path], None], root: Path, disturb: Callable[[], None], prepare=lambda folder: None):
    """(folder, exit code) for each operation at which the work can be disturbed, the undisturbed one last."""
    for at in range(1, 200):
        folder = root / str(at)
        folder.mkdir()
        prepare(folder)
        code = disturbed(work, folder, at, disturb)
        yield folder, code
        if code == 0:
            assert at > 3, "nothing was disturbed"
            return
    raise AssertionError("the work never ended")


@pytest.mark.parametrize(("disturb", "code"), [(kill, -signal.SIGKILL), (fill_disk, 3)], ids=["killed", "disk full"])
def test_a_commit_that_is_disturbed_at_any_step_leaves_all_or_nothing(tmp_path, disturb, code):
    for folder, ended in at_every_step(commit_two, tmp_path, disturb):
        assert ended in (code, 0, 4)
        if (folder / "two").exists():
            assert verify(folder / "two")["step"] == 7
            assert (folder / "two" / "in" / "b.txt").read_text() == "second"
        else:
            assert ended == code
        if ended == 3:
            assert [path.name for path in folder.iterdir()] in ([], ["two"])
        sweep(folder)
        assert [path.name for path in folder.iterdir()] in ([], ["two"])
        if not (folder / "two").exists():
            commit_two(folder)
            assert verify(folder / "two")["step"] == 7


@pytest.mark.parametrize(("disturb", "code"), [(kill, -signal.SIGKILL), (fill_disk, 3)], ids=["killed", "disk full"])
def test_a_new_run_that_is_disturbed_at_any_step_is_not_listed_or_whole(tmp_path, disturb, code):
    for folder, ended in at_every_step(create_run, tmp_path, disturb):
        assert ended in (code, 0, 4)
        for run in list_runs(folder):
            assert run.state()["state"] == "killed"
            assert (run.path / "recipe.yaml").read_text() == "seed: 0\n"
            assert (run.path / "checkpoints").is_dir()
        again = RunFolder.create(folder, "again", {"recipe.yaml": ""})
        again.unlock()
        # Whoever comes next clears what a dead process left.
        assert not [path for path in folder.iterdir() if ".tmp-" in path.name]
        assert len({run.id[:4] for run in list_runs(folder)}) == len(list_runs(folder))


@pytest.mark.parametrize(("disturb", "code"), [(kill, -signal.SIGKILL), (fill_disk, 3)], ids=["killed", "disk full"])
def test_a_file_that_is_replaced_is_the_old_or_the_new_one_at_any_step(tmp_path, disturb, code):
    seen = set()
    for folder, ended in at_every_step(
        replace_text, tmp_path, disturb, prepare=lambda folder: (folder / "text.txt").write_text("old")
    ):
        assert ended in (code, 0, 4)
        text = (folder / "text.txt").read_text()
        seen.add(text)
        assert text == "new" if ended in (0, 4) else text in ("old", "new")
        if ended == 3:
            assert [path.name for path in folder.iterdir()] == ["text.txt"]
    assert seen == {"old", "new"}


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_while_an_artefact_is_filled_leaves_nothing_and_is_passed_on(tmp_path, fault):
    def fill() -> None:
        with commit(tmp_path / "a") as temporary:
            (temporary / "half.txt").write_text("x")
            raise fault

    with pytest.raises(fault):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_is_never_overwritten(tmp_path):
    commit_two(tmp_path)
    with pytest.raises(FileExistsError), commit(tmp_path / "two") as temporary:
        (temporary / "a.txt").write_text("other")
    assert verify(tmp_path / "two")["step"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_nobody_sees_an_artefact_before_it_is_whole(tmp_path):
    with commit(tmp_path / "a") as temporary:
        assert not (tmp_path / "a").exists()
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".a.tmp-")
    assert verify(tmp_path / "a")["files"] == []


# manifest


def test_the_manifest_names_every_file_with_its_size_and_hash(tmp_path):
    commit_two(tmp_path)
    manifest = read_json(tmp_path / "two" / "MANIFEST.json")
    # sha256sum of the five letters `first` and the six of `second`
    assert manifest == {
        "format_version": 1,
        "step": 7,
        "files": [
            {
                "path": "a.txt",
                "bytes": 5,
                "sha256": "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e",
            },
            {
                "path": "in/b.txt",
                "bytes": 6,
                "sha256": "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4",
            },
        ],
    }


def test_hidden_files_belong_to_nobody_and_are_not_sealed(tmp_path):
    (tmp_path / ".lock").write_text("x")
    (tmp_path / "a").write_text("x")
    seal(tmp_path, {})
    (tmp_path / ".lock").write_text("changed")
    assert [entry["path"] for entry in verify(tmp_path)["files"]] == ["a"]


FILES = ["a.txt", "in/b.txt", "MANIFEST.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_named(tmp_path, name):
    commit_two(tmp_path)
    (tmp_path / "two" / name).unlink()
    with pytest.raises(DamagedError, match=re.escape(str(tmp_path / "two" / name)) + " is missing"):
        verify(tmp_path / "two")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda data: data + b" ]"])
def test_a_file_of_another_length_is_found_and_named(tmp_path, name, change):
    commit_two(tmp_path)
    path = tmp_path / "two" / name
    path.write_bytes(change(path.read_bytes().rstrip()))
    with pytest.raises(DamagedError, match=re.escape(str(path))):
        verify(tmp_path / "two")


@pytest.mark.parametrize("name", ["a.txt", "in/b.txt"])
def test_every_flipped_bit_of_a_file_is_found(tmp_path, name):
    commit_two(tmp_path)
    path = tmp_path / "two" / name
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(DamagedError, match=re.escape(str(path))):
            verify(tmp_path / "two")
    path.write_bytes(good)
    verify(tmp_path / "two")


def test_a_flipped_bit_of_the_manifest_is_refused_or_changes_no_file(tmp_path):
    """Never another error, and never a manifest that lists other files than were written."""
    commit_two(tmp_path)
    path = tmp_path / "two" / "MANIFEST.json"
    good = path.read_bytes()
    files = json.loads(good)["files"]
    refused = 0
    for at in range(len(good)):
        for bit in (0, 3, 6):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            path.write_bytes(bad)
            try:
                assert verify(tmp_path / "two")["files"] == files
            except DamagedError:
                refused += 1
    assert refused > 2 * len(good)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": [1]}', '{"files": [], "format_version": "1"}', '{"files"'])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(DamagedError, match=r"MANIFEST\.json is not"):
        verify(tmp_path)


def test_a_folder_of_a_newer_version_is_refused(tmp_path):
    seal(tmp_path, {"format_version": 2})
    with pytest.raises(DamagedError, match=r"newer migaki \(format 2, this one reads 1\)"):
        verify(tmp_path)


# lock


def test_a_second_process_is_refused_and_told_who_writes(tmp_path):
    run = RunFolder.create(tmp_path, "name", {})
    code = """
import sys
from pathlib import Path
from migaki.core.errors import LockedError
from migaki.core.store import RunFolder
try:
    RunFolder(Path(sys.argv[1])).lock()
except LockedError as error:
    print(error)
"""
    said = processes.run(code, run.path)
    assert said.strip() == (
        f"Run 0001-name is being written by process {os.getpid()} on {socket.gethostname()}. Wait for it or stop it."
    )
    run.unlock()
    assert processes.run(code, run.path) == ""


def test_a_lock_dies_with_its_process(tmp_path):
    run = RunFolder.create(tmp_path, "name", {})
    run.unlock()
    code = """
import sys, time
from pathlib import Path
from migaki.core.store import RunFolder
run = RunFolder(Path(sys.argv[1]))
run.lock()
print("locked", flush=True)
time.sleep(60)
"""
    holder = processes.start(code, run.path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(LockedError, match=f"process {holder.pid} on"):
        run.lock()
    assert run.state()["state"] == "running"
    holder.kill()
    holder.communicate()
    assert run.state()["state"] == "killed"
    run.lock()
    assert run.state()["state"] == "running"
    run.unlock()


def test_a_finished_run_that_was_not_sealed_any_more_is_told_as_killed(tmp_path):
    run = RunFolder.create(tmp_path, "name", {})
    run.set_state("finished")
    assert run.state()["state"] == "running"
    run.unlock()
    assert run.state()["state"] == "killed"
    run.lock()
    run.finish({"run": run.id})
    assert run.state() == {"state": "finished"}
    assert verify(run.path)["run"] == "0001-name"


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_run_that_ended_keeps_its_state_and_its_reason(tmp_path, state):
    run = RunFolder.create(tmp_path, "name", {})
    run.set_state(state, reason="because")
    run.unlock()
    assert run.state() == {"state": state, "reason": "because"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": 1}', '{"state": "fin'])
def test_a_state_that_cannot_be_read_is_damage(tmp_path, text):
    run = RunFolder.create(tmp_path, "name", {})
    run.unlock()
    (run.path / "state.json").write_text(text)
    with pytest.raises(DamagedError, match=r"state\.json"):
        run.state()


# sweep


def dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_only_what_dead_processes_left_is_swept(tmp_path):
    dead = dead_pid()
    kept = [f".a.tmp-{os.getpid()}-ff", ".a.tmp-1-ff", "a.tmp-999999-ff", ".hidden", "0001-a", f".a.tmp-{10**30}-ff"]
    gone = [f".a.tmp-{dead}-ff", f".step-00000003.tmp-{dead}-00"]
    for name in kept + gone:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / f".state.json.tmp-{dead}-ff").write_text("half")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


# numbering


def test_two_processes_never_take_one_number(tmp_path):
    code = """
import sys
from pathlib import Path
from migaki.core.store import RunFolder
print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    RunFolder.create(Path(sys.argv[1]), sys.argv[2], {"recipe.yaml": ""}).unlock()
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "runs"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[2])},
        )
        for name in ("full", "lora")
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    runs = list_runs(tmp_path / "runs")
    assert [run.id[:4] for run in runs] == [f"{number:04d}" for number in range(1, 31)]
    assert {run.id[5:] for run in runs} == {"full", "lora"}


def test_the_number_after_the_highest_is_taken_whatever_is_missing_or_in_the_way(tmp_path):
    for name in ("0003-old", "0007-file-of-someone", "notes", "12-x"):
        (tmp_path / name).mkdir()
    run = RunFolder.create(tmp_path, "name", {})
    run.unlock()
    assert run.id == "0008-name"


def test_the_ten_thousandth_run_has_five_digits_and_stands_last(tmp_path):
    for name in ("9998-a", "9999-a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text('{"state": "failed"}')
    for _ in range(2):
        RunFolder.create(tmp_path, "b", {}).unlock()
    assert [run.id for run in list_runs(tmp_path)] == ["9998-a", "9999-a", "10000-b", "10001-b"]
    assert open_run("10001", tmp_path).id == "10001-b"


def test_a_folder_that_cannot_hold_runs_is_refused_and_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for runs in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=re.escape(f"{tmp_path / 'file'} is a file")):
            RunFolder.create(runs, "name", {})
    with pytest.raises(StorageError, match="too long"):
        RunFolder.create(tmp_path / ("x" * 300), "name", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_and_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        RunFolder.create(tmp_path, "name", {})


def test_a_full_disk_is_told_with_the_place_and_the_space_left(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(StorageError, match=r"The disk is full at .*a\.txt: .*iB are free"):
        write_file(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


# finding runs


@pytest.fixture
def three_runs(tmp_path: Path) -> Path:
    for name in ("a", "b", "a"):
        RunFolder.create(tmp_path, name, {"recipe.yaml": ""}).unlock()
    return tmp_path


@pytest.mark.parametrize("name", ["2", "02", "0002", "0002-b"])
def test_a_run_is_found_by_its_number_and_its_id(three_runs, name):
    assert open_run(name, three_runs).path == three_runs / "0002-b"


def test_a_run_is_found_by_its_folder_wherever_it_is(three_runs, monkeypatch):
    assert open_run(str(three_runs / "0002-b"), Path("elsewhere")).id == "0002-b"
    monkeypatch.chdir(three_runs / "0002-b")
    assert open_run(".", Path("elsewhere")).id == "0002-b"


@pytest.mark.parametrize("name", ["4", "0", "-1", "", "0002-a", "²", "٢", "x" * 300, "2 ", "9" * 5000, "a/../0002-b"])
def test_a_run_that_is_not_there_is_told_with_those_that_are(three_runs, name):
    with pytest.raises(RunNotFoundError, match=r"\(there: 0001-a, 0002-b, 0003-a\)"):
        open_run(name, three_runs)


def test_a_checkpoint_is_no_run(three_runs):
    folder = three_runs / "0001-a" / "checkpoints" / "step-00000003"
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    with pytest.raises(RunNotFoundError):
        open_run(str(folder), three_runs)


def test_a_folder_that_is_not_there_has_no_runs(tmp_path):
    assert list_runs(tmp_path / "none") == []
    with pytest.raises(RunNotFoundError, match=r"\(there: none\)"):
        open_run("1", tmp_path / "none")


def test_lines_are_appended_and_a_short_one_is_read_as_damage(tmp_path):
    run = RunFolder.create(tmp_path, "a", {})
    run.append("history.jsonl", {"本": 1})
    run.append("history.jsonl", {"b": [2]})
    assert (run.path / "history.jsonl").read_bytes() == '{"本": 1}\n{"b": [2]}\n'.encode()
    run.unlock()
    (run.path / "cut.json").write_bytes('{"本'.encode()[:-1])
    with pytest.raises(DamagedError, match="not readable JSON"):
        read_json(run.path / "cut.json")
