"""What enters the first trained block, computed once: later epochs, trials and methods run only what is above it.

Everything below that block is frozen and deterministic, so its output for a row never changes. The vectors of a split
are kept memory-mapped under the hash of the weights below, the number format and the token ids; when something below
changes, the key changes with it and the old entry falls out by age.
"""

# Shapes: N tokens of all rows in line, T tokens of one row, D hidden

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from migaki.core.cache import Cache, cache_folder
from migaki.core.store import read_json
from migaki.core.units import bytes_text

__all__ = ["Activations", "Whole", "activations_of"]

_SHARE_OF_FREE = 0.25
"""Part of the free disk that all entries together may fill."""
_SAMPLE_BYTES = 16 << 20
"""Read to learn the speed of the disk. A file no larger than this stays in memory once it was read."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A row that is no line of token ids: by what it is known, and how many vectors it becomes."""

    key: bytes
    n: int

    def __len__(self) -> int:
        return self.n


Rows = Sequence[Sequence[int] | Whole]
Blocks = Iterator[tuple[Sequence[int], Sequence[np.ndarray]]]
"""Row numbers, and for each of them its vectors (T, D)."""


class Activations:
    """Vectors of the rows of one split, looked up by their token ids.

    They have no gradient and are float32, on the processor.
    """

    def __init__(self, folder: Path, rows: Rows, width: int) -> None:
        # A plain view of the mapped file: slicing a memmap takes several times as long.
        self._h_ND = np.asarray(np.memmap(folder / "hidden.bin", np.float32, "r")).reshape(-1, width)
        ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        self._where = {_row_key(row): (int(end) - len(row), int(end)) for row, end in zip(rows, ends, strict=True)}

    def find(self, row: Sequence[int] | Whole) -> np.ndarray | None:
        """(T, D) of a row with these token ids or this key, None where it is none of the split's."""
        where = self._where.get(_row_key(row))
        return None if where is None else self._h_ND[where[0] : where[1]]


def activations_of(
    rows: Rows,
    made_by: Sequence[str],
    width: int,
    compute: Callable[[], Blocks],
    *,
    passes: int,
    note: Callable[[str], None],
) -> Activations | None:
    """From the cache, or computed now and kept; None, with the reason noted, where keeping them would not pay.

    Args:
        rows: token ids of the split, or what its rows are known by.
        made_by: what the vectors depend on beside the ids: the weights below, the number of the block, the format.
        width: D.
        compute: yields every row once, a group at a time.
        passes: how often the rows are going to be read.
    """
    budget = _budget_bytes()
    cache = Cache("activations", budget)
    digest = hashlib.sha256("\x1f".join(made_by).encode())
    for row in rows:
        digest.update(_row_key(row))
    key = digest.hexdigest()[:32]
    entry = cache.find(key)
    if entry is None:
        n_tokens = sum(len(row) for row in rows)
        n_bytes = 4 * width * n_tokens
        if passes < 2 or not rows:
            return None
        if n_bytes > budget:
            note(
                f"activations are computed anew each time: they would take {bytes_text(n_bytes)}, {bytes_text(budget)} may be used"
            )
            return None
        entry = cache.get(key, lambda folder: _fill(folder, rows, width, compute))
        compute_s, read_s = (read_json(entry / "cost.json")[name] for name in ("compute_s", "read_s"))
        if read_s > compute_s:
            cache.drop(key)
            note(
                f"activations are computed anew each time: reading them takes {read_s:.1f} s here, computing {compute_s:.1f} s"
            )
            return None
        note(
            f"activations of {len(rows)} rows below the first trained block are kept: {bytes_text(n_bytes)}, made in {compute_s:.1f} s"
        )
    return Activations(entry, rows, width)


def _budget_bytes() -> int:
    own = os.environ.get("MIGAKI_ACTIVATION_BYTES")
    if own:
        return int(own)
    folder = cache_folder()
    while not folder.is_dir():
        folder = folder.parent
    return int(_SHARE_OF_FREE * shutil.disk_usage(folder).free)


def _fill(folder: Path, rows: Rows, width: int, compute: Callable[[], Blocks]) -> None:
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    path = folder / "hidden.bin"
    began = time.perf_counter()
    # Written, not mapped: a disk that fills up is then an error and not a crash.
    with path.open("wb") as file:
        for numbers, vectors in compute():
            for number, h_TD in zip(numbers, vectors, strict=True):
                file.seek(4 * width * (int(ends[number]) - len(h_TD)))
                file.write(np.ascontiguousarray(h_TD, dtype=np.float32).tobytes())
    compute_s = time.perf_counter() - began
    (folder / "cost.json").write_text(json.dumps({"compute_s": compute_s, "read_s": _read_seconds(path)}) + "\n")


def _read_seconds(path: Path) -> float:
    """Time that each pass waits for the disk, by a sample that was pushed out of memory before."""
    size = path.stat().st_size
    if size <= _SAMPLE_BYTES:
        return 0.0
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, _SAMPLE_BYTES, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        file.read(_SAMPLE_BYTES)
        return (time.perf_counter() - began) * size / _SAMPLE_BYTES


def _row_key(row: Any) -> bytes:
    content = row.key if isinstance(row, Whole) else np.asarray(row, dtype=np.int32).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
