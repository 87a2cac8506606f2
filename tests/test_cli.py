"""Every command from its arguments to its last line: figures, files, answers and exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import migaki
from migaki.cli import main
from migaki.core.store import RunFolder, list_runs, read_json
from migaki.core.types import Turn
from tiny import chat_rows, labelled_rows, write_rows

KEYS = [
    "run",
    "folder",
    "metrics",
    "baseline",
    "forgetting",
    "train_seconds",
    "peak_bytes",
    "trainable_parameters",
    "total_parameters",
]


@pytest.fixture
def runs(finished_runs: Path) -> str:
    return str(finished_runs / "runs")


@pytest.fixture
def copied(finished_runs: Path, tmp_path: Path) -> Path:
    """The runs, to be spoilt."""
    return Path(shutil.copytree(finished_runs / "runs", tmp_path / "runs"))


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def shell(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    place = str(Path(migaki.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "migaki", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": "1", **environment},
    )


# train


@pytest.mark.parametrize(("number", "kind"), [(1, "classify_text-lora"), (2, "generate-full"), (3, "generate-lora")])
def test_training_ends_with_one_json_object_of_exactly_the_promised_keys(finished_runs, number, kind):
    said = last_json((finished_runs / f"{number}.out").read_text())
    assert list(said) == KEYS
    assert said["run"] == f"{number:04d}-{kind}"
    assert Path(said["folder"]) == finished_runs / "runs" / said["run"]
    for metrics in (said["metrics"], said["baseline"]):
        for measure in metrics.values():
            assert list(measure) == ["value", "low", "high", "n"]
    assert said["metrics"].keys() == said["baseline"].keys()
    assert said["metrics"].keys() >= (
        {"accuracy", "f1_macro"} if number == 1 else {"loss", "perplexity", "exact_match"}
    )
    assert said == migaki.load(number, finished_runs / "runs").summary()


def test_training_shows_base_and_tuned_side_by_side_and_what_to_do_next(finished_runs):
    said = (finished_runs / "1.out").read_text()
    run = migaki.load(1, finished_runs / "runs")
    (row,) = [line for line in said.splitlines() if "accuracy" in line and "│" in line]
    base, tuned = (
        f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in (run.baseline["accuracy"], run.metrics["accuracy"])
    )
    assert row.index(base) < row.rindex(tuned)
    assert f"report: {run.path / 'report.html'}" in said
    assert "use it: migaki predict 0001 --input FILE --output FILE --runs" in said
    assert "use it: migaki generate 0002 --chat" in (finished_runs / "2.out").read_text()


def test_training_shows_answers_before_and_after(finished_runs):
    said = (finished_runs / "2.out").read_text()
    asked = re.findall(r"^question: (.*)$", said, re.M)
    first = json.loads((finished_runs / "runs/0002-generate-full/predictions.jsonl").read_text().splitlines()[0])
    assert asked[0] == first["text"]
    assert said.count("  before: ") == said.count("  after:  ") == len(asked) == 3


def test_settings_reach_the_run_and_its_stored_recipe(finished_runs, tmp_path, capsys):
    arguments = ["--set", "training.max_steps=1", "--set", "method.rank=3", "--set", "seed=5", "--runs", str(tmp_path)]
    assert main(["train", str(finished_runs / "1.yaml"), *arguments]) == 0
    recipe = migaki.load(1, tmp_path).recipe
    assert (recipe.training.max_steps, recipe.method.rank, recipe.seed) == (1, 3, 5)
    assert recipe.data.train == str(finished_runs / "rows.jsonl")


def test_without_json_the_last_line_is_for_people(finished_runs, tmp_path, capsys):
    assert main(["train", str(finished_runs / "1.yaml"), "--set", "training.max_steps=1", "--runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("use it: ")
    assert "validation at step 0" in err


def test_the_default_folder_of_the_runs_is_beside_the_user(finished_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(finished_runs / "1.yaml"), "--set", "training.max_steps=1"]) == 0
    assert "use it: migaki predict 0001 --input FILE --output FILE\n" in capsys.readouterr().out
    assert [run.id for run in list_runs(tmp_path / "runs")] == ["0001-classify_text-lora"]
    assert main(["evaluate", "1"]) == 0


def test_an_absurd_learning_rate_ends_with_exit_1_and_a_failed_run(finished_runs, tmp_path, capsys):
    arguments = ["--set", "training.learning_rate=1e30", "--runs", str(tmp_path), "--json"]
    assert main(["train", str(finished_runs / "2.yaml"), *arguments]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "Lower training.learning_rate" in err
    assert last_json(out)["error"] == "NonFiniteError"
    (run,) = list_runs(tmp_path)
    assert run.state()["state"] == "failed"
    assert main(["runs", "--runs", str(tmp_path)]) == 0
    assert re.fullmatch(r"0001-generate-full +failed *\n", capsys.readouterr().out)
    for command in (["evaluate", "1"], ["generate", "1", "--prompt", "a"], ["report", "1"]):
        assert main([*command, "--runs", str(tmp_path)]) == 2
        assert "Run 0001-generate-full is failed" in capsys.readouterr().err


def test_a_runs_folder_that_is_a_file_is_refused(finished_runs, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(["train", str(finished_runs / "1.yaml"), "--runs", str(tmp_path / "file")]) == 2
    assert f"{tmp_path / 'file'} is a file" in capsys.readouterr().err


# evaluate


@pytest.mark.parametrize("number", [1, 2])
def test_evaluating_gives_the_figures_of_the_training_again(finished_runs, runs, number, capsys):
    assert main(["evaluate", str(number), "--runs", runs, "--json"]) == 0
    out = capsys.readouterr().out
    said, trained = last_json(out), last_json((finished_runs / f"{number}.out").read_text())
    assert said["run"] == trained["run"]
    assert said["metrics"].keys() == trained["metrics"].keys()
    for name, measure in said["metrics"].items():
        assert measure == pytest.approx(trained["metrics"][name], rel=1e-5)
        assert re.search(rf"^{name} +{measure['value']:.3f} \[{measure['low']:.3f}, .*\]  n {measure['n']}$", out, re.M)
    evaluation = migaki.load(number, runs).evaluate()
    assert {name: m.as_json() for name, m in evaluation.metrics.items()} == said["metrics"]


def test_evaluating_other_rows_equals_counting_by_hand(runs, tmp_path, capsys):
    rows = labelled_rows(20)
    path = write_rows(tmp_path / "more.jsonl", rows)
    assert main(["evaluate", "1", "--data", str(path), "--runs", runs, "--json"]) == 0
    said = last_json(capsys.readouterr().out)["metrics"]["accuracy"]
    answers = migaki.load(1, runs).predict([row["text"] for row in rows])
    assert said["value"] == sum(p.output == row["label"] for p, row in zip(answers, rows, strict=True)) / 20
    assert said["n"] == 20


def test_evaluating_a_chat_on_other_rows_answers_as_many_as_its_recipe_says(runs, tmp_path, capsys):
    path = write_rows(tmp_path / "more.jsonl", chat_rows(9))
    assert main(["evaluate", "2", "--data", str(path), "--runs", runs, "--json"]) == 0
    metrics = last_json(capsys.readouterr().out)["metrics"]
    assert (metrics["loss"]["n"], metrics["exact_match"]["n"]) == (9, 3)


def test_rows_without_labels_cannot_be_judged_and_the_place_is_told(runs, tmp_path, capsys):
    path = tmp_path / "more.csv"
    path.write_text("text,label\na,billing\nb,\n")
    assert main(["evaluate", "1", "--data", str(path), "--runs", runs]) == 2
    assert f"{path}:3: the label" in capsys.readouterr().err
    path.write_text("text\na\n")
    assert main(["evaluate", "1", "--data", str(path), "--runs", runs]) == 2
    assert "no column looks like the label" in capsys.readouterr().err


# predict

ODD_CELLS = [
    ["007", "the printer does not print", "NA", " spaced "],
    ["1e3", 'say "hi", please', "", "a;b"],
    ["", "画面が真っ暗です〜①", "null", "x\ny"],
    ["2024-01-31", "line\r\nbreak", "true", "\u2028"],
]


def test_predicting_a_csv_keeps_every_cell_to_the_byte_and_adds_two(runs, tmp_path, capsys):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text", "note", "最後"], *ODD_CELLS])
    assert main(["predict", "1", "--input", str(source), "--output", str(target), "--runs", runs]) == 0
    assert capsys.readouterr().out == f"4 rows written to {target}\n"
    with target.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "text", "note", "最後", "prediction", "confidence"]
    assert [row[:4] for row in rows] == ODD_CELLS
    expected = migaki.load(1, runs).predict([row[1] for row in ODD_CELLS])
    assert [row[4] for row in rows] == [p.output for p in expected]
    assert [float(row[5]) for row in rows] == [pytest.approx(p.confidence) for p in expected]


def test_predicting_json_lines_keeps_every_value_and_adds_two(runs, tmp_path):
    rows = [
        {"id": 7, "text": "my screen is black", "tags": ["a", {"b": None}], "score": 1.0, "label": "technical"},
        {"text": "返品したいのですが", "id": None, "ok": True},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(source, rows)
    assert main(["predict", "1", "--input", str(source), "--output", str(target), "--runs", runs]) == 0
    found = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert "返品" in target.read_text(encoding="utf-8")
    for row, answered in zip(rows, found, strict=True):
        assert answered.keys() - row.keys() == {"prediction", "confidence"}
        assert {key: answered[key] for key in row} == row
        assert 1 / 3 <= answered["confidence"] <= 1


def test_the_output_may_be_of_another_kind_than_the_input(runs, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b\tc"], "n": [1, None]}), tmp_path / "in.parquet")
    assert (
        main(
            [
                "predict",
                "1",
                "--input",
                str(tmp_path / "in.parquet"),
                "--output",
                str(tmp_path / "out.tsv"),
                "--runs",
                runs,
            ]
        )
        == 0
    )
    with (tmp_path / "out.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["text"], row["n"]) for row in rows] == [("a", "1"), ("b\tc", "")]


def test_predicting_with_a_chat_adds_the_answer_and_whether_it_stopped(runs, tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("prompt,completion\nmy screen is black 1,\nhow do I print 2,press\n")
    assert main(["predict", "2", "--input", str(source), "--output", str(target), "--runs", runs]) == 0
    found = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    expected = migaki.load(2, runs).predict([row["prompt"] for row in found])
    assert [(row["prediction"], row["stopped"]) for row in found] == [(p.output, p.stopped) for p in expected]
    assert [row["completion"] for row in found] == ["", "press"]


@pytest.mark.parametrize("later", [False, True], ids=["in the first row", "in a later row"])
def test_a_column_that_would_be_overwritten_is_refused(runs, tmp_path, later, capsys):
    rows = [{"text": "a"}, {"text": "b", "prediction": "mine"}]
    path = write_rows(tmp_path / "in.jsonl", rows if later else rows[::-1])
    assert main(["predict", "1", "--input", str(path), "--output", str(tmp_path / "out.jsonl"), "--runs", runs]) == 2
    assert "already has a column 'prediction'; rename it" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("out.xlsx", "can be written as .csv, .tsv or .jsonl"),
        ("none/out.csv", "there is no folder"),
        (".csv", "without extension"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    runs, tmp_path, output, what, monkeypatch, capsys
):
    monkeypatch.setattr(migaki.Run, "predict_rows", lambda *_: pytest.fail("predicted in vain"))
    path = write_rows(tmp_path / "in.jsonl", [{"text": "a"}])
    assert main(["predict", "1", "--input", str(path), "--output", str(tmp_path / output), "--runs", runs]) == 2
    assert what in capsys.readouterr().err


# generate


def test_a_prompt_is_answered_with_the_answer_alone(runs, capsys):
    assert main(["generate", "2", "--prompt", "my screen is black 1", "--runs", runs]) == 0
    answer, _ = migaki.load(2, runs).generate([Turn("user", "my screen is black 1")])
    assert answer
    assert capsys.readouterr().out == f"{answer}\n"


def test_a_prompt_may_come_from_standard_input(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("my screen is black 1"))
    assert main(["generate", "2", "--runs", runs]) == 0
    answer, _ = migaki.load(2, runs).generate([Turn("user", "my screen is black 1")])
    assert capsys.readouterr().out == f"{answer}\n"


@pytest.mark.parametrize(
    "end", ["", "\n", "\nnever asked\n"], ids=["end of input", "empty line", "after an empty line"]
)
def test_a_talk_goes_on_with_what_was_said_before(runs, end, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("my screen is black\nthe printer does not print\n" + end))
    assert main(["generate", "2", "--chat", "--runs", runs]) == 0
    run = migaki.load(2, runs)
    first, _ = run.generate([Turn("user", "my screen is black")])
    talk = [Turn("user", "my screen is black"), Turn("assistant", first), Turn("user", "the printer does not print")]
    second, _ = run.generate(talk)
    assert capsys.readouterr().out == f"{first}\n{second}\n"


@pytest.mark.parametrize("how", [["--chat"], []])
def test_input_that_is_no_utf8_is_refused(runs, how, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    assert main(["generate", "2", *how, "--runs", runs]) == 2
    assert "not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "what"),
    [(" \n", "The prompt is empty"), ("word " * 500, "Shorten it"), ("caf\udce9", "not UTF-8")],
)
def test_a_prompt_that_cannot_be_answered_is_refused(runs, prompt, what, capsys):
    assert main(["generate", "2", "--prompt", prompt, "--runs", runs]) == 2
    assert what in capsys.readouterr().err


def test_a_classifier_is_not_asked_for_answers(runs, capsys):
    assert main(["generate", "1", "--prompt", "hello", "--runs", runs]) == 2
    assert "ask it with `migaki predict`" in capsys.readouterr().err


# runs, report


def test_runs_are_listed_in_order_with_their_main_figure(finished_runs, runs, capsys):
    assert main(["runs", "--runs", runs, "--json"]) == 0
    out = capsys.readouterr().out
    listed = last_json(out)["runs"]
    assert [row["run"] for row in listed] == ["0001-classify_text-lora", "0002-generate-full", "0003-generate-lora"]
    assert [row["metric"] for row in listed] == ["accuracy", "loss", "loss"]
    for number, (row, line) in enumerate(zip(listed, out.splitlines(), strict=False), 1):
        trained = last_json((finished_runs / f"{number}.out").read_text())
        assert row["state"] == "finished"
        assert row["folder"] == trained["folder"]
        assert {key: row[key] for key in ("value", "low", "high", "n")} == trained["metrics"][row["metric"]]
        assert row["baseline"] == trained["baseline"][row["metric"]]["value"]
        assert line.startswith(row["run"])
        assert f"{row['value']:.3f}" in line


def test_a_run_that_is_damaged_or_killed_is_listed_as_such_beside_the_others(copied, capsys):
    (copied / "0002-generate-full" / "evaluation.json").unlink()
    RunFolder.create(copied, "generate-lora", {}).unlock()
    assert main(["runs", "--runs", str(copied)]) == 0
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ["finished", "damaged", "finished", "killed"]


def test_an_empty_folder_lists_no_runs(tmp_path, capsys):
    assert main(["runs", "--runs", str(tmp_path / "none"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert last_json(out) == {"runs": []}
    assert "no runs in" in err


def test_a_report_is_there_in_english_and_made_in_japanese(copied, capsys):
    before = migaki.load(1, copied)
    assert main(["report", "1", "--runs", str(copied)]) == 0
    english = Path(capsys.readouterr().out.strip())
    assert english == copied / "0001-classify_text-lora" / "report.html"
    assert main(["report", "1", "--lang", "ja", "--runs", str(copied)]) == 0
    japanese = Path(capsys.readouterr().out.strip())
    assert japanese == english.with_name("report.ja.html")
    assert '<html lang="en"' in english.read_text(encoding="utf-8")
    text = japanese.read_text(encoding="utf-8")
    assert '<html lang="ja"' in text
    assert "正解率" in text
    assert not re.search(r"""(src|href)=["']?https?:""", text)
    before.check()


# data, schema


def test_data_is_shown_with_the_targets_marked(finished_runs, capsys):
    assert main(["data", "show", str(finished_runs / "1.yaml")]) == 0
    shown = capsys.readouterr().out
    data = read_json(finished_runs / "runs/0001-classify_text-lora/data.json")["splits"]
    counts = ", ".join(f"{data[name]['rows']} {name}" for name in ("train", "valid", "test"))
    assert shown.startswith(f"{counts} rows; text from 'text', label from 'label'\n")
    rows = re.findall(r"^(\S+rows\.jsonl):(\d+): (\d+) tokens, 1 targets\n\[CLS\] .* \[SEP\]⟦ -> (\w+)⟧$", shown, re.M)
    assert len(rows) == 3
    source = [json.loads(line) for line in (finished_runs / "rows.jsonl").read_text().splitlines()]
    assert [label for *_, label in rows] == [source[int(line) - 1]["label"] for _, line, *_ in rows]


def test_of_a_chat_only_the_answer_and_its_end_are_marked(finished_runs, capsys):
    assert main(["data", "show", str(finished_runs / "2.yaml"), "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    (line,) = re.findall(r"chats\.jsonl:(\d+): ", shown)
    row = json.loads((finished_runs / "chats.jsonl").read_text().splitlines()[int(line) - 1])
    assert f"<|start|>user\n{row['prompt']}<|end|>\n<|start|>assistant\n⟦{row['completion']}<|end|>⟧" in shown
    assert shown.count("⟦") == 1


def test_a_long_row_that_the_recipe_allows_is_shown_cut(finished_runs, tmp_path, capsys):
    """One long row in ninety is under the two per cent that are allowed, also when it is looked at alone."""
    rows = labelled_rows(90)
    for row in rows[:1]:
        row["text"] = "printer " * 200
    path = write_rows(tmp_path / "rows.jsonl", rows)
    settings = [f"data.train={path}", "task.allow_truncated=0.02", "data.test=0.05", "data.valid=0.05"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert main(["data", "show", str(finished_runs / "1.yaml"), *arguments, "--rows", "90"]) == 0
    assert f"{path}:1: 64 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("rows", ["0", "-1", "two", "1.5"])
def test_a_number_of_rows_that_is_none_is_refused(finished_runs, rows, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "show", str(finished_runs / "1.yaml"), "--rows", rows])
    assert ended.value.code == 2
    assert f"--rows: '{rows}' is not a number of rows above 0" in capsys.readouterr().err


def test_the_schema_is_printed_as_json(capsys):
    from migaki.recipe import recipe_schema

    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()


# names of runs, damage, interruption


@pytest.mark.parametrize("name", ["2", "0002", "0002-generate-full"])
def test_a_run_has_three_names(runs, name, capsys):
    assert main(["report", name, "--runs", runs]) == 0
    assert "0002-generate-full" in capsys.readouterr().out
    assert main(["report", str(Path(runs) / "0002-generate-full")]) == 0


@pytest.mark.parametrize("name", ["9", "0002-generate", "²", "x" * 300, ""])
def test_an_unknown_run_ends_with_exit_2_and_the_known_ones(runs, name, capsys):
    for command in (["evaluate", name], ["report", name], ["generate", name, "--prompt", "a"]):
        assert main([*command, "--runs", runs]) == 2
        assert "there: 0001-classify_text-lora, 0002-generate-full, 0003-generate-lora" in capsys.readouterr().err


def test_damage_ends_with_exit_1_and_the_file(copied, capsys):
    path = copied / "0001-classify_text-lora" / "model" / "head.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert main(["evaluate", "1", "--runs", str(copied), "--json"]) == 1
    out, err = capsys.readouterr()
    assert f"{path} is not the file that was written" in err
    assert last_json(out)["error"] == "DamagedError"


@pytest.mark.parametrize(
    "command", [["evaluate", "1"], ["generate", "2", "--prompt", "a"], ["report", "1", "--lang", "ja"]]
)
def test_ctrl_c_ends_with_exit_130_and_one_line(runs, command, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("migaki.core.store.open_run", interrupted)
    monkeypatch.setattr("migaki.run.open_run", interrupted)
    assert main([*command, "--runs", runs]) == 130
    assert capsys.readouterr().err == "migaki: interrupted.\n"


@pytest.mark.parametrize(
    "arguments", [[], ["data"], ["trian", "r.yaml"], ["train"], ["report", "1", "--lang", "fr"], ["train", "r", "--no"]]
)
def test_a_command_that_is_none_ends_with_exit_2_and_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: migaki")


def test_help_ends_with_exit_0_and_names_every_command():
    said = shell("--help")
    assert said.returncode == 0
    assert re.findall(r"^    (\w+) ", said.stdout, re.M) == [
        "train",
        "compare",
        "search",
        "rates",
        "evaluate",
        "predict",
        "generate",
        "index",
        "runs",
        "report",
        "data",
        "choose",
        "doctor",
        "lock",
        "models",
        "schema",
    ]


def test_the_module_is_the_command_and_passes_its_exit_code_on(tmp_path):
    said = shell("train", str(tmp_path / "none.yaml"))
    assert said.returncode == 2
    assert said.stderr.startswith(f"migaki: {tmp_path / 'none.yaml'}: 1 problem found")


def test_a_reader_who_stops_early_is_no_error():
    place = str(Path(migaki.__file__).parents[1])
    line = f"{sys.executable} -m migaki schema | head -1; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": place})
    assert said.stdout == "{\n0\n"
    assert said.stderr == ""


def test_japanese_is_printed_in_a_locale_without_it(runs, tmp_path):
    """A server often runs with LC_ALL=C; the answer must not end in a UnicodeEncodeError."""
    path = tmp_path / "返品.yaml"
    said = shell("train", str(path), LC_ALL="C")
    assert said.returncode == 2
    assert "返品.yaml" in said.stderr
