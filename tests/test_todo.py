"""From the errors of one run to the next: what the list says is true, what is accepted is learned, nothing is asked twice."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import migaki
from migaki.cli import main
from migaki.core.errors import DamagedError
from migaki.core.types import Evaluation, Place, Prediction
from migaki.data import Data, read_records, write_records
from migaki.data.corrections import COLUMNS
from migaki.evaluation import classification
from migaki.todo import _collect_more, _duplicates
from tiny import LABELS, labelled_rows


@pytest.fixture(scope="module")
def cycle(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the three runs, with the to-do list of run 1 in `todo.csv` and what the command printed in `said.txt`."""
    import contextlib
    import io

    home = tmp_path_factory.mktemp("cycle")
    shutil.copytree(finished_runs / "runs", home / "runs")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        arguments = ["evaluate", "1", "--errors", str(home / "todo.csv"), "--runs", str(home / "runs"), "--json"]
        assert main(arguments) == 0
    (home / "said.txt").write_text(out.getvalue(), encoding="utf-8")
    return home


def listed(path: Path, kind: str = "relabel") -> list[dict[str, Any]]:
    return [dict(record.values) for record in read_records(str(path)).records if record.values["kind"] == kind]


def answered(path: Path, to: Path, answer) -> Path:
    """The list with `answer(row)` under accept."""
    rows = [dict(record.values) for record in read_records(str(path)).records]
    write_records(str(to), [{**row, "accept": answer(row)} for row in rows], COLUMNS)
    return to


def test_suggestions_name_rows_by_their_place_and_most_are_the_planted_ones(cycle, finished_runs):
    """A label in five of rows.jsonl was made wrong: every fifth row that is not of the first label anyway."""
    right = labelled_rows(90)
    given = [json.loads(line) for line in (finished_runs / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    found = listed(cycle / "todo.csv")
    for row in found:
        assert Path(row["source"]) == finished_runs / "rows.jsonl"
        there = given[int(row["line"]) - 1]
        assert (row["text"], row["label"]) == (there["text"], there["label"])
        assert row["suggested_label"] in set(LABELS) - {row["label"]}
        assert row["accept"] == ""
        assert re.search(rf"gives {row['label']} 0\.\d\d and {row['suggested_label']} [01]\.\d\d$", row["reason"])
    wrong = {i + 1 for i in range(0, 90, 5) if right[i]["label"] != LABELS[0]}
    hits = [row for row in found if int(row["line"]) in wrong]
    assert len(hits) >= 6
    assert len(hits) >= 0.7 * len(found)
    assert all(row["suggested_label"] == right[int(row["line"]) - 1]["label"] for row in hits)


def test_the_command_says_what_it_found_and_what_to_do_with_it(cycle):
    lines = (cycle / "said.txt").read_text(encoding="utf-8").splitlines()
    said = json.loads(lines[-1])
    n = len(listed(cycle / "todo.csv"))
    assert (
        lines[-2] == "write yes under accept where the suggested label is right, and name the file as data.corrections"
    )
    assert lines[-3].startswith(f"labels to check: {n}, places to collect more rows: 0, copies: ")
    assert re.match(
        r"temperature \d+\.\d\d, fitted on 9 valid rows, would change the calibration error from", lines[-4]
    )
    assert said["errors"]["counts"]["relabel"] == n == len(said["errors"]["suspicious"])
    assert said["errors"]["file"] == str(cycle / "todo.csv")
    stored = json.loads((cycle / "runs/0001-classify_text-lora/errors.json").read_text(encoding="utf-8"))
    assert stored.pop("exhibits") == {}  # of texts there is nothing to show beside them
    assert stored == {name: said["errors"][name] for name in ("temperature", "suspicious", "counts")}
    confidences = [row["confidence"] for row in stored["suspicious"]]
    assert confidences == sorted(confidences)


def test_the_temperature_is_fitted_on_the_validation_rows_and_changes_no_prediction(cycle):
    run = migaki.load(1, cycle / "runs")
    scaling = json.loads((run.path / "errors.json").read_text(encoding="utf-8"))["temperature"]
    assert (
        scaling["rows"] == json.loads((run.path / "data.json").read_text(encoding="utf-8"))["splits"]["valid"]["rows"]
    )
    assert scaling["before"]["error"] == pytest.approx(run.results["details"]["calibration"]["error"], rel=1e-4)
    first = json.loads((run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert run.predict([first["text"]])[0].confidence == pytest.approx(first["confidence"], rel=1e-4)


def test_the_sealed_run_stays_as_it_is_and_the_report_shows_what_was_found_since(cycle, finished_runs, capsys):
    run = migaki.load(1, cycle / "runs")
    run.check()
    sealed = (finished_runs / "runs" / run.id / "report.html").read_text(encoding="utf-8")
    assert (run.path / "report.html").read_text(encoding="utf-8") == sealed
    for language, heading in (("en", "Labels that are probably wrong"), ("ja", "誤りの疑いがあるラベル")):
        assert main(["report", "1", "--lang", language, "--runs", str(cycle / "runs")]) == 0
        path = Path(capsys.readouterr().out.strip())
        assert path == run.path / f"report.{language}.html"
        text = path.read_text(encoding="utf-8")
        assert heading in text
        assert heading not in sealed
        first = listed(cycle / "todo.csv")[0]
        assert f"{first['source']}:{first['line']}" in text
    assert main(["report", "2", "--runs", str(cycle / "runs")]) == 0
    assert capsys.readouterr().out.strip().endswith("/report.html")


def test_accepted_labels_are_learned_by_the_next_run_and_nothing_is_asked_twice(cycle, finished_runs, tmp_path, capsys):
    """Accept the suggestions but one, refuse that one; train; look at the errors again."""
    refused = listed(cycle / "todo.csv")[-1]
    path = answered(
        cycle / "todo.csv", tmp_path / "todo.csv", lambda row: "no" if row["line"] == refused["line"] else "yes"
    )
    accepted = [row for row in listed(path) if row["accept"] == "yes"]
    settings = ["--set", f"data.corrections={path}", "--set", "training.max_steps=1", "--runs", str(tmp_path / "runs")]
    assert main(["train", str(finished_runs / "1.yaml"), *settings]) == 0
    run = migaki.load(1, tmp_path / "runs")
    data = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    message = f"{len(accepted)} labels are corrected by {path}, which suggests {len(accepted) + 1}"
    assert message in [finding["message"] for finding in data["findings"]]
    assert f"{len(accepted)} labels are corrected" in (run.path / "report.html").read_text(encoding="utf-8")

    old = migaki.load(1, finished_runs / "runs")
    texts = [
        [json.loads(line)["text"] for line in (r.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        for r in (old, run)
    ]
    assert texts[0] == texts[1]  # the same test rows
    splits = run.recipe.data.load("labelled", run.recipe.seed)
    labels = {row.content.text: row.content.label for s in (splits.train, splits.valid, splits.test) for row in s.rows}
    assert all(labels[row["text"]] == row["suggested_label"] for row in accepted)
    assert labels[refused["text"]] == refused["label"]

    capsys.readouterr()
    again = tmp_path / "again.jsonl"
    assert main(["evaluate", "1", "--errors", str(again), "--runs", str(tmp_path / "runs")]) == 0
    rows = listed(again)
    first = rows[: len(accepted) + 1]
    assert [(row["text"], row["suggested_label"]) for row in first if row["accept"] == "yes"] == [
        (row["text"], row["suggested_label"]) for row in accepted
    ]
    assert [row["text"] for row in first if row["accept"] == "no"] == [refused["text"]]
    assert all(row["accept"] == "" for row in rows[len(first) :])
    assert len({row["text"] for row in rows}) == len(rows)
    # The new list takes the place of the old one: the same labels are corrected.
    newer = run.recipe.data.model_copy(update={"corrections": str(again)})
    assert newer.load("labelled", 0).train.fingerprint() == splits.train.fingerprint()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--errors", "{home}/todo.csv"], "is there already, and answers in it would be lost"),
        (["--errors", "{home}/todo.xlsx"], "not as '.xlsx'. Choose another name for --errors"),
        (["--errors", "{home}/none/todo.csv"], "there is no folder"),
    ],
)
def test_a_list_that_cannot_be_written_is_refused_before_any_work(cycle, arguments, words, capsys):
    path = [argument.format(home=cycle) for argument in arguments]
    before = (cycle / "todo.csv").read_text(encoding="utf-8")
    assert main(["evaluate", "1", *path, "--runs", str(cycle / "runs")]) == 2
    out, err = capsys.readouterr()
    assert (out, words in err) == ("", True)
    assert (cycle / "todo.csv").read_text(encoding="utf-8") == before


def test_errors_are_those_of_the_run_and_not_of_other_rows(cycle, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "1", "--data", "x.csv", "--errors", str(tmp_path / "todo.csv")])
    assert ended.value.code == 2
    assert "not allowed with argument --data" in capsys.readouterr().err


def test_a_chat_has_no_labels_to_check_but_copies(cycle, tmp_path, capsys):
    path = tmp_path / "todo.jsonl"
    assert main(["evaluate", "2", "--errors", str(path), "--runs", str(cycle / "runs")]) == 0
    said = capsys.readouterr().out
    assert "labels to check: 0, " in said
    assert "temperature" not in said
    assert "data.corrections" not in said
    if path.read_text(encoding="utf-8"):
        assert listed(path) == []


def test_a_cut_off_record_of_errors_is_named(cycle, tmp_path):
    copy = Path(shutil.copytree(cycle / "runs" / "0001-classify_text-lora", tmp_path / "run"))
    (copy / "errors.json").write_text('{"temperature": ', encoding="utf-8")
    from migaki.report import write_report

    with pytest.raises(DamagedError, match=r"errors\.json is not readable JSON"):
        write_report(copy)


def test_copies_are_found_whatever_their_case_width_and_punctuation():
    a = [{"text": f"a {i}", "label": "a"} for i in range(9)]
    b = [{"text": f"b {i}", "label": "b"} for i in range(9)]
    more = [
        {"text": "Ｒeset   my password!", "label": "a"},
        {"text": "reset my password", "label": "b"},
        {"text": ":-)", "label": "a"},
        {"text": ":-(", "label": "b"},
        {"text": "a 0", "label": "a"},
    ]
    given = {"valid": [{"text": "v", "label": "a"}], "test": [{"text": "A-1?", "label": "a"}]}
    splits = Data(train=[*a, *b, *more], **given).load("labelled", 0)
    found = {(row["line"], row["reason"]) for row in _duplicates(splits)}
    assert found == {
        (2, "nearly the text of test:1 (test)"),
        (20, "nearly the text of train:19 (train), which has the label a"),
        (23, "the text of train:1 (train)"),
    }


def test_rows_are_wanted_where_the_model_is_worse_and_for_labels_it_never_gives():
    """a is right 38 of 40 times, b 2 of 20, mostly taken for a; c, two rows, is never given."""
    pairs = [("a", "a")] * 38 + [("a", "b")] * 2 + [("b", "b")] * 2 + [("b", "a")] * 18 + [("c", "a")] * 2
    predictions = [Prediction(Place("t", i), output, target, text="x") for i, (target, output) in enumerate(pairs, 1)]
    evaluation = classification(predictions, ("a", "b", "c"), seed=0)
    rows = [{"text": f"{label} {i}", "label": label} for label in "abc" for i in range(10)]
    splits = Data(train=rows, valid=rows[:1], test=rows[1:2]).load("labelled", 0)
    b, c = _collect_more(evaluation, splits)
    assert (b["kind"], b["label"], c["label"]) == ("collect_more", "b", "c")
    assert re.fullmatch(
        r"accuracy 0\.100 \(0\.028 to 0\.301\) on 20 test rows of label b, 0\.905 on the other 42 \(p [\d.e-]+\); "
        r"10 train rows; most often taken for a \(18\)",
        b["reason"],
    )
    assert c["reason"] == "never predicted; 10 train rows; most often taken for a (2)"


def test_a_chat_that_is_worse_on_some_rows_asks_for_more_of_them():
    part = {"by": "script", "value": "japanese", "worse": True, "p": 0.001}
    figures = {name: {"value": v, "low": v - 0.5, "high": v + 0.5, "n": 30} for name, v in (("figure", 4), ("rest", 2))}
    rows = [{"prompt": f"q {i}", "completion": "a"} for i in range(9)]
    splits = Data(train=rows, valid=rows[:1], test=rows[1:2]).load("conversation", 0)
    (row,) = _collect_more(Evaluation({}, {"slices": [{**part, **figures}]}), splits)
    assert row["reason"] == (
        "loss per token 4.000 (3.500 to 4.500) on 30 test rows of script japanese, 2.000 on the other 30 (p 0.001)"
    )
