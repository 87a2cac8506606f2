"""What one check found, and how rows are shown in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from migaki.core.types import Conversation, Row

__all__ = ["EXAMPLES", "Level", "Light", "places", "text_of"]

EXAMPLES = 5
"""Rows that are shown of each finding."""

Level = Literal["green", "yellow", "red"]


@dataclass(frozen=True, slots=True)
class Light:
    """What one check found."""

    name: str
    level: Level
    """green: nothing to do; yellow: look at it; red: the figures would be wrong or the model learns the wrong thing."""
    message: str
    count: int = 0
    examples: tuple[str, ...] = ()
    remedy: str = ""
    """A line of the recipe, or what to do with the rows."""
    files: tuple[str, ...] = ()
    """Paths of what the examples are about, for a page that can show them."""

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        return found if self.files else {name: value for name, value in found.items() if name != "files"}


def places(rows: Sequence[Row]) -> tuple[str, ...]:
    """Where the first of the rows stand, as file:line."""
    return tuple(str(row.place) for row in rows[:EXAMPLES])


def text_of(row: Row) -> str:
    """What is compared and measured: the text, both of a pair, or all that the user says."""
    content = row.content
    if isinstance(content, Conversation):
        return "\n".join(turn.content for turn in content.turns if turn.role == "user")
    return str(getattr(content, "both", None) or content.text)
