"""Generation: instruction tuning and chat with a decoder. Only what the assistant says is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from migaki.core.parts import Learner, Task
from migaki.core.types import Ability, Dataset, Evaluation, Prediction
from migaki.evaluation import generation, generation_scores
from migaki.tasks.abilities import answer_abilities

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.text_generator import TextGenerator

__all__ = ["Generate"]


class Generate(Task):
    """Conversations, prompt and completion, or instructions, rendered with the tokenizer's own chat template."""

    kind: Literal["generate"] = "generate"
    max_length: PositiveInt | None = None
    """Tokens of a conversation that the model sees; null: the model's limit, at most 1024."""
    allow_truncated: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of rows that may be longer than max_length and lose their end; above it the run does not start.
    A row that would lose all its target tokens never starts a run."""
    template: Literal["model", "plain", "alpaca", "japanese"] = "model"
    """model: the tokenizer's chat template. For base models without one: plain (prompt, line break, answer),
    alpaca (### Instruction: / ### Response:) or japanese (### 指示: / ### 応答:)."""
    learn: Literal["all", "last"] = "all"
    """Which assistant turns are targets: all of them, or the last one of each conversation."""
    max_new_tokens: PositiveInt = 128
    """The longest answer that is generated, in tokens."""
    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = 1.0
    """Above 1, tokens that already stand in prompt or answer become less likely: small models that answer greedily tend to
    go round in circles. 1.1 to 1.3 is usual; base and tuned model answer under the same one. The token that ends an answer
    is never made less likely.
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1."""
    generated_rows: NonNegativeInt = 24
    """How many test rows are answered for the generation metrics, from the start of the split; 0: none.
    The token loss always uses all rows."""

    content_kind: ClassVar[str] = "conversation"
    primary: ClassVar[tuple[str, Literal["max", "min"]]] = ("loss", "min")
    base_role: ClassVar[Literal["encoder", "decoder"]] = "decoder"
    general: ClassVar[tuple[str, ...]] = ("passages", "choices")
    compared: ClassVar[tuple[str, ...]] = ("zero_shot", "few_shot", "retrieve", "lora", "reft", "full")

    def answers_in_evaluation(self) -> int | None:
        return self.generated_rows

    def written(self, prediction: Prediction) -> dict[str, Any]:
        return {"prediction": prediction.output, "stopped": prediction.stopped}

    def network(self, base: Base, train: Dataset, seed: int) -> TextGenerator:
        from migaki.tasks.text_generator import TextGenerator

        return TextGenerator(base, self)

    def restore(self, base: Base, folder: Path) -> TextGenerator:
        from migaki.tasks.text_generator import restore_generator

        return restore_generator(base, self, folder)

    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        return generation(predictions, seed)

    def generality(
        self, learner: Learner, probe: Sequence[Dataset], watch: Callable[[int], None] = lambda _: None
    ) -> list[Ability]:
        return answer_abilities(learner, probe, watch)

    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        return generation_scores(predictions)
