"""What is looked up: a piece of text with the place it comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migaki.core.errors import DamagedError
from migaki.core.types import Place

__all__ = ["Passage", "read_passages", "write_passages"]


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that can be found."""

    place: Place
    """Source and line of its beginning; for a PDF the page."""
    text: str
    """What is shown."""
    asked: str | None = None
    """What it is found by, where that is not the text: the question that it answers."""
    label: str | None = None
    """For classification: what it votes for."""
    pair: str | None = None
    """For classification of two texts: the second one."""

    @property
    def searched(self) -> str:
        """What a query is compared with."""
        found = self.text if self.asked is None else self.asked
        return found if self.pair is None else f"{found}\n{self.pair}"

    @property
    def said(self) -> tuple[str | None, ...]:
        """All but the place: equal for copies."""
        return self.text, self.asked, self.label, self.pair

    def as_json(self) -> dict[str, Any]:
        optional = {"asked": self.asked, "label": self.label, "pair": self.pair}
        return {
            "source": self.place.source,
            "line": self.place.line,
            "text": self.text,
            **{name: value for name, value in optional.items() if value is not None},
        }


def write_passages(path: Path, passages: Sequence[Passage]) -> None:
    """One JSON object in each line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(p.as_json(), ensure_ascii=False) + "\n" for p in passages)


def read_passages(path: Path) -> list[Passage]:
    """What `write_passages` wrote.

    Raises:
        DamagedError: missing, or not such a file.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            rows = [json.loads(line) for line in file]
        return [
            Passage(Place(row["source"], row["line"]), row["text"], row.get("asked"), row.get("label"), row.get("pair"))
            for row in rows
        ]
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} holds no passages ({type(error).__name__}: {error}).") from None
