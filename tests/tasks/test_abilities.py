"""General ability, held against the plain computation: one row at a time, in transformers and scikit-learn."""

# Shapes: D features, N rows, T tokens

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from learners import base_from, conversations, labelled, plain_losses, prepared, trained
from migaki.core.errors import StoppedError
from migaki.core.parts import Task
from migaki.core.types import Ability, Choice, Conversation, Dataset, Labelled, Place, Row, Turn
from migaki.evaluation import measure_generality
from migaki.evaluation.suspicion import _parts
from migaki.methods import Tfidf
from migaki.tasks import ClassifyText, Generate

KINDS = {"wood": "oak pine birch elm", "metal": "iron copper zinc lead", "water": "sea lake river pond"}
TOPICS = Dataset(
    "mine",
    tuple(
        Row(Place("mine", 4 * n + i), Labelled(f"the {word} is {'very ' * i}old", kind))
        for n, (kind, names) in enumerate(KINDS.items())
        for i, word in enumerate(names.split())
    ),
)
CHOICES = Dataset(
    "asked",
    tuple(
        Row(Place("asked", i), Choice(f"my screen is {i}?", ("yes", "no", "the printer", "black"), i % 4))
        for i in range(8)
    ),
)


@pytest.fixture
def encoder(tiny_encoder):
    return prepared(tiny_encoder, ClassifyText(), "lora", labelled(12))


@pytest.fixture
def decoder(tiny_decoder):
    return prepared(tiny_decoder, Generate(), "lora", conversations(6))


@torch.no_grad()
def test_topics_are_told_apart_by_a_regression_on_the_learners_features(encoder):
    """One vector a row by transformers alone; each part judged by scikit-learn fitted to the other four."""
    network = encoder.network
    features_ND = np.stack(
        [
            network.backbone(torch.tensor([network.tokenizer(r.content.text)["input_ids"]]))
            .last_hidden_state[0]
            .mean(0)
            for r in TOPICS.rows
        ]
    ).astype(np.float64)
    assert encoder.features(TOPICS.rows) == pytest.approx(features_ND, abs=1e-5)
    names = sorted(KINDS)
    label_N = np.array([names.index(row.content.label) for row in TOPICS.rows])
    part_N = _parts(label_N, [row.content.text for row in TOPICS.rows], 0)
    scaled_ND = (features_ND - features_ND.mean(0)) / features_ND.std(0) / np.sqrt(32)
    wanted = np.zeros(len(label_N))
    for part in range(5):
        held_N = part_N == part
        fitted = LogisticRegression(C=10, max_iter=5000).fit(scaled_ND[~held_N], label_N[~held_N])
        wanted[held_N] = fitted.predict(scaled_ND[held_N]) == label_N[held_N]
    (found,) = measure_generality(encoder, ClassifyText(), [TOPICS])
    assert found == Ability("mine", "accuracy", tuple(wanted), (1,) * 12)


def test_answers_have_the_loss_that_each_has_alone(decoder):
    rows = conversations(30)
    (found,) = measure_generality(decoder, Generate(), [rows])
    assert (found.name, found.metric) == ("train", "loss")
    with torch.no_grad():
        alone = [plain_losses(decoder, [row], 0.0) for row in rows.rows]
    assert found.scores == pytest.approx([float(loss) for loss, _ in alone], rel=1e-4)
    assert found.weights == tuple(int(n) for _, n in alone)


def test_the_answer_with_the_lowest_loss_per_token_is_chosen(decoder):
    (found,) = measure_generality(decoder, Generate(), [CHOICES])
    wanted = []
    for row in CHOICES.rows:
        per_token = []
        for option in row.content.options:
            turns = (Turn("user", row.content.question), Turn("assistant", option))
            with torch.no_grad():
                loss, n = plain_losses(decoder, [Row(row.place, Conversation(turns))], 0.0)
            per_token.append(float(loss) / n)
        wanted.append(float(int(np.argmin(per_token)) == row.content.right))
    assert found == Ability("asked", "accuracy", tuple(wanted), (1,) * 8)
    assert 0 < sum(wanted) < 8


def test_what_is_measured_are_the_weights_as_they_are_now(encoder, decoder):
    """Adapters that are moved change the features and the losses; put back, they give what they gave before."""
    for learner, task, rows in ((encoder, ClassifyText(), TOPICS), (decoder, Generate(), conversations(4))):

        def look(learner=learner, task=task, rows=rows):
            if task.kind == "generate":
                return np.array(measure_generality(learner, task, [rows])[0].scores)
            return learner.features(rows.rows)

        first, kept = look(), {name: p.detach().clone() for name, p in trained(learner).items()}
        with torch.no_grad():
            for p in trained(learner).values():
                p.add_(0.5)
            moved = look()
            for name, p in trained(learner).items():
                p.copy_(kept[name])
        assert np.abs(moved - first).max() > 1e-3
        assert np.array_equal(look(), first)


def test_a_learner_in_training_stays_in_training_and_is_measured_without_dropout(tiny_encoder):
    learner = prepared(tiny_encoder, ClassifyText(), "lora", labelled(12))
    first = learner.features(TOPICS.rows)
    learner.train_mode(0.5)
    assert np.array_equal(learner.features(TOPICS.rows), first)
    assert learner.network.training


def test_rows_that_are_cut_off_before_their_answer_are_left_out(tiny_decoder):
    """A question as long as the limit leaves no token of an answer; a set of nothing else is not measured."""
    learner = prepared(tiny_decoder, Generate(max_length=64, allow_truncated=1.0), "lora", conversations(6))
    long = Row(Place("long", 1), Conversation((Turn("user", "very long " * 40), Turn("assistant", "yes"))))
    short = conversations(1).rows[0]
    some, none = Dataset("some", (long, short)), Dataset("none", (long,))
    question = Dataset("asked", (Row(Place("long", 2), Choice("very long " * 40, ("yes", "no"), 0)),))
    found = measure_generality(learner, Generate(), [some, none, question])
    assert [(a.name, len(a.scores)) for a in found] == [("some", 1)]


@pytest.mark.parametrize("kind", ["topics", "said", "asked"])
def test_a_signal_ends_the_measuring(encoder, decoder, kind):
    def asked(_: int) -> None:
        raise StoppedError(15)

    learner, task, rows = {
        "topics": (encoder, ClassifyText(), TOPICS),
        "said": (decoder, Generate(), conversations(3)),
        "asked": (decoder, Generate(), CHOICES),
    }[kind]
    with pytest.raises(StoppedError):
        measure_generality(learner, task, [rows], asked)


def test_a_task_or_a_learner_that_knows_no_measure_has_none(encoder, tiny_encoder):
    class Mine(ClassifyText):
        generality = Task.generality
        general: ClassVar[tuple[str, ...]] = ()

    assert measure_generality(encoder, Mine(), [TOPICS]) == []
    counting = Tfidf().prepare(base_from(tiny_encoder, "encoder"), ClassifyText(), labelled(12), 0)
    assert measure_generality(counting, ClassifyText(), [TOPICS]) == []
