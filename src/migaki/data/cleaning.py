"""Steps by which texts are cleaned before anything else sees them: in the order of the recipe, each counted and shown.

    data:
      clean: [line_ends, invisible_characters, {kind: nfkc, keep: "①②〜"}, {kind: mask, kinds: [email, phone]}]

The steps are part of the recipe, so a tuned model gets its questions cleaned in the same way. The files stay as they are,
and `changes` tells of every text what it was, so that nothing is lost by a step.
"""

from __future__ import annotations

import html
import re
import unicodedata
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from migaki.core.parts import Part
from migaki.core.types import Finding, Place, Row, shorten
from migaki.data.privacy import KINDS, mask_personal

__all__ = ["Change", "Step", "changes", "clean_rows", "cleaner", "restored", "texts_of"]

_EXAMPLES = 3


class _Step(Part):
    """One change of a text."""

    @abstractmethod
    def __call__(self, text: str) -> str: ...


class LineEnds(_Step):
    """Windows' and old Mac's line ends, and Unicode's own, become a line feed."""

    kind: Literal["line_ends"] = "line_ends"

    def __call__(self, text: str) -> str:
        return re.sub("\r\n|[\r\x85\u2028\u2029]", "\n", text)


class ControlCharacters(_Step):
    """Control characters go, but for line feed and tab."""

    kind: Literal["control_characters"] = "control_characters"

    def __call__(self, text: str) -> str:
        return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


class InvisibleCharacters(_Step):
    """Characters that nobody sees go: zero-width spaces and joiners, marks of direction and order, soft hyphens.

    The joiner inside an emoji (👩‍💻) stays, and so do variation selectors, which change what is seen.
    """

    kind: Literal["invisible_characters"] = "invisible_characters"

    def __call__(self, text: str) -> str:
        text = re.sub("[\u00ad\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]", "", text)
        return re.sub(
            "(?<![\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d|\u200d(?![\u2600-\u27bf\U0001f000-\U0001faff])",
            "",
            text,
        )


class Spaces(_Step):
    """Runs of spaces and tabs become one space, also the wide ones; spaces at both ends of a line go."""

    kind: Literal["spaces"] = "spaces"

    def __call__(self, text: str) -> str:
        return "\n".join(
            re.sub("[ \t\u00a0\u2000-\u200a\u202f\u3000]+", " ", line).strip() for line in text.split("\n")
        )


class Nfkc(_Step):
    """Unicode NFKC, which makes ＡＢＣ to ABC and ｶﾞ to ガ, but also ① to 1: name in `keep` what has to stay."""

    kind: Literal["nfkc"] = "nfkc"
    keep: str = ""
    """Characters that are left as they are."""

    def __call__(self, text: str) -> str:
        if not self.keep:
            return unicodedata.normalize("NFKC", text)
        parts = re.split(f"([{re.escape(self.keep)}]+)", text)
        return "".join(part if i % 2 else unicodedata.normalize("NFKC", part) for i, part in enumerate(parts))


class Width(_Step):
    """Only the width: full-width letters and digits become half-width, half-width kana full-width; ① and ㍻ stay."""

    kind: Literal["width"] = "width"

    def __call__(self, text: str) -> str:
        text = re.sub("[\uff66-\uff9f]+", lambda m: unicodedata.normalize("NFKC", m[0]), text)
        return re.sub("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]", lambda m: chr(ord(m[0]) - 0xFEE0), text)


class Html(_Step):
    """Tags, comments, scripts and styles go; &amp; and its like become the characters."""

    kind: Literal["html"] = "html"

    def __call__(self, text: str) -> str:
        text = re.sub(r"(?is)<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->", "", text)
        text = re.sub(r"(?i)<(?:br|/p|/div|/li|/tr|/h[1-6])\b[^>]*>", "\n", text)
        return html.unescape(re.sub(r"</?[A-Za-z][^<>]*>", "", text))


class Remove(_Step):
    """Texts that stand in many rows and say nothing: signatures, disclaimers, headers of exports."""

    kind: Literal["remove"] = "remove"
    texts: Annotated[list[str], Field(min_length=1)]
    """Exactly as they stand."""

    @field_validator("texts")
    @classmethod
    def _not_empty(cls, texts: list[str]) -> list[str]:
        if not all(texts):
            raise ValueError("one of the texts is empty, which stands everywhere; leave it out.")
        return texts

    def __call__(self, text: str) -> str:
        for one in self.texts:
            text = text.replace(one, "")
        return text


class Mask(_Step):
    """Addresses and numbers of persons become `[email]`, `[phone]` and so on."""

    kind: Literal["mask"] = "mask"
    kinds: list[Literal["email", "phone", "card", "postcode_ja", "my_number"]] = Field(
        default=list(KINDS), min_length=1
    )
    """What is masked."""

    def __call__(self, text: str) -> str:
        return mask_personal(text, tuple(self.kinds))


class Mojibake(_Step):
    """UTF-8 that was once read as another encoding (ã‚ for あ, Ã© for é) is read anew, where all of the text can be."""

    kind: Literal["mojibake"] = "mojibake"

    def __call__(self, text: str) -> str:
        if text.isascii():
            return text
        for wrong in ("cp1252", "latin-1", "cp932"):
            try:
                return text.encode(wrong).decode("utf-8")
            except UnicodeError:
                continue
        return text


def _from_word(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Step = Annotated[
    Annotated[
        LineEnds | ControlCharacters | InvisibleCharacters | Spaces | Nfkc | Width | Html | Remove | Mask | Mojibake,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_from_word),
]


def cleaner(steps: Sequence[Callable[[str], str]]) -> Callable[[str], str]:
    """All steps after one another."""

    def clean(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return clean


def clean_rows(rows: Sequence[Row], steps: Sequence[Any], name: str) -> tuple[tuple[Row, ...], list[Finding]]:
    """The rows after every step, and for each step how many it changed, with the first of them before and after.

    Args:
        rows: of one split, in order.
        steps: of the recipe.
        name: of the split, for the findings.
    """
    findings = []
    found = tuple(rows)
    for step in steps:
        after = tuple(Row(row.place, row.content.mapped(step)) for row in found)
        changed = [(old, new) for old, new in zip(found, after, strict=True) if old.content != new.content]
        if changed:
            message = f"data.clean: {step.kind} changed {len(changed)} of {len(rows)} {name} rows"
            examples = tuple(f"{old.place}: {_difference(old, new)}" for old, new in changed[:_EXAMPLES])
            findings.append(Finding("note", message, len(changed), examples))
        found = after
    return found, findings


def texts_of(row: Row) -> list[str]:
    """Every text that stands in a row: both of a pair, all messages of a conversation, both answers of a comparison; none
    where the row is about a file."""
    found: list[str] = []

    def noted(text: str) -> str:
        found.append(text)
        return text

    row.content.mapped(noted)
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """What one step made of one text."""

    place: Place
    step: str
    text: int
    """Which text of the row, counted from 0: of a pair the second is 1, of a conversation each message has its own."""
    before: str
    after: str

    def as_json(self) -> dict[str, Any]:
        place = {"source": self.place.source, "line": self.place.line}
        return {**place, "text": self.text, "step": self.step, "before": self.before, "after": self.after}


def changes(rows: Iterable[Row], steps: Sequence[Any]) -> Iterator[Change]:
    """Every change of every text, row after row, in the order of the steps.

    Args:
        rows: as they were read, before any step.
        steps: of the recipe.
    """
    for row in rows:
        for step in steps:
            old, row = row, Row(row.place, row.content.mapped(step))
            for number, (before, after) in enumerate(zip(texts_of(old), texts_of(row), strict=True)):
                if before != after:
                    yield Change(row.place, step.kind, number, before, after)


def restored(rows: Sequence[Row], changed: Iterable[Change]) -> tuple[Row, ...]:
    """The rows as they were before the steps, by what `changes` told of them."""
    first: dict[Place, dict[int, str]] = defaultdict(dict)
    for change in changed:
        first[change.place].setdefault(change.text, change.before)

    def original(row: Row) -> Row:
        texts, number = first[row.place], iter(range(1 << 30))
        return Row(row.place, row.content.mapped(lambda text: texts.get(next(number), text)))

    return tuple(original(row) if row.place in first else row for row in rows)


def _difference(old: Row, new: Row) -> str:
    """What stood there and what stands there now, around the first change."""
    before, after = old.content.key(), new.content.key()
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    start = max(0, at - 10)
    return (
        f"{shorten(ascii_controls(before[start : at + 20]))!r} -> {shorten(ascii_controls(after[start : at + 20]))!r}"
    )


def ascii_controls(text: str) -> str:
    """Control and invisible characters as escapes, so that a change of them can be seen.

    >>> ascii_controls("a\\u200bb")
    'a\\\\u200bb'
    """
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)
