"""Several labels for a text: the loss, the head it starts with, the threshold, and what is answered."""

# Shapes: N rows, D hidden, C labels

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import migaki
from learners import base_from, gradients, prepared
from migaki.core.errors import RecipeError
from migaki.core.types import Dataset, MultiLabelled, Place, Row
from migaki.evaluation import best_threshold
from migaki.methods import Probe, Tfidf
from migaki.tasks import LabelText
from migaki.training.loop import accumulate_gradients
from sentences import several, several_rows

RELATIVE = 1e-4


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


def learner_for(folder: Path, rows: Dataset, method: Any = "full", **settings: Any) -> Any:
    return prepared(folder, LabelText(**settings), method, rows)


def wanted_of(rows: Dataset, labels: tuple[str, ...]) -> np.ndarray:
    return np.array([[label in row.content.labels for label in labels] for row in rows.rows])


def plain_features(folder: Path, rows: Dataset) -> np.ndarray:
    """(N, D) float64: each text alone through the model, the mean of its token vectors."""
    base, found = base_from(folder, "encoder"), []
    for row in rows.rows:
        ids_1T = torch.tensor([base.tokenizer(row.content.text)["input_ids"]])
        with torch.no_grad():
            found.append(base.model(input_ids=ids_1T).last_hidden_state[0].double().numpy().mean(0))
    return np.stack(found)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_loss_and_gradients_are_those_of_torchs_binary_cross_entropy(class_weights, accumulate, tiny_encoder):
    """One padded batch through transformers, the mean over rows and labels, as its multi-label problem type computes it."""
    from transformers import BertModel

    rows = several(10)
    learner = learner_for(tiny_encoder, rows, head="random", class_weights=class_weights)
    learner.train_mode(0.0)
    network = learner.network
    assert network.body.use_flat
    wanted_NC = torch.tensor(wanted_of(rows, network.labels)).float()
    positive = (len(rows) - wanted_NC.sum(0)) / wanted_NC.sum(0) if class_weights == "balanced" else None
    model = BertModel.from_pretrained(tiny_encoder, add_pooling_layer=False).train()
    head = torch.nn.Linear(32, 3)
    with torch.no_grad():
        network.head.weight.mul_(10)
        head.load_state_dict(network.head.state_dict())
    batch = network.tokenizer([row.content.text for row in rows.rows], padding=True, return_tensors="pt")
    hidden_NTD = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask_NT1 = batch["attention_mask"][..., None].float()
    loss = F.binary_cross_entropy_with_logits(
        head((hidden_NTD * mask_NT1).sum(1) / mask_NT1.sum(1)), wanted_NC, pos_weight=positive
    )
    loss.backward()
    examples = list(learner.encode(rows))
    total = accumulate_gradients(learner, examples, 0.0, accumulate)
    assert total / sum(e.weight for e in examples) == pytest.approx(float(loss.detach()), rel=RELATIVE)
    wanted = {f"backbone.{name}": p.grad for name, p in model.named_parameters()}
    wanted |= {f"head.{name}": p.grad for name, p in head.named_parameters()}
    found = gradients(learner)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        size = float(wanted[name].norm())
        assert float((gradient - wanted[name]).norm()) <= RELATIVE * size + 1e-7, name


def test_smoothing_pulls_every_yes_and_no_towards_one_half(tiny_encoder):
    rows = several(6)
    learner = learner_for(tiny_encoder, rows, head="random")
    examples = list(learner.encode(rows))
    soft = torch.tensor(wanted_of(rows, learner.labels)).float() * 0.8 + 0.1
    with torch.no_grad():
        wanted = F.binary_cross_entropy_with_logits(learner.network(examples), soft, reduction="sum")
        assert float(learner.loss(examples, 0.2)) == pytest.approx(float(wanted), rel=1e-6)


def test_the_head_starts_from_the_nearer_of_two_means_and_the_frequency(tiny_encoder):
    """logit = s (|h - b|^2 - |h - a|^2) / 2 + log(with / without), with one scale s for all labels."""
    rows = several(40)
    network = learner_for(tiny_encoder, rows).network
    x_ND, wanted_NC = plain_features(tiny_encoder, rows), wanted_of(rows, network.labels)
    logits_NC = x_ND @ network.head.weight.detach().double().numpy().T + network.head.bias.detach().double().numpy()
    gaps_NC = np.empty_like(logits_NC)
    for c in range(3):
        a, b = x_ND[wanted_NC[:, c]].mean(0), x_ND[~wanted_NC[:, c]].mean(0)
        gaps_NC[:, c] = (((x_ND - b) ** 2).sum(1) - ((x_ND - a) ** 2).sum(1)) / 2
    n_C = wanted_NC.sum(0)
    from_means_NC = logits_NC - np.log((n_C + 0.5) / (40 - n_C + 0.5))
    scale = float((from_means_NC * gaps_NC).sum() / (gaps_NC**2).sum())
    assert scale > 0
    assert np.abs(from_means_NC - scale * gaps_NC).max() <= 2e-3 * np.abs(from_means_NC).max()


def test_a_row_is_left_out_of_its_own_mean(tiny_encoder):
    """Closed form against means that are really computed without the row."""
    from migaki.tasks.text_labeller import _nearness

    dice = np.random.default_rng(0)
    x_ND, inside_NC = dice.normal(size=(12, 4)), dice.random((12, 3)) < 0.5
    found_NC, mean_CD = _nearness(x_ND, inside_NC)
    for n in range(12):
        for c in range(3):
            members = [i for i in np.flatnonzero(inside_NC[:, c]) if i != n] or list(np.flatnonzero(inside_NC[:, c]))
            mean_D = x_ND[members].mean(0)
            assert found_NC[n, c] == pytest.approx(x_ND[n] @ mean_D - mean_D @ mean_D / 2)
    np.testing.assert_allclose(mean_CD[0], x_ND[inside_NC[:, 0]].mean(0))


def test_a_label_that_all_rows_have_is_answered(tiny_encoder):
    rows = Dataset(
        "train",
        tuple(
            Row(Place("r", i), MultiLabelled(f"{w} {i}", ("all", w) if i % 2 else ("all",)))
            for i, w in enumerate(["my", "yes"] * 6)
        ),
    )
    for weights in ("none", "balanced"):
        learner = learner_for(tiny_encoder, rows, class_weights=weights)
        assert all("all" in p.labels for p in learner.predict(rows.rows))
        assert np.isfinite([p.loss for p in learner.predict(rows.rows)]).all()


def test_a_prediction_says_labels_confidence_and_loss(tiny_encoder):
    rows = several(16)
    learner = learner_for(tiny_encoder, rows)
    learner.network.threshold = 0.4
    for row, said in zip(rows.rows, learner.predict(rows.rows), strict=True):
        p_C = np.array(said.scores)
        given_C, wanted_C = p_C > 0.4, np.array([label in row.content.labels for label in learner.labels])
        assert said.labels == tuple(np.array(learner.labels)[given_C])
        assert json.loads(said.output) == list(said.labels)
        assert json.loads(said.target) == list(row.content.labels)
        assert said.confidence == pytest.approx(np.where(given_C, p_C, 1 - p_C).prod())
        assert said.loss == pytest.approx(-np.log(np.where(wanted_C, p_C, 1 - p_C)).sum())
        assert (said.targets, said.part[1]) == (3, given_C.sum() + wanted_C.sum())
        assert said.part[0] == 2 * (given_C & wanted_C).sum()


def test_a_row_with_unknown_labels_is_answered_without_a_loss(tiny_encoder):
    learner = learner_for(tiny_encoder, several(8))
    (said,) = learner.predict([Row(Place("input", 1), MultiLabelled("my screen", None))])
    assert (said.loss, said.targets, said.target, said.part) == (None, 0, None, None)
    (said,) = learner.predict([Row(Place("input", 1), MultiLabelled("my screen", ("new",)))])
    assert (said.loss, said.targets) == (None, 0)


@pytest.mark.parametrize("method", ["full", Tfidf(), Probe()], ids=["full", "tfidf", "probe"])
def test_the_threshold_is_the_best_one_of_the_validation_rows_or_the_recipes(method, tiny_encoder):
    rows, valid = several(24), several(40).rows[24:]
    for task in (LabelText(), LabelText(threshold=0.3)):
        base = tiny_encoder
        learner = prepared(base, task, method, rows) if method != Tfidf() else method.prepare(None, task, rows, 0)
        learner.settle(learner.encode(rows), valid, 0, lambda _: None)
        wanted = 0.3 if task.threshold else best_threshold(learner.predict(valid), learner.labels)
        assert task.decide(learner, valid) == {"threshold": wanted}
        for said in learner.predict(valid):
            assert said.labels == tuple(
                label for label, p in zip(learner.labels, said.scores, strict=True) if p > wanted
            )


def test_a_run_keeps_its_threshold_and_both_sides_have_their_own(tiny_encoder, tmp_path):
    recipe = {
        "task": "label_text",
        "data": {"train": several_rows(80)},
        "model": str(tiny_encoder),
        "method": "tfidf",
    }
    run = migaki.train(recipe, tmp_path / "runs")
    threshold = run.results["details"]["decided"]["threshold"]
    # Always the shares of the labels: no threshold is better than giving all, which finds every label.
    assert run.baseline["recall_micro"].value == 1.0
    assert run.metrics["f1_micro"].value > 0.9
    learner = migaki.load(1, tmp_path / "runs").learner
    assert learner.threshold == threshold
    again = migaki.load(1, tmp_path / "runs").evaluate()
    assert {n: m.value for n, m in again.metrics.items()} == pytest.approx({n: m.value for n, m in run.metrics.items()})


def test_the_regressions_of_a_probe_are_those_of_scikit_learn(tiny_encoder):
    from sklearn.linear_model import LogisticRegression

    rows = several(40)
    learner = prepared(tiny_encoder, LabelText(), Probe(penalty=0.3), rows)
    learner.settle(learner.encode(rows), rows.rows, 0, lambda _: None)
    x_ND = plain_features(tiny_encoder, rows)
    x_ND *= 32**0.5 / np.linalg.norm(x_ND, axis=1, keepdims=True)
    wanted_NC = wanted_of(rows, learner.labels)
    for c in range(3):
        model = LogisticRegression(C=1 / 0.3, max_iter=5000, tol=1e-8).fit(x_ND, wanted_NC[:, c])
        found = np.array([p.scores[c] for p in learner.predict(rows.rows)])
        np.testing.assert_allclose(found, model.predict_proba(x_ND)[:, 1], atol=5e-3)


@pytest.mark.parametrize("kind", ["few_shot", "retrieve", "gazetteer"])
def test_methods_that_need_one_label_or_parts_refuse(kind, tiny_encoder, tmp_path):
    recipe = {"task": "label_text", "data": {"train": several_rows(30)}, "model": str(tiny_encoder), "method": kind}
    with pytest.raises(RecipeError, match=r"method\.kind: .*label_text"):
        migaki.train(recipe, tmp_path)


def test_a_table_with_predictions_holds_a_list_of_labels(tiny_encoder, tmp_path):
    from migaki.cli import main

    recipe = {"task": "label_text", "data": {"train": several_rows(60)}, "model": str(tiny_encoder), "method": "tfidf"}
    migaki.train(recipe, tmp_path / "runs")
    given = tmp_path / "new.csv"
    given.write_text("id,text\n7,please send the invoice again and the order has not arrived\n", encoding="utf-8")
    for name in ("out.jsonl", "out.csv"):
        out = tmp_path / name
        assert (
            main(["predict", "1", "--input", str(given), "--output", str(out), "--runs", str(tmp_path / "runs")]) == 0
        )
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert row["prediction"] == ["billing", "delivery"]
    assert '"[""billing"", ""delivery""]"' in (tmp_path / "out.csv").read_text(encoding="utf-8")
