"""Retrieval: what was given is looked up when it is needed, and nothing is trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator, model_validator

from migaki.core.errors import Problem, RecipeError
from migaki.core.parts import Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.needs import require_fit
from migaki.models import Model

if TYPE_CHECKING:
    from migaki.methods.retrieval import Encoder
    from migaki.models.base import Base
    from migaki.retrieval import Library, Way

__all__ = ["Retrieve"]


def _or_a_word(schema: dict[str, Any]) -> None:
    """`encoder: bundled:minilm` is short for `encoder: {reference: bundled:minilm}`."""
    schema["anyOf"].insert(0, {"type": "string"})


class Retrieve(Method):
    """The model stays as it is and is told what was found. Classification: the training rows nearest to a text vote.
    Generation: the passages nearest to a question, of your documents or of the training rows, stand in the prompt.

    Source: Cover & Hart 1967, IEEE Trans. Inf. Theory 13, 21-27; Lewis et al. 2020, arXiv:2005.11401, without training.
    """

    kind: Literal["retrieve"] = "retrieve"
    index: Literal["auto", "sparse", "dense", "hybrid"] = "auto"
    """sparse: by words (BM25; Japanese by characters and pairs of them); dense: by vectors of an encoder; hybrid: by both
    (reciprocal-rank fusion). auto: hybrid where an encoder is at hand (always in classification), else sparse."""
    neighbours: PositiveInt = 20
    """Classification: how many rows vote, each by its similarity."""
    passages: PositiveInt = 3
    """Generation: how many passages stand in the prompt. The last is cut, or left out, where they leave no room."""
    documents: str | None = None
    """Generation: a folder or a file to look up (txt, md, html, csv, tsv; pdf beside the package pypdf), relative to the
    recipe. null: the training rows, each question with its answer."""
    encoder: Annotated[Model | None, Field(json_schema_extra=_or_a_word)] = None
    """Generation: the model that makes vectors of questions and passages, `bundled:minilm` for example."""
    chunk: Annotated[int, Field(ge=40)] = 600
    """Characters of a passage at most. Documents are cut between paragraphs where that is possible, else between
    sentences."""
    overlap: NonNegativeInt = 100
    """Characters at the end of a passage that may be repeated at the beginning of the next; whole sentences only."""
    prompt: str | None = None
    """Generation: what the model is asked, with {passages} and {question} in it. null: a plain request in the language of
    the question, Japanese or English."""

    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    new_knowledge: ClassVar[str] = "add it to the index, without training"
    keeps_base: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    @field_validator("documents")
    @classmethod
    def _beside_the_recipe(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if not value.strip() or "\x00" in value:
            raise ValueError(f"{value!r} is no path; give a folder or a file, or leave it out for the training rows.")
        try:
            path = Path(value).expanduser()
        except RuntimeError:
            raise ValueError(f"there is no home folder for {value!r}; write the path out.") from None
        return os.path.abspath(Path((info.context or {}).get("folder") or ".") / path)

    @field_validator("encoder")
    @classmethod
    def _no_run(cls, value: Model | None) -> Model | None:
        if value is not None and value.reference.startswith("run:"):
            raise ValueError("an encoder cannot be a run; give bundled:NAME, a folder or hf:ORG/NAME.")
        return value

    @field_validator("prompt")
    @classmethod
    def _holds_both(cls, value: str | None) -> str | None:
        missing = [name for name in ("{passages}", "{question}") if value is not None and name not in value]
        if missing:
            raise ValueError(f"it must hold {' and '.join(missing)}, where that goes.")
        return value

    @model_validator(mode="after")
    def _room_for_what_is_new(self) -> Retrieve:
        if self.overlap > self.chunk // 2:
            raise ValueError(f"overlap {self.overlap} is more than half of chunk {self.chunk}; lower it.")
        return self

    def baseline_name(self, task: Task) -> str:
        return "base, no passages shown" if task.content_kind == "conversation" else task.baseline_name()

    def misfit(self, task: Task) -> str | None:
        if task.one_label or task.content_kind == "conversation":
            return None
        instead = "lora" if task.content_kind == "transcribed" else "probe"
        return (
            f"retrieve does not know how to look up for {task.kind}: only rows with one label can vote. Use {instead}."
        )

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        if task.content_kind == "conversation":
            return {"method.passages": [1, 2, 3, 5]}
        ways = {"method.index": ["sparse", "dense", "hybrid"]} if task.has_texts else {}
        return {"method.neighbours": [1, 3, 5, 10, 20, 40], **ways}

    def prepare(self, base: Base, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.retrieval import ReadingLearner, VotingLearner

        require_fit(self, task)
        way = self.way(task)
        if task.one_label:
            return VotingLearner(task.network(base, train, seed), self.neighbours, way)
        # Read before anything else: a document that cannot be read must not end a run that was started.
        library = self.read(Path(self.documents)) if self.documents else None
        encoder = self.load_encoder() if way != "sparse" else None
        return ReadingLearner(task.network(base, train, seed), self, way, encoder, library)

    def restore(self, base: Base, task: Task, folder: Path) -> Learner:
        from migaki.methods.retrieval import ReadingLearner, Vote, VotingLearner, load_index, load_state

        state, network = load_state(folder), task.restore(base, folder)
        index = load_index(folder)
        if task.one_label:
            return VotingLearner(network, self.neighbours, index.way, index, Vote(**state["vote"]))
        encoder = self.load_encoder(state["encoder"]["fingerprint"]) if index.way != "sparse" else None
        return ReadingLearner(network, self, index.way, encoder, None, index)

    def way(self, task: Task) -> Way:
        """How passages are found in this task.

        Raises:
            RecipeError: a setting has no meaning for the task, or lacks another.
        """
        problems = []
        if not task.has_texts and self.index in ("sparse", "hybrid"):
            found = f"{self.index} looks for words, and rows of {task.kind} are files; leave it out for index: dense."
            problems.append(Problem("method.index", found))
        if task.one_label:
            for name in ("documents", "encoder", "prompt"):
                if getattr(self, name) is not None:
                    found = "is for generation: rows without labels have no vote, and the model is its own encoder."
                    problems.append(Problem(f"method.{name}", f"{found} Leave it out."))
        elif task.content_kind == "conversation":
            if self.index in ("dense", "hybrid") and self.encoder is None:
                found = f"{self.index} needs a model that makes vectors; set method.encoder: bundled:minilm, or index: sparse."
                problems.append(Problem("method.index", found))
            if self.index == "sparse" and self.encoder is not None:
                problems.append(Problem("method.encoder", "index: sparse uses no vectors; leave one of the two out."))
        if problems:
            raise RecipeError(problems)
        if self.index != "auto":
            return self.index
        if not task.has_texts:
            return "dense"
        return "hybrid" if task.one_label or self.encoder is not None else "sparse"

    def read(self, path: Path) -> Library:
        """The passages of a document or of a folder of them."""
        from migaki.retrieval import read_documents

        return read_documents(path, self.chunk, self.overlap)

    def load_encoder(self, fingerprint: str | None = None) -> Encoder:
        """The model that makes vectors.

        Raises:
            ModelError: it cannot be loaded, or its weights are not those by which a saved index was made.
        """
        from migaki.methods.retrieval import load_encoder

        assert self.encoder is not None
        return load_encoder(self.encoder, fingerprint)
