"""All of `odd_media`: more than sixty odd and broken files, each read by its rule or refused with reason and remedy, in little
memory."""

from __future__ import annotations

import pytest

import odd_images
import odd_sounds
from odd_media import Verdict, verdicts


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[Verdict]:
    return verdicts(tmp_path_factory.mktemp("media"))


def test_none_ends_the_process_and_each_is_read_by_its_rule_or_refused_with_reason_and_remedy(found):
    assert {v.name: v.fault for v in found if v.fault} == {}


def test_they_are_well_over_sixty_and_each_was_read(found):
    # What is no file with bytes in it comes on top: a pipe, a link to nowhere, and a recording of no bytes.
    kinds = (odd_images.ODD, odd_images.BROKEN, odd_sounds.ODD, odd_sounds.BROKEN)
    assert len(found) == sum(map(len, kinds)) + 3
    assert sum(v.broken for v in found) >= 60
    assert sum(not v.broken for v in found) >= 60


def test_a_bomb_takes_no_more_memory_than_any_other_file(found):
    bombs = {v.name: v.grown_bytes >> 20 for v in found if v.name in {**odd_images.BOMBS, **odd_sounds.BOMBS}}
    assert len(bombs) == len(odd_images.BOMBS) + len(odd_sounds.BOMBS) >= 10
    assert max(bombs.values()) < 64, bombs
