"""Which language a text is probably in, by a rule: its letters first, then its most frequent words."""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["probable_language"]

_SCRIPTS = {
    "kana": "[\u3041-\u309f\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d]",
    "han": "[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]",
    "hangul": "[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]",
    "latin": "[A-Za-z\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]",
    "cyrillic": "[\u0400-\u052f]",
    "greek": "[\u0370-\u03ff]",
    "arabic": "[\u0620-\u064a\u0671-\u06d3]",
    "hebrew": "[\u05d0-\u05ea]",
    "devanagari": "[\u0904-\u0939]",
    "thai": "[\u0e01-\u0e2e]",
}
_LETTERS = {name: re.compile(pattern) for name, pattern in _SCRIPTS.items()}
_SYLLABLE = 3
"""What a letter of a script that writes syllables or words counts beside one of an alphabet."""
_NAMES = {"hangul": "ko", "greek": "el", "hebrew": "he", "thai": "th"}

# The twelve or so most frequent words of each that few of the other languages have.
_FREQUENT = {
    "en": "the and of to is my you that it for have with not what this can how are was",
    "de": "der die das und ist nicht ich ein eine zu mit den wie auf für sie es wird kann",
    "fr": "le la les et est je des une pas vous que dans pour qui sur avec mon ne du",
    "es": "el los y es una no que de por mi con para como se las del está puedo quiero",
    "it": "il e è che di non una per mi con sono della come ho gli lo del posso questo",
    "pt": "o e é que não uma os de eu um para com meu minha do da em você posso",
    "nl": "de het een en is niet ik van dat met mijn voor op zijn hoe kan je wordt naar",
}
_WORDS = {language: frozenset(words.split()) for language, words in _FREQUENT.items()}


def probable_language(text: str) -> str:
    """A code such as `en`, the name of a script where it says no more, or `none` where no letter stands in the text.

    Kana make a text Japanese. Han alone is `han`: by its characters a Chinese text cannot be told from 本日休業. Of the
    languages with Latin letters seven are told apart, by which of their most frequent words stand most often in the text;
    where none does, or two tie, it is `latin`. So short texts often stay open, which does not matter for shares over many.

    >>> [probable_language(t) for t in ("Where is the parcel?", "Wo ist das Paket?", "Windowsが起動しない", "OK", "12:30")]
    ['en', 'de', 'ja', 'latin', 'none']
    """
    counts = {name: len(pattern.findall(text)) for name, pattern in _LETTERS.items()}
    weights = {name: n * (_SYLLABLE if name in ("kana", "han", "hangul") else 1) for name, n in counts.items()}
    if counts["kana"]:
        weights["kana"] += weights.pop("han")
    script = max(weights, key=lambda name: weights[name])
    if not weights[script]:
        return "none"
    if script == "latin":
        return _by_words(text)
    return "ja" if script == "kana" else _NAMES.get(script, script)


def _by_words(text: str) -> str:
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    hits = {language: sum(words[word] for word in known) for language, known in _WORDS.items()}
    best = max(hits.values())
    found = [language for language, n in hits.items() if n == best]
    return found[0] if best and len(found) == 1 else "latin"
