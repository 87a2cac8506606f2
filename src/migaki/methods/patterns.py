"""Names of layers by pattern, as recipes write them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from migaki.core.errors import Problem, RecipeError

__all__ = ["check_patterns", "matches"]


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names this layer: the whole name or its last parts; `*` stands for anything.

    >>> matches("model.layers.3.self_attn.q_proj", "q_proj"), matches("layers.13.q_proj", "3.q_proj")
    (True, False)
    """
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")


def check_patterns(setting: str, patterns: Iterable[str], names: Sequence[str], called: Iterable[str] = ()) -> None:
    """Refuse patterns that name nothing.

    Args:
        names: what can be named.
        called: what these are called in the message; their last parts where it is left out.
    Raises:
        RecipeError: lists every pattern that fits no name.
    """
    kinds = ", ".join(sorted(set(called) or {name.rsplit(".", 1)[-1] for name in names}))
    problems = [
        Problem(setting, f"{pattern!r} matches no layer that is meant here; they are called {kinds}.")
        for pattern in patterns
        if not any(matches(name, pattern) for name in names)
    ]
    if problems:
        raise RecipeError(problems)
