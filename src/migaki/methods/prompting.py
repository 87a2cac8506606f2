"""Learners that leave the model as it is: asked by prompt, by label names, or by the means of a few rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from migaki.core.parts import Example
from migaki.core.seeds import generator
from migaki.core.store import read_json
from migaki.core.types import Conversation, Row, Turn
from migaki.methods.probing import HeadLearner, save_nothing
from migaki.methods.tuned import TunedLearner
from migaki.tasks.classifier import start_from_centroids

__all__ = ["AskedLearner", "FewLearner", "NamedLearner", "UntouchedLearner", "chosen_rows", "load_shown"]

_SHOWN_FILE = "shown.json"


def chosen_rows(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """So many of the rows, by the seed, whatever order they come in."""
    order = sorted(rows, key=lambda row: (row.content.key(), json.dumps(row.content.as_json(), sort_keys=True)))
    chosen = generator(seed, "shown").permutation(len(order))[:count]
    return [order[i] for i in chosen]


class UntouchedLearner(TunedLearner):
    """A model that writes, asked as it is."""

    def __init__(self, network: Any) -> None:
        super().__init__(network, save_nothing)
        network.requires_grad_(False)
        network.eval()

    def parameter_groups(self) -> list[Any]:
        return []

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        return {}

    def save(self, folder: Path) -> None:
        self.network.save(folder)


class AskedLearner(UntouchedLearner):
    """A generator that is asked, with the given conversations shown before each question."""

    def __init__(self, network: Any, shown: Sequence[Conversation] | None) -> None:
        super().__init__(network)
        self.shown = list(shown or ())

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        self._show()
        return {"shown": len(self.shown)}

    def evaluation_mode(self) -> None:
        # Called once a saved learner is restored, and by the loop.
        super().evaluation_mode()
        self._show()

    def _show(self) -> None:
        self.network.show(self._with_examples if self.shown else None)

    def _with_examples(self, turns: tuple[Turn, ...], n_answer: int) -> tuple[Turn, ...]:
        """The examples behind the system prompt, as many of them as leave room for question and answer."""
        first = next((i for i, turn in enumerate(turns) if turn.role != "system"), 0)
        for count in range(len(self.shown), 0, -1):
            # Their own system prompts would contradict the question's.
            told = [turn for c in self.shown[:count] for turn in c.turns if turn.role != "system"]
            asked = (*turns[:first], *told, *turns[first:])
            if len(self.network.chat.prompt(asked)) + n_answer <= self.network.limit:
                return asked
        return turns

    @contextmanager
    def untrained(self) -> Iterator[None]:
        self.network.show(None)
        try:
            yield
        finally:
            self._show()

    def save(self, folder: Path) -> None:
        super().save(folder)
        shown = [conversation.as_json() for conversation in self.shown]
        (folder / _SHOWN_FILE).write_text(json.dumps(shown, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_shown(folder: Path) -> list[Conversation]:
    """The conversations that `AskedLearner.save` wrote."""
    return [
        Conversation(tuple(Turn(m["role"], m["content"]) for m in shown["messages"]))
        for shown in read_json(folder / _SHOWN_FILE)
    ]


class NamedLearner(HeadLearner):
    """A network that tells its labels apart by words that stand for them."""

    def parameter_counts(self) -> tuple[int, int]:
        """Nothing is learned."""
        return 0, super().parameter_counts()[1]

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        return {"path": "label names"}


class FewLearner(HeadLearner):
    """An encoder whose classes are the means of a few rows each."""

    def __init__(self, network: Any, shots: int, seed: int) -> None:
        super().__init__(network)
        self._shots, self._seed = shots, seed

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        by_class: dict[int, list[Example]] = {}
        for example in train:
            by_class.setdefault(example.labels[0], []).append(example)
        chosen = []
        for label, examples in sorted(by_class.items()):
            of_row = {id(e.row): e for e in examples}
            rows = chosen_rows([e.row for e in examples], self._shots, self._seed * 1009 + label)
            chosen += [of_row[id(row)] for row in rows]
        start_from_centroids(self.network, chosen)
        return {"path": "class means", "shown": len(chosen)}
