"""What format a file is in is told by its columns and first rows, and shown on the rows as they are read."""

import json

import pytest

from migaki.cli import main
from migaki.core.errors import DataError
from migaki.core.types import Place, Record
from migaki.data.recognition import recognised

PLACE = Place("rows.jsonl", 1)
ASKED = [{"role": "user", "content": "q"}]
SAID = [*ASKED, {"role": "assistant", "content": "a"}]
FORMS = [
    ({"text": "t", "label": "x"}, "labelled", "a text and a label"),
    ({"premise": "t", "hypothesis": "u", "label": "x"}, "labelled", "two texts and a label"),
    ({"text": "t", "labels": ["x", "y"]}, "multi_labelled", "a text and any number of labels"),
    ({"text": "Ada", "spans": [{"start": 0, "end": 3, "label": "P"}]}, "tagged", "a text with spans in characters"),
    ({"tokens": ["Ada"], "tags": ["B-P"]}, "tagged", "tokens with tags"),
    ({"messages": SAID}, "conversation", "messages of {role, content}"),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "conversation",
        "ShareGPT: messages of {from, value}",
    ),
    ({"instruction": "q", "input": "", "output": "a"}, "conversation", "Alpaca"),
    ({"instruction": "q", "input": "", "output": "a", "history": [["b", "c"]]}, "conversation", "Alpaca with history"),
    ({"prompt": "q", "completion": "a"}, "conversation", "prompt and completion"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preferred", "preferences: prompt, chosen and rejected"),
    (
        {"input": {"messages": ASKED}, "preferred_output": SAID[1:], "non_preferred_output": SAID[1:]},
        "preferred",
        "OpenAI's preferences: input, preferred_output and non_preferred_output",
    ),
    ({"prompt": "q", "completion": "a", "label": True}, "judged", "KTO: answers that are good or bad"),
    ({"text": "t"}, "plain", "plain text"),
]


@pytest.mark.parametrize(("values", "kind", "name"), FORMS, ids=[f"{kind}: {name}" for _, kind, name in FORMS])
def test_each_usual_format_is_known_by_its_row(values, kind, name):
    form = recognised("rows.jsonl", list(values), [Record(PLACE, values)])
    assert (form.content_kind, form.name) == (kind, name)
    assert len(form.rows) == 1
    assert set(form.columns.values()) | set(form.unused) == set(values)


def test_what_is_in_no_format_is_refused_with_what_each_one_lacks():
    with pytest.raises(DataError, match=r"(?s)no known format.*as classify_text.*as generate"):
        recognised("rows.jsonl", ["a", "b"], [Record(PLACE, {"a": 1, "b": 2})])


def test_a_named_task_decides_where_columns_allow_several():
    values = {"text": "t", "label": "x", "prompt": "q", "completion": "a"}
    record = Record(PLACE, values)
    assert recognised("f", list(values), [record], "conversation").content_kind == "conversation"


def test_data_show_prints_a_files_format_its_rows_and_the_lines_of_a_recipe(tmp_path, capsys):
    file = tmp_path / "mine.jsonl"
    lines = [{"id": n, "Frage": f"q{n}", "question": f"q{n}", "answer": f"a{n}"} for n in range(5)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["data", "show", str(file), "--rows", "2"]) == 0
    told = capsys.readouterr().out
    assert "prompt and completion" in told
    assert "prompt from column 'question'" in told
    assert "not read: 'id', 'Frage'" in told
    assert f"{file}:2" in told
    assert f"{file}:3" not in told
    assert f'data: {{train: {file}, prompt: "question", completion: "answer"}}' in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "classify_cats"], "--task classify_cats is not known here"),
        (["--set", "seed=1"], "--set changes a recipe"),
    ],
)
def test_data_show_refuses_what_makes_no_sense_for_a_file(tmp_path, capsys, words, message):
    file = tmp_path / "mine.csv"
    file.write_text("text,label\na,b\n")
    assert main(["data", "show", str(file), *words]) == 2
    assert message in capsys.readouterr().err


def test_preferences_are_checked_though_no_task_learns_from_them_yet(tmp_path, capsys):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"question {n}", "chosen": "same", "rejected": "same"} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "check", str(file)]) == 0
    assert "equal pairs" in capsys.readouterr().out
