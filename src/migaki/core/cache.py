"""What can be made again, kept under the hash of what it is made from: converted models, tokens, activations.

An entry is a folder that is either wholly there or not at all (`store.commit`). It is checked before its first use in
a process; a damaged one is set aside and made again. Where a kind has a budget, the entries that were not used for
the longest time make room for new ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from migaki.core.errors import DamagedError
from migaki.core.store import commit, remove, sweep, verify

__all__ = ["Cache", "cache_folder", "set_aside"]

_USED = ".used"
_checked: set[Path] = set()


def cache_folder() -> Path:
    """$MIGAKI_CACHE, else $XDG_CACHE_HOME/migaki, else ~/.cache/migaki."""
    own = os.environ.get("MIGAKI_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "migaki"


class Cache:
    """The entries of one kind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = Cache("words", folder=Path(folder))
    ...     made = cache.get("key", lambda entry: (entry / "word.txt").write_text("hello") and None)
    ...     (made / "word.txt").read_text(), cache.find("other")
    ('hello', None)
    """

    def __init__(self, kind: str, budget_bytes: int | None = None, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / kind
        self.budget_bytes = budget_bytes

    def find(self, key: str) -> Path | None:
        """The entry, checked; None where there is none, or a damaged one that was set aside now."""
        entry = self.folder / key
        if not entry.is_dir():
            return None
        if entry not in _checked:
            try:
                verify(entry)
            except DamagedError:
                with contextlib.suppress(FileNotFoundError):  # another process removed it while it was read
                    set_aside(entry)
                return None
            _checked.add(entry)
        self._touch(entry)
        return entry

    def get(self, key: str, make: Callable[[Path], None]) -> Path:
        """The entry, made by `make` in an empty folder if it is not there.

        Raises:
            StorageError: the disk is full or not writable.
        """
        found = self.find(key)
        if found is not None:
            return found
        sweep(self.folder)
        entry = self.folder / key
        try:
            with commit(entry) as temporary:
                make(temporary)
        except FileExistsError:
            verify(entry)  # another process made the same one in the meantime
        self._touch(entry)
        self._make_room(keep=entry)
        return entry

    def bytes_used(self) -> int:
        """Size of all entries."""
        return sum(_size(entry) for entry in self._entries())

    def drop(self, key: str) -> None:
        """Remove an entry, if it is there."""
        entry = self.folder / key
        _checked.discard(entry)
        with contextlib.suppress(OSError):  # another process was quicker, or the cache is only readable
            remove(entry)

    def _entries(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith(".")]

    def _touch(self, entry: Path) -> None:
        # Only for choosing what to remove first: a clock that jumps costs time, never correctness.
        try:
            (entry / _USED).touch()
        except OSError:
            return  # a cache that is only readable can still be read

    def _make_room(self, keep: Path) -> None:
        if self.budget_bytes is None:
            return
        others = [entry for entry in self._entries() if entry != keep]
        room = self.budget_bytes - _size(keep)
        used = {entry: (_last_use(entry), _size(entry)) for entry in others}
        for entry in sorted(others, key=lambda entry: used[entry][0], reverse=True):
            room -= used[entry][1]
            if room < 0:
                self.drop(entry.name)


def set_aside(entry: Path) -> Path:
    """Rename a damaged folder so that it is never used again and can still be looked at; its new place."""
    number = 0
    while (aside := entry.with_name(f".corrupt-{entry.name}-{number}")).exists():
        number += 1
    entry.rename(aside)
    return aside


def _size(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())


def _last_use(entry: Path) -> float:
    used = entry / _USED
    return used.stat().st_mtime if used.is_file() else 0.0
