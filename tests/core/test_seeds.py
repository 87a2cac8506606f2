"""Randomness is a function of (seed, purpose, epoch, sample), in every process."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from migaki.core.seeds import derive, generator, permutation


def test_a_derived_seed_is_the_hash_of_seed_and_names():
    digest = hashlib.sha256(b"7\x1fadapter\x1f3").digest()
    assert derive(7, "adapter", 3) == int.from_bytes(digest[:8], "little") >> 1


def test_seed_and_names_cannot_be_mistaken_for_one_another():
    seeds = {derive(1, "2", "3"), derive(12, "3"), derive(1, "23"), derive(123), derive(1, "2", "", "3")}
    assert len(seeds) == 5


def test_a_derived_seed_fits_torch_and_numpy():
    seeds = [derive(seed, "x") for seed in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_generators_of_two_purposes_draw_unlike_numbers():
    a, b = generator(0, "order", 1).random(1000), generator(0, "order", 2).random(1000)
    assert not np.any(a == b)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15


def test_a_generator_starts_anew_each_time():
    assert np.array_equal(generator(5, "a").random(9), generator(5, "a").random(9))


@pytest.mark.parametrize("n", [1, 2, 17])
def test_a_permutation_visits_every_row_once(n):
    assert sorted(permutation(n, 3, 0)) == list(range(n))


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = {tuple(permutation(30, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_the_global_generator_is_neither_read_nor_moved():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = permutation(10, 0, 0)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(99)
    assert np.array_equal(permutation(10, 0, 0), first)


@pytest.mark.parametrize("hash_seed", ["0", "1234"])
def test_another_process_derives_the_same_seeds(hash_seed):
    code = "from migaki.core.seeds import *; print(derive(3, 'lora', 'layer.0'), *permutation(8, 3, 1))"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.split() == [str(derive(3, "lora", "layer.0")), *map(str, permutation(8, 3, 1))]
