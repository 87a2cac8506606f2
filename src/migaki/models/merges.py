"""A tokenizer whose list of merges lost an entry, mended: the vocabulary tells which.

In the files of Whisper that are about the first merge is often missing (of a space and t), which a reader once took for a
heading. Texts can be written with such a tokenizer, but they are cut in another way than the model writes: " the" as " " and
"the", for which Whisper base then expects 14 nats and not 0.02.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from tokenizers import Tokenizer

__all__ = ["mend_merges"]


def mend_merges(tokenizer: Any) -> list[str]:
    """Add the merges without which a word of the vocabulary is never made, at the rank that its number gives it.

    Only of byte-pair encodings whose words are numbered in the order of their merges, and only where the word is now cut
    into exactly two, so that there is no doubt which merge is missing.

    Args:
        tokenizer: a fast one of transformers; changed in place.
    Returns:
        the words that can be made again, as they stand in the vocabulary; empty for every whole tokenizer.
    """
    backend = tokenizer.backend_tokenizer
    described = json.loads(backend.to_str())
    model = described["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        return []
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    ranks = [vocabulary.get("".join(pair), -1) for pair in merges]
    if not merges or any(a >= b for a, b in itertools.pairwise(ranks)):
        return []
    made, special = set(map("".join, merges)), {token["content"] for token in described["added_tokens"]}
    missing = [word for word in vocabulary if len(word) > 1 and word not in made and word not in special]
    pairs = [tuple(piece.value for piece in backend.model.tokenize(word)) for word in missing]
    found = [pair for pair in pairs if len(pair) == 2]
    if found:
        model["merges"] = [list(pair) for pair in sorted([*merges, *found], key=lambda pair: vocabulary["".join(pair)])]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(described))
    return ["".join(pair) for pair in found]
