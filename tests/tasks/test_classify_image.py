"""Image classification: features are those of transformers, and rows are altered as the recipe says."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import migaki
from correctness.resuming import timeless, trained
from learners import base_from, prepared
from migaki.core.errors import DataError, ModelError, RecipeError
from migaki.core.store import read_json
from migaki.data.images import decoded
from migaki.methods import Frozen, Full, Lora, ZeroShot
from migaki.methods.adapters import merge_adapters
from migaki.methods.tuned import blocks_of
from migaki.models.vision import eye_of
from migaki.tasks import ClassifyImage
from migaki.tasks.augmentation import Augment, View
from migaki.training.loop import accumulate_gradients
from pictures import FAMILIES, READERS, SIZE, image_rows, save_image_model, write_images

RELATIVE = 1e-5


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("families")
    return {family: save_image_model(home / family, family) for family in FAMILIES}


@torch.no_grad()
def wanted_features(folder: Path, rows: Any) -> torch.Tensor:
    """(N, D): by the first token or the pooler, as the family's own classifier in transformers takes them."""
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    # Of a model that also reads, the half that sees.
    model = getattr(model, "vision_model", model)
    processor = AutoImageProcessor.from_pretrained(folder)
    images = [decoded(row.content.media.path) for row in rows.rows]
    out = model(**processor(images, return_tensors="pt"))
    return out.last_hidden_state[:, 0] if model.config.model_type in ("vit", "deit") else out.pooler_output.flatten(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_transformers_own_classifier(family, folders, tmp_path):
    rows = image_rows(tmp_path / "images", 5)
    network = ClassifyImage().network(base_from(folders[family], "image"), rows, 0)
    network.eval()
    found = torch.from_numpy(network.present_features(network.encode(rows)))
    wanted = wanted_features(folders[family], rows)
    assert float((found - wanted).norm()) <= RELATIVE * float(wanted.norm())
    assert float(wanted.std(0).max()) > 1e-4  # images differ


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_is_a_residual_block_whatever_the_family_calls_it(family, folders):
    """ResNet and ConvNeXt: 1 and 2; the other transformers 2; Swin 2 and 2; EfficientNet-Lite 1, 2 and 1. All parameters are in
    one part or another."""
    model = base_from(folders[family], "image").model
    eye = eye_of(model, (SIZE, SIZE))
    assert eye is not None
    assert len(blocks_of(model)) == {"resnet": 3, "convnext": 3, "swin": 4, "lite": 4}.get(family, 2)
    parts = [*eye.before, *eye.blocks, *eye.behind]
    counted = [id(p) for part in parts for p in part.parameters()]
    own = [id(p) for name, p in model.named_parameters() if not name.startswith("pooler")]
    assert sorted(counted) == sorted(own)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [Full(), Lora(rank=2)], ids=["full", "lora"])
def test_gradients_do_not_depend_on_which_images_are_computed_together(family, method, folders, tmp_path):
    """Batch norms included: their statistics are those of the pretrained model."""
    rows = image_rows(tmp_path / "images", 6)
    found = []
    for at_once in (6, 2):
        learner: Any = prepared(folders[family], ClassifyImage(), method, rows)
        learner.train_mode(0.0)
        accumulate_gradients(learner, learner.encode(rows), 0.0, at_once)
        found.append({n: p.grad for n, p in learner.network.named_parameters() if p.grad is not None})
    largest = max(float(g.norm()) for g in found[0].values())
    assert largest > 0
    for name, gradient in found[0].items():
        assert float((found[1][name] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-6 * largest, name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_below_the_trained_block_gives_the_same_logits(family, folders, tmp_path):
    rows = image_rows(tmp_path / "images", 9)
    learner: Any = prepared(folders[family], ClassifyImage(), Frozen(blocks=1), rows)
    examples = learner.encode(rows)
    learner.evaluation_mode()
    with torch.no_grad():
        wanted = learner.network(examples)
    notes: list[str] = []
    assert learner.settle(examples, rows.rows[:2], 4, notes.append)["activations_kept"], notes
    with torch.no_grad():
        found = learner.network(examples)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    (tmp_path / "images").rename(tmp_path / "away")
    with torch.no_grad():
        assert torch.equal(learner.network(examples), found)  # no file was opened
    learner.train_mode(0.0)
    learner.loss(examples, 0.0).backward()
    assert all(p.grad is not None for p in learner.network.parameters() if p.requires_grad)


# Words


@torch.no_grad()
@pytest.mark.parametrize("family", READERS)
@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({}, ["blue", "green", "red"]),
        (
            {"template": "a photo of {label}", "descriptions": {"red": "something"}},
            ["a photo of blue", "a photo of green", "a photo of something"],
        ),
    ],
    ids=["names", "described"],
)
def test_asked_by_words_it_says_what_transformers_whole_model_says(family, settings, texts, folders, tmp_path):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    rows = image_rows(tmp_path / "images", 9)
    learner: Any = prepared(folders[family], ClassifyImage(), ZeroShot(**settings), rows)
    (tmp_path / "saved").mkdir()
    learner.save(tmp_path / "saved")
    assert learner.parameter_groups() == []
    model = AutoModel.from_pretrained(folders[family]).eval()
    images = [decoded(row.content.media.path) for row in rows.rows]
    pixels = AutoImageProcessor.from_pretrained(folders[family])(images, return_tensors="pt")
    padding = {"padding": "max_length", "max_length": 12} if family == "siglip" else {"padding": True}
    ids = AutoTokenizer.from_pretrained(folders[family])(texts, return_tensors="pt", **padding)["input_ids"]
    logits_BC = model(input_ids=ids, **pixels).logits_per_image
    assert float(logits_BC.std(0).max()) > 1e-3  # images differ
    restored: Any = ZeroShot(**settings).restore(
        base_from(folders[family], "image"), ClassifyImage(), tmp_path / "saved"
    )
    for one in (learner, restored):
        one.evaluation_mode()
        found_BC = one.network(one.network.inputs(rows.rows))
        assert torch.allclose(found_BC, logits_BC, rtol=RELATIVE, atol=1e-4)
        for said, wanted_C in zip(one.predict(rows.rows), logits_BC.softmax(-1), strict=True):
            assert said.scores == pytest.approx(wanted_C.tolist(), abs=1e-5)
            assert sum(said.scores) == pytest.approx(1.0)


@pytest.mark.parametrize("family", READERS)
def test_of_a_model_that_reads_only_the_half_that_sees_is_trained(family, folders, tmp_path):
    rows = image_rows(tmp_path / "images", 6)
    learner: Any = prepared(folders[family], ClassifyImage(), Full(), rows)
    names = [name for name, _ in learner.network.named_parameters()]
    assert not [name for name in names if "text" in name or "logit" in name or "projection" in name]


def test_words_longer_than_the_model_reads_are_refused(folders, tmp_path):
    method = ZeroShot(descriptions={"red": "a photo of " * 4})  # 12 words, 14 tokens of 12
    with pytest.raises(
        RecipeError, match=r"method\.descriptions: 'a photo of .* has 14 tokens, and .*clip reads at most 12"
    ):
        prepared(folders["clip"], ClassifyImage(), method, image_rows(tmp_path / "images", 6))


def test_a_folder_without_the_half_that_reads_is_told(folders, tmp_path):
    from transformers import CLIPVisionModel

    CLIPVisionModel.from_pretrained(folders["clip"]).save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "preprocessor_config.json").write_bytes(
        (folders["clip"] / "preprocessor_config.json").read_bytes()
    )
    rows = image_rows(tmp_path / "images", 6)
    with pytest.raises(RecipeError, match="half sees images and knows no words"):
        prepared(tmp_path / "half", ClassifyImage(), ZeroShot(), rows)
    # Its configuration speaks of both halves, its weights do not.
    (tmp_path / "half" / "config.json").write_bytes((folders["clip"] / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"lack .* tensors of a model of images and texts"):
        prepared(tmp_path / "half", ClassifyImage(), ZeroShot(), rows)


def test_with_a_number_of_views_each_of_them_is_kept(folders, tmp_path):
    rows = image_rows(tmp_path / "images", 6)
    task = ClassifyImage(augment=Augment(crop=0.6, flip=True, views=3))
    learner: Any = prepared(folders["lite"], task, Frozen(blocks=1), rows)
    examples, notes = learner.encode(rows), list[str]()
    assert learner.varies == "in_views"
    assert learner.settle(examples, rows.rows[:2], 9, notes.append)["activations_kept"], notes
    assert any("18 rows" in note for note in notes)  # 6 images in 3 ways
    # Each way is seen in one epoch of five at most: nothing would be read twice.
    learner = prepared(folders["lite"], task, Frozen(blocks=2), rows)
    assert not learner.settle(examples, rows.rows[:2], 5, notes.append)["activations_kept"]


def test_what_was_measured_of_a_model_is_forgotten_with_it(folders, tmp_path):
    """Of the graph behind the measurement nothing is left that would hold weights and pictures."""
    rows, base = image_rows(tmp_path / "images", 3), base_from(folders["lite"], "image")
    known = weakref.ref(base.model)
    body = ClassifyImage().network(base, rows, 0).body
    # Two blocks: what goes in and out of each convolution, 4 bytes a number; more than the pixels, less than a megabyte.
    assert 4 * 3 * SIZE**2 < body._measured()[1] < 1 << 20
    del base, body
    gc.collect()
    assert known() is None


# Augmentation


def test_a_view_is_a_function_of_seed_epoch_and_number():
    augment = Augment(crop=0.5, flip=True, colour=0.3)
    views = {(s, n, e): augment.draw(s, n, e) for s in range(3) for n in range(20) for e in range(20)}
    assert len(set(views.values())) == 3 * 20 * 20
    assert all(augment.draw(*key) == view for key, view in views.items())
    mirrored = sum(view.mirrored for view in views.values())
    assert mirrored / 1200 == pytest.approx(0.5, abs=0.05)  # 3.5 standard deviations of 0.0144
    for view in views.values():
        assert 0.5 <= view.share <= 1
        assert 0 <= view.left <= 1 - view.share
        assert 0 <= view.top <= 1 - view.share
        assert all(0.7 <= factor <= 1.3 for factor in (view.brightness, view.contrast, view.saturation))


def test_with_views_the_epochs_take_turns_and_a_crop_stays_where_it_is_when_flipping_is_added():
    plain, turning = Augment(crop=0.5), Augment(crop=0.5, flip=True, views=2)
    assert [turning.draw(0, 7, e) for e in (2, 3)] == [turning.draw(0, 7, e) for e in (0, 1)]
    a, b = plain.draw(0, 7, 1), turning.draw(0, 7, 1)
    assert (a.left, a.top, a.share) == (b.left, b.top, b.share)


def test_a_view_crops_mirrors_and_brightens_by_hand():
    """Of 4 x 2 pixels numbered from 0, the right half of the upper row, mirrored, twice as bright."""
    image = Image.fromarray(np.arange(8, dtype=np.uint8).reshape(2, 4)[..., None].repeat(3, -1), "RGB")
    seen = View(0.5, 0.0, 0.5, True, 2.0, 1.0, 1.0).of(image)
    assert np.asarray(seen)[..., 0].tolist() == [[6, 4]]
    assert np.array_equal(np.asarray(View(0, 0, 1.0, False, 1.0, 1.0, 1.0).of(image)), np.asarray(image))
    assert View(0.99, 0.99, 0.01, False, 1.0, 1.0, 1.0).of(image).size == (1, 1)


def test_an_augmentation_that_changes_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"task\.augment: .*changes nothing"):
        migaki.Recipe(task={"kind": "classify_image", "augment": {}}, data={"train": "images"})


@pytest.mark.parametrize(("family", "method"), [("lite", "full"), ("swin", "lora"), ("lite", "frozen")])
def test_after_stops_an_augmented_run_ends_with_the_same_bytes(family, method, folders, tmp_path):
    write_images(tmp_path / "images", 24)
    views = 2 if method == "frozen" else None
    recipe = {
        "task": {"kind": "classify_image", "head": "random", "augment": {"crop": 0.6, "flip": True, "views": views}},
        "model": str(folders[family]),
        "data": {"train": str(tmp_path / "images")},
        "method": method,
        "training": {"epochs": 4, "batch_size": 5, "learning_rate": 3e-3, "dropout": 0.1, "checkpoint_steps": 2},
    }
    whole, broken = trained(recipe, tmp_path / "whole"), trained(recipe, tmp_path / "broken", stops=(2, 5))
    for name in ("model/head.safetensors", "predictions.jsonl"):
        assert (whole.path / name).read_bytes() == (broken.path / name).read_bytes(), name
    for path in (whole.path / "model").glob("*.safetensors"):
        assert path.read_bytes() == (broken.path / "model" / path.name).read_bytes(), path.name
    assert timeless(read_json(whole.path / "evaluation.json")) == timeless(read_json(broken.path / "evaluation.json"))


# LoRA beside convolutions


@pytest.mark.parametrize("family", ["resnet", "lite"])
def test_factors_beside_convolutions_are_those_of_peft_and_merge(family, folders, tmp_path):
    peft = pytest.importorskip("peft")
    rows = image_rows(tmp_path / "images", 4)
    learner: Any = prepared(folders[family], ClassifyImage(), Lora(rank=2), rows)
    (tmp_path / "saved").mkdir()
    learner.save(tmp_path / "saved")
    learner.evaluation_mode()
    examples = learner.encode(rows)
    with torch.no_grad():
        found = learner.network.features(examples)
        model = base_from(folders[family], "image").model
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "saved").eval()
        wanted = adapted(pixel_values=learner.network.pixels(examples)).pooler_output.flatten(1)
        plain = base_from(folders[family], "image").model(pixel_values=learner.network.pixels(examples))
        assert float((wanted - plain.pooler_output.flatten(1)).norm()) > 1e-3 * float(wanted.norm())
        assert float((found - wanted).norm()) <= RELATIVE * float(wanted.norm())
        merge_adapters(learner.network.backbone)
        merged = learner.network.features(examples)
    assert float((merged - found).norm()) <= 1e-4 * float(found.norm())


def test_dora_beside_convolutions_is_refused(folders, tmp_path):
    with pytest.raises(RecipeError, match=r"method\.dora: .*is a convolution"):
        prepared(folders["lite"], ClassifyImage(), Lora(dora=True), image_rows(tmp_path / "images", 6))


def test_in_a_transformer_only_linear_layers_are_adapted_unless_a_pattern_names_more(folders, tmp_path):
    rows = image_rows(tmp_path / "images", 6)
    usual: Any = prepared(folders["vit"], ClassifyImage(), Lora(rank=2), rows)
    assert not [n for n, _ in usual.network.named_parameters() if "lora" in n and "embeddings" in n]
    named: Any = prepared(folders["vit"], ClassifyImage(), Lora(rank=2, targets=["embeddings*projection"]), rows)
    adapted = [n for n, _ in named.network.named_parameters() if "lora_A" in n]
    assert len(adapted) == 1


# Errors


def test_a_file_that_vanished_is_named_with_its_row(folders, tmp_path):
    rows = image_rows(tmp_path / "images", 6)
    network = ClassifyImage().network(base_from(folders["lite"], "image"), rows, 0)
    Path(rows.rows[3].content.media.path).unlink()
    with pytest.raises(DataError, match=r"images:4: .*\.png .*It was whole when the run began"):
        network.present_features(network.encode(rows))


def test_preprocessing_that_leaves_images_of_different_sizes_is_refused(tmp_path):
    folder = save_image_model(tmp_path / "model", "lite")
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "do_center_crop": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match=r"different sizes.*preprocessor_config\.json"):
        ClassifyImage().network(base_from(folder, "image"), image_rows(tmp_path / "images", 6), 0)


# Sizes


@pytest.mark.parametrize(
    ("settings", "at_32"),
    [
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}, (32, 32)),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875},
            (32, 32),
        ),
        (
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": 40},
                "crop_size": {"height": 32, "width": 32},
            },
            (32, 32),
        ),
    ],
    ids=["square", "edge", "crop"],
)
def test_a_convolutional_model_sees_images_of_another_size_if_the_task_says_so(settings, at_32, tmp_path):
    folder = save_image_model(tmp_path / "model", "lite")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    rows, base = image_rows(tmp_path / "images", 6), base_from(folder, "image")
    for size, wanted in ((None, at_32), (32, at_32), (24, (24, 24)), (48, (48, 48))):
        network = ClassifyImage(size=size).network(base, rows, 0)
        assert tuple(network.pixels(network.encode(rows)).shape) == (6, 3, *wanted)


def test_a_transformer_says_that_it_takes_one_size(folders, tmp_path):
    with pytest.raises(ModelError, match=r"cannot see images of 24 x 24 pixels .*Leave task\.size out"):
        ClassifyImage(size=24).network(base_from(folders["vit"], "image"), image_rows(tmp_path / "images", 6), 0)


@pytest.mark.parametrize("method", ["full", "lora", "probe"])
def test_a_saved_run_sees_images_of_the_same_size(method, folders, tmp_path):
    write_images(tmp_path / "images", 24)
    recipe = {
        "task": {"kind": "classify_image", "size": 24},
        "model": str(folders["lite"]),
        "data": {"train": str(tmp_path / "images")},
        "method": method,
        "training": {"max_steps": 1, "batch_size": 8},
    }
    run = migaki.train(recipe, tmp_path / "runs")
    network = migaki.load(run.path).learner.network  # type: ignore[attr-defined]
    examples = network.inputs(image_rows(tmp_path / "images", 3).rows)
    assert network.pixels(examples).shape[2:] == (24, 24)
    again = migaki.load(run.path).evaluate()
    assert again.metrics["accuracy"].value == run.metrics["accuracy"].value
