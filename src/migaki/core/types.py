"""The nouns that pass between parts: rows, splits, predictions, evaluations. Plain data, no behaviour of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "Ability",
    "Choice",
    "Content",
    "Conversation",
    "Dataset",
    "Evaluation",
    "Finding",
    "Judged",
    "Labelled",
    "LabelledMedia",
    "Measure",
    "Media",
    "MultiLabelled",
    "Place",
    "Plain",
    "Prediction",
    "Preferred",
    "Record",
    "Row",
    "Several",
    "Span",
    "Splits",
    "Tagged",
    "Transcribed",
    "Turn",
    "ended",
    "shorten",
    "spans_from_text",
    "spans_text",
]


def shorten(text: str, width: int = 60) -> str:
    """One line of at most `width` characters for a message.

    >>> shorten("a\\nb")
    'a b'
    >>> shorten("abcdef", 4)
    'abc…'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def ended(text: str) -> str:
    """The text with exactly one mark at its end, so that sentences can be put in a row.

    >>> ended("Set data.encoding"), ended("Is it so?")
    ('Set data.encoding.', 'Is it so?')
    """
    text = text.strip()
    return text if not text or text[-1] in ".!?…。！？" else f"{text}."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row comes from: a file (or the name of a list) and the line (or item) in it, counted from 1."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as the file gives it: column names and values, not yet understood by a task."""

    place: Place
    values: dict[str, Any]


class Content(Protocol):
    """What a task reads out of a record."""

    def key(self) -> str:
        """Two rows with equal keys are exact duplicates of one another: they must stand in the same split."""
        ...

    def stratum(self) -> str | None:
        """Rows of one stratum are spread evenly over the splits; None where there is nothing to balance."""
        ...

    def as_json(self) -> dict[str, Any]: ...

    def mapped(self, change: Callable[[str], str]) -> Content:
        """The same with every text changed; labels stay."""
        ...


@runtime_checkable
class Several(Protocol):
    """Content with any number of labels, so that it has no stratum; rows are balanced label by label instead."""

    def names(self) -> frozenset[str]:
        """Every label that stands in it once or more often."""
        ...


def _both(text: str, pair: str | None) -> str:
    return text if pair is None else f"{text}\n{pair}"


def _pair_key(text: str, pair: str | None) -> str:
    # A separator that no text holds: ("a", "b c") and ("a b", "c") are no copies of one another.
    return text if pair is None else f"{text}\x1f{pair}"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or a pair of them, and its label; the label is None for a row that is only to be predicted."""

    text: str
    label: str | None
    pair: str | None = None
    """The second text, where it is the two together that have the label: premise and hypothesis, question and answer."""

    @property
    def both(self) -> str:
        """The text, with the second one below it."""
        return _both(self.text, self.pair)

    def key(self) -> str:
        return _pair_key(self.text, self.pair)

    def stratum(self) -> str | None:
        return self.label

    def as_json(self) -> dict[str, Any]:
        # Without a second text as ever: hashes of earlier runs stay.
        second = {} if self.pair is None else {"text_pair": self.pair}
        return {"text": self.text, **second, "label": self.label}

    def mapped(self, change: Callable[[str], str]) -> Labelled:
        return Labelled(change(self.text), self.label, None if self.pair is None else change(self.pair))


@dataclass(frozen=True, slots=True)
class MultiLabelled:
    """A text, or a pair of them, and all labels that are right for it, sorted; none may be. None where it is not known."""

    text: str
    labels: tuple[str, ...] | None
    pair: str | None = None

    @property
    def both(self) -> str:
        """The text, with the second one below it."""
        return _both(self.text, self.pair)

    def names(self) -> frozenset[str]:
        return frozenset(self.labels or ())

    def key(self) -> str:
        return _pair_key(self.text, self.pair)

    def stratum(self) -> str | None:
        return None

    def as_json(self) -> dict[str, Any]:
        second = {} if self.pair is None else {"text_pair": self.pair}
        return {"text": self.text, **second, "labels": None if self.labels is None else list(self.labels)}

    def mapped(self, change: Callable[[str], str]) -> MultiLabelled:
        return MultiLabelled(change(self.text), self.labels, None if self.pair is None else change(self.pair))


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A named part of a text: from character `start` up to, not including, `end`, counted in code points from 0."""

    start: int
    end: int
    label: str
    confidence: float | None = field(default=None, compare=False)
    """Of a predicted one: the geometric mean of the probabilities of its tokens' tags (0..1)."""

    def as_json(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "label": self.label}


def spans_text(spans: Sequence[Span]) -> str:
    """Spans as one text, equal for equal spans: JSON.

    >>> spans_text([Span(0, 3, "NAME")])
    '[{"start": 0, "end": 3, "label": "NAME"}]'
    """
    return json.dumps([span.as_json() for span in spans], ensure_ascii=False)


def spans_from_text(text: str) -> tuple[Span, ...]:
    """What `spans_text` wrote.

    >>> spans_from_text(spans_text([Span(0, 3, "NAME")]))[0].label
    'NAME'
    """
    return tuple(Span(**span) for span in json.loads(text))


@dataclass(frozen=True, slots=True)
class Tagged:
    """A text and its named parts in order, none over another; None where they are not known."""

    text: str
    spans: tuple[Span, ...] | None

    def names(self) -> frozenset[str]:
        return frozenset(span.label for span in self.spans or ())

    def key(self) -> str:
        return self.text

    def stratum(self) -> str | None:
        return None

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text, "spans": None if self.spans is None else [span.as_json() for span in self.spans]}

    def mapped(self, change: Callable[[str], str]) -> Tagged:
        text = change(self.text)
        # A reader of spans refuses data.clean, so nothing is ever changed here.
        assert text == self.text, "spans are counted in the characters of the text as it is"
        return self


@dataclass(frozen=True, slots=True)
class Media:
    """A file that is judged as a whole, an image or a sound, and what can be told about it without a model."""

    path: str
    sha256: str
    """Of its bytes. Equal files are one thing wherever they lie, so the path takes no part in hashes and copies."""
    traits: tuple[tuple[str, float | str], ...] = ()
    """Name and number of what was measured on it (width, brightness ...), or name and word of what its table tells (speaker):
    parts of the rows are formed by these."""
    likeness: str = ""
    """Of an image, a hash that near copies have almost in common, see `data.likeness`."""


@dataclass(frozen=True, slots=True)
class LabelledMedia:
    """A file and its label; the label is None for a row that is only to be predicted."""

    media: Media
    label: str | None

    @property
    def text(self) -> str:
        """What stands for it in lists and messages: its path."""
        return self.media.path

    @property
    def both(self) -> str:
        """As of a text: there is no second one."""
        return self.text

    @property
    def pair(self) -> None:
        """A file stands alone."""
        return None

    def key(self) -> str:
        return self.media.sha256

    def stratum(self) -> str | None:
        return self.label

    def as_json(self) -> dict[str, Any]:
        return {"sha256": self.media.sha256, "label": self.label}

    def mapped(self, change: Callable[[str], str]) -> LabelledMedia:
        # It holds no text; its reader refuses data.clean.
        return self


@dataclass(frozen=True, slots=True)
class Transcribed:
    """A recording and what is said in it; the transcript is None for a row that is only to be predicted."""

    media: Media
    transcript: str | None

    @property
    def text(self) -> str:
        """What stands for it in lists and messages: its path."""
        return self.media.path

    def key(self) -> str:
        return self.media.sha256

    def stratum(self) -> str | None:
        return None

    def as_json(self) -> dict[str, Any]:
        return {"sha256": self.media.sha256, "transcript": self.transcript}

    def mapped(self, change: Callable[[str], str]) -> Transcribed:
        # Its reader refuses data.clean: a transcript is what was said, and errors are counted with and without its writing.
        return self


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation. Roles: system, user, assistant (and tool, where the template knows it)."""

    role: str
    content: str


def _turns_json(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _turns_mapped(turns: Sequence[Turn], change: Callable[[str], str]) -> tuple[Turn, ...]:
    return tuple(Turn(turn.role, change(turn.content)) for turn in turns)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order; what the assistant says is what is learned."""

    turns: tuple[Turn, ...]

    def key(self) -> str:
        # The prompt alone: the same question with another answer in train and test would still leak.
        prompt = [(turn.role, turn.content) for turn in self.turns if turn.role != "assistant"]
        return json.dumps(prompt, ensure_ascii=False)

    def stratum(self) -> str | None:
        return None

    def as_json(self) -> dict[str, Any]:
        return {"messages": _turns_json(self.turns)}

    def mapped(self, change: Callable[[str], str]) -> Conversation:
        return Conversation(_turns_mapped(self.turns, change))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A conversation up to the user's last message, behind which answers are compared or judged."""

    prompt: tuple[Turn, ...]

    @property
    def text(self) -> str:
        """All that the user says."""
        return "\n".join(turn.content for turn in self.prompt if turn.role == "user")

    def key(self) -> str:
        return json.dumps(_turns_json(self.prompt), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Preferred(_Asked):
    """A conversation up to the user's last message, and two answers of which one is better."""

    chosen: str
    rejected: str

    def stratum(self) -> str | None:
        return None

    def as_json(self) -> dict[str, Any]:
        return {"prompt": _turns_json(self.prompt), "chosen": self.chosen, "rejected": self.rejected}

    def mapped(self, change: Callable[[str], str]) -> Preferred:
        return Preferred(_turns_mapped(self.prompt, change), change(self.chosen), change(self.rejected))


@dataclass(frozen=True, slots=True)
class Judged(_Asked):
    """A conversation up to the user's last message, an answer, and whether somebody found it good."""

    answer: str
    good: bool

    def stratum(self) -> str | None:
        return "good" if self.good else "bad"

    def as_json(self) -> dict[str, Any]:
        return {"prompt": _turns_json(self.prompt), "answer": self.answer, "good": self.good}

    def mapped(self, change: Callable[[str], str]) -> Judged:
        return Judged(_turns_mapped(self.prompt, change), change(self.answer), self.good)


@dataclass(frozen=True, slots=True)
class Plain:
    """A text that stands for itself: what is learned is how it goes on."""

    text: str

    def key(self) -> str:
        return self.text

    def stratum(self) -> str | None:
        return None

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text}

    def mapped(self, change: Callable[[str], str]) -> Plain:
        return Plain(change(self.text))


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with several answers, of which one is right; only measured, never learned."""

    question: str
    options: tuple[str, ...]
    right: int
    """Which option is right, counted from 0."""

    def key(self) -> str:
        return self.question

    def stratum(self) -> str | None:
        return None

    def as_json(self) -> dict[str, Any]:
        return {"question": self.question, "options": list(self.options), "answer": self.options[self.right]}

    def mapped(self, change: Callable[[str], str]) -> Choice:
        return Choice(change(self.question), tuple(map(change, self.options)), self.right)


@dataclass(frozen=True, slots=True)
class Row:
    """One row as a task understands it, with the place it came from."""

    place: Place
    content: Any
    """What the task read: `Labelled`, `MultiLabelled`, `Tagged`, `Conversation`, `LabelledMedia`, `Transcribed`, or the type
    of a task from a plug-in (a `Content`); of general questions a `Choice`."""


@dataclass(frozen=True)
class Dataset:
    """Rows in order, under the name of their split."""

    name: str
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """sha256 over the contents in order; places do not count, so moving a file changes nothing."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row.content.as_json(), ensure_ascii=False, sort_keys=True).encode())
            digest.update(b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the user should know about the data, with examples as file:line and what to do."""

    level: Literal["warning", "note"]
    message: str
    count: int
    examples: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        where = f" (first: {self.examples[0]})" if self.examples else ""
        message = ended(self.message) if not where else f"{self.message.rstrip('.')}{where}."
        return f"{message} {ended(self.remedy)}".rstrip()


@dataclass(frozen=True)
class Splits:
    """The three splits of one data section. `fit` gets train and valid, never this object, so never test."""

    train: Dataset
    valid: Dataset
    test: Dataset
    findings: tuple[Finding, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column was read as what, named in the recipe or guessed."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a learner says about one row.

    `confidence` is the probability of `output` (0..1), None where the method has none. `loss` is the sum of the
    negative log-likelihood (nats) over `targets` target tokens or labels, None where the row has no target.
    `scores` is the probability of each label in the label map's order, for classification.
    """

    place: Place
    output: str
    target: str | None = None
    confidence: float | None = None
    loss: float | None = None
    targets: int = 0
    stopped: bool | None = None
    """For generation: whether the answer ended by itself before the length limit; None where none was generated."""
    scores: tuple[float, ...] = ()
    text: str = ""
    """What was asked: the text or the prompt, for reports and error lists."""
    sources: tuple[str, ...] = ()
    """Where that stands which was looked up for the row (file:line), the nearest first."""
    found_at: int | None = None
    """Of methods that look up: at which rank the first right one stands, 0 where none of the first ten is; None where it
    is not known what would be right."""
    pair: str | None = None
    """The second text of a pair, where there is one."""
    labels: tuple[str, ...] = ()
    """Where a text may have several labels: those of `output`, which holds them as JSON."""
    spans: tuple[Span, ...] = ()
    """Where parts of the text are named: those of `output`, which holds them as JSON."""
    part: tuple[float, float] | None = None
    """Where the task's main figure is a ratio of sums over the rows (F1): what the row adds above and below its line."""
    traits: tuple[tuple[str, float | str], ...] = ()
    """What is known of the file that was judged, see `Media`; of texts nothing, their length and script are seen."""


@dataclass(frozen=True, slots=True)
class Ability:
    """How a learner did on each row of a general set that it was not tuned for."""

    name: str
    """That of the set."""
    metric: Literal["accuracy", "loss"]
    scores: tuple[float, ...]
    """For accuracy 1 or 0, for loss the sum of the negative log-likelihood (nats), of each row that could be judged."""
    weights: tuple[int, ...]
    """What each row counts: 1, or its target tokens."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure with its 95 % interval and the number of rows (or target tokens) behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class Evaluation:
    """Metrics with intervals on one split, what a report needs beside them, and the predictions themselves."""

    metrics: Mapping[str, Measure]
    details: Mapping[str, Any]
    """JSON-able: per-class figures, confusion matrix, flags. Its keys belong to the task."""
    predictions: Sequence[Prediction] = ()

    def as_json(self) -> dict[str, Any]:
        """Metrics and details; predictions have a file of their own."""
        return {"metrics": {name: m.as_json() for name, m in self.metrics.items()}, "details": dict(self.details)}
