"""Images that are read by workers: the same batches and the same model whatever their number, the same words where one fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import migaki
from correctness.resuming import timeless, trained
from learners import base_from, prepared
from migaki.core.errors import DataError, RecipeError
from migaki.core.store import read_json
from migaki.data.pixels import Pixels
from migaki.data.workers import at_hand, workers
from migaki.methods import Frozen
from migaki.tasks import ClassifyImage
from migaki.tasks.augmentation import Augment
from migaki.tasks.image_classifier import _prepare, _Published
from pictures import EVERYTHING, image_rows, save_image_model, write_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_model(tmp_path_factory.mktemp("model"), "lite")


def altered(network: Any, rows: Any, epochs: int) -> list[Any]:
    """Every row as each epoch sees it."""
    examples = network.encode(rows)
    return [network.varied(e, number, epoch, examples) for epoch in range(epochs) for number, e in enumerate(examples)]


def test_batches_are_the_same_to_the_last_bit_with_no_one_or_two_workers(model, tmp_path):
    rows = image_rows(tmp_path / "images", 12)
    network = ClassifyImage(augment=Augment.model_validate(EVERYTHING)).network(base_from(model, "image"), rows, 0)
    coming = altered(network, rows, 3)
    assert {len(e.shares) for e in coming} == {0, 2}
    found = []
    for n in (0, 1, 2):
        with workers(n), network.ahead(coming):
            asked = [network.pixels(coming[at : at + 5]) for at in range(0, 36, 5)]
            if pool := at_hand():
                assert len(pool.process_ids()) == n
        found.append(torch.cat(asked))
    assert found[0].shape == (36, 3, 32, 32)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_is_asked_for_in_another_order_or_never_is_the_same_too(model, tmp_path):
    rows = image_rows(tmp_path / "images", 12)
    network = ClassifyImage(augment=Augment.model_validate(EVERYTHING)).network(base_from(model, "image"), rows, 0)
    coming = altered(network, rows, 2)
    wanted = network.pixels(coming)
    order = np.random.default_rng(0).permutation(24)[:17]
    with workers(2), network.ahead(coming), network.ahead(coming[3:5]):
        assert torch.equal(network.pixels([coming[i] for i in order]), wanted[order])


def recipe(model: Path, images: Path, method: Any = "full", n: int = 0, **augment: Any) -> dict[str, Any]:
    return {
        "task": {"kind": "classify_image", "augment": {**EVERYTHING, **augment}},
        "model": str(model),
        "data": {"train": str(images)},
        "method": method,
        "training": {"epochs": 4, "batch_size": 5, "learning_rate": 3e-3, "resample": 0.5, "workers": n},
    }


def results(run: Any) -> dict[str, Any]:
    """All that a run learned and said."""
    names = [p.name for p in sorted((run.path / "model").iterdir()) if p.suffix == ".safetensors"]
    history = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    return {
        **{name: (run.path / "model" / name).read_bytes() for name in names},
        "predictions": (run.path / "predictions.jsonl").read_bytes(),
        "evaluation": timeless(read_json(run.path / "evaluation.json")),
        "history": timeless(history),
    }


@pytest.mark.parametrize(
    ("method", "views"),
    [("full", None), ({"kind": "frozen", "blocks": 1}, 2)],
    ids=["full", "frozen, kept in two views"],
)
def test_a_training_ends_the_same_with_no_one_or_two_workers_and_after_stops(
    method, views, model, tmp_path, monkeypatch
):
    write_images(tmp_path / "images", 24)
    found = {}
    for n in (0, 1, 2):
        monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / f"cache-{n}"))
        found[n] = results(migaki.train(recipe(model, tmp_path / "images", method, n, views=views), tmp_path / str(n)))
    assert found[1] == found[0]
    assert found[2] == found[0]
    stopped = trained(recipe(model, tmp_path / "images", method, 2, views=views), tmp_path / "stopped", stops=(2, 5))
    assert results(stopped) == found[0]


def test_a_file_that_vanished_is_told_by_a_worker_in_the_same_words(model, tmp_path):
    rows = image_rows(tmp_path / "images", 6)
    network = ClassifyImage().network(base_from(model, "image"), rows, 0)
    examples = network.encode(rows)
    Path(rows.rows[3].content.media.path).write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    said = []
    for n in (0, 2):
        with workers(n), pytest.raises(DataError) as error:
            network.present_features(examples)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "images:4: " in said[0]
    assert said[0].endswith("It was whole when the run began.")


def test_what_is_kept_below_the_trained_part_is_not_read_again(model, tmp_path):
    rows = image_rows(tmp_path / "images", 6)
    task = ClassifyImage(augment=Augment(crop=0.6, views=2))
    learner: Any = prepared(model, task, Frozen(blocks=1), rows)
    examples = learner.encode(rows)
    with workers(2):
        assert learner.settle(examples, rows.rows[:2], 6, lambda _: None)["activations_kept"]
        (tmp_path / "images").rename(tmp_path / "away")
        coming = [learner.varied(e, number, 5, examples) for number, e in enumerate(examples)]
        with learner.ahead(coming):
            assert learner.network.features(coming).shape[0] == 6


def test_without_a_number_of_views_it_is_said_that_nothing_can_be_kept(model, tmp_path):
    rows = image_rows(tmp_path / "images", 6)
    learner: Any = prepared(model, ClassifyImage(augment=Augment(flip=True)), Frozen(blocks=1), rows)
    notes: list[str] = []
    assert not learner.settle(learner.encode(rows), rows.rows[:2], 0, notes.append)["activations_kept"]
    assert any("task.augment.views: 4" in note for note in notes)


@pytest.mark.parametrize("task", ["classify_text", "label_text", "tag_tokens", "generate"])
def test_tasks_on_texts_refuse_workers(task):
    with pytest.raises(RecipeError, match=rf"training: .*rows of {task} are texts; leave it out"):
        migaki.Recipe(task=task, data={"train": "rows.csv"}, training={"workers": 2})


# Preparation without transformers


PROCESSORS = {
    "square": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}},
    "bicubic, own mean": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 40, "width": 40},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "not normalised": {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "do_normalize": False},
    "not rescaled": {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "do_rescale": False},
    "edge and crop": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 41},
        "crop_size": {"height": 32, "width": 36},
    },
    "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875},
    "large convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 1.0},
}  # fmt: skip


def processor_of(folder: Path, settings: dict[str, Any]) -> Any:
    save_image_model(folder, "lite")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return base_from(folder, "image").processor


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_published_processor_to_the_last_bit(name, tmp_path):
    processor = processor_of(tmp_path / "model", PROCESSORS[name])
    own = _prepare(processor)
    assert isinstance(own, Pixels)
    drawn = np.random.default_rng(1)
    for height, width in ((33, 47), (90, 61), (400, 300)):
        image = Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")
        assert np.array_equal(own(image), _Published(processor)(image))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}, "crop_size": {"height": 32, "width": 32}},
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "rescale_factor": "none"},
    ],
    ids=["filled up with black", "unknown"],
)  # fmt: skip
def test_what_is_not_known_is_left_to_the_published_processor(settings):
    assert (
        Pixels.of({"do_resize": True, "do_center_crop": "crop_size" in settings, "do_rescale": True, **settings})
        is None
    )


def test_a_worker_prepares_as_the_published_processor_where_there_is_no_shorter_way(tmp_path):
    settings = {**PROCESSORS["edge and crop"], "size": {"shortest_edge": 24}}
    base = base_from(save_image_model(tmp_path / "model", "lite"), "image")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    base = base_from(tmp_path / "model", "image")
    rows = image_rows(tmp_path / "images", 3)
    network = ClassifyImage().network(base, rows, 0)
    examples = network.encode(rows)
    wanted = network.pixels(examples)
    with workers(1), network.ahead(examples):
        assert torch.equal(network.pixels(examples), wanted)
