"""Image classification with every method on every family: two steps, saved, loaded in a new process, the same answers; or
refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import migaki
import processes
from learners import base_from
from migaki.core.errors import RecipeError
from migaki.methods import all_methods
from migaki.tasks import ClassifyImage
from migaki.training.monitor import Monitor
from pictures import FAMILIES, READERS, save_image_model, write_images

METHODS = {part.model_fields["kind"].default: part for part in all_methods()}
FITTING = [kind for kind, method in METHODS.items() if method().misfit(ClassifyImage()) is None]
CASES = [
    (family, kind)
    for family in FAMILIES
    for kind in FITTING
    if (METHODS[kind].uses_base or family == next(iter(FAMILIES))) and (kind != "zero_shot" or family in READERS)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a model of each family."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "train", 36)
    for family in FAMILIES:
        save_image_model(folder / family, family)
    return folder


def recipe(home: Path, family: str, method: Any, **task: Any) -> dict[str, Any]:
    return {
        "task": {"kind": "classify_image", **task},
        "data": {"train": str(home / "train"), "valid": 0.2, "test": 0.2},
        "model": str(home / family),
        "method": method,
        "training": {"epochs": 1, "max_steps": 2, "learning_rate": 1e-2, "batch_size": 8},
    }


def asked(home: Path) -> list[str]:
    return [str(path) for path in sorted((home / "train").rglob("*.png"))[:4]]


@pytest.fixture(scope="module")
def runs(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("runs")
    return {case: migaki.train(recipe(home, *case), folder) for case in CASES}


@pytest.fixture(scope="module")
def reloaded(runs: dict[tuple[str, str], Any], home: Path) -> dict[str, Any]:
    """What each of them answers in a process that knows only its folder."""
    questions = home / "asked.json"
    questions.write_text(json.dumps([[str(run.path) for run in runs.values()], asked(home)]), encoding="utf-8")
    code = """
import json, sys, migaki
folders, files = json.load(open(sys.argv[1], encoding="utf-8"))
found = {}
for folder in folders:
    run = migaki.load(folder)
    found[folder] = {
        "said": [[p.output, p.confidence] for p in run.predict(files)],
        "metrics": {name: m.value for name, m in run.evaluate().metrics.items()},
    }
print(json.dumps(found))
"""
    found: dict[str, Any] = json.loads(processes.lines(processes.run(code, questions))[-1])
    return found


def test_every_method_of_the_frame_fits_or_says_what_to_use():
    assert set(FITTING) == {"few_shot", "frozen", "full", "lora", "pixels", "probe", "retrieve", "zero_shot"}


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_saved_run_answers_the_same_in_a_new_process(family, method, runs, reloaded, home):
    run = runs[family, method]
    found = reloaded[str(run.path)]
    for said, (output, confidence) in zip(run.predict(asked(home)), found["said"], strict=True):
        assert said.output == output
        assert said.confidence == pytest.approx(confidence, rel=1e-4)
    assert found["metrics"] == pytest.approx({n: m.value for n, m in run.metrics.items()}, rel=1e-4)


@pytest.mark.parametrize(("family", "method"), [case for case in CASES if METHODS[case[1]].takes_steps])
def test_two_steps_change_the_model(family, method, runs):
    steps = [json.loads(line) for line in (runs[family, method].path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["event"] == "step"] == [1, 2]
    assert all(line["gradient_norm"] > 0 for line in steps if line["event"] == "step")


@pytest.mark.parametrize("method", [kind for kind in METHODS if kind not in FITTING])
def test_what_does_not_fit_is_refused_before_any_run_with_what_to_use(method, home, tmp_path):
    with pytest.raises(RecipeError, match=r"method\.kind: .*(use |floor there is)") as refused:
        migaki.train(recipe(home, "vit", method), tmp_path)
    assert "classify_image" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in READERS])
def test_a_model_without_words_is_not_asked_by_the_names_of_labels(family, home, tmp_path):
    with pytest.raises(RecipeError, match=rf"method\.kind: .*/{family} sees images and knows no words.* few_shot"):
        migaki.train(recipe(home, family, "zero_shot"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_tuned_half_of_a_model_has_lost_its_words(home, tmp_path):
    migaki.train(recipe(home, "clip", {"kind": "lora", "rank": 2}), tmp_path)
    with pytest.raises(RecipeError, match=r"run:1 sees images and knows no words"):
        migaki.train({**recipe(home, "clip", "zero_shot"), "model": "run:1"}, tmp_path)


def test_a_comparison_leaves_out_what_the_model_cannot_and_refuses_what_was_asked_for(home, tmp_path):
    from migaki.comparison import compare
    from migaki.recipe import Recipe

    notes: list[str] = []

    class Told(Monitor):
        def note(self, text: str) -> None:
            notes.append(text)

    class Few(ClassifyImage):
        compared = ("pixels", "zero_shot")

    plain, reading = (
        Recipe(**recipe(home, family, "probe")).model_copy(update={"task": Few()}) for family in ("vit", "clip")
    )
    with pytest.raises(RecipeError, match=r"--methods: .*knows no words"):
        compare(plain, ["full", "zero_shot"], tmp_path)
    assert not list(tmp_path.glob("0*"))
    assert set(compare(plain, None, tmp_path, Told()).facts["methods"]) == {"pixels", "majority"}
    assert any(note.startswith("zero_shot is left out: ") for note in notes)
    assert set(compare(reading, None, tmp_path).facts["methods"]) == {"pixels", "majority", "zero_shot"}


def test_a_run_has_a_report_in_both_languages_and_a_line_for_each_test_row(runs):
    from migaki.report import write_report

    for run in (runs["resnet", "pixels"], runs["vit", "retrieve"], runs["lite", "full"]):
        lines = (run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == run.results["rows"] > 0
        for language in ("en", "ja"):
            assert run.id in write_report(run.path, language)


@pytest.mark.parametrize("family", ["lite", "vit"])
def test_a_run_is_the_start_of_another_with_its_adapter_merged(family, home, tmp_path):
    migaki.train(recipe(home, family, {"kind": "lora", "rank": 2}), tmp_path)
    second = migaki.train({**recipe(home, family, "probe"), "model": "run:1"}, tmp_path)
    merge = json.loads((second.path / "environment.json").read_text(encoding="utf-8"))["model"]["merge"]
    assert merge["rows"] > 0
    assert merge["largest_difference"] < 1e-4


def test_methods_are_compared_against_the_floor_of_pixels(home, tmp_path):
    from migaki.comparison import compare
    from migaki.recipe import Recipe
    from migaki.report import write_comparison

    found = compare(Recipe(**recipe(home, "lite", "probe")), ["probe"], tmp_path, seeds=1)
    assert set(found.facts["methods"]) == {"probe", "pixels", "majority"}
    page = write_comparison(found.folder, "ja")
    assert "pixels" in page
    # Every row on which two methods disagree has its picture.
    shown = [row for other in found.facts["disagreements"].values() for row in other["examples"]]
    assert page.count("<img") == len(shown)


def test_rows_are_shown_and_more_of_them_added_to_an_index(home, runs, tmp_path, capsys):
    from migaki.cli import main

    path = tmp_path / "r.yaml"
    path.write_text(
        f"task: classify_image\ndata: {{train: {home / 'train'}}}\nmodel: {home / 'lite'}\nmethod: probe\n", "utf-8"
    )
    assert main(["data", "check", str(home / "train"), "--task", "classify_image"]) == 0
    assert "3 labels with" in capsys.readouterr().out
    assert main(["data", "show", str(path), "--rows", "3"]) == 0
    assert "⟦ -> " in capsys.readouterr().out
    write_images(tmp_path / "more", 40)
    # Of forty, four are new: the others are files that the index holds already, under another path.
    assert runs["lite", "retrieve"].add(tmp_path / "more") > 0


def test_what_has_no_effect_is_said(home, tmp_path):
    notes: list[str] = []

    class Told(Monitor):
        def note(self, text: str) -> None:
            notes.append(text)

    migaki.train(recipe(home, "lite", "probe", augment={"flip": True}), tmp_path, monitor=Told())
    assert "warning: task.augment changes nothing: probe takes no steps" in notes


@pytest.mark.parametrize(("family", "blocks"), [("resnet", 3), ("swin", 4), ("vit", 2)])
def test_a_search_counts_the_blocks_that_can_be_trained(family, blocks, home):
    from migaki.methods import Frozen
    from migaki.search.shared import shape_of

    shape = shape_of(base_from(home / family, "image"))
    assert shape.blocks == blocks
    assert Frozen().space(ClassifyImage(), shape)["method.blocks"] == list(range(1, blocks + 1))
