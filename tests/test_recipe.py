"""A recipe is one thing with five faces: file, object, --set, resolved settings, JSON schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from migaki.core.codec import dump_yaml, parse_yaml
from migaki.core.errors import RecipeError
from migaki.core.parts import Part
from migaki.data import Data
from migaki.methods import Full, Lora, all_methods
from migaki.models import Model
from migaki.recipe import Recipe, recipe_schema
from migaki.tasks import ClassifyText, Generate, all_tasks
from migaki.training import Training

MINIMAL = {"task": "classify_text", "data": {"train": "train.csv"}}
README_RECIPE = """\
task: classify_text            # or generate
model: bundled:minilm          # or bundled:smollm2, a folder, a .gguf file, hf:ORG/NAME, run:ID
data:
  train: train.csv             # relative to the recipe
  valid: 0.1                   # a file, or a share of the train rows: chooses the best model
  test: 0.2                    # a file, or a share of the train rows: gives the figures
  text: text                   # the columns; guessed and shown where they are left out
  label: label
method: {kind: lora, rank: 8}  # or just: full
training: {epochs: 4, learning_rate: 1e-4, batch_size: 32, schedule: cosine, warmup: 0.1, early_stopping: 2}
seed: 0
"""


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shape_that_the_readme_shows_is_read_as_it_seems(tmp_path):
    recipe = Recipe.from_file(write(tmp_path, README_RECIPE))
    assert recipe.task == ClassifyText()
    assert recipe.model == Model(reference="bundled:minilm")
    assert recipe.data == Data(train=str(tmp_path / "train.csv"), valid=0.1, test=0.2, text="text", label="label")
    assert recipe.method == Lora(rank=8)
    assert recipe.training == Training(
        epochs=4, learning_rate=1e-4, batch_size=32, schedule="cosine", warmup=0.1, early_stopping=2
    )
    assert recipe.seed == 0


def test_task_and_train_rows_are_enough():
    recipe = Recipe(**MINIMAL)
    assert (recipe.model.reference, recipe.method, recipe.training, recipe.seed) == (
        "bundled:minilm",
        Lora(),
        Training(),
        0,
    )
    assert (recipe.data.valid, recipe.data.test) == (0.1, 0.2)
    assert Recipe(task="generate", data={"train": "a.csv"}).model.reference == "bundled:smollm2"


@pytest.mark.parametrize("method", all_methods(), ids=lambda part: part.model_fields["kind"].default)
def test_the_learning_rate_is_the_methods_usual_one_unless_it_is_given(method):
    kind = method.model_fields["kind"].default
    assert Recipe(**MINIMAL, method=kind).learning_rate == method.default_learning_rate
    assert Recipe(**MINIMAL, method=kind, training={"learning_rate": 0.5}).learning_rate == 0.5


def test_words_mappings_and_objects_say_the_same():
    in_words = Recipe(task="generate", data={"train": "a.csv"}, method="full", model="bundled:smollm2")
    in_mappings = Recipe(
        task={"kind": "generate"},
        data={"train": "a.csv"},
        method={"kind": "full"},
        model={"reference": "bundled:smollm2"},
        training={},
    )
    in_objects = Recipe(
        task=Generate(),
        data=Data(train="a.csv"),
        method=Full(),
        model=Model(reference="bundled:smollm2"),
        training=Training(),
    )
    assert in_words == in_mappings == in_objects


def test_a_recipe_cannot_be_changed():
    recipe = Recipe(**MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        recipe.method.rank = 4


# paths


def test_relative_paths_are_relative_to_the_recipe_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    text = "task: classify_text\ndata: {train: ../a.csv, valid: v.csv, test: /abs/t.csv}\nmodel: ./my-model\n"
    path = write(tmp_path / "in", text)
    monkeypatch.chdir(tmp_path)
    for given_path in (path, "in/r.yaml"):
        recipe = Recipe.from_file(given_path)
        assert recipe.data.train == str(tmp_path / "a.csv")
        assert recipe.data.valid == str(tmp_path / "in" / "v.csv")
        assert recipe.data.test == "/abs/t.csv"
        assert recipe.model.reference == str(tmp_path / "in" / "my-model")


def test_paths_in_python_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Recipe(**MINIMAL).data.train == str(tmp_path / "train.csv")
    assert Recipe.from_mapping(MINIMAL, tmp_path / "x").data.train == str(tmp_path / "x" / "train.csv")


def test_what_is_no_path_is_left_as_it_is(tmp_path):
    for reference in ("bundled:minilm", "hf:org/name", "run:0001"):
        assert Recipe.from_mapping({**MINIMAL, "model": reference}, tmp_path).model.reference == reference
    recipe = Recipe.from_mapping(
        {**MINIMAL, "data": {"train": "demo:helpdesk-topics", "test": [{"text": "x"}]}}, tmp_path
    )
    assert (recipe.data.train, recipe.data.test) == ("demo:helpdesk-topics", [{"text": "x"}])


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = Recipe.from_mapping({**MINIMAL, "data": {"train": "~/a.csv"}, "model": "~/m"}, Path("/elsewhere"))
    assert (recipe.data.train, recipe.model.reference) == (str(tmp_path / "a.csv"), str(tmp_path / "m"))


# --set


def test_settings_are_put_over_the_file(tmp_path):
    path = write(tmp_path, README_RECIPE)
    recipe = Recipe.from_file(path, ["method.rank=16", "training.learning_rate=3e-3", "data.test=t.csv", "seed=7"])
    assert (recipe.method.rank, recipe.learning_rate, recipe.seed) == (16, 3e-3, 7)
    assert recipe.data.test == str(tmp_path / "t.csv")
    assert Recipe.from_file(path, ["method=full"]).method == Full()
    assert Recipe.from_file(path, ["training.early_stopping=null"]).training.early_stopping is None


def test_a_setting_of_a_part_that_the_file_leaves_out_is_put_into_its_default(tmp_path):
    path = write(tmp_path, "task: classify_text\ndata: {train: a.csv}\n")
    assert Recipe.from_file(path, ["method.rank=16"]).method == Lora(rank=16)
    assert Recipe.from_file(path, ["training.epochs=9"]).training == Training(epochs=9)
    assert Recipe.from_file(path, ["task.max_length=9"]).task == ClassifyText(max_length=9)


def test_a_method_of_the_file_is_not_changed_by_a_setting_of_another(tmp_path):
    path = write(tmp_path, "task: classify_text\ndata: {train: a.csv}\nmethod: full\n")
    with pytest.raises(RecipeError, match=r"method\.rank: there is no such setting"):
        Recipe.from_file(path, ["method.rank=16"])


def test_a_wrong_value_of_set_does_not_claim_a_line_of_the_file(tmp_path):
    path = write(tmp_path, README_RECIPE)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_file(path, ["method.rank=0", "training.epochs=x"])
    assert [problem.path for problem in caught.value.problems] == ["method.rank", "training.epochs"]


# resolved


@pytest.mark.parametrize(
    "values",
    [
        MINIMAL,
        {**MINIMAL, "method": "full", "training": {"clip": None, "dropout": None, "max_steps": 3}},
        {
            "task": {"kind": "generate", "template": "japanese"},
            "data": {"train": [{"prompt": "no", "completion": "1e-4", "n": None, "x": 1.5, "本": ["a\u2028b", True]}]},
            "model": "hf:org/name",
            "method": {"kind": "lora", "targets": ["q_proj", "layer.5.*"], "alpha": 16},
            "seed": 3,
        },
    ],
)
def test_a_resolved_recipe_read_back_is_equal_and_leaves_nothing_to_defaults(tmp_path, values):
    recipe = Recipe(**values)
    again = Recipe.from_file(write(tmp_path, recipe.to_yaml()))
    assert again.resolved() == recipe.resolved()
    assert again.to_yaml() == recipe.to_yaml()
    assert again == Recipe(**recipe.resolved())
    assert again.data.train == recipe.data.train
    stored = parse_yaml(recipe.to_yaml(), "r.yaml")[0]
    assert stored["training"]["learning_rate"] == recipe.learning_rate
    for name, part in (
        ("task", again.task),
        ("method", again.method),
        ("training", again.training),
        ("data", again.data),
    ):
        assert stored[name].keys() == type(part).model_fields.keys()


def test_a_resolved_recipe_means_the_same_in_another_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    recipe = Recipe.from_file(write(tmp_path / "a", README_RECIPE))
    assert Recipe.from_file(write(tmp_path / "b", recipe.to_yaml())).resolved() == recipe.resolved()


# JSON schema

SCHEMA = recipe_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_a_schema_of_the_version_it_names():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


GOOD: list[dict[str, Any]] = [
    MINIMAL,
    parse_yaml(README_RECIPE, "r.yaml")[0],
    {**MINIMAL, "task": {"kind": "generate", "max_length": None}, "model": {"reference": "hf:a/b", "revision": "main"}},
    {
        **MINIMAL,
        "method": {"kind": "lora", "targets": ["a"]},
        "data": {"train": [{"text": "x", "label": 1}], "test": "b.csv"},
    },
    Recipe(**MINIMAL).resolved(),
]
BAD: dict[str, dict[str, Any]] = {
    "no data": {"task": "generate"},
    "unknown key": {**MINIMAL, "sed": 1},
    "unknown task": {**MINIMAL, "task": "classify"},
    "unknown method": {**MINIMAL, "method": {"kind": "qlora"}},
    "method without kind": {**MINIMAL, "method": {"rank": 4}},
    "setting of another method": {**MINIMAL, "method": {"kind": "full", "rank": 4}},
    "unknown key inside": {**MINIMAL, "training": {"lr": 1.0}},
    "text for a number": {**MINIMAL, "training": {"epochs": "3"}},
    "true for a number": {**MINIMAL, "seed": True},
    "out of range": {**MINIMAL, "training": {"warmup": 1.0}},
    "zero rows a step": {**MINIMAL, "training": {"batch_size": 0}},
    "below zero": {**MINIMAL, "seed": -1},
    "no choice": {**MINIMAL, "task": {"kind": "classify_text", "pooling": "max"}},
    "null for a part": {**MINIMAL, "training": None},
    "a word for data": {**MINIMAL, "data": "a.csv"},
    "a number for a column": {**MINIMAL, "data": {"train": "a.csv", "text": 1}},
    "rows that are no mappings": {**MINIMAL, "data": {"train": ["a"]}},
    "a number for a model": {**MINIMAL, "model": 5},
}


@pytest.mark.parametrize("values", GOOD)
def test_the_schema_takes_what_is_read(values):
    Recipe(**values)
    VALIDATOR.validate(values)


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_the_schema_refuses_what_is_refused(values):
    with pytest.raises(RecipeError):
        Recipe(**values)
    assert not VALIDATOR.is_valid(values)


JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.sampled_from([0.25, 1.5, -0.5]),
    st.sampled_from(["", "x", "cosine", "loss"]),
    st.just([]),
)


@settings(max_examples=200, deadline=None)
# Whether there may be workers depends on the task, which a schema of one section does not know.
@given(
    st.dictionaries(st.sampled_from(["lr", *sorted(set(Training.model_fields) - {"workers"})]), JSON_VALUES, max_size=3)
)
def test_schema_and_reading_agree_on_the_training_section(training):
    values = {**MINIMAL, "training": training}
    try:
        Recipe(**values)
        read = True
    except RecipeError:
        read = False
    assert VALIDATOR.is_valid(values) == read


def parts(model: type[Part]) -> list[type[Part]]:
    return [model, *(part for part in (*all_tasks(), *all_methods(), Data, Model, Training))]


@pytest.mark.parametrize("part", parts(Recipe), ids=lambda part: part.__name__)
def test_every_setting_is_described_in_code_and_schema(part):
    assert part.__doc__
    described = SCHEMA if part is Recipe else SCHEMA["$defs"][part.__name__]
    assert described["properties"].keys() == part.model_fields.keys()
    for name, field in part.model_fields.items():
        text = described["properties"][name].get("description")
        assert text, f"{part.__name__}.{name} has no docstring"
        assert text.rstrip().endswith("."), f"{part.__name__}.{name}: {text}"
        assert name == "kind" or text == field.description


def test_defaults_in_the_schema_are_the_defaults():
    for part in (*all_tasks(), *all_methods(), Training):
        for name, field in part.model_fields.items():
            assert SCHEMA["$defs"][part.__name__]["properties"][name]["default"] == field.default


RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_project_survives_being_resolved_and_fits_the_schema_then_too(path, tmp_path):
    recipe = Recipe.from_file(path)
    VALIDATOR.validate(recipe.resolved())
    assert Recipe.from_file(write(tmp_path, recipe.to_yaml())).resolved() == recipe.resolved()


# files that are no recipes


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty. A recipe needs at least `task:` and `data:`."),
        ("# only a comment\n", "is empty."),
        ("- a\n- b\n", "holds a list, not settings."),
        ("just words\n", "holds a str, not settings."),
    ],
)
def test_a_file_without_settings_is_told_what_a_recipe_needs(tmp_path, text, what):
    with pytest.raises(RecipeError, match=re.escape(what)):
        Recipe.from_file(write(tmp_path, text))


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + README_RECIPE.replace("\n", "\r\n").encode())
    assert Recipe.from_file(path).training.epochs == 4


def test_keys_of_any_kind_end_in_a_message(tmp_path):
    for text in ("self: 1\n", "? \n: 1\n", "1: 2\n", "cls: x\n"):
        with pytest.raises(RecipeError, match="there is no such setting"):
            Recipe.from_file(write(tmp_path, "task: classify_text\ndata: {train: a.csv}\n" + text))
    with pytest.raises(RecipeError, match="1: there is no such setting"):
        Recipe.from_mapping({**MINIMAL, 1: 2})


def test_the_origin_of_a_failed_reading_does_not_stick(tmp_path):
    """A recipe made in Python after a file was refused must not be told to look into that file."""
    with pytest.raises(RecipeError):
        Recipe.from_file(write(tmp_path, "task: x\n"))
    with pytest.raises(RecipeError) as caught:
        Recipe(task="x", data={"train": "a.csv"})
    assert str(tmp_path) not in str(caught.value)
    assert dump_yaml(Recipe(**MINIMAL).resolved()) == Recipe(**MINIMAL).to_yaml()
