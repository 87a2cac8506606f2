"""Cards of models: what they are, and what follows from their shapes."""

# D hidden, F inner, V vocabulary, L layers

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from migaki.core.codec import parse_yaml
from migaki.core.errors import UsageError
from migaki.core.parts import Part

__all__ = ["ModelCard", "model_cards"]

Family = Literal["bert", "deberta", "modernbert", "llama", "qwen2", "qwen3", "gemma3", "gpt_neox"]
_GATED = ("modernbert", "llama", "qwen2", "qwen3", "gemma3")
"""The inner part of a block has three matrices instead of two."""


class ModelCard(Part):
    """One pretrained model."""

    reference: str
    """As `model:` in a recipe names it."""
    title: str
    family: Family
    """Architecture; decides which matrices a block has."""
    tasks: Annotated[list[Literal["classify_text", "generate"]], Field(min_length=1)]
    millions: PositiveFloat
    """All parameters, word vectors included, in millions, as its publisher says."""
    layers: PositiveInt
    hidden: PositiveInt
    inner: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt | None = None
    """Heads of keys and values; null: as many as heads."""
    head_size: PositiveInt | None = None
    """Width of a head; null: hidden / heads."""
    vocabulary: PositiveInt
    tied: bool = False
    """Whether the output matrix is the one of the word vectors."""
    context: PositiveInt
    """The most tokens at once."""
    languages: Annotated[list[str], Field(min_length=1)]
    """Codes, the best one first; `multi` for about a hundred."""
    licence: str

    @property
    def decodes(self) -> bool:
        return "generate" in self.tasks

    @property
    def gated(self) -> bool:
        """Whether the inner part of a block has three matrices, of which two are multiplied with one another."""
        return self.family in _GATED

    @cached_property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """(out, in) of the matrices of one block."""
        size = self.head_size or self.hidden // self.heads
        own, shared = self.heads * size, (self.kv_heads or self.heads) * size
        attention = [(own, self.hidden), (shared, self.hidden), (shared, self.hidden), (self.hidden, own)]
        wide = [(self.inner, self.hidden)] * (2 if self.gated else 1)
        return [*attention, *wide, (self.hidden, self.inner)]

    @property
    def block_parameters(self) -> int:
        """Weights of the matrices of one block."""
        return sum(n_out * n_in for n_out, n_in in self.linear_shapes)

    @property
    def word_parameters(self) -> int:
        """Word vectors, and the output matrix where it is one of its own."""
        return self.vocabulary * self.hidden * (2 if self.decodes and not self.tied else 1)

    @property
    def parameters(self) -> int:
        """Of all matrices; what is left out (norms, biases, positions) is below two in a hundred."""
        return self.layers * self.block_parameters + self.word_parameters

    def speaks(self, language: str) -> bool:
        return language in self.languages or "multi" in self.languages


def model_cards(more: Path | None = None) -> list[ModelCard]:
    """The cards that come with migaki, and those of a file or folder of the user, which replace cards of the same reference.

    Raises:
        UsageError: a file is no list of cards; names file and card.
    """
    found = {
        card.reference: card
        for card in _read("cards.yaml", files("migaki.choosing").joinpath("cards.yaml").read_text("utf-8"))
    }
    if more is not None:
        paths = sorted(more.glob("*.y*ml")) if more.is_dir() else [more]
        if not paths:
            raise UsageError(f"{more} holds no .yaml file with cards.")
        for path in paths:
            try:
                text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
            found |= {card.reference: card for card in _read(str(path), text)}
    return list(found.values())


def _read(name: str, text: str) -> Sequence[ModelCard]:
    values, lines = parse_yaml(text, name)
    if not isinstance(values, list):
        raise UsageError(
            f"{name} is not a list of cards. Write one card a line: - {{reference: ..., title: ..., family: ...}}"
        )
    try:
        return TypeAdapter(list[ModelCard]).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        number, *where = first["loc"]
        line = lines.get((str(number),), 1)
        raise UsageError(f"{name}:{line}: {'.'.join(map(str, where))}: {first['msg']}. Correct this card.") from None
