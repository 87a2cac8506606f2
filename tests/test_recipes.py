"""Every recipe of recipes/ is valid, listed, and trains."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from migaki.methods import all_methods
from migaki.recipe import Recipe, recipe_schema
from migaki.tasks import all_tasks

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_on_rows_of_its_task_and_leaves_a_report(path, tiny_encoder, tiny_decoder, tmp_path):
    from migaki.pipeline import train
    from sentences import pair_rows, several_rows, tagged_rows
    from tiny import chat_rows, labelled_rows

    task = Recipe.from_file(path).task
    makers = {"labelled": labelled_rows, "multi_labelled": several_rows, "tagged": tagged_rows}
    rows = makers[task.content_kind](60) if task.content_kind in makers else chat_rows(24)
    if path.stem.startswith("pairs"):
        rows = pair_rows(60)
    models = {"encoder": tiny_encoder, "decoder": tiny_decoder}
    by_words = Recipe.from_file(path).method.kind == "zero_shot"
    if task.base_role == "image":
        from pictures import save_image_model, write_images

        rows = str(write_images(tmp_path / "images", 36))
        models["image"] = save_image_model(tmp_path / "model", "clip" if by_words else "lite")
    if task.base_role == "audio":
        from tiny_speech import save_whisper, write_recordings

        recordings = write_recordings(tmp_path / "recordings", 36, ("en", "ja") if by_words else ("high", "low"))
        rows = [{"file": row["file"], "label": row["label"]} for row in recordings]
        models["audio"] = save_whisper(tmp_path / "model")
    if task.base_role == "speech":
        from tiny_speech import save_whisper, write_recordings

        recordings = write_recordings(tmp_path / "recordings", 36)
        rows = [{"file": row["file"], "text": row["text"]} for row in recordings]
        models["speech"] = save_whisper(tmp_path / "model")
    settings = {
        "model": models[task.base_role],
        "data.train": json.dumps(rows, ensure_ascii=False),
        "data.valid": 0.2,
        "data.test": 0.2,
        "training.epochs": 1,
        "training.max_steps": 2,
    }
    if task.kind == "transcribe":
        settings |= {"task.max_new_tokens": 4}
    if task.kind == "generate":
        settings |= {"task.max_new_tokens": 2, "task.generated_rows": 2}
    run = train(Recipe.from_file(path, [f"{key}={value}" for key, value in settings.items()]), tmp_path / "runs")
    assert run.state == "finished"
    assert run.recipe.method.kind == Recipe.from_file(path).method.kind
    assert (run.path / "report.html").stat().st_size > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_passes_the_schema_that_editors_complete_it_by(path):
    jsonschema = pytest.importorskip("jsonschema")
    from migaki.core.codec import parse_yaml

    values, _ = parse_yaml(path.read_text(encoding="utf-8"), path.name)
    jsonschema.validate(values, recipe_schema(), jsonschema.Draft202012Validator)


def test_there_is_a_recipe_for_every_task_with_every_method_that_fits_it():
    found = {(recipe.task.kind, recipe.method.kind) for recipe in map(Recipe.from_file, RECIPES)}
    kinds = [{part.model_fields["kind"].default: part for part in parts} for parts in (all_tasks(), all_methods())]
    assert found == {
        (task, method)
        for task in kinds[0]
        for method in kinds[1]
        if kinds[1][method]().misfit(kinds[0][task]()) is None
    }


def test_the_table_lists_every_recipe_with_its_task_and_method():
    rows = re.findall(
        r"^\| \[`([\w.-]+)`\]\(([\w.-]+)\) \| (\w+) \| (\w+) \|", (FOLDER / "README.md").read_text(), re.M
    )
    assert sorted(name for name, *_ in rows) == [path.name for path in RECIPES]
    for name, link, task, method in rows:
        recipe = Recipe.from_file(FOLDER / name)
        assert (link, task, method) == (name, recipe.task.kind, recipe.method.kind)


def test_the_script_for_clinc150_writes_the_files_that_its_recipes_read(tmp_path, monkeypatch):
    """Three intents of 30, 2 and 4 rows: 20, 2 and 4 are kept, those outside the scope have no part."""
    whole = {
        part: [[f"text {part} {intent} {i}", intent] for intent, n in (("a", 30), ("b", 2), ("c", 4)) for i in range(n)]
        for part in ("train", "val", "test")
    }
    (tmp_path / "data_full.json").write_text(json.dumps({**whole, "oos_train": [["x", "oos"]]}), encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "recipes/README.md", "exec"), {})
    for path in (FOLDER / "clinc150-full.yaml", FOLDER / "clinc150-lora.yaml"):
        data = Recipe.from_file(path).data
        for part, file, rows in (("train", data.train, 26), ("valid", data.valid, 36), ("test", data.test, 36)):
            written = tmp_path / Path(file).relative_to(FOLDER.parent)
            assert written.name == f"{part}.csv"
            assert len(data.read(str(written), "labelled", need_target=True)[0]) == rows
