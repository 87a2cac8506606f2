"""Text classification: pooling, the head it starts with, what is cut, and how classes weigh."""

# Shapes: N rows, T tokens, D hidden, C classes

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners import base_from, labelled, lopsided, prepared, task_of
from migaki.core.errors import ModelError, TruncationError
from migaki.core.types import Dataset, Labelled, Place, Row
from migaki.models.base import Base
from migaki.tasks import ClassifyText
from tiny import labelled_rows


def texts(*pairs: tuple[str, str]) -> Dataset:
    return Dataset("train", tuple(Row(Place("texts", i), Labelled(*pair)) for i, pair in enumerate(pairs, 1)))


def plain_features(base: Base, rows: Dataset, pooling: str) -> np.ndarray:
    """(N, D) in float64: each text alone through the model, its token vectors pooled here."""
    found = []
    for row in rows.rows:
        ids_1T = torch.tensor([base.tokenizer(row.content.text)["input_ids"]])
        with torch.no_grad():
            hidden_TD = base.model(input_ids=ids_1T).last_hidden_state[0].double().numpy()
        found.append({"mean": hidden_TD.mean(0), "cls": hidden_TD[0], "last": hidden_TD[-1]}[pooling])
    return np.stack(found)


def scores(learner: Any, rows: Dataset) -> np.ndarray:
    """Probabilities (N, C)."""
    learner.evaluation_mode()
    return np.array([prediction.scores for prediction in learner.predict(rows.rows)])


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    shifted_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True))
    return np.asarray(shifted_NC / shifted_NC.sum(1, keepdims=True))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("model", ["encoder", "decoder"])
def test_probabilities_are_the_head_on_vectors_pooled_by_hand(
    model: str, pooling: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """Rows of nine lengths: padding must reach neither the mean nor the last token."""
    folder, rows = tiny_encoder if model == "encoder" else tiny_decoder, labelled(18)
    learner = prepared(folder, task_of("classify_text", pooling=pooling, head="random"), "full", rows)
    head = learner.network.head  # type: ignore[attr-defined]
    with torch.no_grad():
        head.weight.mul_(20)
        head.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    features_ND = plain_features(base_from(folder, "encoder"), rows, pooling)
    logits_NC = features_ND @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    assert np.abs(scores(learner, rows) - softmax(logits_NC)).max() <= 1e-5


@pytest.mark.parametrize(("said", "wanted"), [(None, "mean"), ("cls", "cls"), ("mean", "mean"), ("last", "last")])
def test_auto_pools_as_the_publisher_says_and_else_by_the_mean(
    said: str | None, wanted: str, tiny_encoder: Path
) -> None:
    base = base_from(tiny_encoder, "encoder")
    base.pooling = said
    assert ClassifyText().network(base, labelled(6), 0).pooling == wanted
    assert ClassifyText(pooling="cls").network(base, labelled(6), 0).pooling == "cls"


@pytest.mark.parametrize("rows", [labelled(30), lopsided(20)], ids=["even", "lopsided"])
def test_the_centroid_head_is_the_nearest_class_mean(rows: Dataset, tiny_encoder: Path) -> None:
    learner = prepared(tiny_encoder, task_of("classify_text"), "full", rows)
    labels = np.array(learner.labels)
    train_ND = plain_features(base_from(tiny_encoder, "encoder"), rows, "mean")
    names_N = np.array([row.content.label for row in rows.rows])
    means_CD = np.stack([train_ND[names_N == label].mean(0) for label in labels])
    others = texts(*((row["text"] + " please", row["label"]) for row in labelled_rows(60)[30:]))
    for some in (rows, others):
        features_ND = plain_features(base_from(tiny_encoder, "encoder"), some, "mean")
        distances_NC = np.linalg.norm(features_ND[:, None] - means_CD[None], axis=-1)
        ordered_NC = np.sort(distances_NC, axis=1)
        clear_N = ordered_NC[:, 1] - ordered_NC[:, 0] > 1e-5
        assert clear_N.mean() > 0.9
        found_N = scores(learner, some).argmax(1)
        assert (found_N == distances_NC.argmin(1))[clear_N].all()


def test_the_centroid_head_is_linear_in_squared_distance(tiny_encoder: Path) -> None:
    """log p_i - log p_j = s (|h - m_j|^2 - |h - m_i|^2) / 2 with one scale s for all rows and classes."""
    rows = lopsided(20)
    learner = prepared(tiny_encoder, task_of("classify_text"), "full", rows)
    network = learner.network  # type: ignore[attr-defined]
    features_ND = plain_features(base_from(tiny_encoder, "encoder"), rows, "mean")
    names_N = np.array([row.content.label for row in rows.rows])
    means_CD = np.stack([features_ND[names_N == label].mean(0) for label in learner.labels])
    squares_NC = ((features_ND[:, None] - means_CD[None]) ** 2).sum(-1)
    weight_CD, bias_C = (p.detach().double().numpy() for p in (network.head.weight, network.head.bias))
    logits_NC = features_ND @ weight_CD.T + bias_C
    gaps = logits_NC[:, :1] - logits_NC[:, 1:]
    wanted = (squares_NC[:, 1:] - squares_NC[:, :1]) / 2
    scale = float((gaps * wanted).sum() / (wanted**2).sum())
    assert scale > 0
    assert np.abs(gaps - scale * wanted).max() <= 1e-3 * np.abs(gaps).max()


def test_a_label_with_one_row_has_a_finite_head(tiny_encoder: Path) -> None:
    rows = texts(("the printer does not print", "a"), ("my screen is black", "b"), ("send the invoice again", "b"))
    learner = prepared(tiny_encoder, task_of("classify_text"), "full", rows)
    found = scores(learner, rows)
    assert np.isfinite(found).all()
    assert found.argmax(1).tolist() == [0, 1, 1]


def test_the_random_head_is_small_and_follows_from_the_seed(tiny_encoder: Path) -> None:
    heads = [
        prepared(tiny_encoder, task_of("classify_text", head="random"), "full", labelled(6), seed).network.head  # type: ignore[attr-defined]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert float(heads[0].weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert heads[0].bias.tolist() == [0.0, 0.0, 0.0]


def test_a_cut_text_keeps_its_closing_token(tiny_encoder: Path) -> None:
    rows = texts(("the printer does not print my screen is black", "a"), ("my screen", "b"))
    task = task_of("classify_text", max_length=6, allow_truncated=1.0)
    learner = prepared(tiny_encoder, task, "full", rows)
    tokenizer = learner.network.tokenizer  # type: ignore[attr-defined]
    long, short = learner.encode(rows)
    whole = tokenizer(rows.rows[0].content.text)["input_ids"]
    assert len(whole) > 6
    assert [int(i) for i in long.ids] == [*whole[:5], tokenizer.sep_token_id]
    assert (long.truncated, short.truncated) == (True, False)
    assert [int(i) for i in short.ids] == tokenizer("my screen")["input_ids"]


def test_prediction_cuts_as_training_does(tiny_encoder: Path) -> None:
    """What stands behind the cut has no influence; what stands before it has."""
    task = task_of("classify_text", max_length=6, allow_truncated=1.0, head="random")
    learner = prepared(tiny_encoder, task, "full", labelled(6))
    start = "the printer does not print"
    found = scores(
        learner, texts((f"{start} black", "billing"), (f"{start} late parcel", "billing"), ("late", "billing"))
    )
    # Not to the last bit: in a product of matrices the rows of one block may be added up in another order.
    assert np.abs(found[0] - found[1]).max() < 1e-6
    assert np.abs(found[0] - found[2]).max() > 1e-4


def test_a_decoder_without_closing_token_loses_its_last_tokens(tiny_decoder: Path) -> None:
    rows = texts(("the printer does not print my screen is black", "a"), ("my screen", "b"))
    learner = prepared(tiny_decoder, task_of("classify_text", max_length=4, allow_truncated=1.0), "full", rows)
    whole = learner.network.tokenizer(rows.rows[0].content.text)["input_ids"]  # type: ignore[attr-defined]
    assert [int(i) for i in learner.encode(rows)[0].ids] == whole[:4]


def test_more_cut_rows_than_allowed_are_named(tiny_encoder: Path) -> None:
    rows = texts(("the printer does not print my screen is black", "a"), ("my screen", "b"))
    learner = prepared(tiny_encoder, task_of("classify_text", max_length=6, allow_truncated=0.6), "full", rows)
    learner.encode(rows)
    strict = task_of("classify_text", max_length=6, allow_truncated=0.4)
    with pytest.raises(TruncationError, match=r"1 of 2 train rows .* texts:1"):
        prepared(tiny_encoder, strict, "full", rows).encode(rows)


def test_a_length_that_the_model_cannot_take_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="at most 64 tokens"):
        prepared(tiny_encoder, task_of("classify_text", max_length=65), "full", labelled(6))


def test_balanced_weights_make_every_class_count_the_same(tiny_encoder: Path) -> None:
    """N / (C * n) for each row of a class with n rows: the class adds N / C, whatever n is."""
    rows = lopsided(20)
    for setting, balanced in (("balanced", True), ("none", False)):
        learner = prepared(tiny_encoder, task_of("classify_text", class_weights=setting), "full", rows)
        sums: dict[str, float] = {}
        for example in learner.encode(rows):
            label = example.row.content.label
            sums[label] = sums.get(label, 0.0) + example.weight
        counts = {label: sum(row.content.label == label for row in rows.rows) for label in sums}
        assert len(set(counts.values())) > 1
        assert sums == pytest.approx(dict.fromkeys(counts, 20 / 3) if balanced else counts)


def test_a_prediction_says_label_confidence_and_loss_of_its_row(tiny_encoder: Path) -> None:
    rows = labelled(12)
    learner = prepared(tiny_encoder, task_of("classify_text"), "full", rows)
    learner.evaluation_mode()
    for row, prediction in zip(rows.rows, learner.predict(rows.rows), strict=True):
        best = int(np.argmax(prediction.scores))
        assert sum(prediction.scores) == pytest.approx(1.0)
        assert prediction.output == learner.labels[best]
        assert prediction.confidence == pytest.approx(prediction.scores[best])
        own = prediction.scores[learner.labels.index(row.content.label)]
        assert prediction.loss == pytest.approx(-np.log(own), rel=1e-6)
        assert (prediction.place, prediction.target, prediction.text) == (
            row.place,
            row.content.label,
            row.content.text,
        )


def test_a_row_without_label_is_answered_without_a_loss(tiny_encoder: Path) -> None:
    learner = prepared(tiny_encoder, task_of("classify_text"), "full", labelled(6))
    unknown = Row(Place("input", 1), Labelled("my screen is black", None))
    (prediction,) = learner.predict([unknown])
    assert prediction.output in learner.labels
    assert (prediction.loss, prediction.targets, prediction.target) == (None, 0, None)
    assert learner.predict([]) == []


def test_a_row_is_shown_with_its_label_as_the_target(tiny_encoder: Path) -> None:
    rows = texts(("my screen is black", "technical"), ("send the invoice", "billing"))
    learner = prepared(tiny_encoder, task_of("classify_text"), "full", rows)
    pieces = learner.marked(learner.encode(rows)[0])
    assert [target for _, target in pieces] == [False, True]
    assert "my screen is black" in pieces[0][0]
    assert "technical" in pieces[1][0]
