"""The classifier's loss and gradients are those of plain transformers, and of peft, on the same weights and rows."""

# Shapes: B rows, T tokens, D hidden, C classes

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learners import base_from, gradients, lopsided, prepared, task_of, trained
from migaki.core.parts import Learner
from migaki.core.types import Dataset
from migaki.methods import Full, Lora
from migaki.training.loop import accumulate_gradients

N_ROWS = 12
RELATIVE = 1e-4


def started(method: Any, folder: Path, **settings: Any) -> tuple[Learner, Dataset]:
    """A learner with a head that is neither zero nor sure of itself."""
    rows = lopsided(N_ROWS)
    learner = prepared(folder, task_of("classify_text", head="random", **settings), method, rows)
    with torch.no_grad():
        learner.network.head.weight.mul_(10)  # type: ignore[attr-defined]
    learner.train_mode(0.0)
    return learner, rows


def plain_loss(
    encoder: Any, head: nn.Linear, tokenizer: Any, rows: Dataset, labels: tuple[str, ...], weight_C: torch.Tensor
) -> torch.Tensor:
    """The textbook: one padded batch, mean over the mask, a linear layer, (weighted) mean cross-entropy."""
    batch = tokenizer([row.content.text for row in rows.rows], padding=True, return_tensors="pt")
    hidden_BTD = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask_BT1 = batch["attention_mask"][..., None].float()
    assert mask_BT1.min() == 0, "without padding this test would see nothing"
    pooled_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
    labels_B = torch.tensor([labels.index(row.content.label) for row in rows.rows])
    return F.cross_entropy(head(pooled_BD), labels_B, weight=weight_C)


def copied_head(learner: Learner) -> nn.Linear:
    own = learner.network.head  # type: ignore[attr-defined]
    head = nn.Linear(own.in_features, own.out_features)
    head.load_state_dict(own.state_dict())
    return head


def mean_loss(learner: Learner, rows: Dataset, accumulate: int) -> float:
    """The step's loss as the loop logs it; its gradient is left in the parameters."""
    examples = learner.encode(rows)
    total = accumulate_gradients(learner, examples, 0.0, accumulate)
    return total / sum(example.weight for example in examples)


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Within 1e-4 of the tensor's own size; a gradient that is zero by nature (a key's bias) is held to float noise."""
    size = float(wanted.norm())
    return float((found - wanted).norm()) <= RELATIVE * size + 1e-7


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_full_fine_tuning_has_the_loss_and_gradients_of_transformers(
    class_weights: str, accumulate: int, tiny_encoder: Path
) -> None:
    from transformers import AutoTokenizer, BertModel

    learner, rows = started(Full(), tiny_encoder, class_weights=class_weights)
    encoder = BertModel.from_pretrained(tiny_encoder, add_pooling_layer=False).train()
    head = copied_head(learner)
    loss = plain_loss(
        encoder,
        head,
        AutoTokenizer.from_pretrained(tiny_encoder),
        rows,
        learner.labels,
        learner.network.class_weight,  # type: ignore[attr-defined]
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert mean_loss(learner, rows, accumulate) == pytest.approx(float(loss.detach()), rel=RELATIVE)
    wanted = {f"backbone.{name}": p.grad for name, p in encoder.named_parameters()}
    wanted |= {f"head.{name}": p.grad for name, p in head.named_parameters()}
    found = gradients(learner)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert close(gradient, wanted[name]), name  # type: ignore[arg-type]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(
    "lora",
    [
        pytest.param(Lora(rank=4), id="all layers"),
        pytest.param(Lora(rank=4, alpha=6.0, rslora=True), id="rslora"),
        pytest.param(Lora(rank=2, targets=["query", "value"]), id="queries and values"),
        # The layer below stays frozen: nothing is to be gained from its gradients, and nothing may be lost.
        pytest.param(Lora(rank=4, targets=["layer.1.*"]), id="top layer"),
    ],
)
def test_lora_has_the_loss_and_gradients_of_peft(lora: Lora, accumulate: int, tiny_encoder: Path) -> None:
    import peft

    learner, rows = started(lora, tiny_encoder)
    base = base_from(tiny_encoder, "encoder")
    own = {
        name.removeprefix("backbone."): p.detach()
        for name, p in trained(learner).items()
        if name.startswith("backbone.")
    }
    layers = sorted({name.rsplit(".lora_", 1)[0] for name in own})
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,  # type: ignore[arg-type]
        use_rslora=lora.rslora,
        target_modules=layers,
        lora_dropout=0.0,
    )
    encoder = peft.get_peft_model(base.model, config).train()
    factors = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): p
        for name, p in encoder.named_parameters()
        if p.requires_grad
    }
    assert factors.keys() == own.keys()
    with torch.no_grad():
        for name, p in factors.items():
            p.copy_(own[name])
    head = copied_head(learner)
    loss = plain_loss(
        encoder,
        head,
        base.tokenizer,
        rows,
        learner.labels,
        learner.network.class_weight,  # type: ignore[attr-defined]
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert mean_loss(learner, rows, accumulate) == pytest.approx(float(loss.detach()), rel=RELATIVE)
    wanted = {f"backbone.{name}": p.grad for name, p in factors.items()}
    wanted |= {f"head.{name}": p.grad for name, p in head.named_parameters()}
    found = gradients(learner)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert float(gradient.norm()) > 0, name
        assert close(gradient, wanted[name]), name  # type: ignore[arg-type]
