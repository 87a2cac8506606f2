"""Recordings with transcripts: models that write tokens and models that write letters, under every method that fits them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import migaki
import processes
from correctness.resuming import events, trained
from learners import base_from, stir
from migaki.core.errors import DataError, ModelError, RecipeError, TruncationError
from migaki.core.types import Dataset
from migaki.data import Data
from migaki.evaluation.transcription import joined
from migaki.methods import Frozen, Full, Lora, ZeroShot
from migaki.recipe import Recipe
from migaki.tasks import Transcribe
from odd_sounds import RATE_HZ, tone
from tiny_speech import WINDOW_S, save_wave, save_whisper

SAID = ("yes", "no", "press one")
FAMILIES = ("whisper", "wav2vec2", "wav2vec2-stable", "hubert")
METHODS: dict[str, Any] = {
    "zero_shot": "zero_shot",
    "frozen": {"kind": "frozen", "blocks": 1},
    "lora": {"kind": "lora", "rank": 2},
    "full": "full",
}
TRAINING = {"epochs": 2, "max_steps": 2, "batch_size": 8, "learning_rate": 1e-2, "precision": "float32"}
TRAINING |= {"keep_best_by": "loss"}


def record(folder: Path, n: int = 18, longest_s: float = 0.6, said: Sequence[str] = SAID) -> list[dict[str, str]]:
    """Tones, each pitch with its words, of different lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(n):
        kind, path = number % len(said), folder / f"{number:02d}.wav"
        seconds = longest_s - 0.04 * (number % 5)
        soundfile.write(path, tone(seconds, hertz=(2000.0, 250.0, 800.0)[kind] + 7 * number), RATE_HZ)
        rows.append({"file": str(path), "text": said[kind]})
    return rows


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model of every family."""
    folder = tmp_path_factory.mktemp("speech")
    save_whisper(folder / "whisper")
    for family in FAMILIES[1:]:
        save_wave(folder / family, family, ctc=True)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return record(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, models: Path) -> Path:
    return models / request.param


def read(rows: list[dict[str, str]], name: str = "train") -> Dataset:
    return Dataset(name, Data(train=rows).read(rows, "transcribed", need_target=True)[0].rows)


def task_for(model: Path, **settings: Any) -> Transcribe:
    return Transcribe(language="en" if model.name == "whisper" else None, max_new_tokens=6, **settings)


def network_of(model: Path, rows: Dataset, **settings: Any) -> Any:
    return task_for(model, **settings).network(base_from(model, "speech"), rows, 0).eval()


def recipe_of(model: Path, rows: list[dict[str, str]], method: Any, **training: Any) -> Recipe:
    return Recipe(
        task=task_for(model).model_dump(),
        model=str(model),
        data={"train": rows, "valid": 0.25, "test": 0.25},
        method=method,
        training={**TRAINING, **training},
    )


@pytest.fixture(scope="module")
def runs(models: Path, recordings: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of every family by every method, and its folder."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for family in FAMILIES:
        for name, method in METHODS.items():
            made = recipe_of(models / family, recordings, method)
            found[family, name] = migaki.train(made, runs=folder, new=True)
    return folder, found


LOAD = """
import json, sys
import migaki
found = {}
for name in json.loads(sys.argv[3]):
    run = migaki.load(name, runs=sys.argv[1])
    found[name] = [[p.output, p.confidence] for p in run.predict(json.loads(sys.argv[2]))]
print(json.dumps(found))
"""


def test_every_method_on_every_family_says_the_same_in_a_new_process(runs, recordings):
    folder, found = runs
    files = [row["file"] for row in recordings[:6]]
    said = {run.id: run.predict(files) for run in found.values()}
    out = processes.run(LOAD, folder, json.dumps(files), json.dumps([run.id for run in found.values()]))
    loaded = json.loads(processes.lines(out)[-1])
    for key, run in found.items():
        assert [p.output for p in said[run.id]] == [text for text, _ in loaded[run.id]], key
        confidences = [confidence for _, confidence in loaded[run.id]]
        np.testing.assert_allclose([p.confidence for p in said[run.id]], confidences, atol=1e-6, err_msg=str(key))


def test_what_is_trained_moves_and_lowers_the_loss_and_what_is_frozen_stays(runs):
    _, found = runs
    for (family, method), run in found.items():
        trained, total = (run.summary()[f"{kind}_parameters"] for kind in ("trainable", "total"))
        if method == "zero_shot":
            assert (trained, run.metrics) == (0, run.baseline), family
        else:
            assert (trained == total) == (method == "full"), (family, method)
            assert run.metrics["loss"].value < run.baseline["loss"].value, (family, method)


def test_both_error_rates_have_intervals_raw_and_normalised(runs):
    for run in runs[1].values():
        for name in ("wer", "cer", "wer_raw", "cer_raw", "exact_match", "looped"):
            figure = run.metrics[name]
            assert figure.low <= figure.value <= figure.high
        assert run.results["primary"] == "wer"
        assert {"value", "low", "high"} <= run.results["gain"].keys()


def test_frozen_trains_the_last_block_that_writes_and_what_stands_behind_it(models, recordings):
    train = read(recordings)
    for model, wanted in (
        ("whisper", ("model.decoder.layers.1.", "model.decoder.layer_norm.")),
        ("hubert", ("hubert.encoder.layers.1.", "lm_head.")),
        ("wav2vec2-stable", ("wav2vec2.encoder.layers.1.", "wav2vec2.encoder.layer_norm.", "lm_head.")),
    ):
        task, base = task_for(models / model), base_from(models / model, "speech")
        learner: Any = Frozen(blocks=1).prepare(base, task, train, 0)
        moved = {name for name, p in learner.network.backbone.named_parameters() if p.requires_grad}
        assert moved == {name for name, _ in base.model.named_parameters() if name.startswith(wanted)}, model


@torch.no_grad()
def test_what_was_heard_once_is_kept_and_changes_no_answer(family, recordings, monkeypatch, tmp_path):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    train = read(recordings)
    learner: Any = Frozen(blocks=1).prepare(base_from(family, "speech"), task_for(family), train, 0)
    learner.evaluation_mode()
    wanted = learner.predict(train.rows)
    examples = learner.encode(train)
    assert learner.settle(examples, train.rows, 5, lambda _: None)["activations_kept"]

    def never(entering: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(learner.network.body.ear, "embed", never)
    found = learner.predict(train.rows)
    assert [p.output for p in found] == [p.output for p in wanted]
    np.testing.assert_allclose([p.loss for p in found], [p.loss for p in wanted], rtol=1e-5)
    assert float(learner.loss(list(examples), 0.0)) == pytest.approx(sum(p.loss for p in wanted), rel=1e-4)


@torch.no_grad()
def test_a_recording_gets_the_same_transcript_and_loss_alone_and_beside_others(family, recordings):
    train = read(recordings[:6])
    network = network_of(family, train)
    together = network.predict(train.rows)
    alone = [network.predict([row])[0] for row in train.rows]
    assert [p.output for p in together] == [p.output for p in alone]
    np.testing.assert_allclose([p.loss for p in together], [p.loss for p in alone], rtol=1e-4)


def test_a_step_in_parts_has_the_gradient_of_the_step(family, recordings):
    """The loss is a sum over all targets, divided once: how rows are grouped changes nothing."""
    train = read(recordings[:5])
    learner: Any = Lora(rank=2).prepare(base_from(family, "speech"), task_for(family), train, 0)
    stir(learner)
    examples = list(learner.encode(train))
    parameters = [p for p in learner.network.parameters() if p.requires_grad]
    whole = torch.autograd.grad(learner.loss(examples, 0.0), parameters, allow_unused=True)
    parts = [torch.autograd.grad(learner.loss([e], 0.0), parameters, allow_unused=True) for e in examples]
    for g, *pieces in zip(whole, *parts, strict=True):
        if g is not None:
            torch.testing.assert_close(g, sum(pieces), rtol=1e-3, atol=1e-4)


def test_a_narrower_format_gives_nearly_the_same_loss(family, recordings):
    train = read(recordings[:6])
    learner: Any = Full().prepare(base_from(family, "speech"), task_for(family), train, 0)
    wanted = learner.predict(train.rows)
    learner.compute_in(torch.bfloat16)
    found = learner.predict(train.rows)
    np.testing.assert_allclose([p.loss for p in found], [p.loss for p in wanted], rtol=0.05)
    assert found != wanted


@pytest.fixture(scope="module")
def long_row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three and a half windows of tones, a pause after each second."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    second_N = np.concatenate([tone(0.8, hertz=500), np.zeros(RATE_HZ // 5, np.float32)])
    soundfile.write(path, np.concatenate([second_N * (0.5 + 0.1 * i) for i in range(round(3.5 * WINDOW_S))]), RATE_HZ)
    return {"file": str(path), "text": "yes"}


@torch.no_grad()
def test_a_recording_longer_than_the_window_is_written_piece_by_piece(models, recordings, long_row):
    rows = read([recordings[0], long_row], "test")
    network = network_of(models / "whisper", rows)
    short, long = network.predict(rows.rows)
    pieces = network._pieces_of_each(rows.rows)[1]
    assert len(pieces) == 4
    assert sum(len(piece.wave_N) for piece in pieces) == round(3.5 * WINDOW_S) * RATE_HZ
    texts = [network.pen.write(network.body.heard([piece]))[0].text for piece in pieces]
    assert long.output == joined(texts)
    assert (long.loss, long.targets) == (None, 0)
    assert short.loss is not None


def test_nothing_can_be_learned_from_a_recording_longer_than_the_window(models, recordings, long_row):
    rows = [*recordings[:5], long_row]
    learner: Any = Full().prepare(base_from(models / "whisper", "speech"), task_for(models / "whisper"), read(rows), 0)
    with pytest.raises(TruncationError, match=r"1 of 6 train recordings are longer than 2 s.*Cut them at pauses"):
        learner.encode(read(rows))
    assert [e.targets > 0 for e in learner.encode(read(rows, "test"))] == [True] * 5 + [False]


def test_a_transcript_that_the_model_cannot_write_is_named_with_its_place(models, recordings):
    rows = [recordings[0], {**recordings[1], "text": "press 1"}]
    network = network_of(models / "hubert", read(recordings))
    with pytest.raises(DataError, match=r"1 of 2 train transcripts.*data:2 \('press 1'\).*does not know \(1\)"):
        network.encode(read(rows))


def test_more_letters_than_positions_are_named_before_training(models, recordings):
    network = network_of(models / "wav2vec2", read(recordings))
    rows = [{**recordings[0], "text": "press one " * 9}]
    with pytest.raises(TruncationError, match=r"1 of 1 train transcripts are too long.*data:1 has 89 letters"):
        network.encode(read(rows))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("tfidf", r"tfidf counts words, and rows of transcribe are files; the floor there is method: zero_shot"),
        ("probe", r"probe chooses between labels, but transcribe writes answers; use lora, frozen, full or zero_shot"),
        ("reft", r"reft edits.*use lora, frozen or full"),
        ("retrieve", r"only rows with one label can vote\. Use lora"),
        ("few_shot", r"few_shot shows rows to a model, and one of speech hears a single recording"),
        ("spectrum", r"spectrum listens to recordings with labels"),
        ("pixels", r"pixels looks at images"),
        ("gazetteer", r"gazetteer looks up named parts"),
    ],
)
def test_a_method_that_makes_no_sense_for_transcripts_says_so(models, recordings, tmp_path, method, said):
    made = recipe_of(models / "whisper", recordings, method)
    with pytest.raises(RecipeError, match=said):
        migaki.train(made, runs=tmp_path)
    assert not list(tmp_path.glob("0*"))


def test_an_encoder_without_a_half_that_writes_is_refused(recordings, tmp_path):
    with pytest.raises(ModelError, match="lack 2 tensors of a model of speech"):
        base_from(save_wave(tmp_path / "m"), "speech")


def test_a_model_that_lacks_its_letters_is_refused(tmp_path):
    folder = save_wave(tmp_path / "m", ctc=True)
    for name in ("vocab.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match=r"writes, but has no tokenizer"):
        base_from(folder, "speech")


def test_a_run_goes_on_from_another_and_an_adapter_is_merged_into_it(runs, recordings):
    folder, found = runs
    for family in ("whisper", "hubert"):
        earlier = found[family, "lora"]
        made = Recipe(
            task=earlier.recipe.task.model_dump(),
            model=f"run:{earlier.id}",
            data={"train": recordings, "valid": 0.25, "test": 0.25},
            method="zero_shot",
        )
        run = migaki.train(made, runs=folder, new=True)
        files = [row["file"] for row in recordings[:4]]
        assert [p.output for p in run.predict(files)] == [p.output for p in earlier.predict(files)]
        assert run.metrics["loss"].value == pytest.approx(earlier.metrics["loss"].value, rel=1e-4)


def test_an_adapter_is_written_as_peft_reads_it(runs, models, recordings):
    peft = pytest.importorskip("peft")
    _, found = runs
    for family in ("whisper", "wav2vec2"):
        base = base_from(models / family, "speech").model
        tuned: Any = peft.PeftModel.from_pretrained(base, found[family, "lora"].path / "model")
        merged = dict(tuned.merge_and_unload().named_parameters())
        learner: Any = found[family, "lora"].learner
        from migaki.methods.adapters import adapted_layers

        for name, adapter in adapted_layers(learner.network.backbone):
            torch.testing.assert_close(merged[f"{name}.weight"], adapter._updated(), rtol=1e-5, atol=1e-6)


def test_what_is_predicted_says_how_sure_it_is_and_which_phrase_it_repeats(runs):
    prediction = migaki.load(runs[1]["whisper", "zero_shot"].id, runs=runs[0]).predict
    from migaki.core.types import Place, Prediction

    written = Transcribe().written(Prediction(Place("a", 1), "thank you " * 5, confidence=0.5))
    assert written == {"prediction": "thank you " * 5, "confidence": 0.5, "repeated": "thank you"}
    assert prediction is not None


def test_methods_are_compared_by_errors_per_word_on_the_same_recordings(models, recordings, tmp_path):
    made = recipe_of(models / "hubert", recordings, "full")
    comparison = migaki.compare(made, ["zero_shot", "frozen"], runs=tmp_path)
    facts = json.loads((comparison.folder / "comparison.json").read_text())
    assert (facts["metric"], facts["better"]) == ("wer", "min")
    assert set(facts["methods"]) == {"zero_shot", "frozen"}


def test_what_was_forgotten_is_measured_on_recordings_of_your_own(models, recordings, tmp_path):
    others = record(tmp_path / "others", 4, longest_s=0.5)
    (tmp_path / "others.jsonl").write_text("".join(json.dumps({**row, "text": "press two"}) + "\n" for row in others))
    made = recipe_of(models / "whisper", recordings, "full")
    made = made.model_copy(update={"generality": str(tmp_path / "others.jsonl")})
    run = migaki.train(made, runs=tmp_path / "runs")
    general = run.results["generality"]
    assert (general["metric"], general["n"], general["part"]) == ("loss", 4, "others.jsonl")
    assert (
        migaki.train(recipe_of(models / "whisper", recordings, "full"), runs=tmp_path / "runs").results["generality"]
        is None
    )


def test_recordings_are_altered_in_training_alone_and_by_seed_epoch_and_row(family, recordings):
    train = read(recordings[:4])
    augment = {"noise_db": 10.0, "shift_s": 0.2, "time_masks": 1, "band_masks": 1}
    learner: Any = Full().prepare(base_from(family, "speech"), task_for(family, augment=augment), train, 0)
    learner.evaluation_mode()
    examples = list(learner.encode(train))
    assert learner.varies == "always"
    with torch.no_grad():
        plain = float(learner.loss(examples, 0.0))
    assert plain == pytest.approx(sum(p.loss for p in learner.predict(train.rows)), rel=1e-4)
    with torch.no_grad():
        found = [
            [float(learner.loss([learner.varied(e, i, epoch, examples)], 0.0)) for i, e in enumerate(examples)]
            for epoch in (0, 1, 0)
        ]
    assert found[0] == found[2]
    assert len({*found[0], *found[1]}) == 8


@torch.no_grad()
def test_every_view_is_kept_below_the_first_trained_block(family, recordings, monkeypatch, tmp_path):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    train = read(recordings)
    augment = {"noise_db": 10.0, "shift_s": 0.1, "time_masks": 1, "views": 2}
    task = task_for(family, augment=augment)
    learner: Any = Frozen(blocks=1).prepare(base_from(family, "speech"), task, train, 0)
    learner.evaluation_mode()
    examples = learner.encode(train)
    seen = [learner.varied(examples[i], i, epoch, examples) for epoch in range(4) for i in range(3)]
    wanted = [float(learner.loss([e], 0.0)) for e in seen]
    assert wanted[:6] == wanted[6:]
    assert learner.settle(examples, train.rows, 6, lambda _: None)["activations_kept"]
    monkeypatch.setattr(learner.network.body.ear, "embed", None)
    np.testing.assert_allclose([float(learner.loss([e], 0.0)) for e in seen], wanted, rtol=1e-4)


def test_a_training_on_altered_recordings_that_was_stopped_ends_with_the_same_weights(models, recordings, tmp_path):
    augment = {"noise_db": 10, "shift_s": 0.1, "time_masks": 1}
    made = recipe_of(models / "whisper", recordings, "lora", max_steps=4, batch_size=4).resolved()
    made["task"]["augment"] = augment
    whole, broken = trained(made, tmp_path / "whole"), trained(made, tmp_path / "broken", stops=(1, 3))
    weights = [(run.path / "model" / "adapter_model.safetensors").read_bytes() for run in (whole, broken)]
    assert weights[0] == weights[1]
    assert [e["loss"] for e in events(whole, "step")] == [e["loss"] for e in events(broken, "step")]


def test_other_tokens_before_the_transcript_are_refused(runs, tmp_path, models):
    folder = runs[1]["whisper", "zero_shot"].path / "model"
    task = Transcribe(language="ja", max_new_tokens=6)
    with pytest.raises(ModelError, match="not the one this run was trained with"):
        ZeroShot().restore(base_from(models / "whisper", "speech"), task, folder)


def test_a_file_that_broke_in_the_meantime_is_named(models, recordings, tmp_path):
    rows = record(tmp_path, 3)
    test = read(rows, "test")
    network = network_of(models / "whisper", read(recordings))
    Path(rows[1]["file"]).write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"01\.wav cannot be read as a recording .*It could be read when the run began"):
        network.predict(test.rows)


def test_letters_are_learned_in_some_epochs(models, tmp_path):
    """Of a model of so few random weights only how often each letter is said, which is a tenth of the loss and less."""
    rows = record(tmp_path / "recordings", 36, said=("a", "b", "c"))
    made = recipe_of(models / "wav2vec2", rows, "full", epochs=20, max_steps=None, learning_rate=4e-3)
    run = migaki.train(made, runs=tmp_path)
    assert run.metrics["loss"].value < run.baseline["loss"].value / 10


def test_words_are_told_apart_after_some_epochs(models, tmp_path):
    rows = record(tmp_path / "recordings", 36)
    made = recipe_of(models / "whisper", rows, "full", epochs=40, max_steps=None, learning_rate=4e-3)
    run = migaki.train(made, runs=tmp_path)
    assert run.baseline["wer"].value > 0.9
    assert run.metrics["wer"].value < 0.2
