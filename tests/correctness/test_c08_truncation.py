"""C8: truncation that removes labels, or cuts answers, without a word."""

import json

import pytest

import migaki
from migaki.core.errors import TruncationError
from migaki.training.monitor import Monitor
from tiny import chat_rows, labelled_rows, write_rows

LONG = " the order has not arrived" * 8


class Notes(Monitor):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def recipe(folder, base, rows, task, held_out):
    return {
        "task": task,
        "data": {"train": str(write_rows(folder / "train.jsonl", rows)), "valid": held_out[:6], "test": held_out[6:]},
        "model": str(base),
        "method": "lora",
        "training": {"max_steps": 1},
    }


def chats(folder, base, n_long, n=100, **task):
    rows = chat_rows(n)
    for i in range(n_long):
        rows[10 + i]["completion"] += LONG
    held_out = [{**row, "prompt": row["prompt"] + " ?"} for row in chat_rows(12)]
    task = {"kind": "generate", "generated_rows": 0, "max_length": 64, **task}
    return recipe(folder, base, rows, task, held_out)


def texts(folder, base, n_long, n=100, **task):
    rows = labelled_rows(n)
    for i in range(n_long):
        rows[10 + i]["text"] += LONG
    held_out = [{**row, "text": row["text"] + " ?"} for row in labelled_rows(12)]
    return recipe(folder, base, rows, {"kind": "classify_text", "max_length": 32, **task}, held_out)


MAKERS = pytest.mark.parametrize(("make", "model"), [(chats, "tiny_decoder"), (texts, "tiny_encoder")])


@MAKERS
def test_more_than_one_row_in_a_hundred_that_would_be_cut_is_an_error_that_names_them(tmp_path, request, make, model):
    settings = make(tmp_path, request.getfixturevalue(model), n_long=2)
    with pytest.raises(TruncationError, match=r"2 of 100 train rows are longer than \d+ tokens") as caught:
        migaki.train(settings, tmp_path / "runs")
    message = str(caught.value)
    assert f"{tmp_path / 'train.jsonl'}:11 (" in message
    assert f"{tmp_path / 'train.jsonl'}:12 (" in message
    assert "task.allow_truncated: 0.02" in message
    assert not (tmp_path / "runs").exists()


@MAKERS
def test_one_row_in_a_hundred_may_be_cut_and_is_counted_and_named(tmp_path, request, make, model):
    notes = Notes()
    run = migaki.train(make(tmp_path, request.getfixturevalue(model), n_long=1), tmp_path / "runs", notes)
    place = f"{tmp_path / 'train.jsonl'}:11"
    said = [line for line in notes.lines if "lose their end" in line]
    assert len(said) == 1
    assert "1 of 100 train rows" in said[0]
    assert place in said[0]
    # Said before anything is measured or trained.
    assert notes.lines.index(said[0]) < next(i for i, line in enumerate(notes.lines) if line.startswith("run "))
    data = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    assert [split["truncated"] for split in data["splits"].values()] == [1, 0, 0]
    assert [finding["examples"] for finding in data["findings"] if "lose their end" in finding["message"]] == [[place]]


@MAKERS
def test_the_recipe_may_allow_more(tmp_path, request, make, model):
    settings = make(tmp_path, request.getfixturevalue(model), n_long=3, allow_truncated=0.03)
    run = migaki.train(settings, tmp_path / "runs")
    data = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    assert data["splits"]["train"]["truncated"] == 3


@MAKERS
def test_a_split_that_is_only_judged_is_held_to_the_same_rule(tmp_path, request, make, model):
    settings = make(tmp_path, request.getfixturevalue(model), n_long=0)
    column = "completion" if make is chats else "text"
    settings["data"]["test"][4][column] += LONG
    with pytest.raises(TruncationError, match=r"1 of 6 test rows .*:5 \("):
        migaki.train(settings, tmp_path / "runs")


def test_a_stop_token_is_never_cut_off_in_silence(tmp_path, tiny_decoder):
    """Whatever the limit: a row either keeps the end of its answer or counts as truncated."""
    from migaki.methods import Full
    from migaki.models import Model, locate
    from migaki.models.base import load_base
    from migaki.tasks import Generate

    base = load_base(locate(Model(reference=str(tiny_decoder))), "decoder")
    rows = [{"prompt": "hi", "completion": "the printer does not print"}]
    from migaki.data import Data

    train, _ = Data(train=rows).read(rows, "conversation", need_target=True)
    whole = Full().prepare(base, Generate(), train, 0).network.encode(train)[0]
    stop = base.tokenizer.eos_token_id
    last_target = max(at for at, label in enumerate(whole.labels) if label != -100)
    assert whole.labels[last_target] == stop
    first_target = min(at for at, label in enumerate(whole.labels) if label != -100)
    for limit in range(first_target + 1, len(whole) + 1):
        network = Full().prepare(base, Generate(max_length=limit, allow_truncated=1.0), train, 0).network
        example = network.encode(train)[0]
        kept = stop in [label for label in example.labels if label != -100]
        assert kept == (limit > last_target)
        assert kept or example.truncated
        assert example.ids == whole.ids[:limit]
