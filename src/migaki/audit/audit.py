"""The checks, in the order in which a person would look."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from migaki.audit.labels import variants
from migaki.audit.power import smallest_difference
from migaki.audit.tokens import TokenFacts
from migaki.core.types import Conversation, Dataset, Row, Splits, shorten
from migaki.data.duplicates import compared_form, near_pairs
from migaki.data.privacy import find_personal
from migaki.evaluation.slices import script_of

__all__ = ["Audit", "Light", "audit"]

_EXAMPLES = 5
_NEAR = 0.8
_FEW_ROWS, _UNEVEN = 5, 20.0
_LONG = 10.0
_SHOWN_DIFFERENCE = 0.05
_REPEATED_SHARE, _REPEATED_ROWS = 0.02, 5
_UNKNOWN_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Light:
    """What one check found."""

    name: str
    level: Literal["green", "yellow", "red"]
    """green: nothing to do; yellow: look at it; red: the figures would be wrong or the model learns the wrong thing."""
    message: str
    count: int = 0
    examples: tuple[str, ...] = ()
    remedy: str = ""
    """A line of the recipe, or what to do with the rows."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


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
    suspicious: Sequence[tuple[Row, str, float]] | None = None,
) -> Audit:
    """Look at the rows of all splits.

    Args:
        splits: as the recipe's data section loads them.
        content_kind: labelled or conversation.
        tokens: of the texts of all rows, train first, then valid and test; None: not looked at.
        limit: tokens that the model sees of a row.
        suspicious: rows whose label is probably wrong, each with the suggestion and its probability; None: not looked at.
    """
    parts = (splits.train, splits.valid, splits.test)
    rows = [row for part in parts for row in part.rows]
    lights = [
        *_reading(splits),
        *(_labels(parts) if content_kind == "labelled" else ()),
        *(_chats(rows) if content_kind == "conversation" else ()),
        *_near(parts),
        *_lengths(rows),
        *_scripts(parts),
        *_personal(rows),
        *_mojibake(rows),
        *(_tokens(rows, tokens, limit) if tokens else ()),
        *(_suspicious(suspicious, rows) if suspicious is not None else ()),
        *_power(splits.test, content_kind),
    ]
    order = {"red": 0, "yellow": 1, "green": 2}
    lights.sort(key=lambda light: order[light.level])
    return Audit(tuple(lights), _facts(parts, content_kind, tokens))


def _facts(parts: Sequence[Dataset], content_kind: str, tokens: TokenFacts | None) -> dict[str, Any]:
    rows = [row for part in parts for row in part.rows]
    found: dict[str, Any] = {
        "rows": {part.name: len(part) for part in parts},
        "characters": _quantiles([len(text_of(row)) for row in rows]),
        "scripts": dict(Counter(script_of(text_of(row)) for row in rows).most_common()),
    }
    if tokens:
        found["tokens"] = _quantiles(tokens.lengths)
    if content_kind == "labelled":
        counts = {part.name: Counter(row.content.label for row in part.rows) for part in parts}
        names = sorted(counts["train"], key=lambda label: (-counts["train"][label], label))
        found["labels"] = {label: {name: counts[name][label] for name in counts} for label in names}
    elif content_kind == "conversation":
        found["turns"] = _quantiles([len(row.content.turns) for row in rows])
    return found


def text_of(row: Row) -> str:
    """What is compared and measured: the text, or all that the user says."""
    content = row.content
    if isinstance(content, Conversation):
        return "\n".join(turn.content for turn in content.turns if turn.role == "user")
    return str(content.text)


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values)
    at = {"least": 0.0, "median": 0.5, "p95": 0.95, "most": 1.0}
    return {name: ordered[min(int(share * len(ordered)), len(ordered) - 1)] for name, share in at.items()}


def _reading(splits: Splits) -> Iterator[Light]:
    """What was noticed while the files were read: encodings, guessed columns, repeats, leaks, conflicts, cleaning."""
    for finding in splits.findings:
        level: Literal["yellow", "red"] = "red" if "so the score would be too high" in finding.message else "yellow"
        if finding.level == "note":
            yield Light("reading", "green", finding.message, finding.count, finding.examples, finding.remedy)
        else:
            yield Light("reading", level, finding.message, finding.count, finding.examples, finding.remedy)


def _labels(parts: Sequence[Dataset]) -> Iterator[Light]:
    train = parts[0]
    counts = Counter(str(row.content.label) for row in train.rows)
    first = {str(row.content.label): row.place for row in reversed(train.rows)}
    few = {label: n for label, n in counts.items() if n < _FEW_ROWS}
    if few:
        examples = tuple(f"{label} ({n}, first {first[label]})" for label, n in list(few.items())[:_EXAMPLES])
        yield Light(
            "rare labels",
            "yellow",
            f"{len(few)} of {len(counts)} labels have fewer than {_FEW_ROWS} train rows: too few to learn them or to choose by them",
            len(few),
            examples,
            f"data.min_rows_per_label: {_FEW_ROWS}, or collect more rows of them",
        )
    most, least = max(counts.values()), min(counts.values())
    if most > _UNEVEN * least:
        yield Light(
            "imbalance",
            "yellow",
            f"the most frequent label has {most} train rows, the rarest {least}: accuracy alone says little",
            len(counts),
            (),
            "task: {kind: classify_text, class_weights: balanced}, and read f1_macro",
        )
    groups = variants(counts)
    if groups:
        examples = tuple(
            " = ".join(f"{label!r} ({counts[label]}, first {first[label]})" for label in g) for g in groups[:_EXAMPLES]
        )
        yield Light(
            "label spelling",
            "red",
            f"{len(groups)} labels seem to be written in several ways, which the model would have to tell apart",
            len(groups),
            examples,
            "write each label in one way",
        )
    if not few and most <= _UNEVEN * least and not groups:
        yield Light("labels", "green", f"{len(counts)} labels with {least} to {most} train rows each")


def _chats(rows: Sequence[Row]) -> Iterator[Light]:
    answers: dict[str, list[Row]] = defaultdict(list)
    echoes, wordless = [], []
    for row in rows:
        turns = row.content.turns
        answers[compared_form(turns[-1].content)].append(row)
        asked = compared_form(next((t.content for t in reversed(turns[:-1]) if t.role == "user"), ""))
        if asked and asked == compared_form(turns[-1].content):
            echoes.append(row)
        if not any(ch.isalpha() for ch in text_of(row)):
            wordless.append(row)
    often = max(_REPEATED_ROWS, _REPEATED_SHARE * len(rows))
    repeated = {text: found for text, found in answers.items() if len(found) >= often}
    if repeated:
        examples = tuple(f"{shorten(t, 40)!r} ({len(f)} rows, first {f[0].place})" for t, f in repeated.items())[
            :_EXAMPLES
        ]
        yield Light(
            "repeated answers",
            "yellow",
            f"{len(repeated)} answers stand in many rows: the model will say them often",
            sum(map(len, repeated.values())),
            examples,
            "leave most of their rows out",
        )
    if echoes:
        yield Light(
            "echoes",
            "yellow",
            f"{len(echoes)} answers only repeat the question",
            len(echoes),
            _places(echoes),
            "correct or remove the rows",
        )
    if wordless:
        yield Light(
            "instructions without words",
            "yellow",
            f"{len(wordless)} questions hold no letter",
            len(wordless),
            _places(wordless),
            "correct or remove the rows",
        )
    with_system = [row for row in rows if row.content.turns[0].role == "system"]
    if 0 < len(with_system) < len(rows):
        without = [row for row in rows if row.content.turns[0].role != "system"]
        yield Light(
            "system prompts",
            "yellow",
            f"{len(with_system)} of {len(rows)} rows have a system prompt and {len(without)} have none: serve the model both ways, or give all the same",
            len(without),
            _places(without),
            "data.system: COLUMN, or remove it everywhere",
        )
    if not repeated and not echoes and not wordless:
        yield Light("conversations", "green", f"{len(rows)} conversations, each with words on both sides")


def _near(parts: Sequence[Dataset]) -> Iterator[Light]:
    """Texts that are almost the same, inside a split and across splits; exact copies are told while reading."""
    rows = [(part.name, row) for part in parts for row in part.rows]
    texts = [text_of(row) for _, row in rows]
    pairs = [
        (a, b, share)
        for a, b, share in near_pairs(texts, _NEAR)
        if rows[a][1].content.key() != rows[b][1].content.key()
    ]
    across = [(a, b, share) for a, b, share in pairs if rows[a][0] != rows[b][0]]

    def shown(found: Sequence[tuple[int, int, float]]) -> tuple[str, ...]:
        return tuple(
            f"{rows[b][1].place} ~ {rows[a][1].place} ({share:.2f}): {shorten(texts[b], 40)!r}"
            for a, b, share in found[:_EXAMPLES]
        )

    if across:
        n_rows = len({b for _, b, _ in across})
        yield Light(
            "near leaks",
            "red" if n_rows > 0.01 * len(rows) else "yellow",
            f"{n_rows} valid or test rows are almost the same as a row of another split (Jaccard of 3-grams at least {_NEAR}), so the score would be too high",
            n_rows,
            shown(across),
            f"data.split: {{near: {_NEAR}}} where migaki divides the rows; else remove them from train",
        )
    inside = [pair for pair in pairs if pair not in set(across)]
    if inside:
        yield Light(
            "near duplicates",
            "green",
            f"{len(inside)} pairs of rows inside a split are almost the same",
            len(inside),
            shown(inside),
        )
    if not pairs:
        yield Light("near duplicates", "green", "no two texts are almost the same")


def _lengths(rows: Sequence[Row]) -> Iterator[Light]:
    lengths = [len(text_of(row)) for row in rows]
    median = sorted(lengths)[len(lengths) // 2]
    long = [row for row, n in zip(rows, lengths, strict=True) if n > _LONG * max(median, 20)]
    if long:
        yield Light(
            "very long texts",
            "yellow",
            f"{len(long)} texts are more than {_LONG:.0f} times as long as the median of {median} characters",
            len(long),
            _places(long),
            "look at them: joined rows, quoted threads, raw logs",
        )


def _scripts(parts: Sequence[Dataset]) -> Iterator[Light]:
    """A language in test that train hardly has."""
    shares = [Counter(script_of(text_of(row)) for row in part.rows) for part in parts]
    for script in ("latin", "japanese", "other"):
        train, test = (shares[i][script] / max(len(parts[i]), 1) for i in (0, 2))
        if test > 0.05 and train < test / 4:
            strange = [row for row in parts[2].rows if script_of(text_of(row)) == script]
            yield Light(
                "scripts",
                "yellow",
                f"{test:.0%} of the test rows are written in {script} letters, but only {train:.0%} of the train rows",
                len(strange),
                _places(strange),
                "collect train rows in that script",
            )


def _personal(rows: Sequence[Row]) -> Iterator[Light]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        texts = [t.content for t in row.content.turns] if isinstance(row.content, Conversation) else [text_of(row)]
        for kind in {p.kind for text in texts for p in find_personal(text)}:
            found[kind].append(row)
    if found:
        kinds = ", ".join(f"{kind} in {len(where)} rows" for kind, where in sorted(found.items()))
        places = tuple(f"{where[0].place} ({kind})" for kind, where in sorted(found.items()))
        yield Light(
            "personal data",
            "yellow",
            f"what looks personal: {kinds}. A model can repeat it",
            len({id(r) for w in found.values() for r in w}),
            places,
            f"data.clean: [{{kind: mask, kinds: [{', '.join(sorted(found))}]}}]",
        )
    else:
        yield Light("personal data", "green", "no e-mail address, phone, card or personal number was found")


def _mojibake(rows: Sequence[Row]) -> Iterator[Light]:
    from migaki.data.cleaning import Mojibake

    repair = Mojibake()
    broken = [row for row in rows if row.content.mapped(repair) != row.content]
    if broken:
        before, after = text_of(broken[0]), text_of(Row(broken[0].place, broken[0].content.mapped(repair)))
        example = f"{broken[0].place}: {shorten(before, 30)!r} was {shorten(after, 30)!r}"
        yield Light(
            "mojibake",
            "red",
            f"{len(broken)} texts were read in a wrong encoding before they came here",
            len(broken),
            (example, *_places(broken[1:])),
            "data.clean: [mojibake]",
        )


def _tokens(rows: Sequence[Row], tokens: TokenFacts, limit: int | None) -> Iterator[Light]:
    if limit is not None:
        cut = [row for row, n in zip(rows, tokens.lengths, strict=True) if n > limit]
        if cut:
            yield Light(
                "truncation",
                "yellow",
                f"{len(cut)} of {len(rows)} rows have more than the {limit} tokens that the model sees",
                len(cut),
                _places(cut),
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
            _places(unknown),
            "choose a model for the language of the texts: migaki models",
        )
    if tokens.unvoiced:
        lost = [rows[i] for i in tokens.unvoiced]
        yield Light(
            "lost dakuten",
            "red",
            f"the tokenizer takes dakuten away in {len(lost)} rows: が becomes か",
            len(lost),
            _places(lost),
            "choose a model for Japanese: model: bundled:e5-small",
        )
    if not unknown and not tokens.unvoiced:
        yield Light("tokens", "green", f"every character is known; the longest row has {max(tokens.lengths)} tokens")


def _suspicious(suspicious: Sequence[tuple[Row, str, float]], rows: Sequence[Row]) -> Iterator[Light]:
    if suspicious:
        share = len(suspicious) / len(rows)
        examples = tuple(
            f"{row.place}: {row.content.label!r}, perhaps {other!r} ({p:.2f}): {shorten(row.content.text, 40)!r}"
            for row, other, p in suspicious[:_EXAMPLES]
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


def _power(test: Dataset, content_kind: str) -> Iterator[Light]:
    if content_kind != "labelled":
        return
    smallest = smallest_difference(len(test))
    if math.isinf(smallest):
        text = f"{len(test)} test rows cannot show a difference of 10 points between two models"
    else:
        text = f"{len(test)} test rows show a difference of {100 * smallest:.1f} points or more between two models (80 % power, one row in ten judged differently)"
    level: Literal["green", "yellow"] = "green" if smallest <= _SHOWN_DIFFERENCE else "yellow"
    yield Light(
        "size of the test split",
        level,
        text,
        len(test),
        (),
        "" if level == "green" else "more test rows: data.test: 0.3, or collect them",
    )


def _places(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(str(row.place) for row in rows[:_EXAMPLES])
