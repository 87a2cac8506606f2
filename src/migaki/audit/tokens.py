"""What a model's tokenizer makes of the rows: how long they are, what it does not know, which marks it loses."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["TokenFacts", "token_facts"]

_VOICED = ("\u3099", "\u309a")
"""Combining dakuten and handakuten: what tells が from か once a character is taken apart."""


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """Of each text, in order."""

    lengths: tuple[int, ...]
    """Tokens, special ones included."""
    unknown: tuple[int, ...]
    """Tokens that stand for something the tokenizer does not know."""
    unvoiced: tuple[int, ...]
    """Numbers of the texts that lose dakuten or handakuten: が becomes か, パ becomes ハ."""


def token_facts(folder: Path, texts: Sequence[str]) -> TokenFacts:
    """Ask the tokenizer.json of a model folder; nothing of the model itself is loaded."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown_id = tokenizer.token_to_id(unknown) if unknown else getattr(tokenizer.model, "unk_id", None)
    encoded = tokenizer.encode_batch(list(texts))
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer is not None else str
    return TokenFacts(
        tuple(len(one.ids) for one in encoded),
        tuple(one.ids.count(unknown_id) if unknown_id is not None else 0 for one in encoded),
        tuple(i for i, text in enumerate(texts) if _voiced(normalise(text)) < _voiced(text)),
    )


def _voiced(text: str) -> int:
    return sum(unicodedata.normalize("NFKD", text).count(mark) for mark in _VOICED)
