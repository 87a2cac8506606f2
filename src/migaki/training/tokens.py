"""Rows as token ids: tokenised once, kept memory-mapped under the hash of what they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from migaki.core.cache import Cache
from migaki.core.parts import Example
from migaki.core.types import Dataset, Row

__all__ = ["Examples", "Known", "Tokens", "joined", "tokenizer_fingerprint"]

_BUDGET_BYTES = 8 << 30
_FORMAT = "1"

Pair = (
    tuple[Sequence[int], Sequence[bool] | None] | tuple[Sequence[int], Sequence[bool] | None, Sequence[tuple[int, int]]]
)
"""Token ids of a row, which of them are targets (None where the target is no token), and, where that is asked for, the
characters of the text that each stands for."""


class Tokens:
    """Token ids of many rows at their full length, in one array each for ids and targets.

    >>> tokens = Tokens.of([([5, 6, 7], [False, True, True]), ([8], [True])])
    >>> tokens.ids(0).tolist(), tokens.targets(1).tolist(), tokens.lengths.tolist()
    ([5, 6, 7], [True], [3, 1])
    """

    def __init__(
        self,
        ids_N: np.ndarray,
        starts: np.ndarray,
        targets_N: np.ndarray | None,
        places_N2: np.ndarray | None = None,
    ) -> None:
        self._ids_N, self._starts, self._targets_N, self._places_N2 = ids_N, starts, targets_N, places_N2

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64."""
        return np.diff(self._starts)

    def ids(self, row: int) -> np.ndarray:
        """int32, one number a token."""
        return self._ids_N[self._starts[row] : self._starts[row + 1]]

    def targets(self, row: int) -> np.ndarray:
        """bool, one a token: whether it counts in the loss."""
        assert self._targets_N is not None
        return self._targets_N[self._starts[row] : self._starts[row + 1]]

    def places(self, row: int) -> np.ndarray:
        """(T, 2) int32: first character of each token, and the one behind its last; equal where it stands for none."""
        assert self._places_N2 is not None
        return self._places_N2[self._starts[row] : self._starts[row + 1]]

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Tokens:
        """In memory only, for rows that are seen once."""
        ids: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        places: list[np.ndarray] = []
        for row, wanted, *where in pairs:
            ids.append(np.asarray(row, dtype=np.int32))
            if wanted is not None:
                targets.append(np.asarray(wanted, dtype=np.bool_))
            places += [np.asarray(found, dtype=np.int32).reshape(-1, 2) for found in where]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)]).astype(np.int64)
        ids_N = np.concatenate(ids) if ids else np.zeros(0, np.int32)
        targets_N = np.concatenate(targets) if targets else None
        return cls(ids_N, starts, targets_N, np.concatenate(places) if places else None)

    @classmethod
    def cached(cls, dataset: Dataset, made_by: Sequence[str], tokenise: Callable[[], Iterable[Pair]]) -> Tokens:
        """From the cache, or made by `tokenise` and kept.

        Args:
            dataset: the rows; their contents are part of the key.
            made_by: everything else that the ids depend on (tokenizer, template, what is learned).
        """
        key = hashlib.sha256("\x1f".join([_FORMAT, dataset.fingerprint(), *made_by]).encode()).hexdigest()[:32]

        def make(folder: Path) -> None:
            made = cls.of(tokenise())
            np.save(folder / "ids.npy", made._ids_N)
            np.save(folder / "starts.npy", made._starts)
            if made._targets_N is not None:
                np.save(folder / "targets.npy", made._targets_N)
            if made._places_N2 is not None:
                np.save(folder / "places.npy", made._places_N2)

        entry = Cache("tokens", _BUDGET_BYTES).get(key, make)
        targets, places = entry / "targets.npy", entry / "places.npy"
        return cls(
            np.load(entry / "ids.npy", mmap_mode="r"),
            np.load(entry / "starts.npy"),
            np.load(targets, mmap_mode="r") if targets.is_file() else None,
            np.load(places, mmap_mode="r") if places.is_file() else None,
        )


class Examples(Sequence[Example]):
    """Examples that are made when they are asked for: a million rows cost no more than their tokens on disk."""

    def __init__(self, n: int, example: Callable[[int], Example]) -> None:
        self._n, self._example = n, example

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return [self._example(i) for i in range(*at.indices(self._n))]
        if not -self._n <= at < self._n:
            raise IndexError(at)
        return self._example(at % self._n)


def joined(*parts: Sequence[Example]) -> Examples:
    """The examples of all parts, one part behind the other.

    >>> len(joined(Examples(2, lambda i: i), Examples(3, lambda i: i)))
    5
    """
    ends = np.cumsum([len(part) for part in parts])

    def example(number: int) -> Example:
        part = int(np.searchsorted(ends, number, side="right"))
        return parts[part][number - int(ends[part]) + len(parts[part])]

    return Examples(int(ends[-1]), example)


class Known:
    """The tokens of the splits at hand, so that judging a split again does not tokenise it again."""

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._found: list[tuple[Sequence[Row], Tokens]] = []

    def add(self, rows: Sequence[Row], tokens: Tokens) -> Tokens:
        self._found = [*self._found[1 - self._size :], (rows, tokens)]
        return tokens

    def find(self, rows: Sequence[Row]) -> Tokens | None:
        """The tokens of this very sequence of rows."""
        return next((tokens for known, tokens in self._found if known is rows), None)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 of everything by which a fast tokenizer turns text into ids, its special tokens included."""
    text = tokenizer.backend_tokenizer.to_str()
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    return hashlib.sha256(f"{text}\x1f{special}".encode()).hexdigest()
