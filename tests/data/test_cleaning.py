from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

from migaki.core.errors import DataError, RecipeError
from migaki.data import Data
from migaki.data.cleaning import Step, changes, clean_rows, restored
from migaki.recipe import Recipe
from tiny import labelled_rows


def step(value):
    return TypeAdapter(Step).validate_python(value)


@pytest.mark.parametrize(
    ("made_by", "before", "after"),
    [
        ("line_ends", "a\r\nb\rc\u2028d\ne", "a\nb\nc\nd\ne"),
        ("control_characters", "a\x07b\tc\nd\x85", "ab\tc\nd"),
        ("invisible_characters", "a\u200bb\ufeffc\u00add\u202e", "abcd"),
        ("invisible_characters", "👩\u200d💻 と ❤\ufe0f", "👩\u200d💻 と ❤\ufe0f"),
        ("invisible_characters", "क\u200dष", "कष"),
        ("spaces", "  a \u3000 b\t\tc \n d ", "a b c\nd"),
        ("nfkc", "ＡＢＣ ｶﾞ ① ㍻", "ABC ガ 1 平成"),
        ({"kind": "nfkc", "keep": "①㍻"}, "ＡＢＣ ｶﾞ ① ㍻", "ABC ガ ① ㍻"),
        ("width", "ＡＢＣ１２ ｶﾞｯ ① ～ ！", "ABC12 ガッ ① ～ ！"),
        ("html", "<p>a &amp; b<br/>c</p><script>x < 1</script> 1 < 2", "a & b\nc\n 1 < 2"),
        ({"kind": "remove", "texts": ["-- sent from my phone"]}, "hi -- sent from my phone", "hi "),
        ({"kind": "mask", "kinds": ["email"]}, "a@b.org 03-1234-5678", "[email] 03-1234-5678"),
        ("mojibake", "cafÃ© au lait", "café au lait"),
        ("mojibake", "こんにちは".encode().decode("latin-1"), "こんにちは"),
        ("mojibake", "本日は晴天".encode().decode("cp932", "strict") if False else "café", "café"),
        ("mojibake", "日本語のまま", "日本語のまま"),
    ],
)
def test_a_step_changes_what_it_names_and_nothing_else(made_by, before, after):
    assert step(made_by)(before) == after


@pytest.mark.parametrize(
    "name", ["line_ends", "control_characters", "invisible_characters", "spaces", "nfkc", "width", "mojibake"]
)
@pytest.mark.parametrize("text", ["a \r\n\u200bＢ ｶﾞ ①", "cafÃ©", "日本語、English mixed。", ""])
def test_a_step_done_twice_is_a_step_done_once(name, text):
    once = step(name)(text)
    assert step(name)(once) == once


def test_steps_are_done_in_order_and_each_says_what_it_changed():
    rows = [{"text": "Ｈｅｌｌｏ  you", "label": "a"}, {"text": "bye\u200b", "label": "b"}, *labelled_rows(20)]
    data = Data(train=rows, clean=["width", "spaces", "invisible_characters"])
    splits = data.load("labelled", 0)
    texts = {
        row.place.line: row.content.text for split in (splits.train, splits.valid, splits.test) for row in split.rows
    }
    assert (texts[1], texts[2]) == ("Hello you", "bye")
    said = [str(f) for f in splits.findings if "data.clean" in f.message]
    assert said[0].startswith("data.clean: width changed 1 of 22 train rows (first: train:1: 'Ｈｅｌｌｏ")
    assert "data.clean: invisible_characters changed 1 of 22" in said[2]
    assert "\\u200b" in said[2]


def test_messages_are_cleaned_and_labels_are_not():
    data = Data(
        train=[{"messages": [{"role": "user", "content": "ＡＢ"}, {"role": "assistant", "content": "ｶﾞ"}]}] * 9,
        clean=["nfkc"],
    )
    (row, *_), _ = data.read(data.train, "conversation", True)[0].rows, None
    assert [turn.content for turn in row.content.turns] == ["AB", "ガ"]
    (row, *_) = Data(train="x.csv", clean=["nfkc"]).read([{"text": "ＡＢ", "label": "Ｘ"}], "labelled", True)[0].rows
    assert (row.content.text, row.content.label) == ("AB", "Ｘ")


def test_a_row_of_which_nothing_is_left_is_refused_with_its_place():
    data = Data(train=[{"text": "<br>", "label": "a"}, {"text": "b", "label": "b"}], clean=["html"])
    with pytest.raises(DataError, match=r"train:1: nothing is left of a text of this row after data\.clean"):
        data.load("labelled", 0)


def test_an_unknown_step_is_refused_before_work():
    with pytest.raises(RecipeError, match=r"data\.clean"):
        Recipe.from_mapping(
            {"task": "classify_text", "method": "full", "data": {"train": labelled_rows(), "clean": ["nfck"]}}
        )


def test_a_tuned_model_gets_its_questions_cleaned_in_the_same_way(tmp_path, tiny_encoder):
    """Predictions of a text and of the same text in full-width letters are equal, since the recipe says width."""
    from migaki.pipeline import train

    recipe = {
        "task": "classify_text",
        "model": str(tiny_encoder),
        "method": "probe",
        "data": {"train": labelled_rows(), "clean": ["width"]},
    }
    run = train(recipe, tmp_path)
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalpha() else c for c in "printer screen")
    first, second = run.predict(["printer screen", wide])
    assert first.scores == pytest.approx(second.scores)
    assert json.loads((run.path / "data.json").read_text())["splits"]["train"]["rows"] > 0


def test_every_change_of_every_text_is_told_and_the_rows_are_given_back_by_it():
    texts = ["Ｈｅｌｌｏ  you", "bye\u200b", "plain", "cafÃ©  \r\n x"]
    data = Data(
        train=[
            *({"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": t[::-1]}]} for t in texts),
        ]
    )
    raw = data.read(data.train, "conversation", True)[0].rows
    steps = [step(name) for name in ("line_ends", "width", "spaces", "invisible_characters", "nfkc")]
    told = list(changes(raw, steps))
    cleaned, _ = clean_rows(raw, steps, "train")
    assert restored(cleaned, told) == tuple(raw) != cleaned
    # The first message of row 1: width, then spaces; its answer, the second text of the row, likewise.
    assert [(c.step, c.text) for c in told if c.place.line == 1] == [
        ("width", 0),
        ("width", 1),
        ("spaces", 0),
        ("spaces", 1),
    ]
    assert told[0].as_json() == {
        "source": "data",
        "line": 1,
        "text": 0,
        "step": "width",
        "before": "Ｈｅｌｌｏ  you",
        "after": "Hello  you",
    }
    assert not any(c.place.line == 3 for c in told)
