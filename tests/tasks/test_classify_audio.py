"""Recordings with labels: every kind of model that hears, under every method that makes sense for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import migaki
import processes
from learners import base_from
from migaki.core.errors import DataError, ModelError, RecipeError, TruncationError
from migaki.core.types import Dataset
from migaki.data import Data
from migaki.methods import Frozen, Probe
from migaki.recipe import Recipe
from migaki.tasks import ClassifyAudio
from tiny_speech import FAMILIES, save_hearing, save_whisper, write_recordings

METHODS: dict[str, Any] = {
    "probe": "probe",
    "frozen": {"kind": "frozen", "blocks": 1},
    "lora": {"kind": "lora", "rank": 2},
    "full": "full",
    "retrieve": {"kind": "retrieve", "neighbours": 5},
    "few_shot": {"kind": "few_shot", "shots": 2},
}
TRAINING = {"epochs": 2, "max_steps": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32"}


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model of every family."""
    folder = tmp_path_factory.mktemp("hearing")
    for family in FAMILIES:
        save_hearing(family, folder / family)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    rows = write_recordings(tmp_path_factory.mktemp("recordings"))
    return [{"file": row["file"], "label": row["label"]} for row in rows]


def read(rows: list[dict[str, str]], name: str = "train") -> Dataset:
    found = Data(train=rows).read(rows, "labelled_recording", need_target=True)[0]
    return Dataset(name, found.rows)


@pytest.fixture(scope="module")
def runs(hearing: Path, recordings: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of every family by every method, and its folder."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for family in FAMILIES:
        for name, method in METHODS.items():
            data = {"train": recordings, "valid": 0.25, "test": 0.25}
            made = Recipe(
                task="classify_audio", model=str(hearing / family), data=data, method=method, training=TRAINING
            )
            found[family, name] = migaki.train(made, runs=folder, new=True)
    return folder, found


LOAD = """
import json, sys
import migaki
found = {}
for name in json.loads(sys.argv[3]):
    run = migaki.load(name, runs=sys.argv[1])
    found[name] = [[p.output, *p.scores] for p in run.predict(json.loads(sys.argv[2]))]
print(json.dumps(found))
"""


def test_every_method_on_every_family_says_the_same_in_a_new_process(runs, recordings):
    folder, found = runs
    files = [row["file"] for row in recordings]
    said = {run.id: [[p.output, *p.scores] for p in run.predict(files)] for run in found.values()}
    out = processes.run(LOAD, folder, json.dumps(files), json.dumps([run.id for run in found.values()]))
    loaded = json.loads(processes.lines(out)[-1])
    for (family, method), run in found.items():
        assert [row[0] for row in said[run.id]] == [row[0] for row in loaded[run.id]], (family, method)
        mine, other = (np.array([row[1:] for row in rows]) for rows in (said[run.id], loaded[run.id]))
        np.testing.assert_allclose(mine, other, atol=1e-6, err_msg=f"{family} {method}")


def test_what_is_trained_moves_and_what_is_frozen_stays(runs):
    _, found = runs
    for (family, method), run in found.items():
        trained, total = (run.summary()[f"{kind}_parameters"] for kind in ("trainable", "total"))
        if method == "full":
            assert trained == total, family
        elif method == "retrieve":
            assert trained == 0, family
        else:
            assert 0 < trained < total / 2, (family, method)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, hearing: Path) -> Path:
    return hearing / request.param


@torch.no_grad()
@pytest.mark.parametrize("layers", ["all", "last"])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_what_is_kept_below_the_first_trained_block_changes_no_answer(
    family, recordings, monkeypatch, tmp_path, blocks, layers
):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    train = read(recordings)
    learner: Any = Frozen(blocks=blocks).prepare(base_from(family, "audio"), ClassifyAudio(layers=layers), train, 0)
    learner.evaluation_mode()
    wanted = [p.scores for p in learner.predict(train.rows)]
    facts = learner.settle(learner.encode(train), train.rows, 5, lambda _: None)
    assert facts["activations_kept"]

    def never(entering: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(learner.network.body.ear, "embed", never)
    np.testing.assert_allclose([p.scores for p in learner.predict(train.rows)], wanted, atol=1e-6)


@torch.no_grad()
def test_the_head_sees_every_layer_scaled_alike_or_the_last_one_as_it_is(family, recordings):
    train = read(recordings[:4])
    base = base_from(family, "audio")
    every, last = (ClassifyAudio(layers=layers).network(base, train, 0).eval() for layers in ("all", "last"))
    x_BD, y_BD = (network.features(network.inputs(train.rows)) for network in (every, last))
    assert (x_BD.shape, y_BD.shape) == ((4, 3 * 32), (4, 32))
    torch.testing.assert_close(x_BD.reshape(4, 3, 32).mean(-1), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x_BD[:, 64:], torch.nn.functional.layer_norm(y_BD, (32,)))
    whisper = family.name == "whisper"
    assert not whisper or x_BD[:, :64].std(0).min() > 0


@torch.no_grad()
def test_a_recording_gets_the_same_answer_alone_and_beside_others(family, recordings):
    train = read(recordings)
    network = ClassifyAudio().network(base_from(family, "audio"), train, 0).eval()
    together = [p.scores for p in network.predict(train.rows)]
    alone = [network.predict([row])[0].scores for row in train.rows]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_narrower_format_gives_nearly_the_same_answers(family, recordings):
    train = read(recordings)
    learner: Any = Probe().prepare(base_from(family, "audio"), ClassifyAudio(), train, 0)
    wanted = learner.features(train.rows)
    learner.compute_in(torch.bfloat16)
    found = learner.features(train.rows)
    cosine_N = (wanted * found).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(found, axis=1)
    assert 0.99 < cosine_N.min() < 1 - 1e-9


@torch.no_grad()
def test_what_lies_behind_max_seconds_counts_nothing(hearing, tmp_path):
    rows = write_recordings(tmp_path, 4)
    longer = []
    for row in rows:
        wave_N, rate = soundfile.read(row["file"])
        path = tmp_path / f"longer-{Path(row['file']).name}"
        soundfile.write(path, np.concatenate([wave_N[: rate // 10], np.full(rate, 0.5)]), rate)
        longer.append({"file": str(path), "label": row["label"]})
        soundfile.write(row["file"], wave_N[: rate // 10], rate)
    short = read([{"file": row["file"], "label": row["label"]} for row in rows])
    task = ClassifyAudio(max_seconds=0.1, allow_truncated=1.0)
    network = task.network(base_from(hearing / "whisper", "audio"), short, 0).eval()
    wanted, cut = (network.predict(dataset.rows) for dataset in (short, read(longer)))
    np.testing.assert_allclose([p.scores for p in cut], [p.scores for p in wanted], atol=1e-6)
    assert all(e.truncated for e in network.encode(read(longer)))


def test_recordings_over_the_limit_are_counted_before_anything_is_trained(hearing, recordings):
    base = base_from(hearing / "whisper", "audio")
    with pytest.raises(
        TruncationError, match=r"14 of 24 train recordings are longer than 0\.2 s .*first: .*:3 \(0\.2 s\)|longer"
    ):
        ClassifyAudio(max_seconds=0.2).network(base, read(recordings), 0)
    with pytest.raises(ModelError, match=r"max_seconds is 3, but .* hears at most 2 s at once"):
        ClassifyAudio(max_seconds=3.0).network(base, read(recordings), 0)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("tfidf", "tfidf counts words, and rows of classify_audio are files"),
        ("zero_shot", r"2 of 2 labels are none that it knows \(high, low\).*descriptions"),
        ("reft", "reft edits"),
        ({"kind": "retrieve", "index": "sparse"}, "sparse looks for words"),
        ("gazetteer", "classify_audio"),
    ],
    ids=["tfidf", "zero_shot", "reft", "sparse", "gazetteer"],
)
def test_a_method_that_makes_no_sense_for_sounds_says_so(hearing, recordings, tmp_path, method, said):
    made = Recipe(task="classify_audio", model=str(hearing / "whisper"), data={"train": recordings}, method=method)
    with pytest.raises(RecipeError, match=said):
        migaki.train(made, runs=tmp_path)
    assert not list(tmp_path.glob("0*"))


# Languages


def spoken_rows(folder: Path, *labels: str) -> list[dict[str, str]]:
    return [{"file": row["file"], "label": row["label"]} for row in write_recordings(folder, 12, labels)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("labels", "descriptions"),
    [(("en", "ja"), {}), (("English", "JAPANESE"), {}), (("a", "b"), {"a": "english", "b": "ja"})],
    ids=["codes", "names", "described"],
)
def test_the_language_is_told_as_transformers_tells_it(labels, descriptions, tmp_path):
    from transformers import AutoFeatureExtractor, WhisperForConditionalGeneration

    folder = save_whisper(tmp_path / "whisper")
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    for p in model.parameters():  # so far that what it hears decides what it says
        p.data.mul_(2)
    model.save_pretrained(folder)
    rows = spoken_rows(tmp_path / "rows", *labels)
    method = {"kind": "zero_shot", "descriptions": descriptions}
    data = {"train": rows, "valid": 0.25, "test": 0.25}
    settings = {"data": data, "method": method, "training": {"precision": "float32"}}
    run = migaki.train(Recipe(task="classify_audio", model=str(folder), **settings), runs=tmp_path / "runs")
    files = [row["file"] for row in rows]
    found = run.predict(files)
    waves = [soundfile.read(file)[0] for file in files]
    heard = AutoFeatureExtractor.from_pretrained(folder)(waves, sampling_rate=16000, return_tensors="pt")
    start, known = model.config.decoder_start_token_id, model.generation_config.lang_to_id
    logits_BV = model(**heard, decoder_input_ids=torch.full((len(files), 1), start)).logits[:, 0]
    wanted_BL = logits_BV[:, [known["<|en|>"], known["<|ja|>"]]].softmax(-1)
    assert float(wanted_BL.std(0).max()) > 2e-4  # recordings differ
    np.testing.assert_allclose([p.scores for p in found], wanted_BL, atol=1e-5)
    likeliest_B = model.detect_language(**heard)
    assert [p.output for p in found] == [labels[int(token == known["<|ja|>"])] for token in likeliest_B]
    out = processes.run(LOAD, tmp_path / "runs", json.dumps(files), json.dumps([run.id]))
    loaded = json.loads(processes.lines(out)[-1])[run.id]
    np.testing.assert_allclose([row[1:] for row in loaded], wanted_BL, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "labels", "said"),
    [
        ("whisper", ("en", "fr"), r"1 of 2 labels are none that it knows \(fr\)"),
        ("whisper", ("ja", "japanese"), r"labels ja and japanese are one language \(ja\)"),
        ("english", ("en", "ja"), r"tells no languages apart: it knows English alone"),
        ("hubert", ("en", "ja"), r"knows no words; only Whisper"),
        ("audio-spectrogram-transformer", ("en", "ja"), r"knows no words; only Whisper"),
    ],
)
def test_what_cannot_tell_the_languages_says_so_before_any_work(model, labels, said, hearing, tmp_path):
    folder = save_whisper(tmp_path / "english", languages=False) if model == "english" else hearing / model
    rows = spoken_rows(tmp_path / "rows", *labels)
    with pytest.raises(RecipeError, match=rf"method\.kind: .*{said}"):
        migaki.train(
            Recipe(task="classify_audio", model=str(folder), data={"train": rows}, method="zero_shot"),
            runs=tmp_path / "runs",
        )
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_from_another(runs, recordings):
    folder, found = runs
    for method in ("full", "lora"):
        earlier = found["whisper", method]
        data = {"train": recordings, "valid": 0.25, "test": 0.25}
        made = Recipe(task="classify_audio", model=f"run:{earlier.id}", data=data, method="probe")
        run = migaki.train(made, runs=folder, new=True)
        files = [row["file"] for row in recordings]
        again = migaki.load(run.id, runs=folder)
        assert [p.scores for p in again.predict(files)] == [p.scores for p in run.predict(files)]


def test_the_index_of_a_run_grows_by_recordings(runs, tmp_path):
    folder, found = runs
    run = migaki.load(found["whisper", "retrieve"].id, runs=folder)
    rows = write_recordings(tmp_path / "more", 3, labels=("high", "low"))
    (tmp_path / "more.csv").write_text("file,label\n" + "".join(f"{r['file']},{r['label']}\n" for r in rows))
    n = len(run.indexed())
    assert run.add(tmp_path / "more.csv") == 3
    again = migaki.load(run.id, runs=folder)
    assert len(again.indexed()) == n + 3
    assert again.predict([rows[0]["file"]])[0].sources[0].endswith("more.csv:2")


def test_a_file_that_broke_in_the_meantime_is_named(hearing, recordings, tmp_path):
    rows = write_recordings(tmp_path, 4)
    train = read([{"file": row["file"], "label": row["label"]} for row in rows])
    network = ClassifyAudio().network(base_from(hearing / "whisper", "audio"), read(recordings), 0)
    Path(rows[1]["file"]).write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"01\.wav cannot be read as a recording .*It could be read when the run began"):
        network.predict(train.rows)


def test_high_is_told_from_low_after_twelve_epochs(hearing, recordings, tmp_path):
    made = Recipe(
        task="classify_audio",
        model=str(hearing / "whisper"),
        data={"train": recordings, "valid": 0.25, "test": 0.25},
        method="full",
        training={"epochs": 12, "learning_rate": 3e-3, "batch_size": 4},
    )
    run = migaki.train(made, runs=tmp_path)
    assert run.metrics["accuracy"].value == 1.0


def test_recordings_are_altered_in_training_alone_and_every_view_is_kept(family, recordings, monkeypatch, tmp_path):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    train = read(recordings)
    augment = {"gain_db": 6.0, "noise_db": 5.0, "shift_s": 0.1, "time_masks": 1, "band_masks": 1, "views": 2}
    task = ClassifyAudio(augment=augment)
    learner: Any = Frozen(blocks=1).prepare(base_from(family, "audio"), task, train, 0)
    learner.evaluation_mode()
    examples = learner.encode(train)
    plain = [p.scores for p in learner.predict(train.rows)]
    seen = [learner.varied(examples[i], i, epoch, examples) for epoch in range(3) for i in range(4)]
    with torch.no_grad():
        wanted = learner.network(seen).numpy()
        assert np.abs(wanted[:4] - wanted[4:8]).max() > 1e-4
        np.testing.assert_array_equal(wanted[:4], wanted[8:])
        assert learner.settle(examples, train.rows, 6, lambda _: None)["activations_kept"]
        monkeypatch.setattr(learner.network.body.ear, "embed", None)
        np.testing.assert_allclose(learner.network(seen).numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose([p.scores for p in learner.predict(train.rows)], plain, atol=1e-6)
