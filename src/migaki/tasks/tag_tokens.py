"""Tagging: parts of a text are found and named (named-entity recognition and its kin)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt

from migaki.core.parts import Learner, Task
from migaki.core.types import Ability, Dataset, Evaluation, Prediction
from migaki.evaluation import tagging, tagging_scores
from migaki.tasks.abilities import topic_abilities

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.token_tagger import TokenTagger

__all__ = ["TagTokens"]


class TagTokens(Task):
    """A linear head on every token, and the likeliest valid sequence of B-, I- and O over them.

    Parts are given and answered in characters of the text as it stands in the file. No words are needed: every token that
    stands for characters has a tag, in English as in Japanese. A text of any length is read in windows.
    """

    kind: Literal["tag_tokens"] = "tag_tokens"
    max_length: PositiveInt | None = None
    """Tokens of a window, special tokens included; null: the model's limit, at most 512."""
    overlap: NonNegativeInt = 64
    """Tokens that two neighbouring windows of a long text have in common, at most half a window; each token is answered in
    the window in which it stands farther from the edge."""
    units: Literal["tokens", "characters"] = "tokens"
    """tokens: as the model's tokenizer cuts the text, which may put the end of a part inside a token; characters: Japanese
    and Chinese characters are tokenised one by one, so that no part of such a text can be cut, with more tokens a text."""

    content_kind: ClassVar[str] = "tagged"
    primary: ClassVar[tuple[str, Literal["max", "min"]]] = ("f1", "max")
    base_role: ClassVar[Literal["encoder", "decoder"]] = "encoder"
    general: ClassVar[tuple[str, ...]] = ("topics",)
    floor: ClassVar[str] = "gazetteer"
    compared: ClassVar[tuple[str, ...]] = ("gazetteer", "probe", "frozen", "lora", "reft", "full")

    def baseline_name(self) -> str:
        return "base, random head with the shares of the tags"

    def network(self, base: Base, train: Dataset, seed: int) -> TokenTagger:
        from migaki.tasks.token_tagger import new_tagger

        return new_tagger(base, self, train, seed)

    def restore(self, base: Base, folder: Path) -> TokenTagger:
        from migaki.tasks.token_tagger import restore_tagger

        return restore_tagger(base, self, folder)

    def written(self, prediction: Prediction) -> dict[str, Any]:
        return {
            "prediction": [
                {**span.as_json(), "text": prediction.text[span.start : span.end], "confidence": span.confidence}
                for span in prediction.spans
            ]
        }

    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        return tagging(predictions, labels, seed)

    def generality(
        self, learner: Learner, probe: Sequence[Dataset], watch: Callable[[int], None] = lambda _: None
    ) -> list[Ability]:
        return topic_abilities(learner, probe, watch)

    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        return tagging_scores(predictions, labels)
