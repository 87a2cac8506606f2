"""Near copies of images: what the hash says, that planted copies are found, and that different pictures are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from PIL.Image import Resampling

from migaki.data.likeness import LIKE, difference_hash, grey_copy, near_hashes


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Soft blobs, as a photograph has: few of its differences are close to none."""
    drawn = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(drawn, "RGB").resize(size, Resampling.BICUBIC)


def likeness(one: Image.Image, other: Image.Image) -> float:
    return float(grey_copy(one) @ grey_copy(other))


def compressed(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=30)
    return Image.open(out).convert("RGB")


COPIES = {
    "smaller": lambda image: image.resize((60, 45), Resampling.BICUBIC),
    "wider": lambda image: image.resize((180, 90), Resampling.BICUBIC),
    "compressed": compressed,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_changed_copy_is_found_by_its_hash_and_by_its_pixels(change):
    for seed in range(20):
        image = scene(seed)
        copy = change(image)
        assert near_hashes([difference_hash(i.convert("L")) for i in (image, copy)]) == [(0, 1)]
        assert likeness(image, copy) >= LIKE


def test_different_pictures_are_no_pairs():
    hashes = [difference_hash(scene(seed).convert("L")) for seed in range(300)]
    assert near_hashes(hashes) == []
    assert max(likeness(scene(0), scene(seed)) for seed in range(1, 30)) < LIKE


def test_a_ramp_is_brighter_to_the_right_everywhere():
    ramp = Image.linear_gradient("L").rotate(90)  # black at the left
    assert difference_hash(ramp) == "f" * 16 + "0" * 16


def test_pairs_are_those_that_counting_bit_by_bit_finds():
    drawn = np.random.default_rng(0)
    hashes = [drawn.bytes(16) for _ in range(40)]
    for i in range(0, 40, 4):  # planted, 0 to 18 bits away
        bits = np.unpackbits(np.frombuffer(hashes[i], np.uint8))
        bits[: i // 2] ^= 1
        hashes[i + 1] = np.packbits(bits).tobytes()
    differing = {
        (i, j): bin(int.from_bytes(hashes[i]) ^ int.from_bytes(hashes[j])).count("1")
        for i in range(40)
        for j in range(i + 1, 40)
    }
    wanted = sorted(pair for pair, n in differing.items() if n <= 12)
    assert near_hashes([one.hex() for one in hashes]) == wanted
    assert len(wanted) == 7  # 0, 2, 4 ... 12 bits


def test_many_hashes_are_compared_across_the_blocks():
    drawn = np.random.default_rng(1)
    hashes = [drawn.bytes(16).hex() for _ in range(1200)]
    hashes[1199] = hashes[3]
    assert near_hashes(hashes) == [(3, 1199)]


def test_the_product_of_two_grey_copies_is_their_correlation():
    one, other = scene(0), scene(1)
    a, b = (np.asarray(image.convert("L").resize((32, 32)), float).reshape(-1) for image in (one, other))
    assert likeness(one, other) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)


def test_of_a_thousand_equal_hashes_each_has_fifty_partners():
    assert len(near_hashes(["00" * 16] * 1000)) == 950 * 50 + 50 * 49 // 2


def test_of_single_shades_nothing_is_like_anything():
    assert likeness(Image.new("RGB", (9, 9), "white"), Image.new("RGB", (9, 9), "white")) == 0.0
    assert near_hashes([]) == []
