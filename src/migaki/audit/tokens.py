"""What a model's tokenizer makes of the rows: how long they are, what it does not know, which marks it loses."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from migaki.core.errors import ModelError
from migaki.core.types import Conversation

__all__ = ["TokenFacts", "chat_facts", "token_facts"]

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
    targets: tuple[int, ...] = ()
    """Of conversations: tokens that are learned, of those that the model sees."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Numbers of the conversations that the chat template does not take, and why."""


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


def chat_facts(
    folder: Path, conversations: Sequence[Conversation], template: str, learn: str, limit: int
) -> TokenFacts:
    """The same of conversations, as the chat template writes them for training; loads transformers' tokenizer, no weights.

    Args:
        folder: of the model.
        conversations: of all rows.
        template: as `task.template`.
        learn: as `task.learn`.
        limit: tokens that the model sees of a row.
    """
    from transformers import AutoTokenizer

    from migaki.tasks.chat import NO_TARGET, ChatFormat

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    texts = ["\n".join(turn.content for turn in one.turns) for one in conversations]
    plain = token_facts(folder, texts)
    try:
        chat = ChatFormat(tokenizer, template, _stop_ids(folder, tokenizer), learn)
    except ModelError as error:
        return replace(plain, refused=dict.fromkeys(range(len(conversations)), str(error)))
    lengths, targets, refused = list(plain.lengths), [0] * len(conversations), {}
    for number, conversation in enumerate(conversations):
        try:
            rendered = chat.render(conversation)
        except ModelError as error:
            refused[number] = str(error)
            continue
        lengths[number] = len(rendered.ids)
        # The first token is predicted by nothing, so it never counts.
        targets[number] = sum(label != NO_TARGET for label in rendered.labels[1:limit])
    return replace(plain, lengths=tuple(lengths), targets=tuple(targets), refused=refused)


def _stop_ids(folder: Path, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, as the files of the model name them."""
    named = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            named += found if isinstance(found, list) else [found]
    return list(dict.fromkeys(token for token in named if token is not None))


def _voiced(text: str) -> int:
    return sum(unicodedata.normalize("NFKD", text).count(mark) for mark in _VOICED)
