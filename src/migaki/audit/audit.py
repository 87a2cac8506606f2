"""The checks, in the order in which a person would look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from migaki.audit.chats import chat_lights
from migaki.audit.files import file_lights
from migaki.audit.labels import label_lights
from migaki.audit.languages import probable_language
from migaki.audit.light import EXAMPLES, Level, Light, places, text_of
from migaki.audit.power import smallest_difference
from migaki.audit.preferences import judged_lights, preferred_lights
from migaki.audit.texts import (
    broken_letters,
    languages,
    lengths,
    near_copies,
    personal_data,
    repeated_passages,
    scripts,
    wordless,
)
from migaki.audit.tokens import TokenFacts
from migaki.core.types import Dataset, Row, Splits, shorten
from migaki.data.cleaning import texts_of
from migaki.data.splits import labels_of
from migaki.evaluation.slices import script_of

__all__ = ["Audit", "Features", "audit"]

_SHOWN_DIFFERENCE = 0.05
_UNKNOWN_SHARE = 0.01


@dataclass(frozen=True)
class Features:
    """What the features of the model tell about the rows."""

    suspicious: Sequence[tuple[Row, str, float]] = field(default=())
    """Rows whose label is probably wrong, each with the suggestion and its probability."""
    outlying: Sequence[Row] = field(default=())
    """Rows that are unlike all others of their label, the strangest first."""


@dataclass(frozen=True)
class Audit:
    """All lights and the figures behind them, JSON-able."""

    lights: tuple[Light, ...]
    facts: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"lights": [light.as_json() for light in self.lights], "facts": dict(self.facts)}


def audit(
    splits: Splits,
    content_kind: str,
    tokens: TokenFacts | None = None,
    limit: int | None = None,
    features: Features | None = None,
) -> Audit:
    """Look at the rows of all splits.

    Args:
        splits: as the recipe's data section loads them.
        content_kind: the name of the reader in `data.formats`.
        tokens: of all rows, train first, then valid and test; None: not looked at.
        limit: tokens that the model sees of a row.
        features: what the model's features tell; None: not looked at.
    """
    parts = (splits.train, splits.valid, splits.test)
    rows = [row for part in parts for row in part.rows]
    lights = [
        *_reading(splits),
        *_by_kind(splits, rows, content_kind),
        *(_texts(parts, rows, content_kind) if any(map(texts_of, rows[:1])) else ()),
        *(file_lights(parts, splits.columns) if rows and hasattr(rows[0].content, "media") else ()),
        *(_tokens(rows, tokens, limit) if tokens else ()),
        *(_suspicious(features.suspicious, rows) if features else ()),
        *(_outlying(features.outlying) if features else ()),
        *_power(splits.test, content_kind),
    ]
    order = {"red": 0, "yellow": 1, "green": 2}
    lights.sort(key=lambda light: order[light.level])
    return Audit(tuple(lights), _facts(parts, content_kind, splits.columns, tokens))


def _by_kind(splits: Splits, rows: Sequence[Row], content_kind: str) -> Iterator[Light]:
    """What is to be learned from rows of this kind."""
    if content_kind == "conversation":
        return chat_lights(rows, splits.columns)
    if content_kind == "preferred":
        return preferred_lights(rows)
    if content_kind == "judged":
        return judged_lights(rows)
    return label_lights(splits.train, content_kind)


def _texts(parts: Sequence[Dataset], rows: Sequence[Row], content_kind: str) -> Iterator[Light]:
    yield from near_copies(parts)
    if content_kind != "conversation":
        # Questions to a model may well begin alike, and those without a word are told among the conversations.
        yield from repeated_passages(rows)
        yield from wordless(rows)
    yield from lengths(rows)
    yield from scripts(parts)
    yield from languages(parts)
    yield from personal_data(rows)
    yield from broken_letters(rows)


def _facts(
    parts: Sequence[Dataset], content_kind: str, columns: Mapping[str, str], tokens: TokenFacts | None
) -> dict[str, Any]:
    rows = [row for part in parts for row in part.rows]
    found: dict[str, Any] = {
        "kind": content_kind,
        "columns": dict(columns),
        "rows": {part.name: len(part) for part in parts},
    }
    measured = [dict(row.content.media.traits) for row in rows if hasattr(row.content, "media")]
    if measured:
        numbers = [name for name in measured[0] if not isinstance(measured[0][name], str)]
        found["traits"] = {name: _quantiles([traits[name] for traits in measured]) for name in numbers}
        if "seconds" in numbers:
            found["total_seconds"] = round(sum(traits["seconds"] for traits in measured), 1)
    else:
        found["characters"] = _quantiles([len(text_of(row)) for row in rows])
        found["scripts"] = dict(Counter(script_of(text_of(row)) for row in rows).most_common())
        found["languages"] = dict(Counter(probable_language(text_of(row)) for row in rows).most_common())
    if tokens:
        found["tokens"] = _quantiles(tokens.lengths)
    if content_kind == "conversation":
        found["turns"] = _quantiles([len(row.content.turns) for row in rows])
        answers = [t.content for row in rows for t in row.content.turns if t.role == "assistant"]
        found["answers"] = _quantiles([len(answer) for answer in answers])
        found["roles"] = dict(Counter(turn.role for row in rows for turn in row.content.turns).most_common())
        if tokens and tokens.targets:
            found["targets"] = _quantiles(tokens.targets)
    elif any(labels_of(row) - {None} for row in parts[0].rows):
        counts = {part.name: Counter(str(label) for row in part.rows for label in labels_of(row)) for part in parts}
        names = sorted(counts["train"], key=lambda label: (-counts["train"][label], label))
        found["labels"] = {label: {name: counts[name][label] for name in counts} for label in names}
    return found


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"least": 0.0, "median": 0.5, "p95": 0.95, "most": 1.0}
    return {name: ordered[min(int(share * len(ordered)), len(ordered) - 1)] for name, share in at.items()}


def _reading(splits: Splits) -> Iterator[Light]:
    """What was noticed while the files were read: encodings, guessed columns, repeats, leaks, conflicts, cleaning."""
    for finding in splits.findings:
        level: Level = "red" if "so the score would be too high" in finding.message else "yellow"
        if finding.level == "note":
            yield Light("reading", "green", finding.message, finding.count, finding.examples, finding.remedy)
        else:
            yield Light("reading", level, finding.message, finding.count, finding.examples, finding.remedy)


def _tokens(rows: Sequence[Row], tokens: TokenFacts, limit: int | None) -> Iterator[Light]:
    yield from _template(rows, tokens)
    if limit is not None:
        cut = [row for row, n in zip(rows, tokens.lengths, strict=True) if n > limit]
        if cut:
            yield Light(
                "truncation",
                "yellow",
                f"{len(cut)} of {len(rows)} rows have more than the {limit} tokens that the model sees",
                len(cut),
                places(cut),
                f"task.max_length up to the model's limit (the longest row has {max(tokens.lengths)}), or shorter texts",
            )
    unknown = [row for row, n in zip(rows, tokens.unknown, strict=True) if n]
    share = sum(tokens.unknown) / max(sum(tokens.lengths), 1)
    if unknown:
        yield Light(
            "unknown tokens",
            "red" if share > _UNKNOWN_SHARE else "yellow",
            f"{share:.1%} of the tokens are unknown to the model, in {len(unknown)} rows: it does not see what stands there",
            len(unknown),
            places(unknown),
            "choose a model for the language of the texts: migaki models",
        )
    if tokens.unvoiced:
        lost = [rows[i] for i in tokens.unvoiced]
        yield Light(
            "lost dakuten",
            "red",
            f"the tokenizer takes dakuten away in {len(lost)} rows: が becomes か",
            len(lost),
            places(lost),
            "choose a model for Japanese: model: bundled:e5-small",
        )
    if not unknown and not tokens.unvoiced:
        yield Light("tokens", "green", f"every character is known; the longest row has {max(tokens.lengths)} tokens")


def _template(rows: Sequence[Row], tokens: TokenFacts) -> Iterator[Light]:
    """What the chat template makes of conversations."""
    if tokens.refused:
        reason = next(iter(tokens.refused.values()))
        yield Light(
            "chat template",
            "red",
            f"the chat template refuses {len(tokens.refused)} of {len(rows)} rows: {reason}",
            len(tokens.refused),
            places([rows[i] for i in tokens.refused]),
            "task.template: plain, alpaca or japanese, or correct the order of the messages",
        )
        return
    silent = [row for row, n in zip(rows, tokens.targets, strict=True) if not n] if tokens.targets else []
    if silent:
        yield Light(
            "rows without a target",
            "red",
            f"{len(silent)} rows have no token to learn: the question alone fills what the model sees",
            len(silent),
            places(silent),
            "raise task.max_length, or shorten the questions",
        )
    elif tokens.targets:
        share = sum(tokens.targets) / max(sum(tokens.lengths), 1)
        yield Light(
            "targets", "green", f"every row has tokens to learn: {min(tokens.targets)} at least, {share:.0%} of all"
        )


def _suspicious(suspicious: Sequence[tuple[Row, str, float]], rows: Sequence[Row]) -> Iterator[Light]:
    if suspicious:
        share = len(suspicious) / len(rows)
        examples = tuple(
            f"{row.place}: {row.content.label!r}, perhaps {other!r} ({p:.2f}): {shorten(row.content.text, 40)!r}"
            for row, other, p in suspicious[:EXAMPLES]
        )
        yield Light(
            "suspicious labels",
            "red" if share > 0.03 else "yellow",
            f"{len(suspicious)} labels ({share:.1%}) are probably wrong",
            len(suspicious),
            examples,
            "train once, then migaki evaluate RUN --errors todo.csv lists them to be answered",
        )
    else:
        yield Light("suspicious labels", "green", "no label is probably wrong")


def _outlying(rows: Sequence[Row]) -> Iterator[Light]:
    if rows:
        yield Light(
            "outliers",
            "yellow",
            f"{len(rows)} rows are unlike all others of their label to the model",
            len(rows),
            tuple(f"{row.place}: {row.content.label!r}: {shorten(text_of(row), 40)!r}" for row in rows[:EXAMPLES]),
            "look at them: another language, another subject, joined rows",
        )
    else:
        yield Light("outliers", "green", "no row is unlike all others of its label to the model")


def _power(test: Dataset, content_kind: str) -> Iterator[Light]:
    if not content_kind.startswith("labelled"):
        return
    smallest = smallest_difference(len(test))
    if math.isinf(smallest):
        text = f"{len(test)} test rows cannot show a difference of 10 points between two models"
    else:
        text = f"{len(test)} test rows show a difference of {100 * smallest:.1f} points or more between two models (80 % power, one row in ten judged differently)"
    level: Level = "green" if smallest <= _SHOWN_DIFFERENCE else "yellow"
    yield Light(
        "size of the test split",
        level,
        text,
        len(test),
        (),
        "" if level == "green" else "more test rows: data.test: 0.3, or collect them",
    )
