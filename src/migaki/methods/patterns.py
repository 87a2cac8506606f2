"""Names of layers by pattern, as recipes write them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

__all__ = ["matches", "unmatched"]


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names this layer: the whole name or its last parts; `*` stands for anything.

    >>> matches("model.layers.3.self_attn.q_proj", "q_proj"), matches("layers.13.q_proj", "3.q_proj")
    (True, False)
    """
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")


def unmatched(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The patterns that name none of the layers, in words for a recipe's problem.

    >>> unmatched(["q_proj", "query"], ["layers.0.q_proj", "layers.0.v_proj"])
    ["'query' matches no layer that is meant here; they are called q_proj, v_proj."]
    """
    kinds = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
    return [
        f"{pattern!r} matches no layer that is meant here; they are called {kinds}."
        for pattern in patterns
        if not any(matches(name, pattern) for name in names)
    ]
