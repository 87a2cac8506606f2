"""Methods that take no steps: what they learn, what they are compared with, and that a saved run answers the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import migaki
from learners import base_from, conversations, labelled
from migaki.core.errors import RecipeError
from migaki.core.types import Conversation, Dataset, Turn
from migaki.methods import FewShot, Probe, Tfidf, ZeroShot
from migaki.methods.prompting import chosen_rows
from migaki.tasks import ClassifyText, Generate
from tiny import chat_rows, labelled_rows


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


def classifier(folder: Path, method: Any, rows: Dataset, task: ClassifyText | None = None) -> Any:
    base = base_from(folder, "encoder") if method.uses_base else None
    return method.prepare(base, task or ClassifyText(), rows, 0)


def settled(learner: Any, rows: Dataset) -> Any:
    learner.settle(learner.encode(rows), rows.rows, 0, lambda _: None)
    return learner


def scores(learner: Any, rows: Dataset) -> np.ndarray:
    return np.array([p.scores for p in learner.predict(rows.rows)])


METHODS = [Probe(), Tfidf(), ZeroShot(), FewShot(shots=2)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_a_run_of_it_is_measured_saved_and_answers_the_same_when_it_is_loaded(tiny_encoder, tmp_path, method):
    rows = labelled_rows(36)
    recipe = migaki.Recipe(
        task="classify_text", model=str(tiny_encoder), data={"train": rows, "valid": 0.2, "test": 0.2}, method=method
    )
    run = migaki.train(recipe, tmp_path / "runs")
    assert run.results["cost"]["steps"] == 0
    assert run.results["baseline"]["name"] == method.baseline_name(recipe.task)
    texts = [row["text"] for row in rows[:5]]
    loaded = migaki.load(1, tmp_path / "runs")
    again = loaded.evaluate()
    assert {n: m.value for n, m in again.metrics.items()} == pytest.approx(
        {n: m.value for n, m in run.metrics.items()}, rel=1e-5
    )
    for one, other in zip(run.predict(texts), loaded.predict(texts), strict=True):
        assert one.output == other.output
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
    assert not list((run.path / "model").glob("model*.safetensors"))


@pytest.mark.parametrize("method", [Probe(), Tfidf(), FewShot(shots=1)], ids=lambda m: m.kind)
def test_before_it_learned_it_answers_as_it_did_before(tiny_encoder, method):
    rows = labelled(30)
    learner = classifier(tiny_encoder, method, rows)
    before = scores(learner, rows)
    settled(learner, rows)
    after = scores(learner, rows)
    assert np.abs(after - before).max() > 1e-3
    with learner.untrained():
        np.testing.assert_array_equal(scores(learner, rows), before)
    np.testing.assert_array_equal(scores(learner, rows), after)


@pytest.mark.parametrize("method", [Probe(), Tfidf()], ids=lambda m: m.kind)
def test_labels_are_refused_where_answers_are_written(tiny_decoder, method):
    with pytest.raises(RecipeError, match=f"{method.kind} chooses between labels, but generate writes answers"):
        method.prepare(base_from(tiny_decoder, "decoder"), Generate(), conversations(3), 0)


def test_the_probes_head_is_the_logistic_regression_on_features_of_one_length(tiny_encoder):
    """The gradient of the stated objective, computed here from the network's own features, is zero at the head."""
    rows = labelled(30)
    learner = settled(classifier(tiny_encoder, Probe(penalty=1.0), rows), rows)
    network = learner.network
    with torch.no_grad():
        features_ND = network.features(learner.encode(rows)[:]).double()
    features_ND = F.normalize(features_ND, dim=-1) * features_ND.shape[1] ** 0.5
    w, b = (p.detach().double().requires_grad_() for p in (network.head.weight, network.head.bias))
    labels = torch.tensor([e.labels[0] for e in learner.encode(rows)])
    loss = F.cross_entropy(features_ND @ w.T + b, labels, reduction="sum") + 0.5 * w.pow(2).sum()
    loss.backward()
    assert w.grad.norm() < 0.05 * float(features_ND.norm())
    assert learner.parameter_groups() == []
    assert learner.parameter_counts()[0] == w.numel() + b.numel()


def test_features_are_computed_once_and_are_those_of_the_network(tiny_encoder, monkeypatch):
    rows = labelled(12)
    first = classifier(tiny_encoder, Probe(), rows).network
    examples = first.encode(rows)
    kept_ND = first.kept_features(examples)
    with torch.no_grad():
        np.testing.assert_allclose(kept_ND, first.features(examples[:]).numpy(), atol=1e-6)
    second = classifier(tiny_encoder, Probe(), rows).network
    monkeypatch.setattr(second, "features", None)
    np.testing.assert_array_equal(second.kept_features(second.encode(rows)), kept_ND)


def test_features_of_other_weights_or_another_pooling_are_not_taken(tiny_encoder, tmp_path):
    from tiny import save_encoder

    rows = labelled(6)
    found = []
    for folder, pooling in ((tiny_encoder, "mean"), (tiny_encoder, "cls"), (save_encoder(tmp_path / "o", 7), "mean")):
        network = classifier(folder, Probe(), rows, ClassifyText(pooling=pooling)).network
        found.append(network.kept_features(network.encode(rows)))
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_label_names_are_compared_by_cosine(tiny_encoder):
    rows = labelled(9)
    words = {"device": "printer_screen"}
    method = ZeroShot(template="about {label}", descriptions=words)
    learner = classifier(tiny_encoder, method, rows)
    network = learner.network
    names = [f"about {words.get(label, label.replace('_', ' '))}" for label in network.labels]
    with torch.no_grad():
        named_CD = network.body.pooled(network.tokenizer(names)["input_ids"], "mean")
        texts_ND = network.body.pooled([e.ids for e in learner.encode(rows)], "mean")
    cosine_NC = F.normalize(texts_ND, dim=-1) @ F.normalize(named_CD, dim=-1).T
    np.testing.assert_allclose(scores(learner, rows), (20 * cosine_NC).softmax(-1), atol=1e-5)
    assert learner.parameter_counts()[0] == 0


def test_a_template_without_the_label_is_refused():
    with pytest.raises(ValueError, match=r"must hold \{label\}"):
        ZeroShot(template="about this")


def test_few_shots_are_so_many_of_each_class_whatever_the_order_of_the_rows(tiny_encoder):
    rows = labelled(30)
    turned = Dataset("train", rows.rows[::-1])
    chosen = chosen_rows(rows.rows, 5, 3)
    assert [r.content for r in chosen] == [r.content for r in chosen_rows(turned.rows, 5, 3)]
    assert [r.content for r in chosen] != [r.content for r in chosen_rows(rows.rows, 5, 4)]
    learner = classifier(tiny_encoder, FewShot(shots=2), rows)
    said = learner.settle(learner.encode(rows), (), 0, lambda _: None)
    assert said["shown"] == 2 * len(Counter(row.content.label for row in rows.rows))
    other = settled(classifier(tiny_encoder, FewShot(shots=2), turned), turned)
    np.testing.assert_allclose(scores(learner, rows), scores(other, rows), atol=1e-5)


# generators


def asked(folder: Path, method: Any, rows: Dataset, **settings: Any) -> Any:
    learner = method.prepare(base_from(folder, "decoder"), Generate(**settings), rows, 0)
    learner.settle([], [], 0, lambda _: None)
    return learner


def test_examples_stand_before_the_question_and_the_targets_stay_the_same(tiny_decoder):
    rows = conversations(8)
    learner = asked(tiny_decoder, FewShot(shots=2), rows, max_new_tokens=4)
    network, row = learner.network, rows.rows[7]
    shown = [turn for c in learner.shown for turn in c.turns]
    assert len(shown) == 4
    whole = network.chat.render(Conversation((*shown, *row.content.turns)), 1)
    (example,) = network.inputs([row])
    assert example.ids == whole.ids
    with learner.untrained():
        (bare,) = network.inputs([row])
    assert example.targets == bare.targets
    assert [t for t in example.labels if t != -100] == [t for t in bare.labels if t != -100]


def test_the_loss_with_examples_is_that_of_the_whole_conversation(tiny_decoder):
    """Computed here from all logits of the conversation with its examples, over the tokens of the last answer."""
    rows = conversations(6)
    learner = asked(tiny_decoder, FewShot(shots=2), rows, max_new_tokens=4)
    row = rows.rows[5]
    found = learner.predict([row], answers=0)[0]
    turns = (*(turn for c in learner.shown for turn in c.turns), *row.content.turns)
    ids = learner.network.chat.render(Conversation(turns), 1).ids
    prompt = learner.network.chat.prompt(turns[:-1])
    with torch.no_grad():
        log_TV = learner.network.backbone(torch.tensor([ids])).logits[0].log_softmax(-1)
    stop = len(prompt) + found.targets
    loss = -sum(float(log_TV[t - 1, ids[t]]) for t in range(len(prompt), stop))
    assert found.loss == pytest.approx(loss, rel=1e-4)


def test_examples_that_leave_no_room_are_left_out_and_a_system_prompt_stays_first(tiny_decoder):
    rows = conversations(8)
    learner = asked(tiny_decoder, FewShot(shots=8), rows, max_new_tokens=4)
    system, question = Turn("system", "be kind"), Turn("user", "hello")
    told = learner._with_examples((system, question), 20)
    assert told[0] == system
    assert told[-1] == question
    assert 2 < len(told) < 18
    assert len(learner.network.chat.prompt(told)) + 20 <= learner.network.limit
    assert learner._with_examples((question,), learner.network.limit - 1) == (question,)


def test_a_saved_few_shot_generator_shows_the_same_examples(tiny_decoder, tmp_path):
    recipe = migaki.Recipe(
        task={"kind": "generate", "max_new_tokens": 4, "generated_rows": 2},
        model=str(tiny_decoder),
        data={"train": chat_rows(12)},
        method={"kind": "few_shot", "shots": 2},
    )
    run = migaki.train(recipe, tmp_path / "runs")
    assert run.metrics["loss"].value != pytest.approx(run.baseline["loss"].value, abs=1e-6)
    assert run.results["baseline"]["name"] == "base, no examples shown"
    loaded = migaki.load(1, tmp_path / "runs")
    assert loaded.evaluate().metrics["loss"].value == pytest.approx(run.metrics["loss"].value, rel=1e-5)


def test_zero_shot_generation_is_the_base_itself(tiny_decoder, tmp_path):
    recipe = migaki.Recipe(
        task={"kind": "generate", "max_new_tokens": 4, "generated_rows": 2},
        model=str(tiny_decoder),
        data={"train": chat_rows(12)},
        method="zero_shot",
    )
    run = migaki.train(recipe, tmp_path / "runs")
    assert run.results["gain"]["value"] == 0
    assert run.results["cost"]["trainable_parameters"] == 0


# n-grams


def test_ngrams_need_no_model_and_find_japanese_without_spaces(tmp_path):
    rows = [{"text": f"{word}について{i}件目の質問です", "label": word} for i in range(12) for word in ("返品", "請求")]
    recipe = migaki.Recipe(task="classify_text", model="hf:no/such", data={"train": rows}, method="tfidf")
    run = migaki.train(recipe, tmp_path / "runs")
    assert run.metrics["accuracy"].value == 1
    assert run.predict(["請求の件"])[0].output == "請求"
    assert run.results["cost"]["trainable_parameters"] > 100


def test_ngram_scores_are_those_of_scikit_learn(tmp_path):
    """Counted and weighed here once more, by scikit-learn's own pipeline of the stated settings."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    rows = labelled(40)
    learner = settled(classifier(tmp_path, Tfidf(penalty=0.1), rows), rows)
    texts, labels = [r.content.text for r in rows.rows], [r.content.label for r in rows.rows]
    oracle = make_pipeline(
        make_union(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"),
            TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(1, 4)),
        ),
        LogisticRegression(C=10, max_iter=1000),
    ).fit(texts, labels)
    np.testing.assert_allclose(scores(learner, rows), oracle.predict_proba(texts), atol=1e-4)


def test_before_counting_the_shares_of_the_labels_are_the_answer(tmp_path):
    rows = labelled(31)
    learner = classifier(tmp_path, Tfidf(), rows)
    counts = Counter(row.content.label for row in rows.rows)
    np.testing.assert_allclose(scores(learner, rows)[0], [counts[label] / 31 for label in sorted(counts)], atol=1e-12)
