"""What a run writes, and the one protocol by which it is written.

An artefact is a folder that is either wholly there or not at all: files are written into a temporary sibling,
flushed and fsynced, listed in `MANIFEST.json` with their sha256, and the folder is renamed into place. Readers
check the manifest, so damage is found before use. Folders are the truth; nothing here needs a database.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from migaki.core.errors import DamagedError, LockedError, MigakiError, RunNotFoundError, StorageError, UsageError
from migaki.core.units import bytes_text

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "RunFolder",
    "check_space",
    "commit",
    "file_sha256",
    "list_runs",
    "locked",
    "open_run",
    "read_json",
    "remove",
    "seal",
    "sweep",
    "verify",
    "write_file",
]

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path: Path) -> Any:
    """The JSON in a file that migaki wrote. Raises DamagedError where it is missing or cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} is not readable JSON ({error}).") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in this folder, for a moment: other processes wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(target: Path, needs_bytes: int = 0) -> Iterator[None]:
    """Turn the operating system's refusal into a message that names the place and the space."""
    try:
        yield
    except MigakiError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _hidden_errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            needs = f"{bytes_text(needs_bytes)} are needed, " if needs_bytes else ""
            raise StorageError(
                f"The disk is full at {target}: {needs}{bytes_text(_free_bytes(target))} are free. "
                "Free some space and give the same command again, or choose another folder with --runs."
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            reason = os.strerror(number)
            raise StorageError(f"{target} cannot be written ({reason}). Choose another folder with --runs.") from error
        raise


def _hidden_errno(error: Exception) -> int | None:
    """safetensors writes from Rust and gives the system's number only in its text."""
    found = re.search(r"os error (\d+)", str(error))
    return int(found.group(1)) if found else None


def _free_bytes(target: Path) -> int:
    while not target.is_dir():
        target = target.parent
    return shutil.disk_usage(target).free


def write_file(path: Path, text: str) -> None:
    """Write one text file so that it is either the old or the new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{uuid.uuid4().hex}")
    with _storage_errors(path):
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync(path.parent)


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest over all files below `folder`, last of all: sizes, hashes and the given facts."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _is_private(p.relative_to(folder))):
        if path == folder / MANIFEST:
            continue
        _fsync(path)
        files.append(
            {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        )
    manifest = {"format_version": FORMAT_VERSION, **facts, "files": files}
    write_file(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _is_private(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@contextlib.contextmanager
def commit(folder: Path, facts: Mapping[str, Any] | None = None, needs_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary folder to fill; on a clean exit it becomes `folder` at once, otherwise nothing is left.

    Args:
        folder: the final place.
        facts: stand in the manifest beside the list of files.
        needs_bytes: about how much is written, for the message when the disk is full.
    Raises:
        StorageError: the disk is full or not writable.
        FileExistsError: `folder` is already there; an artefact is never overwritten.
    """
    with _storage_errors(folder, needs_bytes):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            yield temporary
            seal(temporary, facts or {})
            for sub in (p for p in temporary.rglob("*") if p.is_dir()):
                _fsync(sub)
            there = folder.exists()
            try:
                if not there:
                    temporary.rename(folder)
            except OSError as error:  # a process that was quicker by less than the look above takes
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                there = True
            if there:
                raise FileExistsError(errno.EEXIST, "already committed", str(folder))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _fsync(folder.parent)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a committed folder, after every file's size and sha256 were checked.

    Raises:
        DamagedError: names the first file that is missing or differs.
    """
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    # The manifest is the one file without a hash of its own; `seal` ends it with a line break, so a cut shows.
    if not _is_manifest(manifest) or not (folder / MANIFEST).read_bytes().endswith(b"}\n"):
        raise DamagedError(f"{folder / MANIFEST} is not a whole manifest; {folder} cannot be used.")
    if manifest["format_version"] > FORMAT_VERSION:
        raise DamagedError(
            f"{folder} was written by a newer migaki (format {manifest['format_version']}, this one reads {FORMAT_VERSION})."
        )
    for entry in manifest["files"]:
        path = folder / entry["path"]
        if not path.is_file():
            raise DamagedError(f"{path} is missing; {folder} cannot be used.")
        if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            raise DamagedError(
                f"{path} is not the file that was written (size or sha256 differ); {folder} cannot be used."
            )
    return manifest


def _is_manifest(value: Any) -> bool:
    """Whether it has the shape that `seal` writes: one flipped bit can turn a key into another."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("format_version"), int)
        and isinstance(value.get("files"), list)
        and all(isinstance(entry, dict) and {"path", "bytes", "sha256"} <= entry.keys() for entry in value["files"])
        and all(isinstance(entry["path"], str) for entry in value["files"])
    )


def sweep(parent: Path) -> None:
    """Remove temporary files and folders below `parent` whose process is gone."""
    for path in parent.glob(".*.tmp-*-*"):
        pid = re.search(r"\.tmp-(\d+)-", path.name)
        if pid and not _is_alive(int(pid.group(1))):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # someone else's process, or a number that we did not write: not ours to clean up
    return True


def remove(folder: Path) -> None:
    """Take a committed folder away: first its name, so that no half of it can ever be seen, then its files."""
    gone = folder.with_name(f".{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def check_space(folder: Path, n_bytes: int) -> None:
    """Refuse work whose files could not be written.

    Raises:
        StorageError: names the bytes needed and free, or that the folder is not writable.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise StorageError(
            f"{bytes_text(n_bytes)} are needed in {folder} and {bytes_text(free)} are free. "
            "Free some space, or choose another folder with --runs."
        )
    if not os.access(folder, os.W_OK):
        raise StorageError(f"{folder} cannot be written. Choose another folder with --runs.")


class RunFolder:
    """One run's folder: `recipe.yaml`, `environment.json`, `data.json`, `history.jsonl`, `checkpoints/`, `model/`,
    `predictions.jsonl`, `evaluation.json`, `exhibits.json` (where rows are files), `report.html`, `state.json`, and
    `MANIFEST.json` once it is finished.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = RunFolder.create(Path(folder), "classify_text-lora", {"recipe.yaml": "task: classify_text\\n"})
    ...     run.id, run.state()["state"]
    ('0001-classify_text-lora', 'running')
    >>> run.unlock()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Any = None

    @property
    def id(self) -> str:
        return self.path.name

    @classmethod
    def create(cls, runs: Path, name: str, files: Mapping[str, str]) -> RunFolder:
        """A new run under the next number, with these text files, locked for this process.

        Raises:
            UsageError: `runs` is a file, or lies below one.
            StorageError: the folder cannot be made.
        """
        with _storage_errors(runs):
            there = next(place for place in (runs, *runs.parents) if place.exists())
            if not there.is_dir():
                raise UsageError(f"{there} is a file, so no run can be kept in it. Choose another folder with --runs.")
            runs.mkdir(parents=True, exist_ok=True)
            sweep(runs)
            temporary = runs / f".{name}.tmp-{os.getpid()}-{uuid.uuid4().hex}"
            run = cls(temporary)
            try:
                temporary.mkdir()
                for file, text in files.items():
                    write_file(temporary / file, text)
                (temporary / "checkpoints").mkdir()
                write_file(temporary / "state.json", json.dumps({"state": "running"}) + "\n")
                # Locked before it can be seen, so that nobody takes a new run for one that was killed.
                run.lock()
                with locked(runs):
                    # Two runs of different names could take one number if choosing it and taking it were not one act.
                    number = 1 + max((_number(path.name) for path in runs.iterdir()), default=0)
                    run.path = runs / f"{number:04d}-{name}"
                    temporary.rename(run.path)
                _fsync(runs)
            except BaseException:
                run.unlock()
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return run

    def lock(self) -> None:
        """Become the only writer. The lock dies with the process, so no stale one can stay behind.

        Raises:
            LockedError: names the process that holds it.
        """
        with _storage_errors(self.path):
            self._lock = (self.path / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            self._lock = None
            raise LockedError(f"Run {self.id} is being written by {holder}. Wait for it or stop it.") from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write(self, name: str, text: str) -> None:
        write_file(self.path / name, text)

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add one JSON line; the line is in the file when this returns."""
        with _storage_errors(self.path / name), (self.path / name).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def state(self) -> dict[str, Any]:
        """`{"state": "running" | "finished" | "failed" | "stopped" | "killed", ...}`.

        A run that is neither sealed nor ended, and that nobody writes any more, was killed.

        Raises:
            DamagedError: `state.json` is missing or unreadable.
        """
        state: dict[str, Any] = read_json(self.path / "state.json")
        if not isinstance(state, dict) or not isinstance(state.get("state"), str):
            raise DamagedError(f"{self.path / 'state.json'} does not say what state the run is in.")
        sealed = (self.path / MANIFEST).is_file()
        if state["state"] == "running" or (state["state"] == "finished" and not sealed):
            return {**state, "state": "running" if self._is_written() else "killed"}
        return state

    def _is_written(self) -> bool:
        """Whether a process, this one included, holds the lock."""
        try:
            with (self.path / ".lock").open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def truncate(self, name: str, n_bytes: int) -> None:
        """Cut a file of JSON lines back to what was certain at the last checkpoint; an absent file stays absent."""
        path = self.path / name
        if path.is_file():
            with _storage_errors(path), path.open("r+b") as file:
                file.truncate(n_bytes)
                os.fsync(file.fileno())

    def flushed_bytes(self, name: str) -> int:
        """Length of a file after everything in it has reached the disk; 0 where there is none."""
        path = self.path / name
        if not path.is_file():
            return 0
        with _storage_errors(path):
            _fsync(path)
        return path.stat().st_size

    def set_state(self, state: str, **facts: Any) -> None:
        self.write("state.json", json.dumps({"state": state, **facts}, ensure_ascii=False) + "\n")

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Mark the run finished and seal it: from now on every file in it is checked before use."""
        self.set_state("finished")
        seal(self.path, facts)
        self.unlock()


def list_runs(runs: Path) -> list[RunFolder]:
    """The runs of a folder by number; an absent folder has none."""
    if not runs.is_dir():
        return []
    found = [p for p in runs.iterdir() if (p / "state.json").is_file() and not p.name.startswith(".")]
    return [RunFolder(p) for p in sorted(found, key=lambda p: (_number(p.name), p.name))]


def _number(name: str) -> int:
    """The number that a run's id begins with; 0 where it has none."""
    found = re.match(r"([0-9]{4,})-", name)
    return int(found.group(1)) if found else 0


def open_run(name: str, runs: Path) -> RunFolder:
    """A run by its folder, its id, or the number the id begins with.

    Raises:
        RunNotFoundError: lists what is there.
    """
    # os.path, because pathlib raises where a name is too long to be a path.
    if os.path.isfile(os.path.join(name, "recipe.yaml")) and os.path.isfile(os.path.join(name, "state.json")):  # noqa: PTH113, PTH118
        return RunFolder(Path(name).resolve())
    known = list_runs(runs)
    wanted = int(name) if re.fullmatch("[0-9]{1,18}", name) else 0
    for run in known:
        if name == run.id or (wanted and wanted == _number(run.id)):
            return run
    ids = ", ".join(run.id for run in known[-5:]) or "none"
    raise RunNotFoundError(
        f"No run {name!r} in {runs} (there: {ids}). Give an id, its number, or the path of a run folder; --runs DIR looks elsewhere."
    )
