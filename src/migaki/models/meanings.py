"""Models of images and texts: what words mean among images, and a head that tells rows apart by words."""

# Shapes: B rows, C classes, D features, E axes of the space in which rows and words are compared, T tokens

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from migaki.core.errors import Problem, RecipeError
from migaki.core.store import read_json

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["READS", "WordHead", "knows_words", "word_head"]

READS = ("clip", "siglip")
"""Families of which one half sees images and the other reads texts."""


class WordHead(nn.Module):
    """Scaled cosine similarity of each row with the words that stand for each class, logits (B, C)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, projection: torch.Tensor | None = None) -> None:
        """
        Args:
            weight: vectors of the words, of the length by which similarities are scaled, (C, E).
            bias: added to the logits, (C,).
            projection: from features into the space of the words, (E, D); None: they lie in it.
        """
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.projection = None if projection is None else nn.Parameter(projection)

    @classmethod
    def of(
        cls, vectors_CE: torch.Tensor, scale: float, bias: float = 0.0, projection_ED: torch.Tensor | None = None
    ) -> Self:
        """From vectors of any length."""
        bias_C = torch.full((len(vectors_CE),), bias, device=vectors_CE.device)
        return cls(scale * F.normalize(vectors_CE.float(), dim=-1), bias_C, projection_ED)

    @property
    def in_features(self) -> int:
        """D"""
        return (self.weight if self.projection is None else self.projection).shape[1]

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        features_BE = features_BD.float()
        if self.projection is not None:
            features_BE = F.linear(features_BE, self.projection)
        return F.linear(F.normalize(features_BE.float(), dim=-1), self.weight, self.bias)


def knows_words(base: Base) -> bool:
    """Whether the model that sees is half of one that also reads."""
    return base.folder is not None and read_json(base.folder / "config.json").get("model_type") in READS


@torch.no_grad()
def word_head(base: Base, words: Sequence[str]) -> WordHead:
    """The head that compares the features of the half that sees with what the other half makes of words, as the whole model
    compares images and texts.

    Args:
        base: one that knows words.
        words: what stands for each class.
    Raises:
        RecipeError: the words of a class are longer than the model reads.
        ModelError: the half that reads is not there.
    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1; Zhai et al. 2023, arXiv:2303.15343.
    """
    whole = base.whole("image_text")
    model: Any = whole.model
    ids_CT = _read(whole, words).to(model.device)
    # No mask: CLIP looks only at what stands before, SigLIP was trained to read what is filled up too.
    vectors_CE = model.get_text_features(input_ids=ids_CT).pooler_output
    scale = float(model.logit_scale.exp())
    if model.config.model_type == "clip":
        return WordHead.of(vectors_CE, scale, projection_ED=model.visual_projection.weight.detach().clone())
    return WordHead.of(vectors_CE, scale, float(model.logit_bias))


def _read(whole: Base, words: Sequence[str]) -> torch.Tensor:
    """Token ids (C, T), filled up to the longest, those of SigLIP to the most that it reads."""
    config: Any = whole.model.config
    most = int(config.text_config.max_position_embeddings)
    for text in words:
        if (n := len(whole.tokenizer(text)["input_ids"])) > most:
            found = f"{text[:40]!r} has {n} tokens, and {whole.reference} reads at most {most}; shorten it."
            raise RecipeError([Problem("method.descriptions", found)])
    padding = "longest" if config.model_type == "clip" else "max_length"
    ids_CT: torch.Tensor = whole.tokenizer(list(words), padding=padding, max_length=most, return_tensors="pt")[
        "input_ids"
    ]
    return ids_CT
