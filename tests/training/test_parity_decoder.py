"""The decoder's loss and gradients against transformers' own, and against peft's LoRA: same weights, same padded batch."""

# Shapes: B batch, T tokens

import math

import pytest
import torch

from architectures import DECODERS, decoder
from learners import base_from, conversations, prepared, stir, trained
from migaki.core.types import Dataset
from migaki.methods import Full, Lora
from migaki.tasks import Generate

TOLERANCE = 1e-4
"""Largest relative error of the loss, and of each gradient tensor in the L2 norm."""


def batch_of(network, examples):
    """Input ids, mask and labels (B, T) as transformers wants them: padded on the right, -100 where nothing counts."""
    width = max(len(e) for e in examples)
    fill = network.tokenizer.pad_token_id
    ids_BT = torch.tensor([[*e.ids, *[fill] * (width - len(e))] for e in examples])
    mask_BT = torch.tensor([[1] * len(e) + [0] * (width - len(e)) for e in examples])
    labels_BT = torch.tensor([[*e.labels, *[-100] * (width - len(e))] for e in examples])
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


def own_loss(learner, examples):
    """Mean over the targets, with its gradient in the parameters."""
    loss = learner.loss(examples, 0.0) / sum(e.weight for e in examples)
    loss.backward()
    return float(loss.detach())


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def assert_same_gradients(found, wanted):
    """By name; every trained parameter moves in both, and nothing else does."""
    assert found.keys() == wanted.keys()
    assert all(float(gradient.norm()) > 0 for gradient in wanted.values())
    worst = max(found, key=lambda name: relative(found[name], wanted[name]))
    assert relative(found[worst], wanted[worst]) <= TOLERANCE, worst


@pytest.mark.parametrize("learn", ["all", "last"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_full_fine_tuning_has_the_loss_and_gradients_of_transformers(tiny_decoder, n, learn):
    rows = conversations(n)
    learner = Full().prepare(base_from(tiny_decoder, "decoder"), Generate(learn=learn), rows, 0)
    examples = learner.encode(rows)
    assert n == 1 or len({len(e) for e in examples}) > 1
    loss = own_loss(learner, examples)
    oracle = base_from(tiny_decoder, "decoder").model.requires_grad_(True)
    theirs = oracle(**batch_of(learner.network, examples)).loss
    theirs.backward()
    assert loss == pytest.approx(float(theirs.detach()), rel=TOLERANCE)
    assert_same_gradients(
        {name.removeprefix("backbone."): p.grad for name, p in trained(learner).items()},
        {name: p.grad for name, p in oracle.named_parameters()},
    )


@pytest.mark.parametrize(
    "lora",
    [Lora(rank=4), Lora(rank=8, alpha=4.0, rslora=True), Lora(rank=2, targets=["q_proj", "v_proj"])],
    ids=["all layers", "rslora", "queries and values"],
)
def test_lora_has_the_loss_and_gradients_of_peft(tiny_decoder, tmp_path, lora):
    peft = pytest.importorskip("peft")
    rows = conversations(6)
    learner = prepared(tiny_decoder, Generate(), lora, rows)
    examples = learner.encode(rows)
    loss = own_loss(learner, examples)
    # peft reads the adapter from the files that migaki writes: names, shapes and scale go the way they go for a user.
    learner.save(tmp_path)
    oracle = peft.PeftModel.from_pretrained(base_from(tiny_decoder, "decoder").model, tmp_path, is_trainable=True)
    oracle.eval()
    theirs = oracle(**batch_of(learner.network, examples)).loss
    theirs.backward()
    assert loss == pytest.approx(float(theirs.detach()), rel=TOLERANCE)
    assert_same_gradients(
        {name.removeprefix("backbone."): p.grad for name, p in trained(learner).items()},
        {
            name.removeprefix("base_model.model.").removesuffix(".default.weight"): p.grad
            for name, p in oracle.named_parameters()
            if p.requires_grad
        },
    )


@pytest.mark.parametrize("kind", DECODERS)
def test_every_family_of_decoders_has_the_loss_and_gradients_of_transformers(tiny_decoder, kind):
    """Some families do more than a linear head after the last layer; leaving that out would train another model."""
    rows = conversations(5)
    learner = Full().prepare(decoder(kind, tiny_decoder), Generate(), rows, 0)
    examples = learner.encode(rows)
    loss = own_loss(learner, examples)
    oracle = decoder(kind, tiny_decoder).model.requires_grad_(True)
    theirs = oracle(**batch_of(learner.network, examples)).loss
    theirs.backward()
    assert loss == pytest.approx(float(theirs.detach()), rel=TOLERANCE)
    moved = {
        name: p.grad for name, p in oracle.named_parameters() if p.grad is not None and float(p.grad.norm()) > 1e-9
    }
    found = {name.removeprefix("backbone."): p.grad for name, p in trained(learner).items()}
    assert moved
    assert_same_gradients({name: found[name] for name in moved}, moved)


@pytest.mark.parametrize("kind", DECODERS)
def test_lora_reaches_every_family_of_decoders(tiny_decoder, kind):
    rows = conversations(3)
    learner = Lora(rank=2).prepare(decoder(kind, tiny_decoder), Generate(), rows, 0)
    stir(learner)
    own_loss(learner, learner.encode(rows))
    gradients = [p.grad for p in trained(learner).values()]
    assert gradients
    assert all(g is not None and bool(g.isfinite().all()) and float(g.norm()) > 0 for g in gradients)


def test_the_losses_of_predictions_are_those_of_transformers(tiny_decoder):
    """One figure a row, summed over its targets in nats, whatever the rows are batched with."""
    rows = conversations(9)
    learner = Full().prepare(base_from(tiny_decoder, "decoder"), Generate(), rows, 0)
    examples = learner.encode(rows)
    for example, prediction in zip(examples, learner.predict(rows.rows, answers=0), strict=True):
        with torch.no_grad():
            mean = float(learner.network.backbone(**batch_of(learner.network, [example])).loss)
        assert prediction.targets == example.targets
        assert prediction.loss == pytest.approx(mean * example.targets, rel=TOLERANCE)


def test_the_loss_of_random_weights_is_near_that_of_a_fair_guess(tiny_decoder):
    """Weights near zero know nothing: cross-entropy is ln V for every target."""
    rows = conversations(4)
    learner = Full().prepare(base_from(tiny_decoder, "decoder"), Generate(), rows, 0)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.mul_(1e-6)
    examples = learner.encode(Dataset("train", rows.rows))
    vocabulary = learner.network.backbone.config.vocab_size
    assert own_loss(learner, examples) == pytest.approx(math.log(vocabulary), rel=1e-4)
