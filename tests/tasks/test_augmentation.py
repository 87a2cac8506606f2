"""What may happen to an image in training: drawn by (seed, epoch, row) alone, done as worked out by hand, labels in proportion."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import migaki
from learners import base_from
from migaki.core.errors import RecipeError
from migaki.tasks import ClassifyImage
from migaki.tasks.augmentation import Augment, Cutmix, Erase, Mixup, Policy
from migaki.tasks.views import CHANGES, Covered, Mix, View
from pictures import EVERYTHING, LABELS, image_rows, save_image_model

PLAIN = (0.0, 0.0, 1.0, False, 1.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_model(tmp_path_factory.mktemp("model"), "lite")


def grey(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8)[..., None].repeat(3, -1), "RGB")


def seen(image: Image.Image, *changes: tuple[Any, float]) -> list[list[int]]:
    """The first channel after these changes."""
    return np.asarray(View(*PLAIN, changes=changes).of(image))[..., 0].tolist()


# What is drawn


def test_everything_is_a_function_of_seed_epoch_and_number():
    augment = Augment.model_validate(EVERYTHING)
    views = {(s, n, e): augment.draw(s, n, e) for s in range(3) for n in range(20) for e in range(20)}
    assert len(set(views.values())) == 3 * 20 * 20
    assert all(augment.draw(*key) == view for key, view in views.items())


def test_a_crop_stays_where_it_is_whatever_else_is_switched_on():
    crop, all_of_it = Augment(crop=0.6), Augment.model_validate(EVERYTHING)
    for number in range(5):
        a, b = crop.draw(0, number, 1), all_of_it.draw(0, number, 1)
        assert (a.left, a.top, a.share) == (b.left, b.top, b.share)
    alone, beside = Augment(erase=Erase(chance=1)), Augment(erase=Erase(chance=1), mixup=Mixup(), policy=Policy())
    assert alone.draw(0, 3, 1).covered == beside.draw(0, 3, 1).covered


def test_a_policy_draws_so_many_changes_all_equally_likely_and_equally_strong():
    augment = Augment(policy=Policy(changes=3, strength=0.5))
    drawn = [change for n in range(1000) for change in augment.draw(0, n, 0).changes]
    counts = Counter(name for name, _ in drawn)
    assert len(drawn) == 3000
    # 3000 draws of 1/14: one in a thousand lies further out than 3.3 standard deviations of 14.1.
    assert set(counts) == set(CHANGES)
    assert all(abs(count - 3000 / 14) < 3.3 * 14.1 for count in counts.values())
    for name, kind in CHANGES.items():
        assert {far for change, far in drawn if change == name} == ({-0.5, 0.5} if kind.two_sided else {0.5})


def test_what_a_policy_leaves_out_is_never_drawn():
    augment = Augment(policy=Policy(leave_out=["rotate", "solarize"]))
    names = {name for n in range(300) for name, _ in augment.draw(0, n, 0).changes}
    assert names == set(CHANGES) - {"rotate", "solarize"}


def test_about_the_chance_is_covered_and_never_less_or_more_than_is_said():
    augment = Augment(erase=Erase(chance=0.25, smallest=0.1, largest=0.2))
    drawn = [covered for n in range(2000) if (covered := augment.draw(0, n, 0).covered)]
    # Standard deviation of the share: sqrt(0.25 x 0.75 / 2000) = 0.0097.
    assert len(drawn) / 2000 == pytest.approx(0.25, abs=0.033)
    for c in drawn:
        height, width = c.bottom - c.top, c.right - c.left
        assert 0.1 - 1e-9 <= height * width <= 0.2 + 1e-9
        assert 0.3 - 1e-9 <= height / width <= 1 / 0.3 + 1e-9
        assert min(c.left, c.top) >= 0
        assert max(c.right, c.bottom) <= 1
    assert len({c.noise_seed for c in drawn}) == len(drawn)


def test_a_row_meets_mixup_or_cutmix_each_by_its_chance_and_no_row_itself():
    augment = Augment(mixup=Mixup(alpha=0.2, chance=0.3), cutmix=Cutmix(chance=0.5))
    mixes = [augment.draw(0, n, 0).mix for n in range(2000)]
    boxes = [mix for mix in mixes if mix and mix.box]
    shares = [mix.share for mix in mixes if mix and not mix.box]
    assert len(boxes) / 2000 == pytest.approx(0.5, abs=0.037)
    assert len(shares) / 2000 == pytest.approx(0.3, abs=0.034)
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 (2 x 0.2 + 1)) = 0.179.
    assert np.mean(shares) == pytest.approx(0.5, abs=3.3 * math.sqrt(0.179 / len(shares)))
    assert np.var(shares) == pytest.approx(0.179, abs=0.02)
    partners = Counter(mix.partner(3, 5) for mix in mixes if mix)
    assert set(partners) == {0, 1, 2, 4}
    assert all(abs(n - len([m for m in mixes if m]) / 4) < 66 for n in partners.values())


def test_of_uniform_shares_half_the_area_stays_before_borders_are_cut_off():
    """Cutmix with alpha 1: 1 - area of the whole box is uniform, so its mean is 1/2."""
    augment = Augment(cutmix=Cutmix(alpha=1, chance=1))
    sides = [mix.box[2] - mix.box[0] for n in range(2000) if (mix := augment.draw(0, n, 0).mix) and mix.box]
    assert np.mean(np.square(sides)) == pytest.approx(0.5, abs=3.3 * math.sqrt(1 / 12 / 2000))


# What is done


@pytest.mark.parametrize(
    ("name", "far", "wanted"),
    [
        ("nothing", 1.0, [[0, 100, 200, 255]]),
        ("posterize", 1.0, [[0, 96, 192, 240]]),  # four bits are left
        ("posterize", 0.5, [[0, 100, 200, 252]]),  # six
        ("solarize", 0.5, [[0, 100, 55, 0]]),  # from 128 on turned over
        ("solarize", 1.0, [[255, 155, 55, 0]]),
        ("brightness", -1.0, [[0, 10, 20, 25]]),  # a tenth
        ("brightness", 0.5, [[0, 145, 255, 255]]),
        # Their mean is 139: each goes a tenth of its way to it where only 0.1 of the contrast is left.
        ("contrast", -1.0, [[125, 135, 145, 150]]),
        ("saturation", -1.0, [[0, 100, 200, 255]]),  # grey has none
        ("sharpness", -1.0, None),
        ("shift_x", 0.5515, [[128, 0, 100, 200]]),  # 150 / 331 x 4 x 0.5515 is one pixel
        ("shift_x", -0.5515, [[100, 200, 255, 128]]),
    ],
)
def test_a_change_by_hand(name, far, wanted):
    found = seen(grey([[0, 100, 200, 255]]), (name, far))
    if wanted is not None:
        assert found == [[pytest.approx(value, abs=1) for value in row] for row in wanted]


def test_contrast_and_histogram_are_stretched_over_the_whole_range():
    assert seen(grey([[50, 100, 150]]), ("autocontrast", 1.0)) == [[0, 127, 255]]
    # Equal counts of four values become even steps of 85.
    assert seen(grey([[10, 11, 12, 13]] * 255), ("equalize", 1.0)) == [[0, 85, 170, 255]] * 255


def test_a_shear_leaves_the_middle_where_it_is_and_moves_the_borders():
    image = Image.new("RGB", (41, 41))
    image.paste((255, 255, 255), (20, 0, 21, 41))
    sheared = np.asarray(View(*PLAIN, changes=(("shear_x", 1.0),)).of(image))[..., 0]
    assert sheared[20].argmax() == 20
    # 0.3 for each row: 20 rows above the middle by 6 pixels one way, below by as many the other way.
    assert (int(sheared[0].argmax()), int(sheared[40].argmax())) == (26, 14)


def test_changes_follow_one_another():
    image = grey([[0, 100, 200, 255]])
    assert seen(image, ("solarize", 1.0), ("posterize", 1.0)) == [[240, 144, 48, 0]]
    assert seen(image, ("posterize", 1.0), ("solarize", 1.0)) == [[255, 159, 63, 15]]


def test_half_a_turn_to_the_left_is_a_turn_of_fifteen_degrees():
    image = Image.new("RGB", (101, 101))
    image.paste((255, 255, 255), (50, 0, 51, 50))  # from the middle upwards
    turned = np.asarray(View(*PLAIN, changes=(("rotate", 0.5),)).of(image))[..., 0]
    # 40 pixels above the middle the line lies 40 tan 15 = 10.7 pixels to the left.
    assert int(turned[10].argmax()) == pytest.approx(50 - 10.7, abs=1)


def test_a_rectangle_is_covered_by_hand():
    pixels_CHW = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    dark_C, bright_C = np.array([-1, 0, 2], np.float32), np.array([1, 1, 4], np.float32)
    found_CHW = Covered(0.25, 0.5, 0.75, 1.0, None).over(pixels_CHW, dark_C, bright_C)
    for channel, middle in enumerate((0.0, 0.5, 3.0)):
        wanted_HW = np.arange(16, dtype=np.float32).reshape(4, 4) + 16 * channel
        wanted_HW[2:, 1:3] = middle
        assert np.array_equal(found_CHW[channel], wanted_HW)
    assert pixels_CHW[0, 2, 1] == 9  # a copy


def test_noise_fills_the_range_evenly_and_is_the_same_again():
    pixels_CHW = np.full((3, 100, 100), 9, np.float32)
    dark_C, bright_C = np.array([-1, 0, 2], np.float32), np.array([1, 1, 4], np.float32)
    noise = Covered(0, 0, 1, 1, 5)
    found_CHW = noise.over(pixels_CHW, dark_C, bright_C)
    assert found_CHW.dtype == np.float32
    assert np.array_equal(noise.over(pixels_CHW, dark_C, bright_C), found_CHW)
    assert not np.array_equal(Covered(0, 0, 1, 1, 6).over(pixels_CHW, dark_C, bright_C), found_CHW)
    for channel, (low, high) in enumerate([(-1, 1), (0, 1), (2, 4)]):
        drawn_HW = found_CHW[channel]
        assert low <= drawn_HW.min() < low + 0.01
        assert high - 0.01 < drawn_HW.max() <= high
        assert drawn_HW.mean() == pytest.approx((low + high) / 2, abs=0.03)


def test_two_images_over_one_another_by_hand():
    own_CHW, other_CHW = np.full((3, 2, 2), 8, np.float32), np.full((3, 2, 2), 4, np.float32)
    mix = Mix(0.0, share=0.25)
    assert np.array_equal(mix.of(own_CHW, other_CHW), np.full((3, 2, 2), 5, np.float32))
    assert mix.own_share(2, 2) == 0.25


@pytest.mark.parametrize(
    ("box", "taken", "share"),
    [
        ((0.25, 0.5, 0.75, 1.0), (slice(2, 4), slice(1, 3)), 0.75),
        ((-0.5, -0.5, 0.5, 0.25), (slice(0, 1), slice(0, 2)), 0.875),  # only what lies inside counts
        ((-1.0, -1.0, 2.0, 2.0), (slice(0, 4), slice(0, 4)), 0.0),
        ((0.5, 0.5, 0.5, 0.5), (slice(2, 2), slice(2, 2)), 1.0),
    ],
)
def test_a_rectangle_of_another_image_by_hand_counts_by_its_pixels(box, taken, share):
    own_CHW, other_CHW = np.zeros((3, 4, 4), np.float32), np.ones((3, 4, 4), np.float32)
    wanted_CHW = own_CHW.copy()
    wanted_CHW[:, taken[0], taken[1]] = 1
    mix = Mix(0.0, box=box)
    assert np.array_equal(mix.of(own_CHW, other_CHW), wanted_CHW)
    assert mix.own_share(4, 4) == share == 1 - wanted_CHW[0].mean()


# Labels


def network_of(model: Path, rows: Any, **task: Any) -> Any:
    return ClassifyImage(**task).network(base_from(model, "image"), rows, 0)


@pytest.fixture
def says(model, tmp_path):
    """A network that gives every image the probabilities 0.2, 0.3 and 0.5, and its examples: one of each label."""

    def made(**task: Any) -> tuple[Any, list[Any]]:
        rows = image_rows(tmp_path / "images", 3)
        network = network_of(model, rows, head="random", **task)
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
        return network, list(network.encode(rows))

    return made


def test_the_loss_of_a_mixed_row_by_hand(says):
    """A quarter of the first label and three of the last: - 0.25 ln 0.2 - 0.75 ln 0.5 = 0.9222. Beside it a plain row of the
    second: - ln 0.3 = 1.2040."""
    network, examples = says()
    assert network.labels == LABELS
    mixed = replace(examples[0], labels=(0, 2), shares=(0.25, 0.75))
    plain = replace(examples[1], labels=(1,))
    assert network.loss([mixed], 0.0).item() == pytest.approx(0.9222, abs=1e-4)
    assert network.loss([mixed, plain], 0.0).item() == pytest.approx(0.9222 + 1.2040, abs=1e-4)


def test_the_loss_of_a_mixed_row_is_that_of_soft_labels_with_weights_and_smoothing(says):
    network, examples = says()
    network.class_weight.copy_(torch.tensor([0.5, 1.0, 3.0]))
    mixed = [
        replace(examples[0], labels=(0, 2), shares=(0.25, 0.75)),
        replace(examples[0], labels=(1, 1), shares=(0.4, 0.6)),
        replace(examples[0], labels=(2,)),
    ]
    soft_BC = torch.tensor([[0.25, 0, 0.75], [0, 1, 0], [0, 0, 1]])
    for smoothing in (0.0, 0.2):
        wanted = F.cross_entropy(
            network.head.bias.expand(3, 3), soft_BC, network.class_weight, reduction="sum", label_smoothing=smoothing
        )
        assert network.loss(mixed, smoothing).item() == pytest.approx(float(wanted), rel=1e-5)


def test_each_label_of_a_mixed_row_has_its_own_focal_factor(says):
    """Gamma 2: 0.25 x 0.8^2 x - ln 0.2 + 0.75 x 0.5^2 x - ln 0.5 = 0.2575 + 0.1300."""
    network, examples = says(focal_gamma=2.0)
    mixed = replace(examples[0], labels=(0, 2), shares=(0.25, 0.75))
    assert network.loss([mixed], 0.0).item() == pytest.approx(0.3875, abs=1e-4)


def test_a_mixed_row_shows_both_images_and_weighs_what_its_labels_weigh(model, tmp_path):
    rows = image_rows(tmp_path / "images", 9)
    augment = Augment(crop=0.7, cutmix=Cutmix(chance=0.5), mixup=Mixup(alpha=1, chance=0.5))
    network = network_of(model, rows, augment=augment)
    network.class_weight.copy_(torch.tensor([0.5, 1.0, 3.0]))
    examples = list(network.encode(rows))
    both = 0
    for number, example in enumerate(examples):
        mixed = network.varied(example, number, 4, examples)
        view = augment.draw(0, number, 4)
        mix = view.mix
        partner = mix.partner(number, 9)
        other = examples[partner]
        share = mix.own_share(*network._sights.size)
        assert mixed.labels == (*example.labels, *other.labels)
        assert mixed.shares == (share, 1 - share)
        assert mixed.weight == pytest.approx(share * example.weight + (1 - share) * other.weight)
        # The other one is seen as it is seen itself in this epoch, but alone.
        seen_CHW = network.pixels([replace(example, view=replace(view, mix=None))])[0].numpy()
        other_view = replace(augment.draw(0, partner, 4), mix=None)
        other_CHW = network.pixels([replace(other, view=other_view)])[0].numpy()
        assert np.array_equal(network.pixels([mixed])[0].numpy(), mix.of(seen_CHW, other_CHW))
        assert network.identity(mixed) != network.identity(replace(example, view=view))
        both += 0 < share < 1
    assert both > 4


def test_one_row_alone_is_mixed_with_nobody(model, tmp_path):
    rows = image_rows(tmp_path / "images", 3)
    augment = Augment(mixup=Mixup(chance=1))
    network = network_of(model, rows, augment=augment)
    example = network.encode(rows)[0]
    assert network.varied(example, 0, 0, [example]) == replace(example, view=augment.draw(0, 0, 0))


# Settings


@pytest.mark.parametrize(
    ("augment", "reason"),
    [
        ({}, "changes nothing"),
        ({"mixup": {"chance": 0.7}, "cutmix": {"chance": 0.7}}, r"chances are 1\.4 together"),
        ({"erase": {"smallest": 0.5, "largest": 0.2}}, "give them in order"),
        ({"policy": {"leave_out": list(CHANGES)}}, "leave policy out"),
        ({"policy": {"leave_out": ["turn"]}}, "leave_out"),
        ({"mixup": {"alpha": 0}}, "alpha"),
        ({"erase": {"fill": "black"}}, "fill"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(augment, reason):
    with pytest.raises(RecipeError, match=rf"task\.augment.*{reason}"):
        migaki.Recipe(task={"kind": "classify_image", "augment": augment}, data={"train": "images"})


def test_a_recipe_with_everything_is_read_back_as_it_was():
    recipe = migaki.Recipe(task={"kind": "classify_image", "augment": EVERYTHING}, data={"train": "images"})
    from migaki.core.codec import parse_yaml

    assert migaki.Recipe.from_mapping(parse_yaml(recipe.to_yaml(), "r")[0]).task == recipe.task
