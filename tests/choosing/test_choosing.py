"""Models for rows and a machine: cards that are true, estimates by hand, an order with reasons."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from migaki.audit.look import subject_of
from migaki.choosing import Candidate, ModelCard, choose, model_cards
from migaki.choosing.choose import language_of
from migaki.choosing.estimate import METHODS, Estimate, Work, estimate, trained_parameters
from migaki.choosing.probing import probed, sample
from migaki.choosing.speed import Fit, Pass, Speed, measured_speed
from migaki.choosing.stand_in import StandIn
from migaki.cli import main
from migaki.core.errors import UsageError
from migaki.core.types import Dataset, Labelled, Place, Row, Splits
from tiny import labelled_rows

CARDS = {card.reference: card for card in model_cards()}


def line(start_s: float, token_s: float, pair_s: float = 0.0, **more: float) -> Pass:
    """A pass that costs so much at once and for every token."""
    return Pass((100, 1000), (start_s + 100 * token_s, start_s + 1000 * token_s), pair_s=pair_s, **more)


SPEED = Speed(
    forward=line(1e-3, 1e-6, 1e-9),
    exact=line(1e-3, 1e-6, 1e-9),
    lora=line(2e-3, 2e-6, 2e-9, start_bytes=1e6, token_bytes=5e4),
    full=line(3e-3, 3e-6, 3e-9, start_bytes=2e6, token_bytes=2e4),
    head_forward=line(0, 1e-9),
    head_lora=line(0, 2e-9),
    head_full=line(0, 3e-9),
    update_s=1e-9,
    clear_s=0.0,
    byte_s=0.0,
    fit=Fit(0.01, 1000.0, 1e-8),
    precision="float32",
)
PROCESS = 1000
BEGUN = PROCESS + 40 * 2**20
"""A process, and what it sets aside beside what is counted here."""
WORK = Work(train=[50] * 320, valid=[50] * 40, epochs=2, batch_size=16, labels=5)


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.reference)
def test_the_shapes_of_a_card_add_up_to_the_parameters_that_its_publisher_states(card):
    assert card.parameters / 1e6 == pytest.approx(card.millions, rel=0.02)
    assert card.licence


def test_a_card_that_is_at_hand_tells_what_the_model_itself_tells():
    from migaki.models import Model, locate
    from migaki.models.base import load_base

    card = CARDS["bundled:minilm"]
    base = load_base(locate(Model(reference=card.reference)), "encoder")
    config = base.model.config
    assert (card.layers, card.hidden, card.inner) == (
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
    )
    assert (card.vocabulary, card.context) == (config.vocab_size, config.max_position_embeddings)
    linear = {tuple(p.shape) for n, p in base.model.named_parameters() if p.ndim == 2 and ".layer." in n}
    assert set(card.linear_shapes) == linear


def test_the_cost_of_full_fine_tuning_is_worked_out_by_hand():
    card = CARDS["bundled:minilm"]
    found = estimate(card, "full", WORK, SPEED, PROCESS)
    # 6 blocks of 4 x 384^2 + 2 x 384 x 1536 weights and 30522 word vectors of 384, and a head of 385 x 5.
    matrices = 6 * (4 * 384**2 + 2 * 384 * 1536) + 30522 * 384
    assert found.trained == matrices + 385 * 5
    # Weights 4 bytes, gradient and AdamW's means 12, and two copies more while the start is judged: 20 for what is trained.
    assert found.peak_bytes == BEGUN + 4 * matrices + 20 * found.trained
    # 2 epochs of 20 steps of 16 rows, together 800 tokens; 3 looks at 40 rows, whose 2000 tokens are filled up to 2048.
    step = 3e-3 + 16 * 50 * 3e-6 + 16 * 50**2 * 3e-9
    look = 1e-3 + 2048 * 1e-6 + 40 * 50**2 * 1e-9
    assert found.seconds == pytest.approx(6 * (40 * step + 3 * look) + 40 * found.trained * 1e-9)


def test_the_first_pass_of_each_size_takes_longer():
    """16 rows of 50 tokens at every step are one size, and 40 rows that are judged another, between those measured."""
    card = CARDS["bundled:minilm"]
    slow = replace(SPEED.full, first_s=(0.1, 0.4)), replace(SPEED.forward, first_s=(0.2, 0.2))
    usual, longer = (
        estimate(card, "full", WORK, speed, 0).seconds
        for speed in (SPEED, replace(SPEED, full=slow[0], forward=slow[1]))
    )
    assert longer - usual == pytest.approx(0.1 + 0.3 * 700 / 900 + 0.2)


def test_a_second_group_of_a_step_finds_the_gradients_of_the_first_one():
    """Rows of 7000 tokens are computed alone, so that what one remembers lies scattered among the gradients of the one before."""
    card = CARDS["bundled:minilm"]
    one, several = (estimate(card, "full", Work([7000] * n, [50], epochs=1, batch_size=16), SPEED, 0) for n in (1, 16))
    assert several.peak_bytes - one.peak_bytes == 1.5 * 4 * one.trained


def test_what_the_adapters_remember_of_every_token_and_of_the_weights_is_worked_out_by_hand():
    card = CARDS["bundled:minilm"]
    found = estimate(card, "lora", WORK, SPEED, PROCESS)
    # 16 rows of 50 tokens are computed at once, in 6 blocks, and lie scattered over half as much again.
    remembered = 6 * (1_000_000 + 800 * 50_000)
    assert found.peak_bytes == BEGUN + 4 * card.parameters + 8 * found.trained + 1.5 * remembered


def test_kernels_stay_for_every_size_of_a_pass_until_there_are_a_thousand():
    """Steps of 16 rows of 50 tokens are one size, and 40 rows that are judged another."""
    card = CARDS["bundled:minilm"]

    def peak(lora: float, forward: float) -> int:
        ways = {"lora": replace(SPEED.lora, size_bytes=lora), "forward": replace(SPEED.forward, size_bytes=forward)}
        return estimate(card, "lora", WORK, replace(SPEED, **ways), PROCESS).peak_bytes

    assert peak(5_000_000, 300_000) - peak(0, 0) == 5_300_000
    assert peak(1e9, 0) - peak(0, 0) == 256 * 2**20


def longer(speed: Speed, method: str) -> float:
    """Seconds by which a training of MiniLM takes longer than at `SPEED`."""
    card = CARDS["bundled:minilm"]
    return estimate(card, method, WORK, speed, PROCESS).seconds - estimate(card, method, WORK, SPEED, PROCESS).seconds


def test_the_gradient_of_the_words_is_made_in_new_memory_in_every_pass():
    slow = replace(SPEED, clear_s=1e-9)
    assert longer(slow, "full") == pytest.approx(40 * 30522 * 384 * 1e-9)
    assert longer(slow, "lora") == 0


def test_memory_is_got_once_and_unchanged_weights_stay_in_their_file():
    card, slow = CARDS["bundled:minilm"], replace(SPEED, byte_s=1e-9)
    full, lora = (estimate(card, method, WORK, SPEED, PROCESS).peak_bytes - PROCESS for method in ("full", "lora"))
    assert longer(slow, "full") == pytest.approx(1e-9 * full)
    assert longer(slow, "lora") == pytest.approx(1e-9 * (lora - 4 * card.parameters))


def test_a_fitted_head_costs_a_pass_over_all_rows_and_the_regression():
    card = CARDS["bundled:minilm"]
    found = estimate(card, "probe", Work([50] * 40, [50] * 40, labels=5), SPEED, PROCESS)
    # 80 rows of 50 tokens in one pass, filled up to 4096; 40 rows of 384 numbers and 5 classes.
    assert found.seconds == pytest.approx(6 * (1e-3 + 4096e-6 + 80 * 50**2 * 1e-9) + 0.01 + 40 * 384 * 5 * 1e-8)
    # Of each of 4096 tokens two vectors and the inner part before and behind its activation, scattered; and what fits the head.
    tokens = 1.5 * 4096 * (2 * 4 * 384 + 2 * 4 * 1536)
    assert found.peak_bytes == BEGUN + 4 * card.parameters + tokens + 1000


def test_the_words_of_a_decoder_cost_what_its_targets_do():
    """20 of 50 tokens are learned: 2 epochs of 320 rows, 3 looks at 40 rows, each in one pass."""
    card = CARDS["bundled:smollm2"]
    without, with_words = (
        estimate(card, "lora", Work([50] * 320, [50] * 40, targets, epochs=2), SPEED, 0).seconds for targets in (0, 20)
    )
    words = 2 * 320 * 20 * 2e-9 + 3 * 40 * 20 * 1e-9
    assert with_words - without == pytest.approx(card.vocabulary * words)


def test_a_beginning_that_all_rows_share_is_computed_once_a_pass():
    """Of 16 rows of 50 tokens that begin with the same 30, 30 + 16 x 20 = 350, filled up to 352, are computed and not 800."""
    card = CARDS["bundled:smollm2"]
    alone, shared = (
        estimate(card, "lora", Work([50] * 16, [50] * 16, shared=n, epochs=1), SPEED, 0).seconds for n in (0, 30)
    )
    assert alone - shared == pytest.approx(30 * 448 * (2e-6 + 2 * 1e-6))


def test_rows_of_different_lengths_are_planned_in_groups_as_the_loop_does_it():
    """Eight rows of 60 and eight of 40 tokens are one pass of 800 where only attention is padded, to 16 x 60; where everything
    is, two passes of 480 and 320 are cheaper than one of 960."""
    card = CARDS["bundled:minilm"]
    work = Work([60, 40] * 8, [50] * 16, epochs=1)
    flat, padded = (estimate(card, "lora", work, replace(SPEED, flat=flat), 0).seconds for flat in (True, False))
    assert padded - flat == pytest.approx(6 * (2e-3 + 8 * (60**2 + 40**2) * 2e-9 - 16 * 60**2 * 2e-9))


def test_methods_cost_less_the_less_they_train():
    card = CARDS["bundled:minilm"]
    full, lora, frozen, probe = (estimate(card, kind, WORK, SPEED, 0) for kind in ("full", "lora", "frozen", "probe"))
    assert full.trained > frozen.trained > probe.trained
    assert full.peak_bytes > lora.peak_bytes > frozen.peak_bytes
    assert full.seconds > lora.seconds > frozen.seconds > probe.seconds


def test_lora_trains_as_many_parameters_as_the_method_itself(tiny_encoder):
    """Rank 8 beside every matrix of every block: 8 x (out + in) each."""
    from migaki.models import Model, locate
    from migaki.models.base import load_base
    from migaki.recipe import Recipe

    recipe = Recipe(task="classify_text", method="lora", data={"train": labelled_rows()}, model="bundled:minilm")
    train = recipe.data.load("labelled", 0).train
    base = load_base(locate(Model(reference="bundled:minilm")), "encoder")
    learner = recipe.method.prepare(base, recipe.task, train, 0)
    assert trained_parameters(CARDS["bundled:minilm"], "lora", len(learner.labels)) == learner.parameter_counts()[0]


def shrunk(card: ModelCard, **changes: object) -> ModelCard:
    return ModelCard.model_validate(card.model_dump() | changes)


SMALL = shrunk(CARDS["bundled:minilm"], reference="small", hidden=64, inner=128, heads=2, layers=2)
CHAT = shrunk(
    CARDS["bundled:smollm2"], reference="small chat", hidden=64, inner=128, heads=4, kv_heads=2, vocabulary=500
)


@pytest.mark.parametrize("card", [SMALL, CHAT], ids=["encoder", "decoder"])
def test_a_speed_is_measured_once_and_kept_for_the_machine(card, tmp_path, monkeypatch):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    monkeypatch.setattr("migaki.choosing.speed._UPDATED", 1 << 16)
    found = measured_speed(card)
    assert found.flat
    assert found.update_s > 0
    for one in (found.forward, found.lora, found.full):
        assert one.seconds(1024, 1024 * 32) > one.seconds(128, 128 * 32) > 0
    assert found.full.token_bytes > 0 == found.forward.token_bytes
    assert (found.head_full.seconds(256) > 0) == card.decodes
    assert found.fit.number_s > 0 < found.fit.start_bytes
    monkeypatch.setattr("migaki.choosing.speed._measure", None)
    assert measured_speed(card) == found


@pytest.mark.parametrize("family", sorted({card.family for card in CARDS.values()}))
def test_blocks_of_every_family_are_built_with_the_matrices_of_the_card(family):
    card = next(card for card in CARDS.values() if card.family == family)
    small = shrunk(
        card,
        hidden=64,
        inner=96,
        heads=4,
        kv_heads=card.kv_heads and 2,
        head_size=card.head_size and 16,
        context=512,
    )
    network = StandIn(small, 1)
    matrices = [p for name, p in network.backbone.named_parameters() if ".0." in name and p.ndim == 2]
    assert sum(p.numel() for p in matrices) == small.block_parameters
    network.adapted()([[3, 4, 5], [6, 7]]).sum().backward()
    assert network.backbone.get_input_embeddings().weight.grad is not None


def rows_in(tmp_path, texts):
    path = tmp_path / "mine.csv"
    lines = ["text,label", *(f"{text} {i},{'ab'[i % 2]}" for i, text in enumerate(texts))]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_japanese_rows_are_answered_with_models_that_speak_japanese(tmp_path, monkeypatch):
    monkeypatch.setattr("migaki.choosing.speed.measured_speed", lambda card: SPEED)
    path = rows_in(tmp_path, ["プリンターが動きません", "請求書の宛名を変えたい"] * 20)
    found = choose(subject_of(path), minutes=60, memory_bytes=16 << 30)
    assert found.language == "ja"
    first = found.candidates[0].card
    assert first.speaks("ja")
    order = [c.card.speaks("ja") for c in found.candidates]
    assert order == sorted(order, reverse=True)
    assert all("does not speak Japanese" in c.reason for c in found.candidates if not c.card.speaks("ja"))
    assert {c.card.tasks[0] for c in found.candidates} == {"classify_text"}


def test_what_does_not_fit_says_what_would_make_it_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("migaki.choosing.speed.measured_speed", lambda card: SPEED)
    path = rows_in(tmp_path, ["my screen is black"] * 40)
    small = choose(subject_of(path), minutes=60, memory_bytes=2 << 30)
    large = next(c for c in small.candidates if c.card.reference == "hf:intfloat/multilingual-e5-large")
    assert large.fits["full"].endswith("try lora, shorter texts, or training.batch_size: 8")
    hurried = choose(subject_of(path), minutes=1e-6, memory_bytes=64 << 30)
    assert all("fewer epochs" in c.fits["full"] for c in hurried.candidates)


def test_a_conversation_is_answered_with_chat_models(tmp_path, monkeypatch):
    monkeypatch.setattr("migaki.choosing.speed.measured_speed", lambda card: SPEED)
    path = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = choose(subject_of(str(path)), minutes=600, memory_bytes=64 << 30)
    assert found.candidates[0].card.reference == "bundled:smollm2"
    assert {e.method for e in found.candidates[0].estimates} == {"frozen", "lora", "full"}


def test_a_probe_orders_the_models_at_hand_by_what_their_features_reach(tmp_path, monkeypatch, tiny_encoder):
    """A random tiny model against MiniLM, on texts whose words differ but whose meaning does not."""
    monkeypatch.setattr("migaki.choosing.speed.measured_speed", lambda card: SPEED)
    card = tmp_path / "tiny.yaml"
    card.write_text(
        f"- {{reference: {tiny_encoder}, title: Tiny, family: bert, tasks: [classify_text], millions: 0.02, layers: 2, hidden: 32, "
        "inner: 64, heads: 2, vocabulary: 64, context: 64, languages: [en], licence: Apache-2.0}\n"
    )
    path = rows_in(tmp_path, ["the printer does not print", "where is my parcel"] * 30)
    found = choose(subject_of(path), minutes=60, memory_bytes=16 << 30, cards=card, probe=True)
    at_hand = [c for c in found.candidates if c.at_hand]
    assert {str(tiny_encoder), "bundled:minilm"} <= {c.card.reference for c in at_hand}
    values = [c.probed["value"] for c in at_hand]
    assert values == sorted(values, reverse=True)
    assert (
        found.candidates[0].probed["low"] <= found.candidates[0].probed["value"] <= found.candidates[0].probed["high"]
    )


def test_models_that_a_probe_cannot_tell_apart_are_one_group(monkeypatch):
    """90, 88 and 60 of 100 rows: 2 of 2 differing rows are chance, 30 of 30 are not."""
    hits = {"a": [1.0] * 60 + [0.0] * 40, "b": [1.0] * 90 + [0.0] * 10, "c": [1.0] * 88 + [0.0] * 12}
    monkeypatch.setattr("migaki.choosing.probing._hits", lambda candidate, rows: hits[candidate.card.reference])
    monkeypatch.setattr("migaki.choosing.probing.sample", lambda rows, n: rows)
    some = [
        Candidate(shrunk(CARDS["bundled:minilm"], reference=name), name != "d", (), {}, "")
        for name in ("d", "a", "b", "c")
    ]
    empty = Dataset("train", ())
    found = probed(some, Splits(empty, empty, empty))
    assert [c.card.reference for c in found] == ["b", "c", "a", "d"]
    assert [c.probed and (c.probed["value"], c.probed["group"]) for c in found] == [(0.9, 1), (0.88, 1), (0.6, 2), None]


def test_only_a_fitted_head_reads_features_in_float32():
    """One pass that costs a second more in each of MiniLM's six blocks: every pass of the probe, none of the others'."""
    card, slow = CARDS["bundled:minilm"], replace(SPEED, exact=line(1.0, 0.0))
    usual = replace(SPEED, exact=line(0.0, 0.0))
    slower = {m: estimate(card, m, WORK, slow, 0).seconds - estimate(card, m, WORK, usual, 0).seconds for m in METHODS}
    passes = slower.pop("probe") / 6
    assert passes == pytest.approx(round(passes))
    assert passes >= 1
    assert set(slower.values()) == {0.0}


@pytest.mark.parametrize(("probe_s", "rows"), [(30.0, 3000), (120.0, 2000), (1e9, 300)])
def test_all_models_are_probed_on_as_many_rows_as_the_slowest_one_reads_in_a_minute(monkeypatch, probe_s, rows):
    """Of 4,000 rows: two minutes for all are one for 2,000; never more than 3,000, never less than 300."""
    seen = []
    monkeypatch.setattr("migaki.choosing.probing._hits", lambda candidate, rows: seen.append(len(rows)) or [1.0])
    train = Dataset("train", tuple(Row(Place("x", i), Labelled(f"text {i}", "ab"[i % 2])) for i in range(4000)))
    some = [
        Candidate(CARDS["bundled:minilm"], at_hand, (Estimate("probe", 0, s, 0), Estimate("full", 0, 1e12, 0)), {}, "")
        for at_hand, s in ((True, probe_s / 2), (True, probe_s), (False, 1e12))
    ]
    probed(some, Splits(train, train, train))
    assert seen == [rows, rows]


def test_a_sample_keeps_the_share_of_each_label_and_at_least_two_rows():
    rows = [Row(Place("x", i), Labelled(f"text {i}", "rare" if i < 2 else "ab"[i % 2])) for i in range(402)]
    found = sample(rows, 100)
    counts = {label: sum(row.content.label == label for row in found) for label in ("rare", "a", "b")}
    assert counts["rare"] == 2
    assert abs(counts["a"] - 50) <= 1
    assert {row.content.text for row in sample(rows[::-1], 100)} == {row.content.text for row in found}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cards: 1\n", "is not a list of cards"),
        ("- {reference: a}\n", r"cards\.yaml:1: title"),
        (f"- {CARDS['bundled:minilm'].model_dump_json()}\n- {{reference: x, layers: no}}\n", r"cards\.yaml:2: "),
    ],
)
def test_a_card_that_cannot_be_used_is_named_with_its_line(tmp_path, text, words):
    path = tmp_path / "cards.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        model_cards(path)


def test_a_card_of_the_user_replaces_the_one_that_came_with_migaki(tmp_path):
    card = CARDS["bundled:minilm"].model_copy(update={"title": "Ours"})
    (tmp_path / "a.yaml").write_text(f"- {card.model_dump_json()}\n", encoding="utf-8")
    found = {c.reference: c for c in model_cards(tmp_path)}
    assert found["bundled:minilm"].title == "Ours"
    assert len(found) == len(CARDS)


def test_a_language_is_told_by_its_letters():
    assert language_of(["hello", "bonjour"]) == "en"
    assert language_of(["画面が真っ暗", "Windowsの更新", "hi"]) == "ja"


def test_the_command_ends_with_one_json_object(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("migaki.choosing.speed.measured_speed", lambda card: SPEED)
    path = rows_in(tmp_path, ["my screen is black"] * 40)
    assert main(["choose", "--data", path, "--minutes", "30", "--memory", "8", "--json"]) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    assert said["language"] == "en"
    assert said["candidates"][0]["model"] in ("bundled:minilm", "bundled:e5-small")  # what is at hand comes first
    assert any("Apache-2.0" in line for line in shown)
    assert {"peak_bytes", "seconds", "fits"} <= said["candidates"][0]["methods"]["full"].keys()
