"""Tagging: which token has which tag, what a long text becomes, and that answers are exact in the text's characters."""

# Shapes: B rows, T tokens, P judged tokens, D hidden, C tags

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
from migaki.core.errors import DataError, ModelError
from migaki.core.types import Dataset, Labelled, Place, Row, Span, Tagged, spans_from_text
from migaki.methods import Full, Lora, Probe
from migaki.tasks import TagTokens
from migaki.tasks.lengths import cut_spans_finding
from migaki.training.loop import accumulate_gradients
from sentences import tagged, tagged_rows
from tiny import save_encoder

RELATIVE = 1e-4


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


def rows_of(*texts: tuple[str, list[tuple[int, int, str]]]) -> Dataset:
    return Dataset(
        "train",
        tuple(
            Row(Place("texts", i), Tagged(text, tuple(Span(*span) for span in spans)))
            for i, (text, spans) in enumerate(texts, 1)
        ),
    )


def learner_for(folder: Path, rows: Dataset, method: Any = "full", **settings: Any) -> Any:
    return prepared(folder, TagTokens(**settings), method, rows)


def certain(network: Any, rows: Dataset) -> None:
    """Make the head say the right tag of each token: what is answered then shows how tags become characters."""
    wanted = [tag for e in network.encode(rows) for tag in e.labels if tag != -100]

    def forward(examples: Any) -> torch.Tensor:
        n = sum(e.targets for e in examples)
        return torch.nn.functional.one_hot(torch.tensor(wanted[:n]), len(network.tags)).float() * 20

    network.forward = forward


def both(n: int) -> Dataset:
    """English and Japanese rows."""
    rows = [*tagged(n).rows, *tagged(n, "ja").rows]
    return Dataset("train", tuple(rows))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_loss_and_gradients_are_those_of_transformers_token_classification(accumulate, tiny_encoder):
    from transformers import BertForTokenClassification

    rows = both(8)
    learner = learner_for(tiny_encoder, rows)
    learner.train_mode(0.0)
    network = learner.network
    assert network.body.use_flat
    model = BertForTokenClassification.from_pretrained(tiny_encoder, num_labels=len(network.tags)).train()
    with torch.no_grad():
        network.head.weight.mul_(10)
        model.classifier.weight.copy_(network.head.weight)
        model.classifier.bias.copy_(network.head.bias)
    examples = list(learner.encode(rows))
    width = max(map(len, examples))
    ids_BT = torch.tensor([[*e.ids, *[0] * (width - len(e))] for e in examples])
    labels_BT = torch.tensor([[*e.labels, *[-100] * (width - len(e))] for e in examples])
    mask_BT = torch.tensor([[1] * len(e) + [0] * (width - len(e)) for e in examples])
    loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
    loss.backward()
    total = accumulate_gradients(learner, examples, 0.0, accumulate)
    assert total / sum(e.weight for e in examples) == pytest.approx(float(loss.detach()), rel=RELATIVE)
    wanted = {
        name.replace("bert.", "backbone.").replace("classifier.", "head."): p.grad
        for name, p in model.named_parameters()
    }
    found = gradients(learner)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        size = float(wanted[name].norm())
        assert float((gradient - wanted[name]).norm()) <= RELATIVE * size + 1e-7, name


def test_label_smoothing_is_that_of_torch(tiny_encoder):
    rows = tagged(6)
    learner = learner_for(tiny_encoder, rows)
    examples = list(learner.encode(rows))
    tags_P = torch.tensor([tag for e in examples for tag in e.labels if tag != -100])
    with torch.no_grad():
        wanted = F.cross_entropy(learner.network(examples), tags_P, label_smoothing=0.2, reduction="sum")
        assert float(learner.loss(examples, 0.2)) == pytest.approx(float(wanted))


def test_the_start_says_the_shares_of_the_tags(tiny_encoder):
    """Before training the probability of a tag is about its share among the tokens, one more of each counted."""
    rows = tagged(40)
    learner = learner_for(tiny_encoder, rows)
    tags_P = np.array([tag for e in learner.encode(rows) for tag in e.labels if tag != -100])
    share_C = (np.bincount(tags_P, minlength=5) + 1) / (len(tags_P) + 5)
    bias = learner.network.head.bias.detach().softmax(0).numpy()
    assert bias == pytest.approx(share_C, rel=1e-5)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder whose tokenizer knows the words of the sentences."""
    words = [row["text"] for language in ("en", "ja") for row in tagged_rows(60, language)]
    return save_encoder(tmp_path_factory.mktemp("reader"), words=words)


@pytest.mark.parametrize(
    ("language", "model", "units"),
    [
        ("en", "encoder", "tokens"),
        ("en", "encoder", "characters"),
        ("ja", "encoder", "characters"),
        ("en", "decoder", "tokens"),
        ("ja", "decoder", "tokens"),
        ("ja", "decoder", "characters"),
    ],
)
def test_what_the_tags_say_is_what_stands_in_the_file(language, model, units, tiny_encoder, tiny_decoder):
    """WordPiece and byte-level tokens, English and Japanese: right tags give the very characters of the rows."""
    rows = tagged(24, language)
    network = learner_for(tiny_encoder if model == "encoder" else tiny_decoder, rows, units=units).network
    for row in rows.rows:
        certain(network, Dataset("one", (row,)))
        (said,) = network.predict([row])
        assert said.spans == row.content.spans
        assert spans_from_text(said.output) == row.content.spans
        assert said.output == said.target


def test_a_tokenizer_that_normalises_shifts_nothing(tiny_encoder):
    """NFKC makes four characters of ㍿, one of the two of ｶﾞ, a digit of ①, VIII of Ⅷ and A of Ａ; each then is a token."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    text = "㍿Ａｋｉ の ①ｶﾞ  京都 Ⅷ"
    rows = rows_of((text, [(0, 4, "ORG"), (7, 8, "NUMBER"), (8, 10, "KANA"), (12, 14, "PLACE"), (15, 16, "NUMBER")]))
    said = [text[s.start : s.end] for s in rows.rows[0].content.spans]
    assert said == ["㍿Ａｋｉ", "①", "ｶﾞ", "京都", "Ⅷ"]
    network = learner_for(tiny_encoder, rows).network
    core = network.tokenizer.backend_tokenizer
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    ids = network.tokenizer(text)["input_ids"]
    assert len(ids) - 2 > len(text)
    certain(network, rows)
    # As a list, for the rows as they were tokenised before are still known.
    assert network.predict(list(rows.rows))[0].spans == rows.rows[0].content.spans


def test_every_character_that_is_seen_belongs_to_exactly_one_token(tiny_encoder, tiny_decoder):
    text = "Aki は 京都の㍿に、plays３つ。\n了解👩‍💻 é"
    for folder in (tiny_encoder, tiny_decoder):
        for units in ("tokens", "characters"):
            network = learner_for(folder, tagged(4), units=units).network
            ((_, _, places),) = network._tokenised([Row(Place("x", 1), Tagged(text, ()))])
            covered = [i for a, b in places for i in range(a, b)]
            inner = [i for i in covered if not text[i].isspace()]
            assert len(covered) == len(set(covered))
            assert set(inner) <= {i for i, ch in enumerate(text) if not ch.isspace()}
            assert sum(text[i] in "京都の了解" for i in inner) == sum(ch in "京都の了解" for ch in text)


def test_characters_are_tokenised_one_by_one_where_that_is_asked_for(tiny_encoder):
    text = "返品したい printer"
    found = {}
    for units in ("tokens", "characters"):
        network = learner_for(tiny_encoder, tagged(4), units=units).network
        ((_, _, places),) = network._tokenised([Row(Place("x", 1), Tagged(text, ()))])
        found[units] = [text[a:b] for a, b in places]
    assert max(map(len, found["tokens"])) > 1
    assert found["characters"][:5] == list("返品したい")
    assert "".join(found["characters"][5:]) == "printer"


def test_parts_that_cut_a_token_are_counted_and_named_with_what_is_left_of_them(tiny_encoder):
    """`printer` is one token of the tiny model: `print` inside it can at best be answered as the whole word, `er` not at all."""
    text = "the printer"
    rows = rows_of((text, [(4, 9, "VERB")]), (text, [(9, 11, "END")]), (text, [(4, 11, "THING")]))
    learner = learner_for(tiny_encoder, rows)
    examples = learner.encode(rows)
    assert learner.network.tokenizer.tokenize(text) == ["the", "printer"]
    assert [e.cut_spans for e in examples] == [
        ("texts:1: VERB 'print', at best 'printer'",),
        ("texts:2: END 'er', at best nothing",),
        (),
    ]
    finding = cut_spans_finding(examples, "train")
    assert finding is not None
    assert (finding.level, finding.count) == ("warning", 2)
    assert finding.message.startswith("2 of 3 named parts of the train rows begin or end inside a token")
    assert "recall stays below 33.3%" in finding.message
    assert "task.units: characters" in finding.remedy
    assert cut_spans_finding(learner_for(tiny_encoder, tagged(4)).encode(tagged(4)), "train") is None


def long_row(n: int) -> Row:
    """A text of many times the model's length, with a name at every fifth word."""
    text, spans = "", []
    for i in range(n):
        word = "aki" if i % 5 == 2 else ("printer", "screen", "order", "my")[i % 4]
        if word == "aki":
            spans.append(Span(len(text), len(text) + 3, "PERSON"))
        text += f"{word} "
    return Row(Place("long", 1), Tagged(text.strip(), tuple(spans)))


def test_a_long_text_is_judged_whole_and_each_token_once(tiny_encoder):
    """The tiny model takes 64 tokens; this text has some 300."""
    row = long_row(200)
    rows = Dataset("train", (row, *tagged(6).rows))
    learner = learner_for(tiny_encoder, rows, overlap=20)
    network = learner.network
    examples = [e for e in learner.encode(rows) if e.row is row]
    ((ids, _, places),) = network._tokenised([row])
    assert len(ids) > 4 * network.room
    assert all(len(e) <= 64 for e in examples)
    assert sum(e.targets for e in examples) == sum(a < b for a, b in places)
    assert not any(e.truncated for e in examples)
    certain(network, Dataset("one", (row,)))
    assert network.predict([row])[0].spans == row.content.spans


def test_windows_answer_what_each_would_alone(tiny_encoder):
    """The loss of a long text is the sum over its windows, each computed alone by transformers on its own tokens."""
    row = long_row(120)
    rows = Dataset("train", (row, *tagged(6).rows))
    network = learner_for(tiny_encoder, rows, overlap=10).network
    network.eval()
    total = 0.0
    for example in network.encode(rows):
        if example.row is row:
            with torch.no_grad():
                hidden_TD = network.backbone(input_ids=torch.tensor([example.ids])).last_hidden_state[0]
                log_p = network.head(hidden_TD).double().log_softmax(-1)
            total -= sum(float(log_p[t, tag]) for t, tag in enumerate(example.labels) if tag != -100)
    (said,) = network.predict([row])
    assert said.loss == pytest.approx(total, rel=1e-5)


def test_a_smaller_window_changes_answers_only_through_what_is_seen(tiny_encoder):
    rows = tagged(8)
    whole = learner_for(tiny_encoder, rows).network
    wide = learner_for(tiny_encoder, rows, max_length=40).network
    assert [p.loss for p in whole.predict(rows.rows)] == pytest.approx(
        [p.loss for p in wide.predict(rows.rows)], rel=1e-5
    )
    with pytest.raises(ModelError, match="leaves no room beside special tokens"):
        learner_for(tiny_encoder, rows, max_length=2)
    with pytest.raises(ModelError, match="takes at most 64 tokens"):
        learner_for(tiny_encoder, rows, max_length=65)


def test_a_text_without_any_token_is_refused_in_training_and_answered_with_nothing(tiny_encoder):
    from tokenizers import Regex, normalizers

    rows = tagged(6)
    learner = learner_for(tiny_encoder, rows)
    learner.network.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("​"), "")
    empty = Row(Place("texts", 9), Tagged("​", ()))
    with pytest.raises(DataError, match="texts:9: the tokenizer makes no token of"):
        learner.encode(Dataset("train", (*rows.rows, empty)))
    (said,) = learner.predict([Row(Place("texts", 9), Tagged("​", None))])
    assert (said.spans, said.target, said.loss) == ((), None, None)
    assert learner.predict([]) == []


def test_texts_of_another_task_have_one_vector_each(tiny_encoder):
    """Forgetting is measured on topics: texts with one label."""
    learner = learner_for(tiny_encoder, tagged(4))
    rows = [
        Row(Place("x", i), Labelled(text, "a")) for i, text in enumerate(("my screen", "the order has not arrived"))
    ]
    found_ND = learner.features(rows)
    with torch.no_grad():
        ids = torch.tensor([learner.network.tokenizer("my screen")["input_ids"]])
        wanted_D = learner.network.backbone(input_ids=ids).last_hidden_state[0, 1:-1].mean(0)
    assert found_ND.shape == (2, 32)
    np.testing.assert_allclose(found_ND[0], wanted_D, atol=1e-5)


def test_tokens_are_kept_under_the_tokenizer_the_texts_and_the_units(tiny_encoder, tmp_path):
    rows = tagged(6)
    cache = tmp_path / "cache" / "tokens"
    made = []
    for units in ("tokens", "characters", "tokens"):
        learner_for(tiny_encoder, rows, units=units).encode(rows)
        made.append(len(list(cache.iterdir())))
    assert made == [1, 2, 2]
    learner_for(tiny_encoder, tagged(7)).encode(tagged(7))
    assert len(list(cache.iterdir())) == 3


def test_a_row_is_shown_with_its_parts_as_the_tokens_say_them(tiny_encoder):
    rows = rows_of(("Aki has the printer", [(0, 3, "PERSON"), (12, 17, "THING")]))
    learner = learner_for(tiny_encoder, rows)
    assert learner.marked(learner.encode(rows)[0]) == [
        ("Aki/PERSON", True),
        (" has the ", False),
        ("printer/THING", True),
    ]


def test_the_regression_on_tokens_finds_the_parts_of_both_languages(reader, tmp_path):
    rows = [*tagged_rows(60), *tagged_rows(60, "ja")]
    recipe = {
        "task": {"kind": "tag_tokens", "units": "characters"},
        "data": {"train": rows},
        "model": str(reader),
        "method": "probe",
        "generality": "off",
    }
    run = migaki.train(recipe, tmp_path / "runs")
    assert run.metrics["f1"].value > 0.8
    assert run.baseline["f1"].value == 0.0


def test_full_fine_tuning_finds_the_parts_of_both_languages(reader, tmp_path):
    rows = [*tagged_rows(64), *tagged_rows(64, "ja")]
    recipe = {
        "task": {"kind": "tag_tokens", "units": "characters"},
        "data": {"train": rows},
        "model": str(reader),
        "method": "full",
        "training": {"epochs": 12, "batch_size": 16, "learning_rate": 5e-3},
        "generality": "off",
    }
    run = migaki.train(recipe, tmp_path / "runs")
    assert run.metrics["f1"].value > 0.9
    text = "7 東京都港区の鈴木の画面が真っ暗です。"
    (said,) = run.predict([text])
    assert {(text[s.start : s.end], s.label) for s in said.spans} == {("東京都港区", "PLACE"), ("鈴木", "PERSON")}
    assert all(0 < s.confidence <= 1 for s in said.spans if s.confidence is not None)
    lines = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    hits, counted = (sum(line["part"][i] for line in lines) for i in (0, 1))
    assert hits / counted == pytest.approx(run.metrics["f1"].value)
    data = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    assert set(data["labels"]) == {"PERSON", "PLACE"}


def test_a_table_with_predictions_holds_the_parts_in_characters(reader, tmp_path):
    from migaki.cli import main

    recipe = {"task": "tag_tokens", "data": {"train": tagged_rows(60)}, "model": str(reader), "method": "probe"}
    migaki.train({**recipe, "generality": "off"}, tmp_path / "runs")
    given = tmp_path / "new.jsonl"
    given.write_text('{"text": "7 in Oslo the printer of Dora does not print", "id": 7}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    assert main(["predict", "1", "--input", str(given), "--output", str(out), "--runs", str(tmp_path / "runs")]) == 0
    row = json.loads(out.read_text(encoding="utf-8"))
    assert row["id"] == 7
    assert [(s["text"], s["label"]) for s in row["prediction"]] == [("Oslo", "PLACE"), ("Dora", "PERSON")]
    for span in row["prediction"]:
        assert row["text"][span["start"] : span["end"]] == span["text"]
        assert 0 < span["confidence"] <= 1


def test_the_head_of_a_probe_does_not_answer_tags_that_no_row_has(tiny_encoder):
    """Parts of one token only: no I- in the rows, so none in the answers."""
    rows = rows_of(*((f"{i} printer screen", [(len(f"{i} "), len(f"{i} ") + 7, "THING")]) for i in range(12)))
    learner = prepared(tiny_encoder, TagTokens(), Probe(), rows)
    learner.settle(learner.encode(rows), rows.rows, 0, lambda _: None)
    assert all(p.spans == row.content.spans for p, row in zip(learner.predict(rows.rows), rows.rows, strict=True))
    assert float(learner.network.head.bias[2]) < float(learner.network.head.bias[:2].min()) - 20


@pytest.mark.parametrize("method", [Full(), Lora(rank=2)], ids=lambda m: m.kind)
def test_hidden_tokens_change_what_is_seen_and_not_what_is_wanted(method, tiny_encoder):
    rows = tagged(4)
    learner = prepared(tiny_encoder, TagTokens(), method, rows)
    example = learner.encode(rows)[0]
    altered = learner.altered(example, 0.9, np.random.default_rng(0))
    assert altered.labels == example.labels
    assert (altered.ids[0], altered.ids[-1]) == (example.ids[0], example.ids[-1])
    assert altered.ids != example.ids


def test_a_decoder_that_adds_nothing_to_a_text_is_tagged_too(tiny_decoder):
    rows = tagged(6, "ja")
    network = learner_for(tiny_decoder, rows).network
    assert network.room == network.limit - len(network._before)
    assert len(network.predict(rows.rows)) == 6


def test_another_model_has_other_features(tiny_encoder, tmp_path):
    rows = tagged(6)
    found = []
    for folder in (tiny_encoder, save_encoder(tmp_path / "other", 7)):
        network = prepared(folder, TagTokens(), Probe(), rows).network
        found.append(network.head_rows(network.encode(rows))[0])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    base = base_from(tiny_encoder, "encoder")
    assert base.fingerprint
