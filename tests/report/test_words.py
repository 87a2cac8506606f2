"""Every word is there in both languages, is used, and no metric or machine fact is left without one."""

from __future__ import annotations

import json
import re
import string
from importlib.resources import files

import pytest
import soundfile

from migaki.core.types import Place, Prediction
from migaki.data.audio import RECORDINGS
from migaki.data.images import IMAGES
from migaki.evaluation import classification, generation, labelling, tagging, transcription
from migaki.report.words import WORDS, said
from migaki.tasks import all_tasks
from odd_images import picture
from odd_sounds import RATE_HZ, tone

HOME = files("migaki.report")
SOURCES = "".join(
    HOME.joinpath(name).read_text(encoding="utf-8")
    for name in ("page.py", "answers.py", "figures.py", "page.html.jinja", "exhibit.html.jinja")
)


def fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def metrics() -> set[str]:
    place = Place("rows", 1)
    classified = classification([Prediction(place, "a", "a", 0.9, 0.1, 1)], ["a"], 0)
    answered = generation([Prediction(place, "a", "a", None, 0.1, 1, True)], 0)
    several = labelling([Prediction(place, "[]", "[]", 0.9, 0.1, 1, scores=(0.1,))], ["a"], 0)
    parts = tagging([Prediction(place, "[]", "[]", None, 0.1, 1)], ["a"], 0)
    written = transcription([Prediction(place, "a", "a", None, 0.1, 1)], 0)
    found = (classified, answered, several, parts, written)
    return {name for evaluation in found for name in evaluation.metrics}


def test_both_languages_have_the_same_words_with_the_same_blanks():
    english, japanese = WORDS["en"], WORDS["ja"]
    assert set(english) == set(japanese)
    for key in english:
        assert fields(english[key]) == fields(japanese[key]), key
        assert english[key].strip() == english[key] != ""
        assert japanese[key].strip() == japanese[key] != ""


def test_words_are_japanese_in_the_japanese_page():
    same = {key for key in WORDS["en"] if not re.search(r"[ぁ-ん一-龥ァ-ヶ]", WORDS["ja"][key])}
    assert same == {"f1", "machine_python"}


def test_every_word_is_used():
    for key in WORDS["en"]:
        kind = key.split("_")[0]
        if kind in ("metric", "machine", "by") and key != "metric":
            continue
        # Some keys are put together in place: verdict_{kind}, w[name] of a split, w[finding.level].
        whole = re.search(rf"""w\.{key}\b|["']{key}["']""", SOURCES)
        assert whole or kind == "verdict" or key in {"train", "valid", "test", "replay", "note", "warning"}, key


def test_every_word_that_is_asked_for_is_there():
    asked = {*re.findall(r"\bw\.(\w+)", SOURCES), *re.findall(r"""words\["(\w+)"\]""", SOURCES)}
    assert asked <= set(WORDS["en"])
    assert len(asked) > 40


def test_every_metric_has_words_and_no_other():
    named = {key.removeprefix("metric_") for key in WORDS["en"] if key.startswith("metric_")}
    assert named == metrics()


def test_every_part_that_rows_are_divided_into_has_words_and_no_other(tmp_path):
    picture().save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", tone(), RATE_HZ)
    measured = {*IMAGES.look(tmp_path / "a.png").traits, *RECORDINGS.look(tmp_path / "a.wav").traits}
    named = {key.removeprefix("by_") for key in WORDS["en"] if key.startswith("by_")}
    assert named == {"length", "source", "script", *measured, *IMAGES.told, *RECORDINGS.told}


def test_every_fact_about_the_machine_has_words_and_no_other(classified):
    environment = json.loads((classified / "environment.json").read_text(encoding="utf-8"))
    named = {key.removeprefix("machine_") for key in WORDS["en"] if key.startswith("machine_")}
    groups = (environment, environment["model"], environment.get("precision", {}))
    facts = {name for group in groups for name, value in group.items() if not isinstance(value, dict)}
    assert facts - {"migaki"} <= named
    assert named <= facts | {"dtype", "reason"}


@pytest.mark.parametrize("task", all_tasks(), ids=lambda task: task.__name__)
def test_what_the_base_is_called_has_japanese_words(task):
    settings = [task(), *([task(head="random")] if "head" in task.model_fields else [])]
    for one in settings:
        name = one.baseline_name()
        assert said(name, "en") == name
        assert said(name, "ja") != name
    assert said("a plug-in's own name", "ja") == "a plug-in's own name"
