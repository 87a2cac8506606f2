"""Token ids: made once for what they are made from, kept memory-mapped, and the same as in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chats import chat_format
from learners import METHODS, base_from, conversations, labelled, prepared, task_of
from migaki.core.types import Dataset, Labelled, Place, Row
from migaki.training.tokens import Examples, Known, Pair, Tokens, tokenizer_fingerprint


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    return tmp_path


def dataset(*texts: str) -> Dataset:
    return Dataset("train", tuple(Row(Place("a", i), Labelled(text, "x")) for i, text in enumerate(texts, 1)))


class Counted:
    """Makes ids of the letters, and counts how often it is asked."""

    def __init__(self, rows: Dataset, targets: bool = True) -> None:
        self.rows, self.targets, self.asked = rows, targets, 0

    def __call__(self) -> Iterator[Pair]:
        self.asked += 1
        for row in self.rows.rows:
            ids = [ord(letter) for letter in row.content.text]
            yield ids, [token % 2 == 0 for token in ids] if self.targets else None


@pytest.mark.parametrize("targets", [True, False])
def test_the_second_time_nothing_is_tokenised_and_the_ids_are_mapped_from_the_disk(targets: bool) -> None:
    rows = dataset("abc", "", "日本", "abc")
    counted = Counted(rows, targets)
    for _ in range(2):
        found = Tokens.cached(rows, ["tokenizer"], counted)
        assert found.lengths.tolist() == [3, 0, 2, 3]
        assert [found.ids(i).tolist() for i in range(4)] == [[97, 98, 99], [], [26085, 26412], [97, 98, 99]]
        if targets:
            assert found.targets(0).tolist() == [False, True, False]
        assert isinstance(found._ids_N, np.memmap)
    assert counted.asked == 1


@pytest.mark.parametrize(
    ("rows", "made_by"),
    [
        pytest.param(dataset("abc", "d"), ["tokenizer", "template", "all"], id="content"),
        pytest.param(dataset("abd", "abc"), ["tokenizer", "template", "all"], id="order"),
        pytest.param(dataset("abc", "abd"), ["other", "template", "all"], id="tokenizer"),
        pytest.param(dataset("abc", "abd"), ["tokenizer", "other", "all"], id="template"),
        pytest.param(dataset("abc", "abd"), ["tokenizer", "template", "last"], id="what is learned"),
    ],
)
def test_whatever_the_ids_depend_on_makes_them_anew(rows: Dataset, made_by: Sequence[str]) -> None:
    first = Counted(dataset("abc", "abd"))
    Tokens.cached(first.rows, ["tokenizer", "template", "all"], first)
    other = Counted(rows)
    Tokens.cached(rows, made_by, other)
    assert other.asked == 1


def test_where_the_rows_stand_does_not_matter() -> None:
    rows = dataset("abc")
    Tokens.cached(rows, [], Counted(rows))
    moved = Dataset("test", (Row(Place("elsewhere", 7), Labelled("abc", "x")),))
    again = Counted(moved)
    Tokens.cached(moved, [], again)
    assert again.asked == 0


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=6))
def test_in_memory_every_row_comes_back(rows: list[list[int]]) -> None:
    found = Tokens.of((row, [token % 3 == 0 for token in row]) for row in rows)
    assert found.lengths.tolist() == [len(row) for row in rows]
    for i, row in enumerate(rows):
        assert found.ids(i).tolist() == row
        assert found.targets(i).tolist() == [token % 3 == 0 for token in row]


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_a_second_learner_over_the_same_rows_does_not_tokenise(
    kind: str, tiny_encoder: Path, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_encoder if kind == "classify_text" else tiny_decoder
    rows = labelled(9) if kind == "classify_text" else conversations(5)
    calls: list[int] = []

    def watched(learner: Any) -> Any:
        network = learner.network
        plain = network._tokenised_rows if kind == "classify_text" else network._pair

        def counted(*arguments: Any) -> Any:
            calls.append(1)
            return plain(*arguments)

        monkeypatch.setattr(network, "_tokenised_rows" if kind == "classify_text" else "_pair", counted)
        return learner

    task = task_of(kind, head="random") if kind == "classify_text" else task_of(kind)
    first = watched(prepared(folder, task, "lora", rows))
    wanted = list(first.encode(rows))
    assert len(calls) == (1 if kind == "classify_text" else len(rows))
    # Judging the rows that were encoded asks for nothing either.
    first.predict(rows.rows, answers=0)
    second = watched(prepared(folder, task, "full", rows))
    assert list(second.encode(rows)) == wanted
    assert len(calls) == (1 if kind == "classify_text" else len(rows))


def test_a_tokenizers_fingerprint_knows_its_words_and_its_special_tokens(tiny_encoder: Path) -> None:
    tokenizer = base_from(tiny_encoder, "encoder").tokenizer
    before = tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(base_from(tiny_encoder, "encoder").tokenizer) == before
    tokenizer.add_tokens(["printer"])
    added = tokenizer_fingerprint(tokenizer)
    assert added != before
    tokenizer.sep_token = "[MASK]"
    assert tokenizer_fingerprint(tokenizer) not in (before, added)


def test_the_generators_key_has_tokenizer_template_and_what_is_learned(
    tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, seen = conversations(3), []
    plain = Tokens.cached

    def watched(dataset: Dataset, made_by: Sequence[str], tokenise: Any) -> Tokens:
        seen.append(tuple(made_by))
        return plain(dataset, made_by, tokenise)

    monkeypatch.setattr(Tokens, "cached", watched)
    for settings in ({}, {"learn": "last"}, {"template": "alpaca"}):
        METHODS["lora"].prepare(base_from(tiny_decoder, "decoder"), task_of("generate", **settings), rows, 0).encode(
            rows
        )
    default, last, alpaca = seen
    assert default[:2] == last[:2]
    assert default[2:] != last[2:]
    assert default[0] == alpaca[0]
    assert default[1] != alpaca[1]
    assert chat_format("chatml").fingerprint() != chat_format("llama3").fingerprint()


def test_examples_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []
    examples = Examples(5, lambda i: made.append(i) or i)  # type: ignore[arg-type, func-returns-value, return-value]
    assert len(examples) == 5
    assert made == []
    assert (examples[-1], examples[1:4], list(examples)) == (4, [1, 2, 3], [0, 1, 2, 3, 4])
    for outside in (5, -6):
        with pytest.raises(IndexError):
            examples[outside]


def test_the_splits_at_hand_are_known_by_identity_and_the_oldest_is_forgotten() -> None:
    """Equal rows of another split may have been cut or masked in another way."""
    splits = [dataset("a").rows for _ in range(3)]
    tokens = [Tokens.of([([i], None)]) for i in range(3)]
    known = Known(size=2)
    for rows, made in zip(splits, tokens, strict=True):
        known.add(rows, made)
    assert known.find(splits[0]) is None
    assert known.find(splits[1]) is tokens[1]
    assert known.find(splits[2]) is tokens[2]
    assert known.find(dataset("a").rows) is None


def test_the_characters_of_each_token_are_kept_with_it(own_cache: Path) -> None:
    rows = dataset("ab", "c")
    placed = [([1, 2], None, [(0, 1), (1, 2)]), ([3], None, [(0, 0)])]
    for _ in range(2):  # made, and read back
        tokens = Tokens.cached(rows, ["placed"], lambda: placed)
        assert [tokens.places(i).tolist() for i in (0, 1)] == [[[0, 1], [1, 2]], [[0, 0]]]
        assert tokens.ids(1).tolist() == [3]
