"""Models of images and sounds for files and a machine: cards that are true, estimates by hand, an order with reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from migaki.audit.look import subject_of
from migaki.choosing import choose
from migaki.choosing.media import MediaWork, estimate_media, known_for, media_work
from migaki.choosing.media_cards import MediaCard, media_cards
from migaki.choosing.media_speed import Rate, measured_rate
from migaki.cli import main
from migaki.core.errors import UsageError
from migaki.models import BUNDLED
from pictures import write_images

CARDS = {card.reference: card for card in media_cards()}
RATE = Rate(forward_s=1e-12, through_s=2e-12, trained_s=3e-12, update_s=1e-9, bytes_a_number=2)
WORK = MediaWork("classify_image", train_rows=320, judged_rows=40, epochs=2, batch_size=16, labels=10)


@pytest.fixture(autouse=True)
def known_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migaki.choosing.media_speed.measured_rate", lambda family: RATE)


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.reference)
def test_the_shapes_of_a_card_add_up_to_the_parameters_that_its_publisher_states(card):
    assert card.parameters / 1e6 == pytest.approx(card.millions, rel=0.01)
    assert card.licence


@pytest.mark.parametrize(
    "card", [c for c in CARDS.values() if c.reference.startswith("bundled:")], ids=lambda c: c.title
)
def test_a_bundled_card_is_one_of_those_that_can_be_fetched_under_the_same_licence(card):
    assert BUNDLED[card.reference.removeprefix("bundled:")].licence == card.licence


def test_the_cost_of_each_method_on_a_vit_is_worked_out_by_hand():
    card = CARDS["hf:google/vit-base-patch16-224-in21k"]
    probe, frozen, lora, full = estimate_media(card, WORK, RATE, 1000)
    # 197 tokens through 4 x 768^2 + 2 x 768 x 3072 weights, and twice 197^2 x 768 in attention.
    block = 197 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 197**2 * 768
    whole, head = 12 * block + 196 * 768**2, 769 * 10
    # 320 train rows twice in 40 steps, 40 validation rows three times, and for probe and frozen all of them once.
    assert probe.seconds == pytest.approx(360 * whole * 1e-12)
    assert probe.trained == head
    matrices = 4 * 768**2 + 2 * 768 * 3072 + (4 * 768 + 3072 + 768) + 4 * 768
    assert frozen.trained == matrices + 2 * 768 + head
    below = 360 * (whole - block) * 1e-12
    assert frozen.seconds == pytest.approx(below + (640 * 3e-12 + 120 * 1e-12) * block + 40 * frozen.trained * 1e-9)
    assert lora.seconds == pytest.approx((640 * 2e-12 + 120 * 1e-12) * whole + 40 * lora.trained * 1e-9)
    assert full.trained == 85_798_656 + head
    assert full.seconds == pytest.approx((640 * 3e-12 + 120 * 1e-12) * whole + 40 * full.trained * 1e-9)
    # Weights 4 bytes; gradient and two means 12 for what is trained; 16 images at once, 2 bytes for each number.
    numbers = card.shapes("classify_image").whole.numbers
    at_once = min(16, 2**30 // (4 * numbers))
    assert full.peak_bytes == 1000 + 4 * 85_798_656 + 12 * full.trained + 2 * at_once * numbers


@pytest.mark.parametrize("card", known_for("classify_image"), ids=lambda card: card.title)
def test_methods_cost_less_the_less_they_train(card):
    probe, frozen, lora, full = estimate_media(card, WORK, RATE, 0)
    assert full.trained > max(frozen.trained, lora.trained)
    assert min(frozen.trained, lora.trained) > probe.trained > 0
    assert full.peak_bytes > lora.peak_bytes > probe.peak_bytes
    assert full.seconds > lora.seconds > frozen.seconds > probe.seconds


def test_factors_in_convolutions_cost_what_the_filters_themselves_do():
    """They are added to the filters before these are used."""
    small = MediaWork("classify_image", 160, 0, epochs=1, labels=2)
    _, _, lora, full = estimate_media(CARDS["hf:microsoft/resnet-50"], small, Rate(1e-12, 2e-12, 3e-12, 0.0, 4), 0)
    assert lora.seconds == full.seconds


def test_what_is_remembered_grows_with_the_length_of_a_recording():
    card = CARDS["bundled:whisper-base"]
    short, long = (
        estimate_media(card, MediaWork("classify_audio", 100, 20, seconds=s, labels=2), RATE, 0)[-1] for s in (1, 20)
    )
    assert long.peak_bytes > short.peak_bytes
    assert long.seconds > 20 * short.seconds - 20 * short.trained * RATE.update_s * 21
    assert long.trained == short.trained


def test_images_are_answered_with_what_is_at_hand_first_and_what_fits(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 30)
    monkeypatch.setattr("migaki.choosing.media_choice.is_at_hand", lambda name: name == "bundled:efficientnet-lite0")
    subject = subject_of(str(tmp_path / "images"), task="classify_image")
    found = choose(subject, minutes=60, memory_bytes=64 << 30)
    assert found.language == "any"
    assert found.candidates[0].card.reference == "bundled:efficientnet-lite0"
    assert {c.card.reference for c in found.candidates} == {card.reference for card in known_for("classify_image")}
    hurried = choose(subject, minutes=1e-9, memory_bytes=64 << 30)
    assert all("fewer epochs" in c.fits["full"] for c in hurried.candidates)
    small = choose(subject, minutes=60, memory_bytes=1 << 20)
    assert all("a smaller task.size" in c.fits["full"] for c in small.candidates)


def test_rows_are_counted_with_their_labels(tmp_path):
    write_images(tmp_path / "images", 30)
    subject = subject_of(str(tmp_path / "images"), task="classify_image")
    splits = subject.data.load(subject.content_kind, 0)
    work = media_work(splits, "any", subject)
    assert (work.train_rows, work.judged_rows, work.labels) == (len(splits.train), len(splits.valid), 3)


def test_transcripts_are_answered_with_models_that_write_their_language():
    cards = known_for("transcribe")
    assert {c.title for c in cards if c.speaks("ja")} >= {"Whisper base", "Kotoba-Whisper v2.0"}
    assert "wav2vec 2.0 base 960h" not in {c.title for c in cards if c.speaks("ja")}


def test_what_there_is_for_texts_alone_is_refused(tmp_path):
    write_images(tmp_path / "images", 30)
    subject = subject_of(str(tmp_path / "images"), task="classify_image")
    with pytest.raises(UsageError, match=r"--probe .*method: probe"):
        choose(subject, minutes=60, memory_bytes=1 << 30, probe=True)
    with pytest.raises(UsageError, match=r"--cards"):
        choose(subject, minutes=60, memory_bytes=1 << 30, cards=Path("x.yaml"))


def test_a_card_without_the_shapes_of_its_family_is_refused():
    with pytest.raises(ValidationError, match="a swin has to say its depths, widths, heads"):
        MediaCard(
            reference="x",
            title="x",
            family="swin",
            tasks=["classify_image"],
            millions=1,
            size=224,
            languages=["any"],
            licence="",
        )


def test_the_command_ends_with_one_json_object(tmp_path, capsys):
    write_images(tmp_path / "images", 30)
    words = ["choose", "--data", str(tmp_path / "images"), "--task", "classify_image", "--memory", "64", "--json"]
    assert main(words) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    assert {"peak_bytes", "seconds", "fits"} <= said["candidates"][0]["methods"]["full"].keys()
    assert not any("language by script" in line for line in shown)


def test_a_rate_is_measured_in_order():
    found = measured_rate("efficientnet_lite")
    assert 0 < found.forward_s < found.trained_s
    assert found.update_s > 0
