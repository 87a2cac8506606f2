"""Randomness as a function of (seed, purpose, epoch, sample id), never of the process or of what ran before."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

__all__ = ["derive", "generator", "permutation"]


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose, the same in every process and Python version.

    >>> derive(0, "adapter") == derive(0, "adapter"), derive(0, "adapter") == derive(1, "adapter")
    (True, False)
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A counter-based numpy generator for one purpose (Philox: Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *names)))


@functools.lru_cache(maxsize=2)  # every step asks for that of its epoch; who reads ahead, for that of the next one
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which epoch `epoch` visits n rows; (n,) int64, read-only."""
    order_N = generator(seed, "order", epoch).permutation(n)
    order_N.setflags(write=False)
    return order_N
