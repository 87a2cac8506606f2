"""Two texts with one label: token types, cutting, and that every method sees both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import migaki
from learners import base_from, gradients, labelled, prepared
from migaki.core.errors import DataError
from migaki.core.types import Dataset, Labelled, Place, Row
from migaki.methods import Full, Probe, Retrieve, Tfidf
from migaki.tasks import ClassifyText, LabelText
from migaki.tasks.pairs import cut_pair, pair_form, shared_room
from migaki.training.loop import accumulate_gradients
from sentences import pair_rows, pairs

RELATIVE = 1e-4


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


def learner_for(folder: Path, rows: Dataset, method: Any = "full", **settings: Any) -> Any:
    return prepared(folder, ClassifyText(**settings), method, rows)


def swapped(rows: Dataset) -> Dataset:
    return Dataset(
        "train", tuple(Row(r.place, Labelled(r.content.pair, r.content.label, r.content.text)) for r in rows.rows)
    )


@pytest.mark.parametrize("flat", [True, False])
def test_loss_and_gradients_are_those_of_transformers_on_tokenised_pairs(flat, tiny_encoder):
    """With the tokenizer's own token types, of which the second text's have an embedding of their own."""
    from transformers import BertModel

    rows = pairs(9)
    learner = learner_for(tiny_encoder, rows, head="random")
    learner.train_mode(0.0)
    network = learner.network
    network.body.use_flat = flat
    model = BertModel.from_pretrained(tiny_encoder, add_pooling_layer=False).train()
    head = torch.nn.Linear(32, 2)
    with torch.no_grad():
        network.head.weight.mul_(10)
        head.load_state_dict(network.head.state_dict())
    batch = network.tokenizer(
        [row.content.text for row in rows.rows],
        [row.content.pair for row in rows.rows],
        padding=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    assert batch["token_type_ids"].max() == 1
    hidden_NTD = model(**batch).last_hidden_state
    mask_NT1 = batch["attention_mask"][..., None].float()
    labels_N = torch.tensor([learner.labels.index(row.content.label) for row in rows.rows])
    loss = F.cross_entropy(head((hidden_NTD * mask_NT1).sum(1) / mask_NT1.sum(1)), labels_N)
    loss.backward()
    examples = list(learner.encode(rows))
    total = accumulate_gradients(learner, examples, 0.0, 1)
    assert total / len(rows) == pytest.approx(float(loss.detach()), rel=RELATIVE)
    wanted = {f"backbone.{name}": p.grad for name, p in model.named_parameters()}
    found = gradients(learner)
    assert float(wanted["backbone.embeddings.token_type_embeddings.weight"][1].norm()) > 0
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm()) <= RELATIVE * float(gradient.norm()) + 1e-7, name


def test_which_text_is_first_matters(tiny_encoder):
    rows = pairs(6)
    learner = learner_for(tiny_encoder, rows, head="random")
    one, other = (np.array([p.scores for p in learner.predict(some.rows)]) for some in (rows, swapped(rows)))
    assert np.abs(one - other).max() > 1e-4


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 60))
def test_the_longer_text_is_cut_first_until_both_fit(first, second, room):
    kept = shared_room(first, second, room)
    assert sum(kept) == min(first + second, room)
    assert all(k <= n for k, n in zip(kept, (first, second), strict=True))
    if first + second > room:
        # Nothing is cut off the shorter one while the longer one is still the longer one.
        small, _ = sorted(zip((first, second), kept, strict=True))
        assert small[1] == min(small[0], room // 2)


@pytest.mark.parametrize("limit", [6, 9, 12, 20])
def test_a_long_pair_is_cut_as_the_tokenizer_cuts_it(limit, tiny_encoder):
    tokenizer = base_from(tiny_encoder, "encoder").tokenizer
    form = pair_form(tokenizer, 2)
    assert form is not None
    assert (form.before, form.between, form.behind, form.separator) == (1, 1, 1, tokenizer.sep_token_id)
    texts = ["the printer does not print", "my screen", "the order has not arrived please send the invoice again"]
    for first in texts:
        for second in texts:
            whole = tokenizer(first, second)
            n_second = sum(of == 1 for of in whole.sequence_ids(0))
            ids = whole["input_ids"]
            found = cut_pair(ids, n_second, form, limit) if len(ids) > limit else ids
            assert found == tokenizer(first, second, truncation="longest_first", max_length=limit)["input_ids"]


def test_cut_rows_are_counted_and_both_texts_keep_a_part(tiny_encoder):
    rows = pairs(8)
    learner = learner_for(tiny_encoder, rows, max_length=9, allow_truncated=1.0)
    examples = learner.encode(rows)
    sep = learner.network.tokenizer.sep_token_id
    assert any(e.truncated for e in examples)
    for example in examples:
        assert len(example) <= 9
        assert [int(i) for i in example.ids].count(sep) == 2


def test_a_decoder_without_separators_reads_the_texts_below_one_another(tiny_decoder):
    rows = pairs(4)
    learner = learner_for(tiny_decoder, rows)
    assert pair_form(learner.network.tokenizer, 0) is None
    row = rows.rows[0]
    wanted = learner.network.tokenizer(f"{row.content.text}\n{row.content.pair}")["input_ids"]
    assert [int(i) for i in learner.encode(rows)[0].ids] == wanted


def test_the_token_that_parts_two_texts_must_not_stand_in_them(tiny_encoder):
    odd = Row(Place("pairs", 9), Labelled("a [SEP] b", "same", "c"))
    rows = Dataset("train", (*pairs(4).rows, odd))
    with pytest.raises(DataError, match=r"pairs:9: the text itself holds '\[SEP\]'"):
        learner_for(tiny_encoder, rows).encode(rows)


@pytest.mark.parametrize("method", [Full(), Tfidf()], ids=lambda m: m.kind)
def test_single_texts_and_pairs_are_not_taken_for_one_another(method, tiny_encoder):
    def made(rows: Dataset) -> Any:
        return (
            prepared(tiny_encoder, ClassifyText(), method, rows)
            if method.uses_base
            else method.prepare(None, ClassifyText(), rows, 0)
        )

    with pytest.raises(DataError, match=r"texts:1 has no second text, but the model is for pairs.*data\.text_pair"):
        made(pairs(6)).predict(labelled(3).rows)
    with pytest.raises(DataError, match="pairs:1 has a second text, but the model is for single ones"):
        made(labelled(6)).predict(pairs(3).rows)


def test_hiding_tokens_leaves_the_separator(tiny_encoder):
    rows = pairs(4)
    learner = learner_for(tiny_encoder, rows)
    example = learner.encode(rows)[0]
    sep, mask = learner.network.tokenizer.sep_token_id, learner.network.mask_id()
    altered = learner.altered(example, 0.99, np.random.default_rng(0))
    assert [i for i, t in enumerate(altered.ids) if t == sep] == [i for i, t in enumerate(example.ids) if t == sep]
    assert sum(t == mask for t in altered.ids) > len(example) // 2


def test_features_and_tokens_of_pairs_are_kept_apart_from_those_of_texts(tiny_encoder, tmp_path):
    single = Dataset("train", tuple(Row(r.place, Labelled(r.content.both, r.content.label)) for r in pairs(6).rows))
    for rows in (pairs(6), single, pairs(6)):
        network = learner_for(tiny_encoder, rows, Probe()).network
        network.kept_features(network.encode(rows))
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


@pytest.mark.parametrize("method", ["probe", "tfidf", "retrieve", "frozen"])
def test_every_method_needs_both_texts_and_uses_them(method, tiny_encoder, tmp_path):
    """Same or other thing: neither text alone says it. A run answers the same when it is loaded."""
    recipe = {
        "task": "classify_text",
        "data": {"train": pair_rows(120)},
        "model": str(tiny_encoder),
        "method": method,
        "training": {"epochs": 1},
        "generality": "off",
    }
    run = migaki.train(recipe, tmp_path / "runs")
    if method != "frozen":
        assert run.metrics["accuracy"].value > 0.8
    asked = [{"text": row["text"], "text_pair": row["text_pair"]} for row in pair_rows(6)]
    loaded = migaki.load(1, tmp_path / "runs").predict(asked)
    assert [p.scores for p in run.predict(asked)] == [pytest.approx(p.scores, rel=1e-5) for p in loaded]
    line = json.loads((run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["text_pair"]
    data = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    assert data["columns"] == {"text": "text", "text_pair": "text_pair", "label": "label"}
    with pytest.raises(DataError, match="has no second text"):
        run.predict(["alone"])


def test_rows_that_are_looked_up_are_pairs_too(tiny_encoder):
    rows = pairs(12)
    learner = prepared(tiny_encoder, ClassifyText(), Retrieve(neighbours=3), rows)
    learner.settle(learner.encode(rows), rows.rows, 0, lambda _: None)
    passage = learner.index.passages[0]
    assert (passage.text, passage.pair) == (rows.rows[0].content.text, rows.rows[0].content.pair)
    np.testing.assert_allclose(learner.passage_vectors([passage]), learner.vectors(rows.rows[:1]), atol=1e-6)


def test_a_pair_may_have_several_labels(tiny_encoder, tmp_path):
    rows = [
        {"premise": r["text"], "hypothesis": r["text_pair"], "labels": [r["label"]] if i % 3 else []}
        for i, r in enumerate(pair_rows(60))
    ]
    recipe = {"task": LabelText().model_dump(), "data": {"train": rows}, "model": str(tiny_encoder), "method": "probe"}
    run = migaki.train({**recipe, "generality": "off"}, tmp_path)
    assert run.results["primary"] == "f1_micro"
    assert run.predict([{"premise": "a", "hypothesis": "b"}])[0].pair == "b"
