"""What a part is, and the protocols that hold the parts together.

A part is its own setting: a frozen pydantic model with the verb that uses it. The docstring under each field
feeds the JSON schema and with it editors, forms and the reference. A new method or task is one new file and one
line in its package's `__init__`, or an entry point of another distribution:

    [project.entry-points."migaki.methods"]
    mine = "my_package:MyMethod"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict

from migaki.core.errors import MigakiError
from migaki.core.types import Ability, Dataset, Evaluation, Prediction, Row

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Advice",
    "Example",
    "Featured",
    "Foreseeing",
    "Learner",
    "Method",
    "ParameterGroup",
    "Part",
    "Reader",
    "Role",
    "Shape",
    "Task",
    "Varied",
    "discovered",
]


class Part(BaseModel):
    """Settings that are frozen, strict and closed: an unknown key or a wrong type is an error, never ignored."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


P = TypeVar("P", bound=Part)
Role = Literal["encoder", "decoder", "image", "audio", "speech", "image_text"]
"""What a pretrained model is asked for: vectors of texts, texts, vectors of images or of sounds, texts of sounds, vectors of
images and of texts that can be compared."""


class Reader(Protocol):
    """How a task reads one record; `columns` maps a role (text, label, prompt ...) to a column name."""

    roles: Mapping[str, Sequence[str]]
    """Every role with the column names under which people usually store it, first match wins."""

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Any:
        """The content of one record. Raises ValueError with the fault in words; the caller adds file:line."""
        ...

    def choose(self, names: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
        """Columns for a file with these column names; `named` are those the recipe names. Raises ValueError."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the network sees it."""

    row: Row
    ids: tuple[int, ...]
    """Token ids, at most the length limit."""
    labels: tuple[int, ...]
    """For a decoder or a tagger one per token, -100 where the token is no target; for a classifier the class index, or those
    of all right labels."""
    weight: float
    """What this example adds to the denominator of the step's loss: its number of targets, times class weight."""
    targets: int = 1
    """Tokens or labels that count in the loss."""
    truncated: bool = False
    """Whether the row was longer than the limit and lost its end."""
    cut_spans: tuple[str, ...] = ()
    """Named parts that begin or end inside a token, each with what can be answered instead."""
    size: int = 0
    """Of a row without token ids: how much of it is computed (frames of a recording); 0 where all rows are alike."""
    view: Any = None
    """Of a row that is altered at random this time: how, as its network understands it; None: it is seen as it is."""
    shares: tuple[float, ...] = ()
    """Of a row that is mixed with others: how much each of `labels` counts, 1 together; empty: it is not mixed."""

    def __len__(self) -> int:
        return self.size or len(self.ids)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning-rate factor, a weight decay and the epoch in which they begin to move."""

    named: Sequence[tuple[str, torch.nn.Parameter]]
    decays: bool
    """False for norms and biases, which are never pulled towards zero."""
    rate_factor: float = 1.0
    from_epoch: int = 0
    """Before this epoch, counted from 0, the parameters do not move at all."""
    mixes: bool = True
    """False for a factor that stays as tuned where base and tuned model are mixed, since its product with another is what
    was learned (LoRA's A)."""


class Learner(Protocol):
    """Base + method + task, ready for the loop. The loop knows nothing else."""

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows as the network sees them. Raises DataError or TruncationError where a row cannot be learned from."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The label map in order; empty where the task has none."""
        ...

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        """The row as the model sees it, in pieces of text, each with whether it is a target."""
        ...

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What the data report says about a split beyond its rows: labels, share of trained tokens, length limit."""
        ...

    def parameter_counts(self) -> tuple[int, int]:
        """Trained and total number of parameters."""
        ...

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """What is trained by gradient; empty for a method that takes no steps, and the loop then ends at once."""
        ...

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Get ready before the first step: choose the way of computing, and keep what never changes. A method that takes
        no steps learns here (a closed-form head, an index).

        Args:
            passes: how often every row is going to be seen unchanged; 0 where rows are altered at random.
            note: told what was decided.
        Returns:
            facts for the record of the run.
        """
        ...

    def compute_in(self, dtype: torch.dtype) -> None:
        """Matrix products in this format from now on; what is trained stays float32."""
        ...

    def groups(self, examples: Sequence[Example], max_rows: int) -> list[list[int]]:
        """Which examples of a step are computed together, at most `max_rows` of them; every one is in one group."""
        ...

    def altered(self, example: Example, share: float, randomness: np.random.Generator) -> Example:
        """The example with about this share of its tokens hidden.

        Raises:
            RecipeError: the model has no token that stands for a hidden one.
        """
        ...

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        """Sum of the (weighted) loss over all targets of the examples, scalar. The caller divides by their weight."""
        ...

    def untrained(self) -> AbstractContextManager[None]:
        """Inside, the learner answers as it did before it learned; asked of methods that take no steps."""
        ...

    def train_mode(self, dropout: float | None) -> None:
        """Training behaviour; `dropout` replaces every dropout rate of the base, None leaves them as they are."""
        ...

    def evaluation_mode(self) -> None: ...

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = ...
    ) -> list[Prediction]:
        """Predictions in the order of the rows. Where an answer has to be generated, which is slow, only the first
        `answers` rows get one (None: all); the others only their loss. `watch` is told how many rows are done."""
        ...

    def save(self, folder: Path) -> None:
        """Everything that is needed to predict again, into an empty folder: safetensors and JSON only."""
        ...


@runtime_checkable
class Featured(Protocol):
    """A learner that can be asked what it makes of a text, before any head."""

    def features(self, rows: Sequence[Row], watch: Callable[[int], None] = ...) -> np.ndarray:
        """One vector for each row, (N, D), computed as `predict` computes. `watch` is told how many rows are done."""
        ...


@runtime_checkable
class Varied(Protocol):
    """A learner that alters rows at random by itself, as the recipe's task says."""

    @property
    def varies(self) -> str:
        """never; in_views: each row in a fixed number of ways; always: anew every time it is seen."""
        ...

    def varied(self, example: Example, number: int, epoch: int, others: Sequence[Example]) -> Example:
        """The example of row `number` as epoch `epoch` sees it: a function of (seed, epoch, number), whoever computes it
        and when. `others` are all train rows, the row among them: with one of these it may be mixed."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A learner that reads files, and can begin with it before a step asks for them."""

    def ahead(self, coming: Iterable[Example]) -> AbstractContextManager[None]:
        """Inside, what these examples need is read ahead, in their order and not all at once. What comes out of a step is
        the same with it and without."""
        ...


@dataclass(frozen=True)
class Shape:
    """What a method has to know of the base to name what can be searched."""

    blocks: int = 0
    """Transformer blocks; 0 where there is no base."""
    linears: tuple[str, ...] = ()
    """Full names of the linear layers."""


@dataclass(frozen=True)
class Advice:
    """Settings that were published as good ones, by their path in a recipe (`method.rank`), and by whom."""

    settings: Mapping[str, Any]
    source: str


class Method(Part, ABC):
    """What is trained, and how. A subclass declares `kind: Literal["name"] = "name"`."""

    kind: Any
    default_learning_rate: ClassVar[float] = 1e-4
    """What `training.learning_rate` is when the recipe leaves it out."""
    uses_base: ClassVar[bool] = True
    """False where no pretrained weights are needed at all; `base` is None then."""
    keeps_base: ClassVar[bool]
    """True where a saved run needs the base again (adapters); False where its folder holds the whole model."""
    takes_steps: ClassVar[bool] = True
    """False where nothing is learned by gradient, so that there is no learning rate to find."""
    varies_with_seed: ClassVar[bool] = True
    """False where another seed gives the same model."""
    learns_from_rows: ClassVar[bool] = True
    """False where more train rows change nothing."""
    new_knowledge: ClassVar[str] = "train again"
    """What has to be done when the world has changed."""
    merges: ClassVar[bool] = True
    """False where what was trained is no change of the base's weights, so that no other run can start from it."""

    def baseline_name(self, task: Task) -> str:
        """What the learner is called in tables before it has learned."""
        return task.baseline_name()

    def misfit(self, task: Task) -> str | None:
        """Why it cannot be used for this task, and what to use instead; None where it can."""
        return None

    def refused(self, base: Any, task: Task, train: Dataset) -> str | None:
        """Why it cannot be used with this model and these rows, and what to use instead; asked before any work. None where
        it can."""
        return None

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        """What `migaki search` tries where a recipe names no ranges: the path of a setting (`method.rank`), and its range
        as a recipe would write it. Batch size is not among them: what is computed at once follows from the memory."""
        if not self.takes_steps:
            return {}
        rate = self.default_learning_rate
        return {
            "training.learning_rate": {"log": [rate / 10, rate * 10]},
            "training.epochs": {"int": [2, 6]},
            "training.warmup": [0.0, 0.06, 0.1, 0.2],
            "training.weight_decay": [0.0, 0.01, 0.1],
            "training.dropout": [0.0, 0.1],
        }

    def advice(self, task: Task, shape: Shape) -> Sequence[Advice]:
        """Published rules of thumb, which a search tries before it draws anything."""
        return ()

    @abstractmethod
    def prepare(self, base: Any, task: Task, train: Dataset, seed: int) -> Learner:
        """A learner over the base. New weights are drawn from `seed` alone.

        Raises:
            RecipeError: a setting does not fit this model, for example a pattern that matches no layer.
        """

    @abstractmethod
    def restore(self, base: Any, task: Task, folder: Path) -> Learner:
        """The learner that `Learner.save` wrote into `folder`, over the same base."""


class Task(Part, ABC):
    """What goes in, what comes out, and how the answer is judged. A subclass declares its `kind`."""

    kind: Any
    content_kind: ClassVar[str]
    """The name of the reader in `data/formats.py` whose content this task understands."""
    base_role: ClassVar[Role]
    """Which class of model is loaded for it."""
    one_label: ClassVar[bool] = False
    """True where each row has exactly one label of a fixed set, so that rows can vote, and one label is the most frequent."""
    has_texts: ClassVar[bool] = True
    """False where rows are files, in which no words can be counted or looked up."""
    floor: ClassVar[str] = "zero_shot"
    """The method that any other one has to beat to be worth anything."""
    compared: ClassVar[tuple[str, ...]] = ()
    """Methods that a comparison takes where none are named; the floor is among them."""
    primary: ClassVar[tuple[str, Literal["max", "min"]]]
    """The metric by which the best model is chosen on the validation split, and its better direction."""
    general: ClassVar[tuple[str, ...]] = ()
    """Names, without the language, of the bundled sets that `generality` takes; empty where it is not measured."""

    def answers_in_evaluation(self) -> int | None:
        """How many rows of a split are answered for the metrics; None: all of them."""
        return None

    def baseline_name(self) -> str:
        """What the untrained learner is called in tables."""
        return "base, untrained"

    @abstractmethod
    def network(self, base: Any, train: Dataset, seed: int) -> Any:
        """Base plus what the task adds (a head, a label map), with new weights drawn from `seed` alone."""

    @abstractmethod
    def restore(self, base: Any, folder: Path) -> Any:
        """The same from a saved model folder."""

    def nameless(self, base: Any, train: Dataset, words: Callable[[str], str]) -> str | None:
        """Why this model cannot be asked by the names of labels alone, and what to use instead; None where it can.

        Args:
            words: what stands for a label.
        """
        return None

    def decide(
        self, learner: Learner, valid: Sequence[Row], watch: Callable[[int], None] = lambda _: None
    ) -> dict[str, float]:
        """Set what is chosen on the validation rows once a learner is as it will be, such as a threshold, and return it.

        Asked before every measurement, also of the base, so that both are judged at their best.
        """
        return {}

    def written(self, prediction: Prediction) -> dict[str, Any]:
        """What `migaki predict` writes for a row, by the name of its column."""
        return {"prediction": prediction.output, "confidence": prediction.confidence}

    @abstractmethod
    def evaluate(self, predictions: Sequence[Prediction], labels: Sequence[str], seed: int) -> Evaluation:
        """Metrics with 95 % intervals; `labels` is the label map in order, empty for generation."""

    def generality(
        self, learner: Learner, probe: Sequence[Dataset], watch: Callable[[int], None] = lambda _: None
    ) -> list[Ability]:
        """How the learner does at what it was not tuned for, as it is now: one ability for each set of the probe.

        Sets on which this learner cannot be judged are left out, the same ones before training and after.
        """
        return []

    @abstractmethod
    def scores(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
        """The figures watched during training, without intervals: `loss` and the primary metric among them."""


def discovered(group: str, built_in: Iterable[type[P]]) -> tuple[type[P], ...]:
    """The built-in parts and those that other distributions offer under the entry-point group, sorted by kind.

    Raises:
        MigakiError: two parts claim one kind.
    """
    found: dict[str, type[P]] = {}
    for part in [*built_in, *(point.load() for point in entry_points(group=group))]:
        kind = part.model_fields["kind"].default
        if kind in found and found[kind] is not part:
            raise MigakiError(
                f"{group}: two parts are called {kind!r}: {found[kind].__module__} and {part.__module__}."
            )
        found[kind] = part
    return tuple(found[kind] for kind in sorted(found))
