"""Every task on texts with every method: two steps, saved, loaded in a new process, the same answers; or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import migaki
import processes
from migaki.core.errors import RecipeError
from migaki.methods import all_methods
from migaki.tasks import all_tasks
from sentences import pair_rows, several_rows, tagged_rows
from tiny import labelled_rows

ROWS: dict[str, list[dict[str, Any]]] = {
    "texts": labelled_rows(36),
    "pairs": pair_rows(36),  # type: ignore[dict-item]
    "several": several_rows(40),
    "tagged": [*tagged_rows(20), *tagged_rows(20, "ja")],
}
TASKS = {"texts": "classify_text", "pairs": "classify_text", "several": "label_text", "tagged": "tag_tokens"}
METHODS = {part.model_fields["kind"].default: part for part in all_methods()}
KINDS = {part.model_fields["kind"].default: part for part in all_tasks()}
CASES = [(rows, method) for rows in TASKS for method in METHODS]


def fits(rows: str, method: str) -> bool:
    return METHODS[method]().misfit(KINDS[TASKS[rows]]()) is None


FITTING = [case for case in CASES if fits(*case)]


def recipe(rows: str, method: str, model: Path) -> dict[str, Any]:
    return {
        "task": TASKS[rows],
        "data": {"train": ROWS[rows], "valid": 0.2, "test": 0.2},
        "model": str(model),
        "method": method,
        "training": {"epochs": 1, "max_steps": 2, "learning_rate": 1e-2, "batch_size": 8},
        "generality": "off",
    }


def asked(rows: str) -> list[dict[str, Any]]:
    """Rows without their answers."""
    return [{k: v for k, v in row.items() if k in ("text", "text_pair")} for row in ROWS[rows][:4]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> dict[tuple[str, str], Any]:
    """One run of every task with every method that fits it."""
    home = tmp_path_factory.mktemp("tasks")
    return {case: migaki.train(recipe(*case, tiny_encoder), home) for case in FITTING}


@pytest.fixture(scope="module")
def reloaded(runs: dict[tuple[str, str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each of them answers in a process that knows only its folder."""
    questions = tmp_path_factory.mktemp("asked") / "asked.json"
    questions.write_text(json.dumps({str(run.path): asked(rows) for (rows, _), run in runs.items()}), encoding="utf-8")
    code = """
import json, sys, migaki
found = {}
for folder, rows in json.load(open(sys.argv[1], encoding="utf-8")).items():
    run = migaki.load(folder)
    found[folder] = {
        "said": [[p.output, p.confidence, [s.confidence for s in p.spans]] for p in run.predict(rows)],
        "metrics": {name: m.value for name, m in run.evaluate().metrics.items()},
    }
print(json.dumps(found))
"""
    found: dict[str, Any] = json.loads(processes.lines(processes.run(code, questions))[-1])
    return found


@pytest.mark.parametrize(("rows", "method"), FITTING)
def test_a_saved_run_answers_the_same_in_a_new_process(rows, method, runs, reloaded):
    run = runs[rows, method]
    found = reloaded[str(run.path)]
    for said, (output, confidence, parts) in zip(run.predict(asked(rows)), found["said"], strict=True):
        assert said.output == output
        assert said.confidence == (None if confidence is None else pytest.approx(confidence, rel=1e-4))
        assert [s.confidence for s in said.spans] == pytest.approx(parts, rel=1e-4)
    assert found["metrics"] == pytest.approx({n: m.value for n, m in run.metrics.items()}, rel=1e-4)


@pytest.mark.parametrize(("rows", "method"), FITTING)
def test_a_run_has_a_report_in_both_languages_and_a_line_for_each_test_row(rows, method, runs):
    from migaki.report import write_report

    run = runs[rows, method]
    lines = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == run.results["rows"] > 0
    for language in ("en", "ja"):
        page = write_report(run.path, language)
        assert run.id in page
        assert '{"start"' not in page.split("<pre")[0]  # answers are shown as they are read, not as JSON


@pytest.mark.parametrize(("rows", "method"), [case for case in FITTING if METHODS[case[1]].takes_steps])
def test_two_steps_change_the_model(rows, method, runs):
    steps = [json.loads(line) for line in (runs[rows, method].path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["event"] == "step"] == [1, 2]
    assert all(line["gradient_norm"] > 0 for line in steps if line["event"] == "step")


@pytest.mark.parametrize(("rows", "method"), [case for case in CASES if case not in FITTING])
def test_what_does_not_fit_is_refused_before_any_run_with_what_to_use(rows, method, tiny_encoder, tmp_path):
    with pytest.raises(RecipeError, match=r"method\.kind: .*(use|Use|floor there is)") as refused:
        migaki.train(recipe(rows, method, tiny_encoder), tmp_path)
    assert TASKS[rows] in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", TASKS)
def test_a_decoder_learns_it_too(rows, tiny_decoder, tmp_path):
    run = migaki.train(recipe(rows, "lora", tiny_decoder), tmp_path)
    assert run.state == "finished"
    assert len(run.predict(asked(rows))) == 4


@pytest.mark.parametrize("rows", ["several", "tagged"])
def test_methods_are_compared_by_the_tasks_own_figure_and_against_its_floor(rows, tiny_encoder, tmp_path):
    from migaki.comparison import compare
    from migaki.recipe import Recipe
    from migaki.report import write_comparison

    found = compare(Recipe(**recipe(rows, "probe", tiny_encoder)), ["probe"], tmp_path, seeds=1)
    floor, metric = ("tfidf", "f1_micro") if rows == "several" else ("gazetteer", "f1")
    assert set(found.facts["methods"]) == {"probe", floor}
    assert found.facts["metric"] == metric
    for facts in found.facts["methods"].values():
        run = migaki.load(facts["runs"][0], tmp_path)
        assert facts["metrics"][metric]["value"] == pytest.approx(run.metrics[metric].value)
    assert floor in write_comparison(found.folder, "ja")


@pytest.mark.parametrize(("rows", "method"), [("several", "lora"), ("tagged", "lora"), ("pairs", "lora")])
def test_a_run_is_the_start_of_another_with_its_adapter_merged(rows, method, tiny_encoder, tmp_path):
    migaki.train(recipe(rows, method, tiny_encoder), tmp_path)
    second = migaki.train({**recipe(rows, "probe", tiny_encoder), "model": "run:1"}, tmp_path)
    merge = json.loads((second.path / "environment.json").read_text(encoding="utf-8"))["model"]["merge"]
    assert merge["rows"] > 0
    assert merge["largest_difference"] < 1e-4


@pytest.mark.parametrize("rows", ["several", "tagged", "pairs"])
def test_errors_of_a_run_become_a_list_of_places_to_collect_more_and_copies(rows, tiny_encoder, tmp_path, capsys):
    from migaki.cli import main

    given = recipe(rows, "probe", tiny_encoder)
    given["data"] = {"train": [*ROWS[rows], dict(ROWS[rows][0])], "valid": 0.2, "test": 0.3}
    migaki.train(given, tmp_path / "runs")
    out = tmp_path / "errors.jsonl"
    assert main(["evaluate", "1", "--errors", str(out), "--runs", str(tmp_path / "runs")]) == 0
    kinds = [json.loads(line)["kind"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert "duplicate" in kinds
    assert "copies: 1" in capsys.readouterr().out


@pytest.mark.parametrize("rows", TASKS)
def test_rows_of_every_task_are_checked_and_shown(rows, tiny_encoder, tmp_path, capsys):
    from migaki.cli import main
    from tiny import write_rows

    file = write_rows(tmp_path / "rows.jsonl", ROWS[rows])
    assert main(["data", "check", str(file), "--task", TASKS[rows]]) == 0
    path = tmp_path / "r.yaml"
    path.write_text(
        f"task: {TASKS[rows]}\ndata: {{train: rows.jsonl}}\nmodel: {tiny_encoder}\nmethod: probe\n", encoding="utf-8"
    )
    assert main(["data", "show", str(path), "--rows", "3"]) == 0
    shown = capsys.readouterr().out
    assert "⟦" in shown
