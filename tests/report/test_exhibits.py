"""Images and recordings on the page: which ones, where, how many there is room for, and that none breaks out of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from migaki.core.types import Place, Prediction
from migaki.evaluation import transcription
from migaki.exhibits import exhibits_of
from migaki.report import write_report
from migaki.report.exhibits import MOST_CHARACTERS, Use, hang, uses_of
from odd_sounds import RATE_HZ, tone
from pages import Page

HOSTILE = "\"><img src=x onerror='alert(1)'>&amp;"
LABELS = ("<b>red & more</b>", "blue", "緑")


def folder_of(home: Path, ending: str, write: Any, n: int = 48) -> Path:
    """Files whose labels nobody can tell, so that some answers are wrong; names that try to break out of the page."""
    for i in range(n):
        folder = home / LABELS[i % len(LABELS)].replace("/", "\u2215")
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"{HOSTILE}{i:02d}{ending}", np.random.default_rng(i))
    return home


def trained(home: Path, task: str, method: dict[str, Any], source: Path) -> Path:
    from migaki.pipeline import train

    recipe = {"task": task, "data": {"train": str(source), "test": 0.4}, "method": method}
    return train(recipe, home / "runs").path


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def write(path: Path, drawn: np.random.Generator) -> None:
        Image.fromarray(drawn.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(path)

    home = tmp_path_factory.mktemp("pictured")
    return trained(home, "classify_image", {"kind": "pixels", "side": 4}, folder_of(home / "images", ".png", write))


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def write(path: Path, drawn: np.random.Generator) -> None:
        soundfile.write(path, tone(0.2, hertz=drawn.uniform(200, 900)) + 0.1 * drawn.normal(size=3200), RATE_HZ)

    home = tmp_path_factory.mktemp("heard")
    return trained(home, "classify_audio", {"kind": "spectrum", "bands": 4}, folder_of(home / "sounds", ".wav", write))


def predictions_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def wrong_of(folder: Path) -> list[dict[str, Any]]:
    wrong = [row for row in predictions_of(folder) if row["output"] != row["target"]]
    assert wrong
    return sorted(wrong, key=lambda row: -row["confidence"])


def section(page: str, start: str) -> str:
    return page[page.index(start) : page.index("</section>", page.index(start))]


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("which", ["pictured", "heard"])
def test_the_page_fetches_nothing_runs_nothing_and_nothing_breaks_out_of_it(which, language, request):
    page = Page(write_report(request.getfixturevalue(which), language))
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {name for name, _ in page.elements}
    for _, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href", "srcset", "poster"):
            assert re.match(r"data:(,$|image/(png|jpeg);base64,|audio/mpeg;base64,)", attributes.get(key) or "data:,")
    policy = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    media = "; media-src data:" if which == "heard" else ""
    assert policy == [f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{media}"]


@pytest.mark.parametrize("which", ["pictured", "heard"])
def test_hostile_names_and_labels_are_shown_as_they_are(which, request):
    text = write_report(request.getfixturevalue(which))
    assert "<img src=x" not in text
    assert "<b>red" not in text
    page = Page(text)
    assert any(said.startswith("<b>red & more<") for said in page.all("summary"))
    names = [a.get("alt") or a.get("aria-label") or "" for name, a in page.elements if name in ("img", "audio")]
    assert any(name.startswith(HOSTILE) for name in names)


def test_every_wrong_image_stands_beside_its_row_the_most_confident_first(pictured):
    worst = section(write_report(pictured), "<h2>Worst errors</h2>")
    shown = [a["alt"] for name, a in Page(worst.replace("</section>", "")).elements if name == "img"]
    assert shown == [Path(row["text"]).name for row in wrong_of(pictured)]


def test_every_cell_of_the_matrix_with_rows_has_a_picture_of_its_surest_answer(pictured):
    text = write_report(pictured)
    details = json.loads((pictured / "evaluation.json").read_text(encoding="utf-8"))["details"]
    table = text[text.index('<table class="matrix">') :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")])[1:]
    cells = [re.findall(r"<td[^>]*>(\d*)(<img.*?>)?</td>", row) for row in rows]
    assert [[int(n or 0) for n, _ in row] for row in cells] == details["confusion"]
    surest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(predictions_of(pictured), key=lambda row: -row["confidence"]):
        surest.setdefault((row["target"], row["output"]), row)
    labels = details["labels"]
    for i, row in enumerate(cells):
        for j, (n, image) in enumerate(row):
            assert bool(n) == bool(image)
            if n:
                (name,) = [a["alt"] for _, a in Page(image).elements]
                assert name == Path(surest[labels[i], labels[j]]["text"]).name


def test_a_label_shows_what_was_right_missed_and_wrongly_given(pictured):
    text = section(write_report(pictured), "<h2>Examples of each label</h2>")
    rows = predictions_of(pictured)
    for shelf in re.findall(r"<details.*?</details>", text, re.DOTALL):
        label = Page(shelf).all("strong")[0]
        said = list(re.findall(r"<h3>(.*?)</h3>.*?<ul[^>]*>(.*?)</ul>", shelf, re.DOTALL))
        shown = {
            title.split(":")[0].split(",")[0]: {a["alt"] for _, a in Page(items).elements if "alt" in a}
            for title, items in said
        }
        right = {Path(r["text"]).name for r in rows if r["target"] == r["output"] == label}
        missed = {Path(r["text"]).name for r in rows if r["target"] == label != r["output"]}
        given = {Path(r["text"]).name for r in rows if r["output"] == label != r["target"]}
        for title, wanted in (("Right", right), ("Of this label", missed), ("Given this label", given)):
            assert len(shown.get(title, ())) == min(len(wanted), 6)
            assert shown.get(title, set()) <= wanted


def test_a_wrong_recording_can_be_heard_and_is_drawn(heard):
    worst = section(write_report(heard), "<h2>Worst errors</h2>")
    page = Page(worst)
    n = len(wrong_of(heard))
    names = [name for name, _ in page.elements]
    assert names.count("audio") == names.count("polygon") == names.count("img") == n
    assert all("controls" in a for name, a in page.elements if name == "audio")
    assert "0.2 s · peak −" in worst


def test_a_run_from_before_has_a_page_without_pictures(pictured, tmp_path):
    copy = Path(shutil.copytree(pictured, tmp_path / "run"))
    (copy / "exhibits.json").unlink()
    page = Page(write_report(copy))
    assert "img" not in {name for name, _ in page.elements}
    assert not page.all("details")


def test_a_page_of_many_large_pictures_stays_below_five_megabytes_and_says_what_is_left_out(pictured, tmp_path):
    copy = Path(shutil.copytree(pictured, tmp_path / "run"))
    items = json.loads((copy / "exhibits.json").read_text(encoding="utf-8"))["items"]
    large = "data:image/png;base64," + "A" * 150_000
    for item in items.values():
        item["picture"] = large
    (copy / "exhibits.json").write_text(json.dumps({"items": items}), encoding="utf-8")
    page = write_report(copy)
    assert len(page.encode()) < 5_000_000
    shown = page.count("data:image/png;base64,A")
    assert shown == MOST_CHARACTERS // len(large)
    n, places = map(int, re.search(r"(\d+) of (\d+) places for pictures or sounds stay empty", page).groups())
    assert places - n == shown
    # Worst errors come first: none of them is without its picture.
    assert section(page, "<h2>Worst errors</h2>").count("<img") == min(len(wrong_of(copy)), 30)


def test_a_label_that_is_probably_wrong_has_its_picture_also_where_it_is_of_a_train_row(pictured, tmp_path):
    copy = Path(shutil.copytree(pictured, tmp_path / "run"))
    path = tmp_path / f"{HOSTILE}train.png"
    Image.new("RGB", (60, 60), "green").save(path)
    row = {"kind": "relabel", "split": "train", "source": "images", "line": 7, "text": str(path), "label": "blue"}
    row |= {"suggested_label": "緑", "confidence": 0.01, "suggested_confidence": 0.9}
    found = {"temperature": None, "suspicious": [row], "counts": {"relabel": 1}}
    found["exhibits"] = dict(exhibits_of([str(path)], "labelled_image"))
    (copy / "errors.json").write_text(json.dumps(found), encoding="utf-8")
    shown = Page(section(write_report(copy), "<h2>Labels that are probably wrong</h2>"))
    assert [a["alt"] for name, a in shown.elements if name == "img"] == [path.name]


def said(target: str, output: str, confidence: float, line: int) -> dict[str, Any]:
    text = f"{target}-{output}-{line}.png"
    return {"source": "rows", "line": line, "text": text, "target": target, "output": output, "confidence": confidence}


def test_places_are_filled_in_the_order_in_which_they_matter():
    rows = [
        said("a", "a", 0.9, 1),
        said("a", "a", 0.6, 2),
        said("a", "b", 0.8, 3),
        said("b", "a", 0.7, 4),
        said("a", "b", 0.5, 5),
        said("b", "b", 0.4, 6),
    ]
    pairs = [{"target": "a", "output": "b"}, {"target": "b", "output": "a"}]
    details = {"labels": ["a", "b"], "per_class": {"a": {}, "b": {}}, "confused_pairs": pairs}
    found = [(*use.where, use.row["line"]) for use in uses_of(rows, details)]
    assert found == [
        *(("worst", line) for line in (3, 4, 5)),
        *(("pair", "a", "b", 3), ("pair", "b", "a", 4), ("pair", "a", "b", 5)),
        *(("cell", "a", "a", 1), ("cell", "b", "b", 6), ("cell", "a", "b", 3), ("cell", "b", "a", 4)),
        # The first of each label and kind, then the second of each.
        *(("right", "a", 1), ("missed", "a", 3), ("given", "a", 4)),
        *(("right", "b", 6), ("missed", "b", 4), ("given", "b", 3)),
        *(("right", "a", 2), ("missed", "a", 5), ("given", "b", 5)),
    ]


def test_with_many_labels_the_cells_stay_without_pictures():
    labels = [f"{i:02d}" for i in range(13)]
    details = {"labels": labels, "per_class": {key: {} for key in labels}, "confused_pairs": []}
    assert not [use for use in uses_of([said("00", "00", 0.9, 1)], details) if use.where[0] == "cell"]


def test_what_does_not_fit_makes_room_for_what_is_smaller_and_is_counted():
    rows = [said("a", "b", 0.9, line) for line in range(4)]
    sizes = dict(zip((row["text"] for row in rows), (50, 60, 10, 0), strict=True))
    items = {
        path: {"kind": "image", "picture": "data:image/png,".ljust(size, "x"), "width": 1, "height": 1}
        for path, size in sizes.items()
        if size
    }
    hung = hang([Use(("worst",), row) for row in rows], items, 120)
    # A view also holds the name and the kind, some bytes each: 50 and 10 fit, 60 does not, the last one has no exhibit.
    assert [row["line"] for row, _ in hung.at("worst")] == [0, 2]
    assert (hung.shown, hung.left_out) == (2, 2)


@pytest.mark.parametrize("uri", ["javascript:alert(1)", "data:text/html,<script>", "http://evil.example/x.png"])
def test_what_is_no_picture_inside_the_page_is_not_shown(uri):
    row = said("a", "b", 0.9, 1)
    items = {row["text"]: {"kind": "image", "picture": uri, "width": 1, "height": 1}}
    assert hang([Use(("worst",), row)], items).at("worst") == []


def transcribed(heard: Path, home: Path) -> Path:
    """The run as if its recordings had been written down: some with errors, one in circles, one made up."""
    copy = Path(shutil.copytree(heard, home / "run"))
    lines = predictions_of(copy)[:6]
    texts = [
        ("press <b>one</b> now", "press two now"),
        ("画面が真っ暗です", "画面が真っ黒です"),
        ("thank you", "thank you"),
        ("ready", "ready ready ready ready ready ready ready"),
        ("stop", "thanks for watching"),
        ("yes", "yes"),
    ]
    predictions = [
        Prediction(
            Place(row["source"], row["line"]), written, target, text=row["text"], traits=(("seconds", float(i)),)
        )
        for i, (row, (target, written)) in enumerate(zip(lines, texts, strict=True))
    ]
    predictions[4] = replace(predictions[4], traits=(("silence", 1.0), ("seconds", 4.0)))
    found = transcription(predictions, 0)
    results = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))
    results |= {**found.as_json(), "primary": "wer", "better": "min", "task": "transcribe", "rows": 6}
    results["baseline"] |= found.as_json()
    results["gain"] = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 6}
    (copy / "evaluation.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [
        {
            **row,
            "output": written,
            "target": target,
            "confidence": None,
            "baseline": {**row["baseline"], "output": "<i>?"},
        }
        for row, (target, written) in zip(lines, texts, strict=True)
    ]
    (copy / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    from migaki.exhibits import keep_exhibits_of_run

    keep_exhibits_of_run(copy, "labelled_recording")
    return copy


def test_transcripts_stand_beside_what_was_said_with_a_player(heard, tmp_path):
    folder = transcribed(heard, tmp_path)
    for language in ("en", "ja"):
        text = write_report(folder, language)
        assert "<b>" not in text
        assert "<i>?" not in text
        page = Page(text)
        diffs = re.findall(r'<p class="diff">(.*?)</p>', text)
        assert diffs[0] == "ready <ins>ready ready ready ready ready ready</ins>"
        assert "画面が真っ<del>暗</del><ins>黒</ins>です" in diffs
        assert len(diffs) == 4
        assert [name for name, _ in page.elements].count("audio") == 4
        warned = page.all("li", "flag")
        assert any("ready" in said for said in warned)
    english = Page(write_report(folder))
    assert english.all("h2").count("What was written instead") == 1
    assert "In 1 of 1 recordings in which nothing is to be heard, words were written all the same." in english.all("li")
    assert "Errors per word (WER) on 6 test rows" in english.all("p")[2]
    assert "instruction tuning" not in write_report(folder)
