"""Learners over the tiny models, and the plain computation they are compared with: one row at a time, in transformers."""

# Shapes: T tokens, D hidden, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from migaki.core.parts import Learner, Method, Task
from migaki.core.types import Conversation, Dataset, Labelled, Place, Row, Turn
from migaki.methods import Full, Lora, Reft
from migaki.models import Located
from migaki.models.base import Base, load_base
from migaki.tasks import ClassifyText, Generate
from tiny import WORDS, labelled_rows

METHODS: dict[str, Method] = {"full": Full(), "lora": Lora(rank=4), "reft": Reft(rank=4, first=3, last=2)}
TASKS = ("classify_text", "generate")
CASES = [(task, method) for task in TASKS for method in METHODS]
"""Every task with every method that trains."""


def labelled(n: int) -> Dataset:
    """Texts of different lengths, three labels in turn; as many of each as there are."""
    rows = labelled_rows(n)
    return Dataset("train", tuple(Row(Place("texts", i + 1), Labelled(**row)) for i, row in enumerate(rows)))


def lopsided(n: int) -> Dataset:
    """The same with rare and frequent labels: class weights differ from 1."""
    rows = labelled_rows(3 * n)
    kept = [row for i, row in enumerate(rows) if i % 3 == 0 or (i % 3 == 1 and i % 4 == 0) or i in (2, 5)][:n]
    return Dataset("train", tuple(Row(Place("texts", i + 1), Labelled(**row)) for i, row in enumerate(kept)))


def conversations(n: int) -> Dataset:
    """Questions and answers of different lengths."""
    rows = []
    for i in range(n):
        answer = " ".join((WORDS[(i + 3) % 7] + " " + WORDS[(i + 1) % 7]).split()[: 1 + 2 * (i % 5)])
        turns = (Turn("user", f"{WORDS[i % 7]} {i}"), Turn("assistant", answer))
        rows.append(Row(Place("chats", i + 1), Conversation(turns)))
    return Dataset("train", tuple(rows))


def base_from(folder: Path, role: Any) -> Base:
    """The tiny model of a folder."""
    return load_base(Located(str(folder), folder, None, "unknown"), role)


def task_of(kind: str, **settings: Any) -> Task:
    """A task of this kind."""
    return ClassifyText(**settings) if kind == "classify_text" else Generate(**settings)


def rows_of(kind: str, n: int) -> Dataset:
    """Rows that this task reads."""
    return labelled(n) if kind == "classify_text" else conversations(n)


def prepared(
    folder: Path, task: Task, method: Method | str, train: Dataset, seed: int = 0, moved: bool = True
) -> Learner:
    """A learner; `moved` takes adapters away from their start, where they change nothing, so that every gradient says
    something."""
    chosen = METHODS[method] if isinstance(method, str) else method
    learner = chosen.prepare(base_from(folder, task.base_role), task, train, seed)
    if moved:
        stir(learner)
    return learner


@torch.no_grad()
def stir(learner: Learner) -> None:
    """Put small numbers into LoRA's factors that start at zero, and add some to ReFT's W and b."""
    drawn = torch.Generator().manual_seed(5)
    for name, parameter in trained(learner).items():
        if "lora_B" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.05)
        if name in ("edits.w_URD", "edits.b_UR"):
            parameter.add_(torch.randn(parameter.shape, generator=drawn) * 0.05)


def trained(learner: Learner) -> dict[str, torch.nn.Parameter]:
    """What the loop would move, by name."""
    return {name: p for group in learner.parameter_groups() for name, p in group.named}


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    """A copy of every gradient; zeros where a parameter had no part in the loss."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in trained(learner).items()
    }


def clear(learner: Learner) -> None:
    """Forget all gradients."""
    for parameter in trained(learner).values():
        parameter.grad = None


def difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """|found - wanted| / |wanted|, all tensors taken as one vector."""
    assert found.keys() == wanted.keys()
    gap = sum(float((found[name] - wanted[name]).double().square().sum()) for name in wanted)
    size = sum(float(wanted[name].double().square().sum()) for name in wanted)
    assert size > 0
    return float((gap / size) ** 0.5)


TEXTS = ("the printer does not print", "返品したいのですが <|new|>", "<|new|> my screen is black <|other|>")


@torch.no_grad()
def answers(learner: Any) -> dict[str, torch.Tensor]:
    """Token ids of `TEXTS` and what the network says to each: logits of every position, or of every label."""
    network = learner.network
    found = {}
    for number, text in enumerate(TEXTS):
        ids_1T = torch.tensor([network.tokenizer(text)["input_ids"]])
        with network.body.edited(ids_1T.tolist()):
            out = network.backbone(input_ids=ids_1T)
        labels = hasattr(network, "head")
        found[f"ids.{number}"] = ids_1T
        found[f"logits.{number}"] = network.head(out.last_hidden_state.mean(1)) if labels else out.logits
    return found


def plain_losses(learner: Any, rows: Sequence[Row], label_smoothing: float) -> tuple[torch.Tensor, float]:
    """Sum of the loss over all targets of the rows and its denominator, each row run alone and without padding.

    Only the modules are the learner's; what goes in, what is pooled, which tokens count and how they are summed is
    written out here once more.
    """
    network = learner.network
    total, weight = torch.zeros(()), 0.0
    for row in rows:
        if isinstance(row.content, Labelled):
            ids_1T = torch.tensor([network.tokenizer(row.content.text)["input_ids"]])
            with network.body.edited(ids_1T.tolist()):
                pooled_1D = network.backbone(input_ids=ids_1T).last_hidden_state.mean(1)
            label = network.labels.index(row.content.label)
            loss = F.cross_entropy(
                network.head(pooled_1D),
                torch.tensor([label]),
                weight=network.class_weight,
                label_smoothing=label_smoothing,
                reduction="sum",
            )
            weight += float(network.class_weight[label])
        else:
            rendered = network.chat.render(row.content)
            ids_T, labels_T = torch.tensor(rendered.ids), torch.tensor(rendered.labels)
            prompt = rendered.labels.index(next(label for label in rendered.labels if label != -100))
            with network.body.edited([rendered.ids], [prompt]):
                logits_TV = network.backbone(input_ids=ids_T[None]).logits[0]
            loss = F.cross_entropy(logits_TV[:-1], labels_T[1:], label_smoothing=label_smoothing, reduction="sum")
            weight += int((labels_T[1:] != -100).sum())
        total = total + loss
    return total, weight
