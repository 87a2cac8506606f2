"""A merge that is missing is found by the vocabulary; a whole tokenizer stays as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from migaki.models import BUNDLED
from migaki.models.merges import mend_merges
from tiny_speech import whisper_tokenizer

TEXT = " press one or two"


def without(tokenizer: Any, *numbers: int) -> tuple[Any, list[str]]:
    """The tokenizer without these merges, and the words they made."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = described["model"]["merges"]
    lost = ["".join(merges[number]) for number in numbers]
    described["model"]["merges"] = [pair for number, pair in enumerate(merges) if number not in numbers]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described))), lost


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_lost_merge_is_put_back_at_its_place(number):
    whole = whisper_tokenizer()
    broken, lost = without(whole, number)
    assert broken(TEXT)["input_ids"] != whole(TEXT)["input_ids"] or number
    assert mend_merges(broken) == lost
    assert broken.backend_tokenizer.to_str() == whole.backend_tokenizer.to_str()
    assert broken(TEXT)["input_ids"] == whole(TEXT)["input_ids"]


def test_a_whole_tokenizer_stays_as_it_is():
    whole = whisper_tokenizer()
    before = whole.backend_tokenizer.to_str()
    assert mend_merges(whole) == []
    assert whole.backend_tokenizer.to_str() == before


def test_a_tokenizer_of_another_kind_is_left_alone(tiny_encoder):
    from transformers import AutoTokenizer

    assert mend_merges(AutoTokenizer.from_pretrained(tiny_encoder)) == []


@pytest.mark.skipif(not BUNDLED["whisper-base"].is_there(), reason="migaki models get whisper-base")
def test_whisper_base_as_it_comes_lacks_its_first_merge():
    file = BUNDLED["whisper-base"].weight_file().parent / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    assert tokenizer.convert_ids_to_tokens(tokenizer(" the")["input_ids"])[-3:-1] == ["Ġ", "the"]
    assert mend_merges(tokenizer) == ["Ġt"]
    assert "Ġthe" in tokenizer.convert_ids_to_tokens(tokenizer(" the")["input_ids"])
