"""The shipped general sets are sound, and a file of one's own is checked before anything is trained."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

import migaki.data
from migaki.core.errors import DataError
from migaki.core.types import Choice, Conversation, Labelled
from migaki.data.generality import general_probe

HOME = Path(migaki.data.__file__).parent / "general"
KINDS = ("topics", "passages", "choices")
JAPANESE = re.compile("[ぁ-んァ-ヶ一-龥]")
SIZES = {
    "topics-en": 140,
    "topics-ja": 80,
    "passages-en": 24,
    "passages-ja": 12,
    "choices-en": 40,
    "choices-ja": 20,
}


def bundled() -> dict[str, list]:
    return {s.name: [row.content for row in s.rows] for s in general_probe("bundled", KINDS, "labelled")}


def words(text: str) -> Counter:
    """Words of an English text (the short ones are in all of them), pairs of characters of a Japanese one."""
    plain = unicodedata.normalize("NFKC", text).lower()
    if JAPANESE.search(plain):
        return Counter(plain[i : i + 2] for i in range(len(plain) - 1))
    return Counter(re.findall(r"[a-z0-9']{4,}", plain))


def texts_of(content) -> list[str]:
    if isinstance(content, Labelled):
        return [content.text]
    if isinstance(content, Conversation):
        return [turn.content for turn in content.turns]
    return [content.question, *content.options]


def test_the_shipped_sets_are_those_that_are_described():
    assert {name: len(rows) for name, rows in bundled().items()} == SIZES
    table = dict(
        re.findall(r"^\| `([\w-]+)\.jsonl` \| (\d+) \|", (HOME / "README.md").read_text(encoding="utf-8"), re.M)
    )
    assert {name: int(n) for name, n in table.items()} == SIZES
    assert {path.name for path in HOME.iterdir()} == {"README.md", *(f"{name}.jsonl" for name in SIZES)}
    assert "Apache-2.0" in (HOME / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SIZES)
def test_texts_are_clean_and_in_their_language(name):
    for line in (HOME / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.dumps(json.loads(line), ensure_ascii=False) == line
    for content in bundled()[name]:
        for text in texts_of(content):
            assert text == text.strip() == unicodedata.normalize("NFC", text) != ""
            assert not re.search(r"\s\s|[\x00-\x1f\ufffd]", text)
            if name.endswith("en"):
                assert text.isascii()
            else:
                assert JAPANESE.search(text)
                assert text[-1] in "。？"


@pytest.mark.parametrize(("name", "each"), [("topics-en", 14), ("topics-ja", 8)])
def test_topics_are_the_same_in_both_languages_and_of_one_size(name, each):
    counts = Counter(content.label for content in bundled()[name])
    assert set(counts.values()) == {each}
    assert set(counts) == {content.label for content in bundled()["topics-en"]}
    assert len(counts) == 10


@pytest.mark.parametrize("name", SIZES)
def test_no_row_stands_twice_nor_nearly(name):
    """No two rows share more than 60 % of their words; options are like one another and do not count."""
    rows = [
        words(content.question if isinstance(content, Choice) else " ".join(texts_of(content)))
        for content in bundled()[name]
    ]
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert (a & b).total() <= 0.6 * max(a.total(), b.total()), (a, b)


@pytest.mark.parametrize("name", ["choices-en", "choices-ja"])
def test_questions_have_four_options_and_the_right_one_gives_itself_away_neither_by_place_nor_by_length(name):
    choices = bundled()[name]
    for choice in choices:
        assert isinstance(choice, Choice)
        assert len({option.lower() for option in choice.options}) == 4
    assert set(Counter(choice.right for choice in choices).values()) == {len(choices) // 4}
    # The longest, or the shortest, is the right one about as often as by chance.
    for pick in (max, min):
        hits = sum(
            len(choice.options[choice.right]) == pick(map(len, choice.options))
            and [len(o) for o in choice.options].count(pick(map(len, choice.options))) == 1
            for choice in choices
        )
        assert hits / len(choices) <= 0.4, pick


@pytest.mark.parametrize("name", ["choices-en", "choices-ja"])
def test_the_options_of_a_question_differ_in_one_place_only(name):
    """The sentence around the choice is the same four times, so that nothing else can make one likelier."""
    for choice in bundled()[name]:
        start = len(_common(choice.options))
        end = len(_common([option[::-1] for option in choice.options]))
        for option in choice.options:
            assert 1 <= len(option) - start - end <= 20, option


def _common(texts) -> str:
    low, high = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:n]


def test_off_is_no_set_and_a_task_asks_for_its_own():
    assert general_probe("off", KINDS, "labelled") == ()
    assert [s.name for s in general_probe("bundled", ["passages"], "conversation")] == ["passages-en", "passages-ja"]
    assert general_probe("bundled", [], "labelled") == ()


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_ones_own_is_read_by_the_usual_names(tmp_path):
    mine = write(tmp_path / "mine.csv", "本文,分類\nあ,x\nい,x\nう,y\nえ,y\n")
    (found,) = general_probe(mine, ["topics"], "labelled")
    assert (found.name, len(found)) == ("mine.csv", 4)
    assert found.rows[2].content == Labelled("う", "y")
    chats = write(tmp_path / "mine.jsonl", '{"question": "a?", "answer": "b"}\n')
    (found,) = general_probe(chats, ["passages", "choices"], "conversation")
    assert [turn.content for turn in found.rows[0].content.turns] == ["a?", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,x\nb,\n", r"generality: .*mine\.csv:3: the label in column 'label' is empty"),
        ("text,label\na,x\nb,x\n", r"generality: all 2 rows of .*mine\.csv have the label 'x'"),
        (
            "text,label\na,x\nb,x\nc,y\n",
            r"1 of 3 rows are the only text of their label: .*mine\.csv:4 \(y\)\. .*at least two texts",
        ),
        ("text,label\na,x\nb,x\nc,y\nc,y\n", r"2 of 4 rows .*mine\.csv:4 \(y\), .*mine\.csv:5 \(y\)"),
        ("txt,label\na,x\n", r"generality: .*no column looks like the text"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        general_probe(write(tmp_path / "mine.csv", text), ["topics"], "labelled")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="generality: There is no file"):
        general_probe(str(tmp_path / "none.csv"), ["topics"], "labelled")
