"""C7: rows that are computed together do not see each other, however they are laid out."""

# Shapes: P target positions, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import decoder
from learners import conversations, labelled, prepared, task_of
from migaki.core.parts import Example, Learner
from migaki.core.types import Conversation, Dataset, Place, Row, Turn
from migaki.methods import Full, Lora
from migaki.tasks.body import common_prefix

ATTENTION = ("sdpa", "eager")


def with_one_beginning(n: int) -> Dataset:
    """Rows behind one system prompt, whose tokens are computed once."""
    rows = conversations(n).rows
    system = Turn("system", "answer in one short line")
    return Dataset(
        "train", tuple(Row(Place("chats", i), Conversation((system, *r.content.turns))) for i, r in enumerate(rows, 1))
    )


ROWS = {"own beginnings": conversations, "one beginning": with_one_beginning}


def generator(folder: Path, rows: Dataset, flat: bool, attention: str, method: str = "lora") -> Any:
    learner: Any = prepared(folder, task_of("generate"), method, rows)
    learner.network.backbone.set_attn_implementation(attention)
    assert learner.network.body.use_flat
    learner.network.body.use_flat = flat
    learner.evaluation_mode()
    return learner


@torch.no_grad()
def logits(learner: Any, examples: Sequence[Example]) -> list[torch.Tensor]:
    """(P, V) of each row."""
    at_PX, _, rows_P = learner.network.at_targets(examples)
    head = learner.network.backbone.get_output_embeddings()
    at_PV = head(at_PX) if learner.network._plain_head else at_PX
    return [at_PV[rows_P == i] for i in range(len(examples))]


@torch.no_grad()
def logits_alone(learner: Any, example: Example) -> torch.Tensor:
    """(P, V) of one row, asked of transformers."""
    logits_TV = learner.network.backbone(input_ids=torch.tensor([example.ids])).logits[0]
    return logits_TV[:-1][torch.tensor(example.labels[1:]) != -100]  # type: ignore[no-any-return]


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("beginning", ROWS)
def test_the_logits_of_a_packed_row_are_those_of_the_row_alone(
    beginning: str, flat: bool, attention: str, tiny_decoder: Path
) -> None:
    rows = ROWS[beginning](6)
    learner = generator(tiny_decoder, rows, flat, attention)
    examples = learner.encode(rows)
    shared = learner.network.body._shared([e.ids for e in examples], min(len(e) for e in examples)) if flat else 0
    assert (shared > 8) == (flat and beginning == "one beginning")
    for found, example in zip(logits(learner, examples), examples, strict=True):
        assert (found - logits_alone(learner, example)).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "bloom"])
def test_a_family_without_a_flat_form_keeps_its_rows_apart_too(kind: str, tiny_decoder: Path) -> None:
    rows = conversations(5)
    learner: Any = Full().prepare(decoder(kind, tiny_decoder), task_of("generate"), rows, 0)
    learner.evaluation_mode()
    assert not learner.network.body.use_flat
    examples = learner.encode(rows)
    for found, example in zip(logits(learner, examples), examples, strict=True):
        assert (found - logits_alone(learner, example)).abs().max() <= 1e-5


def with_other_tokens(example: Example, first: int) -> Example:
    """The same row with other tokens from `first` on, targets where they were."""
    ids = (*example.ids[:first], *(token % 50 + 100 for token in example.ids[first:]))
    labels = tuple(token if label != -100 else -100 for token, label in zip(ids, example.labels, strict=True))
    assert ids != example.ids
    return replace(example, ids=ids, labels=labels)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("beginning", ROWS)
def test_other_tokens_in_one_row_change_no_other_row(beginning: str, flat: bool, tiny_decoder: Path) -> None:
    rows = ROWS[beginning](5)
    learner = generator(tiny_decoder, rows, flat, "sdpa")
    examples = list(learner.encode(rows))
    before = logits(learner, examples)
    # Behind what all rows share, so that the layout stays as it is.
    first = common_prefix([e.ids for e in examples]) + 1
    for changed in range(len(examples)):
        others = list(examples)
        others[changed] = with_other_tokens(examples[changed], first)
        after = logits(learner, others)
        assert not torch.equal(after[changed], before[changed])
        for i in set(range(len(examples))) - {changed}:
            assert torch.equal(after[i], before[i]), (changed, i)


def test_a_row_of_a_classifier_is_pooled_from_its_own_tokens(tiny_encoder: Path) -> None:
    rows = labelled(6)
    for pooling in ("mean", "cls", "last"):
        learner: Any = prepared(tiny_encoder, task_of("classify_text", pooling=pooling, head="random"), Full(), rows)
        learner.evaluation_mode()
        examples = list(learner.encode(rows))
        for flat in (True, False):
            learner.network.body.use_flat = flat
            with torch.no_grad():
                before = learner.network(examples)
                for i, example in enumerate(examples):
                    assert (learner.network([example])[0] - before[i]).abs().max() <= 1e-5
                examples[2] = replace(examples[2], ids=(*examples[2].ids[:1], *[9] * (len(examples[2]) - 1)))
                after = learner.network(examples)
            assert not torch.equal(after[2], before[2])
            assert torch.equal(after[[0, 1, 3, 4, 5]], before[[0, 1, 3, 4, 5]])
            examples[2] = learner.encode(rows)[2]


def losses(learner: Learner, rows: Dataset) -> list[float]:
    return [p.loss or 0.0 for p in learner.predict(rows.rows, answers=0)]


@pytest.mark.parametrize("beginning", ROWS)
def test_the_loss_of_a_row_is_its_own_and_no_target_crosses_a_border(beginning: str, tiny_decoder: Path) -> None:
    """The loss of the packed step is the sum of the rows' own losses, each without the rows before it."""
    rows = ROWS[beginning](6)
    learner = generator(tiny_decoder, rows, True, "sdpa")
    examples = learner.encode(rows)
    wanted = [
        float(torch.nn.functional.cross_entropy(logits_alone(learner, e), targets(e), reduction="sum"))
        for e in examples
    ]
    assert losses(learner, rows) == pytest.approx(wanted, rel=1e-5)
    assert float(learner.loss(examples, 0.0).detach()) == pytest.approx(sum(wanted), rel=1e-5)


def targets(example: Example) -> torch.Tensor:
    """(P,)"""
    return torch.tensor([label for label in example.labels[1:] if label != -100])


def test_a_lora_of_dropout_draws_for_each_token_on_its_own(tiny_decoder: Path) -> None:
    """Masks fall on tokens, so with them too other tokens in one row leave the others as they are."""
    rows = conversations(4)
    learner: Any = prepared(tiny_decoder, task_of("generate"), Lora(rank=4, dropout=0.5), rows)
    examples = list(learner.encode(rows))
    learner.train_mode(0.0)
    torch.manual_seed(4)
    before = logits(learner, examples)
    torch.manual_seed(4)
    after = logits(learner, [with_other_tokens(examples[0], len(examples[0]) // 2), *examples[1:]])
    assert all(torch.equal(after[i], before[i]) for i in (1, 2, 3))
    assert not torch.equal(after[0], before[0])
