"""What differs between the environment of a run and this one, and what that can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Difference", "differences"]

_FIGURES = ("cpu", "threads", "device", "torch_build")
"""Another order of additions: the same run again ends with other last digits, not bit for bit the same."""
_COST = ("cores", "cpu_quota", "memory_bytes")
_BEHAVIOUR = ("migaki", "python")
_COMPUTE = ("torch", "transformers", "tokenizers", "numpy", "safetensors")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was."""

    name: str
    then: str
    now: str
    changes: Literal["results", "last digits", "speed and memory", "nothing known"]

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Those between two `environment.json`, what changes results first.

    >>> one = {"python": "3.11.2", "threads": 2, "packages": {"torch": "2.13.0"}}
    >>> [str(d.name) for d in differences(one, {**one, "threads": 8, "packages": {"torch": "2.14.0"}})]
    ['torch', 'threads']
    """
    # What an older run did not note cannot be told to differ.
    noted = then.keys() & now.keys()
    found = [Difference(name, *_texts(then, now, name), "results") for name in _BEHAVIOUR if name in noted]
    old, new = (e.get("installed") or e.get("packages") or {} for e in (then, now))
    for name in sorted({*old, *new}, key=str.lower):
        if name.lower() not in _BEHAVIOUR:
            found.append(Difference(name, *_texts(old, new, name), "results" if name in _COMPUTE else "nothing known"))
    found += [Difference(name, *_texts(then, now, name), "last digits") for name in _FIGURES if name in noted]
    found += [Difference(name, *_texts(then, now, name), "speed and memory") for name in _COST if name in noted]
    order = ("results", "last digits", "speed and memory", "nothing known")
    return sorted((d for d in found if d.then != d.now), key=lambda d: order.index(d.changes))


def _texts(then: Mapping[str, Any], now: Mapping[str, Any], name: str) -> tuple[str, str]:
    first, second = (str(e[name]) if e.get(name) is not None else "none" for e in (then, now))
    return first, second
