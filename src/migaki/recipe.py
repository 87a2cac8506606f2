"""The recipe: all settings of a run. The only file that knows all parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Field, NonNegativeInt, ValidationError, ValidationInfo, field_validator

from migaki.core.codec import Lines, apply_settings, dump_yaml, parse_yaml, problems_of
from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Method, Part, Task
from migaki.data import Data
from migaki.data.generality import BUNDLED, OFF
from migaki.data.settings import absolute_path
from migaki.data.sources import is_address
from migaki.methods import Lora, all_methods
from migaki.models import Model
from migaki.tasks import all_tasks
from migaki.training import Training

__all__ = ["Recipe", "read_recipe", "recipe_schema"]

_DEFAULT_MODELS = {
    "encoder": "bundled:minilm",
    "decoder": "bundled:smollm2",
    "image": "bundled:efficientnet-lite0",
    "audio": "bundled:whisper-base",
    "speech": "bundled:whisper-base",
}


def _from_word(value: Any) -> Any:
    """`method: full` is short for `method: {kind: full}`."""
    return {"kind": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class _Origin:
    """Where the settings being read come from: for relative paths and for messages."""

    folder: Path | None = None
    source: str = ""
    lines: Lines = field(default_factory=dict)


_NOWHERE = _Origin()
_origin: ContextVar[_Origin] = ContextVar("recipe origin", default=_NOWHERE)

if TYPE_CHECKING:
    AnyTask = Task
    AnyMethod = Method
else:
    # The unions are known only when all parts are, those of other distributions too.
    AnyTask = Annotated[Union[all_tasks()], Field(discriminator="kind"), BeforeValidator(_from_word)]
    AnyMethod = Annotated[Union[all_methods()], Field(discriminator="kind"), BeforeValidator(_from_word)]


class Recipe(Part):
    """What to learn, from which data, on which model, by which method.

    >>> recipe = Recipe(task="classify_text", data={"train": "train.csv"}, method="full")
    >>> recipe.method.kind, recipe.model.reference, recipe.learning_rate
    ('full', 'bundled:minilm', 5e-05)
    """

    task: AnyTask
    """What goes in and what comes out: a name, or a name with settings (`{kind: generate, max_length: 512}`)."""
    data: Data
    """Where the rows are, and which columns are what."""
    model: Model = Field(default=None, validate_default=False)  # type: ignore[assignment]
    """The pretrained weights to start from; by default the bundled model of the task."""
    method: AnyMethod = Lora()
    """What is trained: a name, or a name with settings (`{kind: lora, rank: 16}`)."""
    training: Training = Training()
    """How the loop runs."""
    generality: str = BUNDLED
    """What is measured before and after beside the task, to see what was forgotten. bundled: sentences on everyday topics
    for a classifier, questions and answers for a generator, in English and Japanese, which come with migaki; off: nothing;
    else a file of your own: texts with labels of any kind, at least two texts of each, or conversations. Its columns go by
    their usual names, and its rows must not be trained on."""
    seed: NonNegativeInt = 0
    """Everything random follows from this number."""

    @field_validator("training")
    @classmethod
    def _labels_are_evened_out_once(cls, training: Training, info: ValidationInfo) -> Training:
        task = info.data.get("task")
        if training.resample and task is not None:
            if not task.one_label:
                raise ValueError(f"resample evens out labels, and rows of {task.kind} have not one each; leave it out.")
            if getattr(task, "class_weights", "none") != "none":
                raise ValueError("resample and task.class_weights both make up for rare labels; keep one of the two.")
        return training

    @field_validator("training")
    @classmethod
    def _workers_have_files_to_read(cls, training: Training, info: ValidationInfo) -> Training:
        task = info.data.get("task")
        if training.workers and task is not None and task.base_role in ("encoder", "decoder"):
            raise ValueError(f"workers read images and recordings, and rows of {task.kind} are texts; leave it out.")
        return training

    @field_validator("generality")
    @classmethod
    def _beside_the_recipe(cls, value: str, info: ValidationInfo) -> str:
        if value in (BUNDLED, OFF) or is_address(value):
            return value
        return absolute_path(value, info, f"give {BUNDLED}, {OFF} or a file")

    def __init__(self, /, **values: Any) -> None:
        origin = _origin.get()
        try:
            self.__pydantic_validator__.validate_python(values, self_instance=self, context={"folder": origin.folder})
        except ValidationError as error:
            problems = problems_of(error, Recipe, origin.source, origin.lines)
            raise RecipeError(problems, origin.source or "recipe") from None
        if self.model is None:
            object.__setattr__(self, "model", Model(reference=_DEFAULT_MODELS[self.task.base_role]))

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], folder: Path | None = None, source: str = "", lines: Lines | None = None
    ) -> Recipe:
        """A recipe from plain values; relative paths are relative to `folder`.

        Args:
            source: the file that the values stand in, for messages.
            lines: on which line of it each of them stands.
        Raises:
            RecipeError: lists every problem.
        """
        with _reading(_Origin(folder, source, lines or {})):
            return cls(**{str(key): value for key, value in values.items()})

    @classmethod
    def from_file(cls, path: Path | str, settings: Sequence[str] = ()) -> Recipe:
        """A recipe from a YAML file, with `a.b=c` settings put over it.

        Raises:
            RecipeError: lists every problem with its line.
        """
        values, lines = read_recipe(path, settings)
        return cls.from_mapping(values, Path(path).resolve().parent, str(path), lines)

    @property
    def learning_rate(self) -> float:
        """The highest rate of the schedule: the recipe's, or the method's usual one."""
        return self.training.learning_rate or float(self.method.default_learning_rate)

    def resolved(self) -> dict[str, Any]:
        """All settings with nothing left to defaults, as stored with the run."""
        values = self.model_dump(mode="json")
        values["training"]["learning_rate"] = self.learning_rate
        return values

    def to_yaml(self) -> str:
        """The resolved recipe; reading it back gives an equal recipe."""
        return dump_yaml(self.resolved())


def read_recipe(path: Path | str, settings: Sequence[str] = ()) -> tuple[dict[str, Any], Lines]:
    """The plain values of a recipe file with `a.b=c` settings put over them, not yet checked, and the line of each.

    Raises:
        RecipeError: the file cannot be read, is no YAML, or holds no settings.
    """
    path = Path(path)
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            [Problem(source, "there is no such file. Give the path of a recipe, for example recipes/quickstart.yaml.")],
            source,
        ) from None
    except IsADirectoryError:
        raise RecipeError([Problem(source, "is a folder. Give the path of a recipe file.")], source) from None
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(
            [Problem(source, f"cannot be read ({error}). A recipe is a UTF-8 text file.")], source
        ) from None
    values, lines = parse_yaml(text, source)
    if not isinstance(values, dict):
        what = "is empty" if values is None else f"holds a {type(values).__name__}, not settings"
        raise RecipeError([Problem(source, f"{what}. A recipe needs at least `task:` and `data:`.")], source)
    if any(setting.startswith("method.") for setting in settings):
        # `--set method.rank=16` means the default method where the recipe names none.
        values.setdefault("method", Recipe.model_fields["method"].default.kind)
    apply_settings(values, settings)
    for setting in settings:
        # What --set put there stands on no line of the file.
        lines[tuple(setting.partition("=")[0].strip().split("."))] = 0
    return values, lines


@contextmanager
def _reading(origin: _Origin) -> Iterator[None]:
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, with the docstring under each field as its description.

    Editors complete recipes by it: `# yaml-language-server: $schema=recipe.schema.json`.
    """
    schema = Recipe.model_json_schema()
    for part in schema["$defs"].values():
        if "kind" in part["properties"]:
            # Pydantic takes its default for leave to omit it, but without it nobody knows which part is meant.
            part["required"] = ["kind", *part.get("required", [])]
            part["properties"]["kind"]["description"] = part["description"].splitlines()[0]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "migaki recipe"
    for name, parts in (("task", all_tasks()), ("method", all_methods())):
        part = schema["properties"][name]
        union = {key: part.pop(key) for key in ("oneOf", "anyOf", "discriminator", "$ref") if key in part}
        part["anyOf"] = [{"enum": [p.model_fields["kind"].default for p in parts]}, union]
    model = schema["properties"]["model"]
    reference = {key: model.pop(key) for key in ("$ref", "allOf") if key in model}
    model.pop("default", None)
    model["anyOf"] = [{"type": "string"}, reference]
    return schema
