"""A run that is there: open it, judge it, ask it."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migaki.core.errors import DamagedError, DataError, ModelError, UsageError
from migaki.core.parts import Learner, Role, Task
from migaki.core.store import RunFolder, open_run, read_json, verify
from migaki.core.types import Conversation, Dataset, Evaluation, Measure, Place, Prediction, Row, Turn
from migaki.data.cleaning import cleaner
from migaki.data.formats import READERS
from migaki.methods import Retrieve
from migaki.models import Located, Model, hashed, locate
from migaki.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from migaki.models.base import Base
    from migaki.retrieval import Passage
    from migaki.training.loop import Judge

__all__ = ["Run", "answer_seconds", "base_features", "base_of", "evaluate_learner", "judge_of", "load"]

_TIMED_ROWS, _TIMED_ANSWERS = 30, 3


def load(name: str | Path, runs: str | Path = "runs") -> Run:
    """The run with this id, number or folder.

    Raises:
        RunNotFoundError: lists what is there.
    """
    found = open_run(str(name), Path(runs))
    # `run:ID` in its recipe is a neighbour of this run, wherever the folder was opened from.
    return Run(found, found.path.parent)


def base_of(model: Model, role: Role, runs: Path) -> Base:
    """The pretrained weights a recipe names; `run:ID` is the model that an earlier run ended with.

    Raises:
        ModelError: it cannot be found, or is of another kind than the task needs.
    """
    if not model.reference.startswith("run:"):
        located = locate(model)
        with ThreadPoolExecutor(1) as aside:
            # Hashing lets go of Python's lock, so it costs no time beside the import of torch and transformers.
            weights = aside.submit(hashed, located)
            from migaki.models.base import load_base
        return load_base(located, role, weights.result())
    earlier = load(model.reference.removeprefix("run:"), runs)
    if earlier.recipe.task.base_role != role:
        named = {"encoder": "an encoder", "decoder": "a decoder", "image": "an image model"}
        named |= {"audio": "a model of sounds", "speech": "a model of speech"}
        raise ModelError(
            f"{model.reference} is {named[earlier.recipe.task.base_role]} ({earlier.recipe.task.kind}); this task needs {named[role]}."
        )
    return earlier.as_base(model.reference)


def base_features(recipe: Recipe, runs: Path, train: Dataset, rows: Sequence[Row]) -> np.ndarray | None:
    """Pooled vectors (N, D) float64 of the base before training; None where the method has no base, or the task no vectors."""
    if not recipe.method.uses_base:
        return None
    import numpy as np

    base = base_of(recipe.model, recipe.task.base_role, runs)
    network = recipe.task.network(base, train, recipe.seed)
    if not hasattr(network, "kept_features"):
        return None
    network.eval()
    return np.asarray(network.kept_features(network.inputs(rows)), dtype=np.float64)


def judge_of(recipe: Recipe, learner: Learner) -> Judge:
    """By what the best model on the validation rows is kept, in a run and in an attempt at one."""
    from migaki.training.loop import Judge

    def scores(predictions: Sequence[Prediction]) -> dict[str, float]:
        return recipe.task.scores(predictions, learner.labels)

    return (
        Judge(scores, "loss", "min") if recipe.training.keep_best_by == "loss" else Judge(scores, *recipe.task.primary)
    )


def evaluate_learner(
    learner: Learner, task: Task, rows: Sequence[Row], seed: int, watch: Any = lambda _: None
) -> Evaluation:
    """Predictions and metrics of a learner on the rows."""
    predictions = learner.predict(rows, answers=task.answers_in_evaluation(), watch=watch)
    return task.evaluate(predictions, learner.labels, seed)


def answer_seconds(
    learner: Learner, task: Task, rows: Sequence[Row], watch: Callable[[], None] = lambda: None
) -> list[float]:
    """Seconds from a row to its answer, each asked alone, for some rows; none where nothing is to be answered."""
    answers = task.answers_in_evaluation()
    few = rows[: _TIMED_ROWS if answers is None else min(_TIMED_ANSWERS, answers)]
    found = []
    for row in (*few[:1], *few):  # the first one warms up
        began = time.perf_counter()
        learner.predict([row])
        found.append(time.perf_counter() - began)
        watch()
    return found[1:]


class Run:
    """One finished training: its settings, its figures, and its model, which is loaded when it is first asked."""

    def __init__(self, folder: RunFolder, runs: Path) -> None:
        self.folder = folder
        self._runs = runs

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.state})"

    @property
    def id(self) -> str:
        return self.folder.id

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def state(self) -> str:
        """running, finished, failed, stopped or killed."""
        return str(self.folder.state()["state"])

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_file(self.path / "recipe.yaml")

    @cached_property
    def results(self) -> dict[str, Any]:
        """`evaluation.json`: metrics of the tuned model and of the base, details, cost."""
        self._need_finished()
        found: dict[str, Any] = read_json(self.path / "evaluation.json")
        return found

    @property
    def metrics(self) -> Mapping[str, Measure]:
        """Test metrics of the tuned model, with intervals."""
        return {name: Measure(**values) for name, values in self.results["metrics"].items()}

    @property
    def baseline(self) -> Mapping[str, Measure]:
        """The same of the base before training."""
        return {name: Measure(**values) for name, values in self.results["baseline"]["metrics"].items()}

    def summary(self) -> dict[str, Any]:
        """What `migaki train --json` prints."""
        cost = self.results["cost"]
        return {
            "run": self.id,
            "folder": str(self.path),
            "metrics": self.results["metrics"],
            "baseline": self.results["baseline"]["metrics"],
            "forgetting": self.results.get("generality"),
            **{
                name: cost[name] for name in ("train_seconds", "peak_bytes", "trainable_parameters", "total_parameters")
            },
        }

    def _need_finished(self) -> None:
        if self.state != "finished":
            raise UsageError(f"Run {self.id} is {self.state}, so it has no model to use. Train it to the end first.")

    @cached_property
    def learner(self) -> Learner:
        """The tuned model, every file of it checked against its manifest.

        Raises:
            DamagedError: a file of the run is missing or changed.
            ModelError: the base is not the one the run was trained on.
        """
        self._need_finished()
        model_folder = self.path / "model"
        verify(model_folder)
        environment = read_json(self.path / "environment.json")
        base = self._base(environment["model"]["fingerprint"])
        learner = self.recipe.method.restore(base, self.recipe.task, model_folder)
        if precision := environment.get("precision"):
            import torch

            # What it says is what was measured, to the last digit that the format has.
            learner.compute_in(getattr(torch, precision["dtype"]))
        learner.evaluation_mode()
        return learner

    def _base(self, trained_on: str) -> Base | None:
        """The model that is restored into: the one of this fingerprint on which the run was trained, or the run's own; None
        where the method has none."""
        recipe = self.recipe
        if not recipe.method.uses_base:
            return None
        if not recipe.method.keeps_base:
            from migaki.models.base import load_base

            return load_base(Located(f"run:{self.id}", self.path / "model", None, "unknown"), recipe.task.base_role)
        base = base_of(recipe.model, recipe.task.base_role, self._runs)
        if base.fingerprint != trained_on:
            raise ModelError(
                f"{recipe.model.reference} has other weights now than when run {self.id} was trained (sha256 {base.fingerprint[:12]}, "
                f"then {trained_on[:12]}), so its adapter does not fit. Restore the model it was trained on, or train again."
            )
        return base

    def as_base(self, reference: str) -> Base:
        """The tuned backbone as the start of another run: a chain of recipes. Adapters are merged in float32.

        Raises:
            ModelError: the merged model does not say what the adapter said, or what was trained cannot be merged.
        """
        method = self.recipe.method
        if not method.merges:
            raise ModelError(
                f"{reference} was trained by {method.kind}, which changes no weights that another run could start from. Start "
                f"from {self.recipe.model.reference}, or train that run by lora or full."
            )
        from migaki.methods.adapters import adapted_layers, merge_and_compare
        from migaki.models.base import Base

        network: Any = self.learner.network  # type: ignore[attr-defined]
        merge = None
        if any(adapted_layers(network.backbone)):
            merge = merge_and_compare(network, self._rows_to_compare()).as_json()
        network.requires_grad_(False)
        model = read_json(self.path / "environment.json")["model"]
        fingerprint = next(f["sha256"] for f in verify(self.path)["files"] if f["path"] == "model/MANIFEST.json")
        del self.__dict__["learner"]  # its backbone belongs to the new base now
        return Base(
            network.backbone,
            getattr(network, "tokenizer", None),
            reference,
            fingerprint,
            model["licence"],
            getattr(network, "pooling", None),
            getattr(network, "prompt", ""),
            merge,
            getattr(network, "processor", None),
        )

    def _rows_to_compare(self) -> Sequence[Row]:
        """The validation rows; where their file is gone, the texts and answers that the run keeps of its test rows."""
        kind = self.recipe.task.content_kind
        try:
            return self.recipe.data.load(kind, self.recipe.seed).valid.rows
        except DataError:
            answers = {"conversation": "completion", "transcribed": "text"}
            text, answer = self._asked, answers.get(kind, "text_pair")
            with (self.path / "predictions.jsonl").open(encoding="utf-8") as file:
                kept = [json.loads(line) for line in itertools.islice(file, 64)]
            # Of a generator the answers are compared, of the others what is said about the texts.
            second = "target" if kind in answers else "text_pair"
            contents = [
                self._content({text: row["text"], **({answer: row[second]} if second in row else {})}) for row in kept
            ]
            return [Row(Place("predictions.jsonl", i), content) for i, content in enumerate(contents, 1)]

    def evaluate(self, data: Any = None) -> Evaluation:
        """Metrics on the test split of the recipe, or on other rows: the path of a file, or a list of mappings.

        Raises:
            DataError: the rows cannot be used, or the test split is not the one the run was judged on any more.
        """
        recipe = self.recipe
        if data is None:
            test = recipe.data.load(recipe.task.content_kind, recipe.seed).test
            stored = read_json(self.path / "data.json")["splits"]["test"]["fingerprint"]
            if test.fingerprint() != stored:
                raise DataError(
                    f"The test rows are not those that run {self.id} was judged on: the data changed since. Name the file to use with --data."
                )
        else:
            source = str(data) if isinstance(data, Path) else data
            test, _ = recipe.data.read(source, recipe.task.content_kind, need_target=True)
        return evaluate_learner(self.learner, recipe.task, test.rows, recipe.seed)

    def predict(self, inputs: Sequence[Any]) -> list[Prediction]:
        """Predictions for texts, or for prompts (a text or a list of messages), in their order.

        Raises:
            UsageError: one text where a list of them belongs; its letters would be taken for texts.
            DataError: an input cannot be used.

        >>> # migaki.load("0001").predict(["My screen is black"])[0].output
        """
        if isinstance(inputs, str):
            raise UsageError("predict takes a list of texts, not one text. Write run.predict([text])[0].")
        rows = [Row(Place("input", number), self._content(value)) for number, value in enumerate(inputs, 1)]
        return self.predict_rows(rows)

    def predict_rows(self, rows: Sequence[Row]) -> list[Prediction]:
        return self.learner.predict(rows)

    def _content(self, value: Any) -> Any:
        if isinstance(value, str):
            value = {self._asked: value}
        elif isinstance(value, list):
            value = {"messages": value}
        dataset, _ = self.recipe.data.read([value], self.recipe.task.content_kind, need_target=False)
        return dataset.rows[0].content

    @property
    def _asked(self) -> str:
        """The role of what is given to be predicted."""
        usual = "prompt" if self.recipe.task.content_kind == "conversation" else "text"
        return getattr(READERS[self.recipe.task.content_kind], "asked", usual)

    def generate(self, turns: Sequence[Turn]) -> tuple[str, bool | None]:
        """The tuned model's answer to a conversation, and whether it ended by itself.

        Raises:
            UsageError: the run's task does not generate.
        """
        if self.recipe.task.kind != "generate":
            raise UsageError(f"Run {self.id} is a {self.recipe.task.kind} run; ask it with `migaki predict`.")
        asked = Conversation(tuple(turns)).mapped(cleaner(self.recipe.data.clean)).turns
        answer: tuple[str, bool | None] = self.learner.network.answer([asked])[0]  # type: ignore[attr-defined]
        return answer

    def indexed(self) -> Sequence[Passage]:
        """What a `retrieve` run looks up, with what was added since it was made.

        Raises:
            UsageError: the run has no index.
            DamagedError: a file of it is missing or changed.
        """
        self._need_index()
        from migaki.methods.retrieval import load_passages

        verify(self.path / "model")
        return load_passages(self.path / "model")

    def add(self, path: str | Path) -> int:
        """Put more into the index of a `retrieve` run, without training: documents, or rows with labels where the run
        classifies. It lies in `index/` of the run; what was measured stays as it is.

        Returns:
            how many passages are new.
        Raises:
            UsageError: the run has no index.
            DataError: a document or row cannot be read or used, or everything is there already.
        """
        method = self._need_index()
        from migaki.methods.retrieval import VotingLearner, add_passages, load_state, passages_of

        folder, path = self.path / "model", os.path.abspath(path)
        verify(folder)
        if self.recipe.task.one_label:
            dataset, _ = self.recipe.data.read(path, self.recipe.task.content_kind, need_target=True)
            passages = [p for row in dataset.rows for p in passages_of(row)]
            learner = self.learner
            assert isinstance(learner, VotingLearner)
            odd = next((p for p in passages if p.label not in learner.labels), None)
            if odd is not None:
                raise DataError(
                    f"{odd.place} has the label {odd.label!r}, which run {self.id} does not know. Correct it, or train again "
                    "with rows of that label."
                )
            new = add_passages(folder, passages, learner.passage_vectors, path)
        else:
            library = method.read(Path(path))
            made_by = load_state(folder)["encoder"]

            def vectors(passages: Sequence[Passage]) -> Any:
                return method.load_encoder(made_by["fingerprint"]).vectors([p.searched for p in passages])

            new = add_passages(folder, library.passages, vectors, path)
        self.__dict__.pop("learner", None)
        return new

    def _need_index(self) -> Retrieve:
        self._need_finished()
        method = self.recipe.method
        if not isinstance(method, Retrieve):
            raise UsageError(
                f"Run {self.id} was trained by {method.kind} and has no index; only a retrieve run has one."
            )
        return method

    def check(self) -> None:
        """Compare every file of the run, and what was added to it since, with its manifest.

        Raises:
            DamagedError: names the first file that is missing or changed.
        """
        if self.state != "finished":
            raise DamagedError(f"Run {self.id} is {self.state} and has no manifest.")
        for folder in (self.path, *sorted((self.path / "index").glob("[!.]*"))):
            verify(folder)
