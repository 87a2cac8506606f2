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

from migaki.core.errors import DamagedError, LockedError, RunNotFoundError, StorageError
from migaki.core.units import bytes_text

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "RunFolder",
    "commit",
    "file_sha256",
    "list_runs",
    "open_run",
    "read_json",
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
def _storage_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusal into a message that names the place and the space."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(target.parent).free
            raise StorageError(
                f"The disk is full at {target}: {bytes_text(free)} are free. Free some space or choose another folder with --runs."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                f"{target} cannot be written ({error.strerror}). Choose another folder with --runs."
            ) from error
        raise


def write_file(path: Path, text: str) -> None:
    """Write one text file so that it is either the old or the new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")
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
def commit(folder: Path, facts: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Give a temporary folder to fill; on a clean exit it becomes `folder` at once, otherwise nothing is left.

    Raises:
        StorageError: the disk is full or not writable.
        FileExistsError: `folder` is already there; an artefact is never overwritten.
    """
    with _storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            yield temporary
            seal(temporary, facts or {})
            for sub in (p for p in temporary.rglob("*") if p.is_dir()):
                _fsync(sub)
            if folder.exists():
                raise FileExistsError(errno.EEXIST, "already committed", str(folder))
            temporary.rename(folder)
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
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
        raise DamagedError(f"{folder / MANIFEST} is not a manifest.")
    if manifest.get("format_version", 0) > FORMAT_VERSION:
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


def sweep(parent: Path) -> None:
    """Remove temporary folders below `parent` whose process is gone."""
    for path in parent.glob(".*.tmp-*-*"):
        pid = re.search(r"\.tmp-(\d+)-", path.name)
        if pid and not Path(f"/proc/{pid.group(1)}").exists() and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


class RunFolder:
    """One run's folder: `recipe.yaml`, `environment.json`, `data.json`, `history.jsonl`, `checkpoints/`, `model/`,
    `predictions.jsonl`, `evaluation.json`, `report.html`, `state.json`, and `MANIFEST.json` once it is finished.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = RunFolder.create(Path(folder), "classify_text-lora", {"recipe.yaml": "task: classify_text\\n"})
    ...     run.id, run.state()["state"]
    ('0001-classify_text-lora', 'running')
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
            StorageError: the folder cannot be made.
        """
        with _storage_errors(runs):
            runs.mkdir(parents=True, exist_ok=True)
        sweep(runs)
        while True:
            number = 1 + max((int(p.name[:4]) for p in runs.iterdir() if re.match(r"\d{4}-", p.name)), default=0)
            folder = runs / f"{number:04d}-{name}"
            try:
                with _storage_errors(runs):
                    temporary = runs / f".{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex}"
                    temporary.mkdir()
                    for file, text in files.items():
                        write_file(temporary / file, text)
                    (temporary / "checkpoints").mkdir()
                    write_file(temporary / "state.json", json.dumps({"state": "running"}) + "\n")
                    # The number is claimed by the rename: of two processes that chose it, one finds it taken.
                    if any(p.name.startswith(f"{number:04d}-") for p in runs.iterdir()):
                        raise FileExistsError(errno.EEXIST, "number taken")
                    temporary.rename(folder)
                    _fsync(runs)
            except FileExistsError:
                shutil.rmtree(temporary, ignore_errors=True)
                continue
            run = cls(folder)
            run.lock()
            return run

    def lock(self) -> None:
        """Become the only writer. The lock dies with the process, so no stale one can stay behind.

        Raises:
            LockedError: names the process that holds it.
        """
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
        """`{"state": "running" | "finished" | "failed" | "stopped", ...}`; a running one without a writer was killed."""
        state: dict[str, Any] = read_json(self.path / "state.json")
        return state

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
    return [RunFolder(p) for p in sorted(runs.iterdir()) if (p / "state.json").is_file() and not p.name.startswith(".")]


def open_run(name: str, runs: Path) -> RunFolder:
    """A run by its folder, its id, or the number the id begins with.

    Raises:
        RunNotFoundError: lists what is there.
    """
    if (Path(name) / "state.json").is_file():
        return RunFolder(Path(name).resolve())
    known = list_runs(runs)
    for run in known:
        number = run.id.split("-")[0]
        if name == run.id or (name.isdigit() and int(name) == int(number if number.isdigit() else -1)):
            return run
    ids = ", ".join(run.id for run in known[-5:]) or "none"
    raise RunNotFoundError(
        f"No run {name!r} in {runs} (there: {ids}). Give an id, its number, or the path of a run folder; --runs DIR looks elsewhere."
    )
