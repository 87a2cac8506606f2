"""Whatever is wrong with a recipe or its data: exit 2, the place, the remedy, no traceback, and nothing written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from migaki.cli import main

ROWS = "text,label\n" + "".join(
    f"the printer does not print {i},technical\nplease send the invoice {i},billing\n" for i in range(12)
)
CHATS = "".join(
    json.dumps({"prompt": f"how do I print {i}", "completion": "press the button"}) + "\n" for i in range(24)
)
CLASSIFY = "task: classify_text\nmodel: ENCODER\ndata:\n  train: rows.csv\n"
GENERATE = "task: generate\nmodel: DECODER\ndata:\n  train: chats.jsonl\n"


@dataclass(frozen=True)
class Case:
    """A recipe, the files beside it, and what the message must hold. `HERE` is the folder of both."""

    place: str
    remedy: str
    recipe: str | bytes = CLASSIFY
    files: dict[str, str | bytes] = field(default_factory=dict)
    settings: tuple[str, ...] = ()


def training(text: str) -> str:
    return f"{CLASSIFY}training:\n  {text}\n"


def method(text: str) -> str:
    return f"{CLASSIFY}method: {text}\n"


def rows(data: str | bytes) -> dict[str, str | bytes]:
    return {"rows.csv": data}


RECIPES = {
    "an empty file": Case("r.yaml: is empty", "needs at least `task:` and `data:`", ""),
    "a list": Case("r.yaml: holds a list", "needs at least `task:` and `data:`", "- task\n"),
    "no data section": Case("data: is missing", "it has no default", "task: generate\n"),
    "no rows to train on": Case(
        "r.yaml:2: data.train: is missing", "it has no default", "task: generate\ndata: {test: 0.2}\n"
    ),
    "bytes that are no UTF-8": Case("r.yaml: cannot be read", "A recipe is a UTF-8 text file", b"task: caf\xe9\n"),
    "a tab as indentation": Case("r.yaml:3", "Look at the indentation", "task: generate\ndata:\n\ttrain: a.csv\n"),
    "a bracket left open": Case("r.yaml:6", "Look at the indentation and the colons", CLASSIFY + "method: [lora\n"),
    "two documents": Case("r.yaml:5", "Look at the indentation and the colons", CLASSIFY + "---\nseed: 1\n"),
    "a control character": Case("r.yaml:5", "special characters are not allowed", CLASSIFY + "seed: \x01\n"),
    "a key twice": Case(
        "r.yaml:6: the key 'seed' stands twice (first on line 5)", "keep one", CLASSIFY + "seed: 1\nseed: 2\n"
    ),
    "a tag that would run code": Case(
        "r.yaml:5: the tag", "holds only plain values", CLASSIFY + "seed: !!python/object/apply:os.system [exit]\n"
    ),
    "an anchor": Case("r.yaml:5: the anchor or alias 'a'", "write the value out", CLASSIFY + "seed: &a 1\n"),
    "brackets without end": Case(
        "r.yaml:5: is nested too deeply", "write it flatter", CLASSIFY + "seed: " + "[" * 200_000
    ),
    "a number of 5,000 digits": Case("r.yaml:5: seed", "is not a whole number", CLASSIFY + "seed: " + "1" * 5000),
    "over a mebibyte": Case("r.yaml: is over 1 MiB", "Rows belong into a data file", CLASSIFY + "#" * 2**20),
    "a key called self": Case(
        "r.yaml:5: self: there is no such setting", "valid: data, generality, method, model", CLASSIFY + "self: 1\n"
    ),
    "an unknown section": Case("r.yaml:5: trainig", "did you mean 'training'?", CLASSIFY + "trainig: {epochs: 1}\n"),
    "an unknown setting": Case(
        "r.yaml:6: training.learning_rte", "did you mean 'learning_rate'?", training("learning_rte: 1")
    ),
    "an unknown task": Case(
        "r.yaml:1: task", "did you mean 'classify_text'?", CLASSIFY.replace("classify_text", "clasify_text")
    ),
    "an unknown method": Case("r.yaml:5: method", "did you mean 'lora'?", method("loora")),
    "a method without kind": Case("r.yaml:5: method: the kind is missing", "valid: ", method("{rank: 4}")),
    "an empty method": Case("r.yaml:5: method: an empty value is no kind", "valid: ", method("")),
    "a setting of another method": Case(
        "r.yaml:5: method.rank: there is no such setting", "valid: gradual, kind", method("{kind: full, rank: 4}")
    ),
    "an unknown choice": Case("r.yaml:6: training.schedule", "did you mean 'cosine'?", training("schedule: cosin")),
    "a word for a number": Case(
        "r.yaml:6: training.epochs: 'three'", "is not a whole number", training("epochs: three")
    ),
    "a broken number of epochs": Case("r.yaml:6: training.epochs: 2.5", "whole number", training("epochs: 2.5")),
    "yes for a number": Case("r.yaml:6: training.clip: 'yes'", "is not a number", training("clip: yes")),
    "infinity": Case("r.yaml:6: training.learning_rate: inf", "finite", training("learning_rate: 1e999")),
    "below zero": Case(
        "r.yaml:6: training.weight_decay: -0.1", "greater than or equal to 0", training("weight_decay: -0.1")
    ),
    "a warm-up of everything": Case("r.yaml:6: training.warmup: 1", "less than 1", training("warmup: 1")),
    "no rows in a step": Case("r.yaml:6: training.batch_size: 0", "greater than 0", training("batch_size: 0")),
    "a share of everything": Case("r.yaml:5: data.test: 1 is not a share", "up to 0.9", CLASSIFY + "  test: 1\n"),
    "shares that leave nothing": Case(
        "data: valid and test together take 1.2", "take 0.9 at most", CLASSIFY + "  test: 0.6\n  valid: 0.6\n"
    ),
    "a share in quotes": Case(
        "r.yaml:5: data.test: '0.2' is a text", "write the share without quotes", CLASSIFY + "  test: '0.2'\n"
    ),
    "a year as a column": Case("r.yaml:5: data.text: 2024", "Put it into quotes", CLASSIFY + "  text: 2024\n"),
    "an empty path": Case("r.yaml:4: data.train: the path is empty", "give a file", CLASSIFY.replace("rows.csv", "''")),
    "a NUL in a path": Case("r.yaml:4: data.train", "NUL character", CLASSIFY.replace("rows.csv", '"a\\0.csv"')),
    "a home of nobody": Case(
        "r.yaml:4: data.train: there is no home folder", "write the path out", CLASSIFY.replace("rows", "~nobody9/rows")
    ),
    "an unknown bundled model": Case(
        "r.yaml:2: model.reference", "did you mean 'minilm'?", CLASSIFY.replace("ENCODER", "bundled:minlm")
    ),
    "an unknown kind of model": Case(
        "r.yaml:2: model.reference", "valid: bundled:, hf:, run:", CLASSIFY.replace("ENCODER", "zip:minilm")
    ),
    "a hub name without its owner": Case(
        "r.yaml:2: model.reference", "hf:ORG/NAME", CLASSIFY.replace("ENCODER", "hf:minilm")
    ),
    "a revision of a folder": Case(
        "r.yaml:2: model", "leave it out", CLASSIFY.replace("ENCODER", "{reference: ENCODER, revision: main}")
    ),
    "a set without a value": Case("--set method.rank", "key.key=value", settings=("method.rank",)),
    "a set of a setting's setting": Case(
        "--set seed.x=1: seed is a plain value", "has no 'x'", CLASSIFY + "seed: 1\n", settings=("seed.x=1",)
    ),
    "a set that is no YAML": Case("--set method.targets=[a", "is not valid YAML", settings=("method.targets=[a",)),
    "a set out of range": Case("- method.rank: 0", "greater than 0", settings=("method.rank=0",)),
    "a model folder that is not there": Case(
        "HERE/no-model", "Check `model` in the recipe", CLASSIFY.replace("ENCODER", "no-model")
    ),
    "a model name too long for a path": Case(
        "HERE/xxx", "Check `model` in the recipe", CLASSIFY.replace("ENCODER", "x" * 300)
    ),
    "a GGUF file that is not there": Case(
        "HERE/m.gguf", "relative to the recipe", CLASSIFY.replace("ENCODER", "m.gguf")
    ),
    "a folder that is no model": Case(
        "HERE has no config.json", "not a model folder", CLASSIFY.replace("ENCODER", ".")
    ),
    "an earlier run that is not there": Case(
        "No run '7'", "Give an id, its number", CLASSIFY.replace("ENCODER", "run:7")
    ),
    "a decoder's task on an encoder": Case("ENCODER", "trained as a decoder", GENERATE.replace("DECODER", "ENCODER")),
    "layers that are not there": Case(
        "method.targets: 'qkv'", "they are called", method("{kind: lora, targets: [qkv]}")
    ),
    "no layers": Case("method.targets: is empty", "name at least one layer", method("{kind: lora, targets: []}")),
    "more tokens than the model takes": Case(
        "task.max_length is 4096",
        "Lower it",
        CLASSIFY.replace("classify_text", "{kind: classify_text, max_length: 4096}"),
    ),
}

DATA = {
    "a file that is not there": Case(
        "HERE/row.csv", "did you mean 'rows.csv'?", CLASSIFY.replace("rows.csv", "row.csv")
    ),
    "a folder": Case(
        "HERE is a folder", "Name one file in it: chats.jsonl, rows.csv", CLASSIFY.replace("rows.csv", ".")
    ),
    "a file name too long": Case("HERE/xxx", "Check its name", CLASSIFY.replace("rows.csv", "x" * 300 + ".csv")),
    "a spreadsheet": Case(
        "HERE/rows.xlsx", "save as CSV", CLASSIFY.replace("rows.csv", "rows.xlsx"), {"rows.xlsx": b"PK"}
    ),
    "an address": Case(
        "s3://bucket/rows.csv", "downloaded first", CLASSIFY.replace("rows.csv", "s3://bucket/rows.csv")
    ),
    "an unknown demo set": Case(
        "demo:helpdesk", "did you mean 'helpdesk-chat'?", CLASSIFY.replace("rows.csv", "demo:helpdesk")
    ),
    "an empty list": Case(
        "The list of train rows is empty", "Give at least one row", CLASSIFY.replace("rows.csv", "[]")
    ),
    "words for rows": Case("r.yaml:4: data.train.0", "group of settings", CLASSIFY.replace("rows.csv", "[one, two]")),
    "an empty file": Case("HERE/rows.csv is empty", "at least one row", files=rows("")),
    "a header alone": Case("HERE/rows.csv has no rows", "at least one row", files=rows("text,label\n")),
    "a cell too many": Case("HERE/rows.csv:26", "into double quotes", files=rows(ROWS + "hello, world,technical\n")),
    "a quote left open": Case("HERE/rows.csv:26", "close every quoted cell", files=rows(ROWS + '"hello,technical\n')),
    "a cut-off line": Case("HERE/rows.csv:26", "export it again", files=rows(ROWS + "hel")),
    "a column twice": Case(
        "HERE/rows.csv:1", "Rename one of them", files=rows(ROWS.replace("text,label", "text,text"))
    ),
    "no known column": Case("HERE/rows.csv", "data.text: COLUMN", files=rows(ROWS.replace("text,label", "a,b"))),
    "a named column that is not there": Case(
        "HERE/rows.csv: data.label", "did you mean 'label'?", CLASSIFY + "  label: lable\n"
    ),
    "a column of another task": Case("HERE/rows.csv: data.prompt", "Remove it", CLASSIFY + "  prompt: text\n"),
    "a NUL": Case("HERE/rows.csv:26", "Remove it", files=rows(ROWS + "a\x00b,technical\n")),
    "latin-1": Case("HERE/rows.csv:26", "data.encoding", files=rows(ROWS.encode() + b"caf\xe9,technical\n")),
    "an unknown encoding": Case(
        "there is no encoding 'utf-99'", "Set data.encoding", CLASSIFY + "  encoding: utf-99\n"
    ),
    "a wrong encoding": Case(
        "HERE/rows.csv:26", "data.encoding", CLASSIFY + "  encoding: ascii\n", rows(ROWS + "é,technical\n")
    ),
    "no text": Case("HERE/rows.csv:26: the text", "fill it in or remove the row", files=rows(ROWS + " ,technical\n")),
    "no label": Case("HERE/rows.csv:26: the label", "fill it in or remove the row", files=rows(ROWS + "hello,\n")),
    "several faults at once": Case(
        "HERE/rows.csv:28: the text",
        "HERE/rows.csv:26: the label",
        files=rows(ROWS + "hello,\nfine,billing\n,technical\n"),
    ),
    "one label only": Case(
        "have the label 'technical'", "at least two labels", files=rows(ROWS.replace("billing", "technical"))
    ),
    "rows too few to divide": Case(
        "split is empty: 2 train rows", "Give more rows", files=rows("text,label\na,x\nb,y\n")
    ),
    "a label that train does not know": Case(
        "HERE/test.csv:3",
        "correct the spelling",
        CLASSIFY + "  test: test.csv\n",
        {"test.csv": "text,label\nx,billing\ny,biling\n"},
    ),
    "all rows rare": Case(
        "No label of HERE/rows.csv has 99 rows",
        "Lower data.min_rows_per_label",
        CLASSIFY + "  min_rows_per_label: 99\n",
    ),
    "all rows also in test": Case(
        "rows.csv:2", "Give other rows", CLASSIFY + "  test: test.csv\n  drop_repeats: true\n", {"test.csv": ROWS}
    ),
    "texts too long": Case(
        "HERE/rows.csv:",
        "Raise task.max_length",
        CLASSIFY.replace("classify_text", "{kind: classify_text, max_length: 3}"),
    ),
    "bad JSON": Case(
        "HERE/chats.jsonl:2",
        "texts in double quotes",
        GENERATE,
        {"chats.jsonl": '{"a": "b"}\n{\'a\': 1}\n{"a": "b"}\n'},
    ),
    "a key twice in a row": Case(
        "HERE/chats.jsonl:1", "stands twice", GENERATE, {"chats.jsonl": '{"prompt": "a", "prompt": "b"}\n'}
    ),
    "an answer that is a number": Case(
        "HERE/chats.jsonl:25",
        "correct or remove",
        GENERATE,
        {"chats.jsonl": CHATS + '{"prompt": "a", "completion": 5}\n'},
    ),
    "no answer": Case(
        "HERE/chats.jsonl:25: the completion",
        "fill it in",
        GENERATE,
        {"chats.jsonl": CHATS + '{"prompt": "a", "completion": ""}\n'},
    ),
    "no conversation": Case("HERE/chats.jsonl", "data.prompt: COLUMN", GENERATE, {"chats.jsonl": '{"a": "b"}\n'}),
    "a conversation that ends with the question": Case(
        "HERE/chats.jsonl:1",
        "add it or remove the row",
        GENERATE,
        {"chats.jsonl": '{"messages": [{"role": "user", "content": "a"}]}\n'},
    ),
    "an unknown role": Case(
        "HERE/chats.jsonl:1: message 1",
        "did you mean 'user'?",
        GENERATE,
        {"chats.jsonl": '{"messages": [{"role": "usr", "content": "a"}]}\n'},
    ),
    "answers beyond the limit": Case(
        "HERE/chats.jsonl:", "Raise task.max_length", GENERATE.replace("generate", "{kind: generate, max_length: 9}")
    ),
    "rows without a target left": Case(
        "HERE/chats.jsonl:",
        "Give them an answer, remove them, or raise task.max_length",
        GENERATE.replace("generate", "{kind: generate, max_length: 9, allow_truncated: 1.0}"),
    ),
}
CASES = {
    **{f"recipe: {name}": case for name, case in RECIPES.items()},
    **{f"data: {name}": case for name, case in DATA.items()},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_malformed_input_is_told_by_place_and_remedy(case, tiny_encoder, tiny_decoder, tmp_path, monkeypatch, capfd):
    here, runs = tmp_path / "here", tmp_path / "runs"
    here.mkdir()

    def there(text: str) -> str:
        return (
            text.replace("ENCODER", str(tiny_encoder)).replace("DECODER", str(tiny_decoder)).replace("HERE", str(here))
        )

    for name, content in {"rows.csv": ROWS, "chats.jsonl": CHATS, **case.files}.items():
        (here / name).write_bytes(content.encode() if isinstance(content, str) else content)
    recipe = there(case.recipe).encode() if isinstance(case.recipe, str) else case.recipe
    (here / "r.yaml").write_bytes(recipe)
    before = sorted(here.iterdir())
    monkeypatch.chdir(here)
    arguments = [word for setting in case.settings for word in ("--set", setting)]
    assert main(["train", "r.yaml", "--runs", str(runs), *arguments]) == 2
    out, err = capfd.readouterr()
    assert there(case.place) in err
    assert there(case.remedy) in err
    assert "Traceback" not in out + err
    assert len(err) < 2500
    assert not runs.exists()
    assert sorted(here.iterdir()) == before


def test_the_table_holds_forty_cases_of_each_kind():
    assert len(RECIPES) >= 40
    assert len(DATA) >= 35
    assert len({(case.recipe, str(case.files), case.settings) for case in CASES.values()}) == len(CASES)


def test_a_problem_is_also_told_as_json(tmp_path, capsys):
    path = tmp_path / "r.yaml"
    path.write_text("task: generate\nseed: -1\n")
    assert main(["train", str(path), "--json"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["error"] == "RecipeError"
    assert "seed: -1" in told["message"]
    assert "data: is missing" in told["message"]


@pytest.mark.parametrize(
    ("name", "what"),
    [("none.yaml", "there is no such file"), (".", "is a folder"), ("x" * 300, "cannot be read")],
)
def test_a_recipe_that_is_no_file_is_told(name, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", name]) == 2
    err = capsys.readouterr().err
    assert what in err
    assert list(Path().iterdir()) == []


def test_looking_at_data_refuses_the_same_faults(tmp_path, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(CLASSIFY)
    (tmp_path / "rows.csv").write_text(ROWS + "hello,\n")
    assert main(["data", "show", str(path)]) == 2
    assert f"{tmp_path / 'rows.csv'}:26: the label" in capsys.readouterr().err
