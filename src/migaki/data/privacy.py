"""What should not stand in training rows: addresses and numbers of persons, found by their form and check digits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["KINDS", "Personal", "find_personal", "mask_personal"]

Kind = Literal["email", "phone", "card", "postcode_ja", "my_number"]

_ALONE, _AFTER = r"(?<!\d\d)(?<!\d[ -]\d)", r"(?![ -]?\d)"
"""Behind its first digit, and at its end: a part of a longer row of digits is none of these numbers."""
# Every pattern but the first begins with a character: the places where one stands are found many times as fast as those
# behind which something may not stand.
_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"),
    "card": re.compile(rf"\d{_ALONE}(?:[ -]?\d){{12,18}}{_AFTER}"),
    "my_number": re.compile(rf"\d{_ALONE}\d{{3}}[ -]?\d{{4}}[ -]?\d{{4}}{_AFTER}"),
    "phone": re.compile(
        r"\+\d{1,3}[ -]?\(?\d{1,4}\)?(?:[ -]?\d{2,4}){2,3}(?![ -]?\d)"
        rf"|0{_ALONE}(?:\d{{1,4}}[ -]\d{{1,4}}[ -]\d{{3,4}}|[5789]0\d{{8}}){_AFTER}"
    ),
    "postcode_ja": re.compile(rf"[〒\d](?:(?<=〒)\s?\d{{3}}-?\d{{4}}(?!\d)|(?<=\d){_ALONE}\d{{2}}-\d{{4}}{_AFTER})"),
}
"""In this order: a card number must not be taken for a phone number. Digits may be full-width."""
KINDS = tuple(_PATTERNS)
_NUMBERS = re.compile(r"\d[\d ()-]{5,}")
"""Where such numbers can be: nothing else stands between their digits. Most texts have no such place."""
_LEAST: dict[Kind, int] = {"card": 13, "my_number": 12, "phone": 6, "postcode_ja": 7}
"""Digits of the shortest number of each kind."""


@dataclass(frozen=True, slots=True)
class Personal:
    """One finding in a text."""

    kind: Kind
    start: int
    end: int


def find_personal(text: str, kinds: tuple[Kind, ...] = KINDS) -> list[Personal]:
    """What looks personal, in the order of the text; no two overlap.

    Card numbers must pass the Luhn check (ISO/IEC 7812-1), My Numbers their check digit (Ordinance 85 of 2014, Ministry
    of Internal Affairs, article 5).

    >>> [(p.kind, "call 03-1234-5678"[p.start : p.end]) for p in find_personal("call 03-1234-5678")]
    [('phone', '03-1234-5678')]
    """
    found: list[Personal] = []
    numbers = [place.span() for place in _NUMBERS.finditer(text)]
    for kind in KINDS:
        if kind in kinds:
            for start, end in _emails(text) if kind == "email" else _numbers(kind, text, numbers):
                if all(end <= other.start or start >= other.end for other in found):
                    found.append(Personal(kind, start, end))
    return sorted(found, key=lambda p: p.start)


def mask_personal(text: str, kinds: tuple[Kind, ...] = KINDS) -> str:
    """The text with `[email]`, `[phone]` ... in place of what was found.

    >>> mask_personal("mail a@example.org")
    'mail [email]'
    """
    for one in reversed(find_personal(text, kinds)):
        text = f"{text[: one.start]}[{one.kind}]{text[one.end :]}"
    return text


def _emails(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _PATTERNS["email"].finditer(text)] if "@" in text else []


def _numbers(kind: Kind, text: str, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for begin, end in places:
        if end - begin < _LEAST[kind]:
            continue
        # A plus, or a postal mark and a space, stands before the first digit.
        for match in _PATTERNS[kind].finditer(text, max(begin - 2, 0), end):
            digits = [int(ch) for ch in match[0] if ch.isdecimal()]
            if kind == "card" and not _luhn(digits):
                continue
            if kind == "my_number" and not _my_number(digits):
                continue
            yield match.span()


def _luhn(digits: list[int]) -> bool:
    doubled = [2 * d if i % 2 else d for i, d in enumerate(reversed(digits))]
    return len(set(digits)) > 1 and sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _my_number(digits: list[int]) -> bool:
    weights = (*range(2, 8), *range(2, 7))
    rest = sum(d * w for d, w in zip(reversed(digits[:11]), weights, strict=True)) % 11
    return len(set(digits)) > 1 and digits[11] == (0 if rest <= 1 else 11 - rest)
