"""The network behind `generate`: a causal language model that is asked only where an answer counts."""

# Shapes: B batch, T tokens, D hidden, V vocabulary, P target positions

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LogitsProcessor

from migaki.core.errors import DataError, ModelError
from migaki.core.parts import Example
from migaki.core.store import read_json
from migaki.core.types import Conversation, Dataset, Prediction, Row, Turn, shorten
from migaki.models.head import head_loss, head_losses
from migaki.tasks.body import Body
from migaki.tasks.chat import NO_TARGET, ChatFormat
from migaki.tasks.lengths import Overlong, check_truncation
from migaki.training.plan import pad, token_groups
from migaki.training.tokens import Examples, Known, Tokens, tokenizer_fingerprint

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.generate import Generate

__all__ = ["Context", "TextGenerator", "restore_generator"]

Context = Callable[[tuple[Turn, ...], int], tuple[Turn, ...]]
"""From the turns up to a question, and the tokens its answer needs, to the turns that are put to the model instead."""

_LENGTH_CAP = 1024
_STATE_FILE = "task.json"
_GENERATION_ROWS = 16
_FRAME_TOKENS = 8


class TextGenerator(nn.Module):
    """Loss on target tokens only, greedy answers, and the chat format they share."""

    labels: tuple[str, ...] = ()

    def __init__(self, base: Base, task: Generate) -> None:
        super().__init__()
        self.backbone = cast(Any, base.model)
        self.tokenizer = base.tokenizer
        self.fingerprint = base.fingerprint
        self.task = task
        if task.max_length and task.max_length > base.length_limit:
            raise ModelError(
                f"task.max_length is {task.max_length}, but {base.reference} takes at most {base.length_limit} tokens. Lower it."
            )
        self.context = base.length_limit
        self.limit = min(task.max_length or _LENGTH_CAP, base.length_limit)
        self.chat = ChatFormat(base.tokenizer, task.template, _stop_ids(base.model, base.tokenizer), task.learn)
        self.body = Body(self.backbone, self._fill)
        self._known = Known()
        self._context: Context | None = None
        self._plain_head = self._has_plain_head()
        if not self._plain_head:
            self.body.use_flat = False

    judges_all_tokens = False
    """Only what stands behind the prompt is judged."""

    @property
    def device(self) -> torch.device:
        return self.backbone.device  # type: ignore[no-any-return]

    @torch.no_grad()
    def _has_plain_head(self) -> bool:
        """Whether the logits are the output embedding of the last hidden state and nothing else.

        Some architectures do more (Gemma 2 caps its logits, Cohere and Falcon-H1 scale them, BERT transforms first): they
        are asked for all logits. Found out on a few tokens, because no list of such architectures is ever complete.
        """
        head = self.backbone.get_output_embeddings()
        # A cap far above these few logits could hide in rounding, so what is known to cap is named as well.
        if head is None or getattr(self.backbone.config, "final_logit_softcapping", None) is not None:
            return False
        ids_BT = torch.tensor([[self._fill, self.chat.stop_ids[0]]], device=self.device)
        hidden_BTD = self._body(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits_BTV = self.backbone(input_ids=ids_BT, use_cache=False).logits
        return torch.allclose(head(hidden_BTD), logits_BTV, rtol=1e-5, atol=1e-6)

    @property
    def _body(self) -> Any:
        return getattr(self.backbone, self.backbone.base_model_prefix)

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows with token ids and targets.

        Raises:
            DataError: a row without a single target token, with its place.
            TruncationError: more rows than allowed are longer than the limit.
        """
        made_by = [tokenizer_fingerprint(self.tokenizer), self.chat.fingerprint(), self.chat.learn]
        tokens = Tokens.cached(dataset, made_by, lambda: (self._pair(row.content) for row in dataset.rows))
        self._known.add(dataset.rows, tokens)
        lengths = tokens.lengths.tolist()
        overlong = [Overlong(row, n) for row, n in zip(dataset.rows, lengths, strict=True) if n > self.limit]
        check_truncation(overlong, len(dataset), self.limit, self.task.allow_truncated, dataset.name)
        # The first token is predicted by nothing, so it never counts.
        empty = [row for i, row in enumerate(dataset.rows) if not tokens.targets(i)[1 : self.limit].any()]
        if empty:
            first = ", ".join(str(row.place) for row in empty[:5])
            raise DataError(
                f"{len(empty)} of {len(dataset)} {dataset.name} rows have no target token, so nothing would be learned from them (first: {first}). "
                f"Give them an answer, remove them, or raise task.max_length (now {self.limit}) where the prompt alone fills it."
            )
        return Examples(len(dataset), lambda i: self._example(dataset.rows[i], tokens, i))

    def show(self, context: Context | None) -> None:
        """From now on put more than the question to the model: examples, passages. The targets stay the same tokens."""
        self._context, self._known = context, Known()

    def _pair(self, content: Conversation) -> tuple[Sequence[int], list[bool]]:
        if self._context is None or content.turns[-1].role != "assistant":
            rendered = self.chat.render(content)
        else:
            n_answers = sum(turn.role == "assistant" for turn in content.turns)
            # What frames an answer in a chat template takes a few tokens more than its text.
            n_tokens = len(self.tokenizer(content.turns[-1].content)["input_ids"]) + _FRAME_TOKENS
            shown = self._context(content.turns[:-1], n_tokens)
            rendered = self.chat.render(Conversation((*shown, content.turns[-1])), n_answers)
        return rendered.ids, [label != NO_TARGET for label in rendered.labels]

    def _example(self, row: Row, tokens: Tokens, number: int) -> Example:
        ids_T, wanted_T = tokens.ids(number)[: self.limit], tokens.targets(number)[: self.limit]
        labels_T = np.where(wanted_T, ids_T, NO_TARGET)
        n_targets = int(wanted_T[1:].sum())
        truncated = int(tokens.lengths[number]) > self.limit
        return Example(row, tuple(ids_T.tolist()), tuple(labels_T.tolist()), float(n_targets), n_targets, truncated)

    def at_targets(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For each target token the vector by which it is predicted: hidden (P, D) before the head, or logits (P, V)
        where the head is not plain; the targets (P,); and the row numbers (P,)."""
        labels = [np.asarray(e.labels[1:]) for e in examples]
        places = [np.flatnonzero(labels_T != NO_TARGET) for labels_T in labels]
        targets_P = np.concatenate([labels_T[at] for labels_T, at in zip(labels, places, strict=True)])
        rows_P = np.repeat(np.arange(len(examples)), [len(at) for at in places])
        ids = [e.ids for e in examples]
        prompts = [_before_targets(e.labels) for e in examples]
        if self._plain_head:
            at_PX = self.body.at(ids, places, prompts)
        else:
            at_PX = self._logits_at(ids, prompts, rows_P, np.concatenate(places))
        targets, rows = (torch.from_numpy(x.astype(np.int64)).to(self.device) for x in (targets_P, rows_P))
        return at_PX, targets, rows

    def forward(self, examples: Sequence[Example]) -> torch.Tensor:
        """Logits (P, V) by which each target token is predicted, row after row."""
        at_PX, _, _ = self.at_targets(examples)
        return self.backbone.get_output_embeddings()(at_PX) if self._plain_head else at_PX

    def _logits_at(
        self, ids: Sequence[Sequence[int]], prompts: Sequence[int], rows_P: np.ndarray, places_P: np.ndarray
    ) -> torch.Tensor:
        ids_BT, mask_BT = pad(ids, self._fill, self.device)
        with self.body.edited(ids, prompts):
            logits_BTV = self.backbone(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        at_PV: torch.Tensor = logits_BTV[torch.from_numpy(rows_P), torch.from_numpy(places_P)]
        return at_PV.float()

    @property
    def _fill(self) -> int:
        # Any id will do under the mask; the pad token is only asked for because it certainly exists in the embedding.
        pad_id = self.tokenizer.pad_token_id
        return int(pad_id if pad_id is not None else self.chat.stop_ids[0])

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        """Sum of the cross-entropy over all target tokens, scalar."""
        at_PX, targets_P, _ = self.at_targets(examples)
        if self._plain_head:
            return head_loss(at_PX, self.backbone.get_output_embeddings(), targets_P, label_smoothing)
        return F.cross_entropy(at_PX, targets_P, label_smoothing=label_smoothing, reduction="sum")

    def generic_loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """The same without smoothing, all of it computed as transformers does: what the fast ways are compared with."""
        ids = [e.ids for e in examples]
        ids_BT, mask_BT = pad(ids, self._fill, self.device)
        labels_BT, _ = pad([e.labels for e in examples], NO_TARGET, self.device)
        with self.body.edited(ids, [_before_targets(e.labels) for e in examples]):
            logits_BTV = self.backbone(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        return F.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1).float(),
            labels_BT[:, 1:].flatten(),
            ignore_index=NO_TARGET,
            reduction="sum",
        )

    def mask_id(self) -> int | None:
        """A decoder learns from what stands before, so nothing of it is hidden."""
        return None

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Token loss for every row that has an answer, and generated text for the first `answers` rows (all by default)."""
        losses = self._losses(rows)
        asked = [self._question(row.content) for row in rows[:answers]]
        written = [*self.answer(asked, watch), *[("", None)] * (len(rows) - len(asked))]
        return [
            Prediction(
                place=row.place,
                output=text,
                target=row.content.turns[-1].content if row.content.turns[-1].role == "assistant" else None,
                loss=losses[i][0] if i in losses else None,
                targets=losses[i][1] if i in losses else 0,
                stopped=stopped,
                text=next((turn.content for turn in reversed(self._question(row.content)) if turn.role == "user"), ""),
            )
            for i, (row, (text, stopped)) in enumerate(zip(rows, written, strict=True))
        ]

    @staticmethod
    def _question(content: Conversation) -> tuple[Turn, ...]:
        return content.turns[:-1] if content.turns[-1].role == "assistant" else content.turns

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        """The rows that have an answer, as their loss is computed."""
        answered = [row for row in rows if row.content.turns[-1].role == "assistant"]
        tokens = self._known.find(rows) if len(answered) == len(rows) else None
        if tokens is None:
            tokens = Tokens.of(self._pair(row.content) for row in answered)
        return [self._example(row, tokens, at) for at, row in enumerate(answered)]

    def _losses(self, rows: Sequence[Row]) -> dict[int, tuple[float, int]]:
        """Row number -> sum of negative log-likelihood (nats), number of target tokens."""
        numbers = [i for i, row in enumerate(rows) if row.content.turns[-1].role == "assistant"]
        examples = self.inputs(rows)
        found: dict[int, tuple[float, int]] = {}
        # A row cut off before its answer has no target left, so no loss either.
        judged = [at for at, example in enumerate(examples) if example.targets]
        for group in token_groups([len(examples[at]) for at in judged], max_tokens=4096):
            few = [examples[judged[at]] for at in group]
            at_PX, targets_P, rows_P = self.at_targets(few)
            if self._plain_head:
                loss_P = head_losses(at_PX, self.backbone.get_output_embeddings(), targets_P)
            else:
                loss_P = F.cross_entropy(at_PX, targets_P, reduction="none").double()
            sums = (
                torch.zeros(len(group), dtype=torch.float64, device=loss_P.device)
                .index_add_(0, rows_P, loss_P)
                .tolist()
            )
            found.update({numbers[judged[i]]: (sums[at], few[at].targets) for at, i in enumerate(group)})
        return found

    @torch.no_grad()
    def answer(
        self, conversations: Sequence[Sequence[Turn]], watch: Callable[[int], None] = lambda _: None
    ) -> list[tuple[str, bool | None]]:
        """Greedy answers, each with whether it ended by itself. Prompts are padded on the left, so a row's answer does
        not depend on its neighbours."""
        asked = [tuple(turns) for turns in conversations]
        if self._context is not None:
            asked = [self._context(turns, self.task.max_new_tokens) for turns in asked]
        questions = [self.chat.question(turns) for turns in asked]
        prompts = [question.ids for question in questions]
        rooms = [min(self.task.max_new_tokens, self.context - len(prompt)) for prompt in prompts]
        too_long = [i for i, room in enumerate(rooms) if room < 1]
        if too_long:
            first = shorten(conversations[too_long[0]][-1].content, 40)
            raise DataError(
                f"{len(too_long)} of {len(prompts)} prompts leave no room for an answer: the model takes at most {self.context} "
                f"tokens, the first of them ({first!r}) has {len(prompts[too_long[0]])}. Shorten it."
            )
        answers: list[tuple[str, bool | None]] = [("", None)] * len(prompts)
        done = 0
        for group in self._answered_together(prompts, rooms):
            ids_BT, mask_BT = pad([prompts[i] for i in group], self._fill, self.device, left=True)
            ends = [_before_targets(questions[i].labels) for i in group]
            with self.body.edited([prompts[i] for i in group], ends, left=True):
                out_BT = self.backbone.generate(
                    input_ids=ids_BT,
                    attention_mask=mask_BT,
                    do_sample=False,
                    num_beams=1,
                    repetition_penalty=1.0,  # the model's own settings may hold one
                    logits_processor=[_FewerRepeats(self.task.repetition_penalty, (*self.chat.stop_ids, self._fill))],
                    max_new_tokens=rooms[group[0]],
                    eos_token_id=list(self.chat.stop_ids),
                    pad_token_id=self._fill,
                )
            for i, ids in zip(group, out_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
                end = next((k for k, token in enumerate(ids) if token in self.chat.stop_ids), None)
                text = self.tokenizer.decode(ids if end is None else ids[:end], skip_special_tokens=True)
                answers[i] = (text.strip(), end is not None)
            done += len(group)
            watch(done)
        return answers

    @staticmethod
    def _answered_together(prompts: Sequence[Sequence[int]], rooms: Sequence[int]) -> list[list[int]]:
        """Groups of rows, longest prompts first; those of one group may write equally many tokens, so that the length
        of a row's answer does not depend on its neighbours either."""
        order = sorted(range(len(prompts)), key=lambda i: (rooms[i], -len(prompts[i]), i))
        alike = [list(rows) for _, rows in groupby(order, key=lambda i: rooms[i])]
        return [rows[at : at + _GENERATION_ROWS] for rows in alike for at in range(0, len(rows), _GENERATION_ROWS)]

    def save(self, folder: Path) -> None:
        """The chat format's fingerprint, so that serving with another template is refused."""
        state = {"template_sha256": self.chat.fingerprint(), "max_length": self.limit}
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        """The row as the model sees it, in pieces, each with whether it is a target."""
        pieces = groupby(zip(example.ids, example.labels, strict=True), key=lambda pair: pair[1] != NO_TARGET)
        return [(self.tokenizer.decode([token for token, _ in pairs]), target) for target, pairs in pieces]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What the report tells about the targets of a split."""
        tokens = sum(len(e) for e in examples)
        return {"trained_token_share": sum(e.weight for e in examples) / max(tokens, 1), "length": self.limit}


class _FewerRepeats(LogitsProcessor):
    """Tokens that were seen become less likely: positive scores are divided by the penalty, negative ones multiplied.

    Unlike transformers' own it spares the tokens that end an answer, which stand in every chat prompt, and padding, by
    which a row's answer would depend on its neighbours.
    """

    def __init__(self, penalty: float, spared: Sequence[int]) -> None:
        self.penalty, self.spared = penalty, list(spared)

    def __call__(self, ids_BT: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        seen_BT = scores_BV.gather(1, ids_BT)
        less_BT = torch.where(seen_BT < 0, seen_BT * self.penalty, seen_BT / self.penalty)
        changed_BV = scores_BV.scatter(1, ids_BT, less_BT)
        changed_BV[:, self.spared] = scores_BV[:, self.spared]
        return changed_BV


def _before_targets(labels: Sequence[int]) -> int:
    """Tokens that stand before the first target: what counts as the prompt for methods that look at it.

    In a conversation of several turns that is the first prompt, and a later answer stands behind the same one.
    """
    return next((at for at, label in enumerate(labels) if label != NO_TARGET), len(labels))


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    found: list[int] = []
    settings = getattr(model, "generation_config", None)
    for ids in (
        tokenizer.eos_token_id,
        getattr(settings, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
    ):
        found += ids if isinstance(ids, list) else [ids] if ids is not None else []
    return found


def restore_generator(base: Base, task: Generate, folder: Path) -> TextGenerator:
    """The generator of a saved run.

    Raises:
        ModelError: the chat template is not the one the model was trained with.
    """
    network = TextGenerator(base, task)
    state = read_json(folder / _STATE_FILE)
    if state["template_sha256"] != network.chat.fingerprint():
        raise ModelError(
            f"The chat template of {base.reference} is not the one this run was trained with, so answers would be wrong. "
            "Use the model's original tokenizer files, or train again."
        )
    network.limit = state["max_length"]
    return network
