"""Retrieval: neighbours that vote, passages that are read, and an index that grows without training."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import migaki
from learners import base_from, conversations, labelled
from migaki.cli import main
from migaki.core.errors import DamagedError, DataError, ModelError, RecipeError, UsageError
from migaki.core.store import read_json
from migaki.core.types import Conversation, Dataset, Labelled, Place, Row, Turn
from migaki.methods import Retrieve
from migaki.methods.retrieval import _holds, fit_vote, votes
from migaki.recipe import Recipe, recipe_schema
from migaki.retrieval import Hit
from migaki.tasks import ClassifyText, Generate
from tiny import LABELS, chat_rows, labelled_rows, save_encoder, write_rows

MANUAL = "# Printer\n\nThe printer does not print without paper. Open the front and fill it.\n\n" + (
    "# Password\n\nReset your password in the account settings.\n\n# 返品\n\n返品は三十日以内にお願いします。\n"
)


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> Any:
    return base_from(tiny_encoder, "encoder")


@pytest.fixture(scope="module")
def decoder(tiny_decoder: Path) -> Any:
    return base_from(tiny_decoder, "decoder")


def settled(learner: Any, train: Dataset, valid: Dataset | None = None) -> Any:
    """A learner with its index made, and what it said of it in `facts`."""
    learner.facts = learner.settle(learner.encode(train), (valid or train).rows, 0, lambda _: None)
    return learner


def voting(encoder: Any, train: Dataset, task: ClassifyText | None = None, **settings: Any) -> Any:
    return settled(Retrieve(**settings).prepare(encoder, task or ClassifyText(), train, 0), train)


def reading(decoder: Any, train: Dataset, task: Generate | None = None, **settings: Any) -> Any:
    return settled(Retrieve(**settings).prepare(decoder, task or Generate(max_new_tokens=4), train, 0), train)


def texts(*pairs: tuple[str, str | None], source: str = "texts") -> Dataset:
    rows = (Row(Place(source, i), Labelled(text, label)) for i, (text, label) in enumerate(pairs, 1))
    return Dataset("train", tuple(rows))


def asked(*pairs: tuple[str, str | None], source: str = "chats") -> Dataset:
    rows = []
    for i, (question, answer) in enumerate(pairs, 1):
        turns = (Turn("user", question), *([Turn("assistant", answer)] if answer else []))
        rows.append(Row(Place(source, i), Conversation(turns)))
    return Dataset("train", tuple(rows))


# The settings


@pytest.mark.parametrize(
    "settings",
    [
        {"index": "bm25"},
        {"neighbours": 0},
        {"passages": 0},
        {"chunk": 10},
        {"chunk": 100, "overlap": 51},
        {"prompt": "{question}"},
        {"documents": " "},
        {"encoder": "run:1"},
        {"encoder": "bundled:none"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_used_is_refused(settings):
    with pytest.raises(ValidationError):
        Retrieve(**settings)


@pytest.mark.parametrize(
    ("settings", "labelled_way", "asked_way"),
    [
        ({}, "hybrid", "sparse"),
        ({"index": "sparse"}, "sparse", "sparse"),
        ({"index": "dense"}, "dense", "method.index: dense needs a model that makes vectors"),
        ({"encoder": "bundled:minilm"}, "method.encoder: is for generation", "hybrid"),
        ({"encoder": "bundled:minilm", "index": "dense"}, "method.encoder: is for generation", "dense"),
        (
            {"encoder": "bundled:minilm", "index": "sparse"},
            "method.encoder: is",
            "method.encoder: index: sparse uses no",
        ),
        ({"documents": "manual"}, "method.documents: is for generation", "sparse"),
    ],
    ids=str,
)
def test_how_passages_are_found_follows_from_the_task_and_the_encoder(settings, labelled_way, asked_way):
    for task, wanted in ((ClassifyText(), labelled_way), (Generate(), asked_way)):
        try:
            found = Retrieve(**settings).way(task)
        except RecipeError as error:
            found = str(error)
        assert wanted in found


def test_documents_are_looked_for_beside_the_recipe(tmp_path):
    values = {"task": "generate", "data": {"train": "a.jsonl"}, "method": {"kind": "retrieve", "documents": "docs"}}
    assert Recipe.from_mapping(values, tmp_path).method.documents == str(tmp_path / "docs")  # type: ignore[attr-defined]


def test_an_encoder_may_be_written_as_a_word_or_as_settings_and_editors_know_both():
    jsonschema = pytest.importorskip("jsonschema")
    for encoder in ("bundled:minilm", {"reference": "bundled:minilm"}, None):
        values = {"task": "generate", "data": {"train": "a.jsonl"}, "method": {"kind": "retrieve", "encoder": encoder}}
        jsonschema.validate(values, recipe_schema())
        found = Recipe.from_mapping(values).method.encoder  # type: ignore[attr-defined]
        assert (found and found.reference) == (encoder and "bundled:minilm")


# The vote


def test_the_weight_of_a_vote_by_hand():
    """exp(0), exp(-1), exp(-4): similarities 0.9, 0.8 and 0.5 at temperature 0.1."""
    hits = [Hit(0, 0.9), Hit(1, 0.8), Hit(2, 0.5)]
    total = 1 + math.exp(-1) + math.exp(-4)
    assert votes(hits, 0.1) == pytest.approx([1 / total, math.exp(-1) / total, math.exp(-4) / total])
    assert votes([Hit(0), Hit(1), Hit(2)], None) == pytest.approx([6 / 11, 3 / 11, 2 / 11])


def test_the_vote_has_the_smallest_loss_of_all_temperatures_and_doubts():
    """Near neighbours are right more often than far ones; every combination is tried here on its own."""
    rng = np.random.default_rng(0)
    found, right = [], []
    for _ in range(40):
        similarity_K = np.sort(rng.uniform(0.2, 0.9, 6))[::-1]
        found.append([Hit(i, float(s)) for i, s in enumerate(similarity_K)])
        right.append(rng.random(6) < similarity_K)

    def loss(temperature: float, doubt: float) -> float:
        losses = []
        for hits, right_K in zip(found, right, strict=True):
            weight_K = [math.exp(hit.similarity / temperature) for hit in hits]
            share = sum(w for w, r in zip(weight_K, right_K, strict=True) if r) / sum(weight_K)
            losses.append(-math.log((1 - doubt) * share + doubt / 5))
        return float(np.mean(losses))

    temperatures = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.5)
    doubts = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    wanted = min(((t, d) for t in temperatures for d in doubts), key=lambda pair: loss(*pair))
    vote = fit_vote(found, right, 5)
    assert (vote.temperature, vote.doubt) == wanted


def test_probabilities_are_those_of_the_vote_and_none_is_zero(encoder):
    """Words alone: "black" stands in rows 1 and 3, at equal length, so ranks 1 and 2 vote 2/3 to 1/3."""
    train = texts(("black screen", "a"), ("late parcel", "b"), ("black printer", "c"), ("my invoice", "b"))
    learner = voting(encoder, train, index="sparse")
    assert learner.facts["temperature"] is None
    doubt = learner.vote.doubt
    (one, none) = learner.predict(texts(("black!", "c"), ("unknown", None), source="new").rows)
    assert one.scores == pytest.approx([(1 - doubt) * 2 / 3 + doubt / 3, doubt / 3, (1 - doubt) / 3 + doubt / 3])
    assert (one.output, one.confidence) == ("a", one.scores[0])
    assert one.loss == pytest.approx(-math.log(one.scores[2]))
    assert (one.sources, one.found_at) == (("texts:1", "texts:3"), 2)
    assert none.scores == pytest.approx([1 / 3] * 3)
    assert (none.loss, none.sources, none.found_at) == (None, (), None)


def test_class_weights_let_rare_labels_count_more(encoder):
    """a has three rows, b one: balanced they weigh 2/3 and 2. The ranks 1, 2 and 3 vote 6, 3 and 2: 6 + 2 for a, 3 for b
    by themselves, and 16/3 for a and 6 for b weighted."""
    train = texts(("printer", "a"), ("printer x", "b"), ("printer x y", "a"), ("else", "a"))
    for weights, wanted in (("none", "a"), ("balanced", "b")):
        learner = voting(encoder, train, ClassifyText(class_weights=weights), index="sparse")
        (found,) = learner.predict(texts(("printer", None), source="new").rows)
        share_b = {"none": 3 / 11, "balanced": 6 / (6 + 16 / 3)}[weights]
        assert found.output == wanted
        assert found.scores[1] == pytest.approx((1 - learner.vote.doubt) * share_b + learner.vote.doubt / 2)


@pytest.mark.parametrize("index", ["dense", "hybrid"])
def test_neighbours_by_vectors_are_the_nearest_texts(encoder, index):
    learner = voting(encoder, labelled(30), index=index, neighbours=3)
    rows = texts(*((f"the printer does not print {i}", "technical") for i in range(4)), source="new").rows
    vectors_ND, queries_QD = (
        learner.network.kept_features(learner.network.inputs(r)) for r in (labelled(30).rows, rows)
    )
    cosine_QN = (queries_QD @ vectors_ND.T) / np.outer(*(np.linalg.norm(x, axis=1) for x in (queries_QD, vectors_ND)))
    for row_N, hits in zip(cosine_QN, learner.find(rows), strict=True):
        assert len(hits) == 10
        if index == "dense":
            assert [row_N[hit.number] for hit in hits] == pytest.approx(sorted(row_N, reverse=True)[:10], abs=2e-5)
        assert [hit.similarity for hit in hits] == pytest.approx([row_N[hit.number] for hit in hits], abs=2e-5)


@pytest.mark.parametrize("index", ["sparse", "hybrid"])
def test_a_row_never_finds_itself_nor_a_copy_of_itself(encoder, index, tmp_path, monkeypatch):
    """The same file is `rows.csv` here and its whole path in the index; a copy is another row with its text and label."""
    monkeypatch.chdir(tmp_path)
    pairs = [("the printer does not print", "a"), ("the printer does print", "b"), ("a printer", "c")]
    learner = voting(encoder, texts(*pairs, source=str(tmp_path / "rows.csv")), index=index)
    for source in ("rows.csv", "copies.csv"):
        for i, prediction in enumerate(learner.predict(texts(*pairs, source=source).rows), 1):
            assert prediction.sources
            assert f"{tmp_path / 'rows.csv'}:{i}" not in prediction.sources
    # The same text with another label, or without one, is another row.
    (other,) = learner.predict(texts(("a printer", "a"), source="new").rows)
    assert other.sources[0] == f"{tmp_path / 'rows.csv'}:3"


# What the generator reads


def prompt_of(learner: Any, question: str, room: int = 4) -> str:
    turns = learner._with_passages((Turn("user", question),), room)
    return str(turns[-1].content)


def test_the_passages_found_stand_before_the_question_in_its_language(decoder):
    train = asked(("How do I print?", "Press print."), ("返品したい", "三十日以内です。"), ("hello", "hi"))
    learner = reading(decoder, train, passages=1)
    assert prompt_of(learner, "print") == (
        "Answer the question with the help of these passages. What they do not say, answer as you know it.\n\n"
        "[1] How do I print?\nPress print.\n\nQuestion: print"
    )
    assert prompt_of(learner, "返品は?").startswith("次の資料を参考にして")
    assert prompt_of(learner, "返品は?").endswith("[1] 返品したい\n三十日以内です。\n\n質問: 返品は?")
    assert prompt_of(learner, "nothing like it") == "nothing like it"


def test_a_prompt_of_ones_own_is_taken_as_it_is(decoder):
    train = asked(("print {x}?", "Press {print} {question}."))
    learner = reading(decoder, train, prompt="{question} <- {passages}")
    assert prompt_of(learner, "print {passages}") == "print {passages} <- [1] print {x}?\nPress {print} {question}."


def test_only_the_last_question_is_looked_up_and_the_turns_before_stay(decoder):
    learner = reading(decoder, asked(("print", "paper"), ("screen", "black")), passages=1)
    turns = (Turn("system", "be brief"), Turn("user", "screen"), Turn("assistant", "ok"), Turn("user", "print"))
    shown = learner._with_passages(turns, 4)
    assert shown[:3] == turns[:3]
    assert "[1] print\npaper" in shown[3].content
    assert "black" not in shown[3].content


@pytest.mark.parametrize("limit", [256, 120, 70, 40])
def test_prompt_and_answer_fit_the_limit_and_the_last_passage_is_cut_to_it(decoder, limit):
    train = asked(*((f"printer {i}", f"{i} " + "paper and ink for it " * (2 + i)) for i in range(4)))
    task = Generate(max_length=limit, max_new_tokens=6, allow_truncated=1.0)
    learner = reading(decoder, train, task, passages=3)
    network = learner.network
    assert network.limit == limit
    question = (Turn("user", "printer"),)
    bare = len(network.chat.prompt(question))
    for room in range(0, limit - bare, 3):
        used = len(network.chat.prompt(learner._with_passages(question, room)))
        assert used + room <= limit
        # What is left is less than 20 characters of another passage and what frames them take, or all stand there.
        whole = used == len(network.chat.prompt(learner._with_passages(question, -10_000)))
        assert whole or limit - room - used <= 32 or used == bare
    # As it is computed: no row with passages is longer than the limit, and none loses a target.
    rows = asked(*((f"printer {i}", "paper " * i) for i in range(1, 6)), source="new").rows
    plain, shown = Retrieve().prepare(decoder, task, train, 0).network.inputs(rows), network.inputs(rows)  # type: ignore[attr-defined]
    assert [e.targets for e in shown] == [e.targets for e in plain]
    assert not any(e.truncated for e in shown)
    if limit == 256:
        assert all(len(a) > len(b) for a, b in zip(shown, plain, strict=True))


def test_a_question_that_leaves_no_room_is_asked_without_passages(decoder):
    learner = reading(decoder, asked(("printer", "paper")), Generate(max_length=60, max_new_tokens=4))
    question = "printer " * 20
    assert prompt_of(learner, question) == question


def test_a_row_never_reads_its_own_answer_nor_that_of_a_row_that_asks_the_same(decoder):
    train = asked(("printer?", "first"), ("printer?", "second"), ("a printer", "third"))
    learner = reading(decoder, train)
    for rows in (train.rows, asked(("printer?", "first"), ("printer?", "second"), source="copies").rows):
        found = learner.predict(rows, answers=0)
        assert [p.sources for p in found[:2]] == [("chats:3",), ("chats:3",)]
    # Whoever only asks does find the answers.
    (only,) = learner.predict(asked(("printer?", None), source="new").rows, answers=0)
    assert only.sources == ("chats:1", "chats:2", "chats:3")
    assert "first" in prompt_of(learner, "printer?")


def test_the_loss_is_that_of_a_row_with_the_passages_written_into_it(decoder):
    train = conversations(8)
    learner = reading(decoder, train)
    rows = [Row(Place("new", row.place.line), row.content) for row in conversations(12).rows[8:]]
    written = []
    for row in rows:
        *_, question, answer = row.content.turns
        # 8 tokens are kept for what frames the answer.
        n_answer = len(learner.network.tokenizer(answer.content)["input_ids"]) + 8
        shown = learner._with_passages((question,), n_answer)
        written.append(Row(row.place, Conversation((*shown, answer))))
    plain = Retrieve().prepare(decoder, Generate(), train, 0)
    wanted = [p.loss for p in plain.network.predict(written, answers=0)]  # type: ignore[attr-defined]
    assert [p.loss for p in learner.predict(rows, answers=0)] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("Press “Print”, then wait.", "print then", True),
        ("Printing costs 5 yen", "print", False),
        ("ＡＢＣ 12", "abc 12", True),
        ("返品は三十日\n以内です。", "三十日以内", True),
        ("返品は三十日", "十一日", False),
        ("anything", "…", False),
    ],
)
def test_an_answer_stands_in_a_passage_word_for_word_or_not(text, answer, held):
    assert _holds(text, answer) is held


# Before it learned


def test_untrained_is_the_base_and_afterwards_the_index_is_back(encoder, decoder):
    cases = [
        (voting(encoder, labelled(30)), ClassifyText().network(encoder, labelled(30), 0), labelled(6)),
        (
            reading(decoder, conversations(8)),
            Generate(max_new_tokens=4).network(decoder, conversations(8), 0),
            conversations(3),
        ),
    ]
    for learner, network, rows in cases:
        network.eval()
        learned = learner.predict(rows.rows)
        with learner.untrained():
            before = learner.predict(rows.rows)
        assert before == network.predict(rows.rows)
        assert before != learned
        assert learner.predict(rows.rows) == learned
        assert learner.parameter_groups() == []
        assert learner.parameter_counts()[0] == 0


def test_rows_are_encoded_without_what_is_found_for_them(decoder):
    train = conversations(4)
    learner = Retrieve().prepare(decoder, Generate(), train, 0)
    before = [e.ids for e in learner.encode(train)]
    assert [e.ids for e in settled(learner, train).encode(train)] == before


# Runs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_decoder: Path) -> Path:
    """Two runs: 1 classifies, 2 reads two documents, found by an encoder too."""
    home = tmp_path_factory.mktemp("retrieve")
    (home / "docs").mkdir()
    (home / "docs" / "manual.md").write_text(MANUAL, encoding="utf-8")
    (home / "docs" / "faq.csv").write_text("question,answer\nHow late may a parcel be?,Ten days.\n", encoding="utf-8")
    rows = [{**row, "label": "billing"} if i % 5 == 0 else row for i, row in enumerate(labelled_rows(60))]
    write_rows(home / "rows.jsonl", rows)
    write_rows(home / "chats.jsonl", chat_rows(20))
    (home / "1.yaml").write_text(
        f"task: classify_text\ndata: {{train: rows.jsonl}}\nmodel: {tiny_encoder}\nmethod: retrieve\n"
    )
    (home / "2.yaml").write_text(
        "task: {kind: generate, max_new_tokens: 4, generated_rows: 2}\ndata: {train: chats.jsonl, test: 0.3}\n"
        f"model: {tiny_decoder}\nmethod: {{kind: retrieve, documents: docs, encoder: {tiny_encoder}, chunk: 80, overlap: 0}}\n"
    )
    for number in (1, 2):
        assert main(["train", str(home / f"{number}.yaml"), "--runs", str(home / "runs")]) == 0
    return home


@pytest.fixture
def runs(home: Path, tmp_path: Path) -> Path:
    """The runs, to be added to and spoilt."""
    return Path(shutil.copytree(home / "runs", tmp_path / "runs"))


def told(run: migaki.Run) -> list[dict[str, Any]]:
    lines = (run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("number", [1, 2])
def test_a_saved_run_answers_exactly_as_it_did(home, number):
    run = migaki.load(number, home / "runs")
    again = run.evaluate()
    for p, row in zip(again.predictions, told(run), strict=True):
        assert (p.output, p.loss, p.confidence) == (row["output"], row["loss"], row["confidence"])
        assert list(p.sources) == row.get("sources", [])
    assert again.as_json()["metrics"] == run.results["metrics"]
    # Nothing but safetensors and text.
    names = {path.suffix for path in (run.path / "model").iterdir()}
    assert names <= {".json", ".jsonl", ".safetensors", ".jinja"}


def test_what_was_measured_beside_the_answers_stands_in_the_evaluation(home):
    classified, read = (migaki.load(number, home / "runs") for number in (1, 2))
    for run in (classified, read):
        found, rows = run.results["details"]["recall_at"], told(run)
        assert list(found) == ["1", "3", "5", "10"]
        for k, figure in found.items():
            assert figure["value"] == sum(0 < row["found_at"] <= int(k) for row in rows) / len(rows)
        assert "recall_at" not in run.results["baseline"]["details"]
        assert run.results["cost"]["trainable_parameters"] == run.results["cost"]["steps"] == 0
    assert read.results["baseline"]["name"] == "base, no passages shown"
    assert read_json(read.path / "model" / "retrieval.json")["way"] == "hybrid"


def test_another_run_cannot_start_from_it(home):
    with pytest.raises(ModelError, match=r"run:1 was trained by retrieve, which changes no weights .* Start\s+from /"):
        migaki.load(1, home / "runs").as_base("run:1")


def test_added_documents_are_found_after_reopening_and_what_was_measured_stays(runs, tmp_path):
    (tmp_path / "more.txt").write_text("A blue invoice costs three yen.", encoding="utf-8")
    run = migaki.load(2, runs)
    sealed = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert len(run.indexed()) == 3
    assert run.add(tmp_path / "more.txt") == 1
    assert len(run.indexed()) == 4
    run.check()
    assert {path: path.read_bytes() for path in sealed} == sealed

    again = migaki.load(2, runs)
    # Its own words: an untrained encoder too finds them nearest to themselves.
    (found,) = again.predict(["A blue invoice costs three yen."])
    assert found.sources[0] == f"{tmp_path / 'more.txt'}:1"
    with pytest.raises(DataError, match=r"All 1 passages of .*more\.txt are in the index already"):
        again.add(tmp_path / "more.txt")
    (tmp_path / "more.txt").write_text("A blue invoice costs three yen.\n\n" + "New words. " * 9, encoding="utf-8")
    assert again.add(tmp_path / "more.txt") == 2
    assert sorted(path.name for path in (again.path / "index").iterdir()) == ["0001", "0002"]


def test_added_rows_vote_after_reopening(runs, tmp_path):
    run = migaki.load(1, runs)
    new = "zebra zebra zebra"
    # An untrained encoder may find it near either label, so the rows to be added have the other one.
    before = run.predict([f"{new} 7"])[0].output
    label = next(label for label in LABELS if label != before)
    write_rows(tmp_path / "more.jsonl", [{"text": f"{new} {i}", "label": label} for i in range(25)])
    assert run.add(str(tmp_path / "more.jsonl")) == 25
    (found,) = migaki.load(1, runs).predict([f"{new} 7"])
    assert found.output == label
    assert all(source.startswith(str(tmp_path / "more.jsonl")) for source in found.sources)
    write_rows(tmp_path / "odd.jsonl", [{"text": "x", "label": "unheard"}])
    with pytest.raises(DataError, match=r"odd\.jsonl:1 has the label 'unheard', which run 0001-.* does not know"):
        run.add(tmp_path / "odd.jsonl")


@pytest.mark.parametrize(
    "file", ["index/0001/passages.jsonl", "index/0001/vectors.safetensors", "model/passages.jsonl"]
)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_damaged_index_is_noticed(runs, tmp_path, file, how):
    (tmp_path / "more.txt").write_text("A blue invoice costs three yen.", encoding="utf-8")
    run = migaki.load(2, runs)
    run.add(tmp_path / "more.txt")
    path = run.path / file
    if how == "missing":
        path.unlink()
    else:
        text = path.read_bytes()
        path.write_bytes(text[:-3] + bytes([text[-3] ^ 1]) + text[-2:])
    for use in (run.check, run.indexed, lambda: migaki.load(2, runs).predict(["printer"])):
        with pytest.raises(DamagedError, match=path.name):
            use()


def test_an_encoder_with_other_weights_is_refused(runs, tmp_path):
    other = save_encoder(tmp_path / "other", seed=1)
    run = migaki.load(2, runs)
    recipe = (run.path / "recipe.yaml").read_text()
    reference = run.recipe.method.encoder.reference  # type: ignore[attr-defined]
    (run.path / "recipe.yaml").write_text(recipe.replace(reference, str(other)))
    with pytest.raises(ModelError, match="has other weights now than when the index was made"):
        migaki.load(2, runs).predict(["printer"])


def test_documents_that_cannot_be_read_are_told_before_a_run_is_made(home, tmp_path, capsys):
    (tmp_path / "bad.txt").write_bytes(b"Gr\xf6\xdfe")
    arguments = ["train", str(home / "2.yaml"), "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "--set", f"method.documents={tmp_path / 'bad.txt'}"]) == 2
    assert "bad.txt:1: this document cannot be read as text" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# Commands


def test_the_index_is_listed_and_added_to_by_its_command(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("A blue invoice costs three yen.", encoding="utf-8")
    assert main(["index", "2", "--runs", str(runs)]) == 0
    before = capsys.readouterr().out.splitlines()
    assert before[0] == "3 passages of 2 sources"
    assert [line.split()[0] for line in before[1:]] == ["1", "2"]
    assert main(["index", "2", "--add", "more.txt", "--runs", str(runs)]) == 0
    after = capsys.readouterr().out.splitlines()
    assert after[0].startswith("1 passages added to run 0002-")
    assert after[1] == "4 passages of 3 sources"
    assert after[-1].split() == ["1", str(tmp_path / "more.txt")]


def test_a_run_without_an_index_says_so(finished_runs):
    run = migaki.load(1, finished_runs / "runs")
    for use in (run.indexed, lambda: run.add("x.txt")):
        with pytest.raises(UsageError, match="was trained by lora and has no index"):
            use()


def test_predictions_name_their_sources_and_every_other_command_works(home, tmp_path, capsys):
    place = ["--runs", str(home / "runs")]
    for number, column, text in ((1, "text", "parcel late"), (2, "prompt", "print paper")):
        (tmp_path / "in.csv").write_text(f"{column}\n{text}\n")
        assert (
            main(
                [
                    "predict",
                    str(number),
                    "--input",
                    str(tmp_path / "in.csv"),
                    "--output",
                    str(tmp_path / "o.csv"),
                    *place,
                ]
            )
            == 0
        )
        with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        assert list(row)[-1] == "sources"
        named = "manual.md:1" if number == 2 else "rows.jsonl:"
        assert named in row["sources"].split()[0]
        assert main(["evaluate", str(number), "--json", *place]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert "recall_at" in said["details"]
    assert main(["generate", "2", "--prompt", "print paper", *place]) == 0
    assert main(["data", "show", str(home / "2.yaml"), "--rows", "1", *place]) == 0
    (tmp_path / "in.csv").write_text("text,sources\na,b\n")
    assert main(["predict", "1", "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "o.csv"), *place]) == 2


def test_evaluating_the_training_rows_is_no_looking_up_of_their_own_labels(home, monkeypatch):
    """Each text stands once, so a row that found itself would be its own nearest neighbour."""
    monkeypatch.chdir(home)
    for prediction in migaki.load(1, home / "runs").evaluate("rows.jsonl").predictions:
        assert f"{home / 'rows.jsonl'}:{prediction.place.line}" not in prediction.sources


def test_a_task_that_is_neither_is_refused():
    class Other:
        kind, content_kind, one_label = "rank", "ranking", False

    assert "retrieve does not know how to look up for rank" in str(Retrieve().misfit(Other()))  # type: ignore[arg-type]
