"""The network behind `classify_text`: encoder, pooling, linear head."""

# Shapes: B batch, T tokens, D hidden, C classes, N rows

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from migaki.core.errors import DataError, ModelError
from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row
from migaki.models.meanings import WordHead
from migaki.tasks.body import Body
from migaki.tasks.classifier import STATE_FILE, Classifier, labels_of_rows, start_head
from migaki.tasks.lengths import Overlong, check_truncation
from migaki.tasks.pairs import check_pairs, cut_pair, pair_form
from migaki.training.tokens import Examples, Known, Tokens, tokenizer_fingerprint

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.classify_text import ClassifyText
    from migaki.tasks.label_text import LabelText

__all__ = ["TextClassifier", "has_pairs", "new_classifier", "restore_classifier"]

_LENGTH_CAP = 512
_TOKENISED_AT_ONCE = 4096
_SCALE = 20.0
"""Of cosine similarities before the softmax, as sentence encoders are trained with (temperature 0.05)."""


class TextClassifier(Classifier):
    """Pooled features of the backbone through one linear layer to the logits of the label map."""

    def __init__(
        self,
        base: Base,
        task: ClassifyText | LabelText,
        labels: Sequence[str],
        class_weights: Sequence[float],
        paired: bool = False,
    ) -> None:
        config = base.model.config.get_text_config()
        super().__init__(base, labels, class_weights, config.hidden_size)
        self.backbone = cast(Any, base.model)
        if getattr(self.backbone, "pooler", None) is not None:
            # We pool ourselves; an unused pooler would be trained by nobody and adapted for nothing.
            self.backbone.pooler = None
        self.tokenizer = base.tokenizer
        self.pooling: Any = task.pooling if task.pooling != "auto" else (base.pooling or "mean")
        self.prompt = base.prompt if task.prompt is None else task.prompt
        self.limit = min(task.max_length or _LENGTH_CAP, base.length_limit)
        self.allow_truncated = task.allow_truncated
        if task.max_length and task.max_length > base.length_limit:
            raise ModelError(
                f"task.max_length is {task.max_length}, but {base.reference} takes at most {base.length_limit} tokens. Lower it."
            )
        self.body = Body(self.backbone, self.tokenizer.pad_token_id or 0)
        self.paired = paired
        """Whether two texts together have a label."""
        self._form = pair_form(self.tokenizer, getattr(config, "type_vocab_size", 0)) if paired else None
        if self._form and self._form.separator is not None:
            self.body.tell_pairs_apart(self._form.separator)
        self._known = Known()
        self._focal_gamma = getattr(task, "focal_gamma", 0.0)
        self.to(base.model.device)

    @property
    def judges_all_tokens(self) -> bool:
        """Whether each token counts as much as any other."""
        return bool(self.pooling == "mean")

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with their token ids and class index.

        Raises:
            TruncationError: more rows than allowed are longer than the limit.
        """
        check_pairs(dataset.rows, self.paired)
        made_by = [tokenizer_fingerprint(self.tokenizer), self.prompt, *(["pairs"] if self._form else [])]
        tokens = Tokens.cached(dataset, made_by, lambda: self._tokenised_rows(dataset.rows))
        self._known.add(dataset.rows, tokens)
        lengths = tokens.lengths.tolist()
        overlong = [Overlong(row, n) for row, n in zip(dataset.rows, lengths, strict=True) if n > self.limit]
        check_truncation(overlong, len(dataset), self.limit, self.allow_truncated, dataset.name)
        learned = self._learned()

        def example(number: int) -> Example:
            row, ids = dataset.rows[number], self._cut_row(tokens, number)
            labels, weight = learned(row)
            return Example(row, ids, labels, weight, targets=self._targets, truncated=int(lengths[number]) > self.limit)

        return Examples(len(dataset), example)

    def _tokenised_rows(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[int], Sequence[bool] | None]]:
        """Token ids of each row at full length; where two texts stand in it, also which tokens are the second one's."""
        for at in range(0, len(rows), _TOKENISED_AT_ONCE):
            few = rows[at : at + _TOKENISED_AT_ONCE]
            if self._form and all(row.content.pair is not None for row in few):
                yield from self._tokenised_pairs(few)
                continue
            for ids in self.tokenised([getattr(row.content, "both", None) or row.content.text for row in few]):
                yield ids, [False] * len(ids) if self._form else None

    def _tokenised_pairs(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[int], Sequence[bool]]]:
        assert self._form is not None
        firsts = [self.prompt + row.content.text for row in rows]
        found = self.tokenizer(firsts, [row.content.pair for row in rows], truncation=False, verbose=False)
        for number, row in enumerate(rows):
            ids, second = found["input_ids"][number], [of == 1 for of in found.sequence_ids(number)]
            n_first = len(ids) - sum(second) - self._form.before - self._form.between - self._form.behind
            separator = self._form.separator
            if separator is not None and ids.index(separator) != self._form.before + n_first:
                raise DataError(
                    f"{row.place}: the text itself holds {self.tokenizer.decode([separator])!r}, by which the model tells two texts "
                    "apart. Take it out of the text."
                )
            yield ids, second

    def tokenised(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text behind the prompt, however many."""
        prompted = [self.prompt + text for text in texts]
        found: list[list[int]] = self.tokenizer(prompted, truncation=False, verbose=False)["input_ids"]
        return found

    def _cut_row(self, tokens: Tokens, number: int) -> tuple[int, ...]:
        ids = tokens.ids(number).tolist()
        if self._form is None or len(ids) <= self.limit or not (n_second := int(tokens.targets(number).sum())):
            return tuple(self.cut(ids))
        return tuple(cut_pair(ids, n_second, self._form, self.limit))

    def cut(self, ids: list[int]) -> list[int]:
        """The first tokens of a row over the limit, with the closing special token kept where the tokenizer sets one."""
        if len(ids) <= self.limit:
            return ids
        closes = self.tokenizer.sep_token_id is not None and ids[-1] == self.tokenizer.sep_token_id
        return [*ids[: self.limit - 1], ids[-1]] if closes else ids[: self.limit]

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """Pooled vectors (B, D)."""
        return self.body.pooled([e.ids for e in examples], self.pooling)  # type: ignore[no-any-return]

    def identity(self, example: Example) -> bytes:
        return np.asarray([len(example), *example.ids], dtype=np.int32).tobytes()

    def made_by(self) -> list[str]:
        return [self.pooling, *([f"pairs {self._form}"] if self._form else [])]

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Probabilities of all labels for each row; a text over the limit loses its end."""
        check_pairs(rows, self.paired)
        return super().predict(rows, answers=answers, watch=watch)

    @torch.no_grad()
    def answer_by_words(self, base: Base, words: Sequence[str]) -> None:
        vectors_CD = self.body.pooled([self.cut(ids) for ids in self.tokenised(words)], self.pooling)
        self.head = WordHead.of(vectors_CD, _SCALE)

    def mask_id(self) -> int | None:
        """The token that stands for a hidden one, None where the tokenizer has none."""
        found: int | None = self.tokenizer.mask_token_id
        return found

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        """Rows as they are predicted, without their labels."""
        tokens = self._known.find(rows) or Tokens.of(self._tokenised_rows(rows))
        return [Example(row, self._cut_row(tokens, i), (), 0.0) for i, row in enumerate(rows)]

    def _state(self) -> dict[str, Any]:
        own = {"pooling": self.pooling, "prompt": self.prompt, "max_length": self.limit, "paired": self.paired}
        return {**super()._state(), **own}

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        """The row as the model sees it, in pieces, each with whether it is a target."""
        return [(self.tokenizer.decode(list(example.ids)), False), (f" -> {self.labels[example.labels[0]]}", True)]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        return {**super().describe(examples), "length": self.limit}


def new_classifier(base: Base, task: ClassifyText, train: Dataset, seed: int) -> TextClassifier:
    """A classifier whose label map is the sorted labels of the training rows, whatever order they come in."""
    labels, weights = labels_of_rows(train, task.class_weights)
    network = TextClassifier(base, task, labels, weights, has_pairs(train))
    start_head(network, task.head, train, seed)
    return network


def has_pairs(dataset: Dataset) -> bool:
    """Whether the rows hold two texts each."""
    return any(row.content.pair is not None for row in dataset.rows)


def restore_classifier(base: Base, task: ClassifyText, folder: Path) -> TextClassifier:
    """The classifier of a saved run: its label map, pooling, length limit and head over the given backbone."""
    state = read_json(folder / STATE_FILE)
    kept = {"pooling": state["pooling"], "prompt": state.get("prompt", ""), "max_length": state["max_length"]}
    task = task.model_copy(update=kept)
    network = TextClassifier(base, task, state["labels"], state["class_weights"], state.get("paired", False))
    network.load_head(folder, state)
    return network
