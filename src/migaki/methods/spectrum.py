"""Loudness of a few bands, and a logistic regression over it: the floor that a model of sounds has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from migaki.core.parts import Learner, Method, Shape, Task
from migaki.core.types import Dataset
from migaki.methods.needs import require_fit

__all__ = ["Spectrum"]


class Spectrum(Method):
    """How loud some bands of frequencies are in each recording, and a logistic regression over that.

    Of each band the mean and how much it changes, without any pretrained model. It tells voices, microphones and noise apart,
    and knows no words: where it is as good as a model, the labels may be told by who speaks. What a model of sounds is worth
    is what it adds to this. Source: Davis & Mermelstein 1980, doi:10.1109/TASSP.1980.1163420 (the bands).
    """

    kind: Literal["spectrum"] = "spectrum"
    bands: Annotated[int, Field(ge=4, le=64)] = 40
    """Bands from 0 to 8 kHz, evenly on the mel scale."""
    penalty: PositiveFloat | None = None
    """Strength of the L2 penalty against the summed loss of the rows; null: the best of seven from 0.03 to 30 on the
    validation rows, by accuracy, then by loss."""

    uses_base: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    takes_steps: ClassVar[bool] = False
    varies_with_seed: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = False

    def baseline_name(self, task: Task) -> str:
        return "always the shares of the labels"

    def misfit(self, task: Task) -> str | None:
        if task.base_role == "audio" and task.one_label:
            return None
        return f"spectrum listens to recordings with labels, and rows of {task.kind} are none; the floor there is method: {task.floor}."

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.bands": [20, 40, 64], "method.penalty": {"log": [0.01, 100.0]}}

    def prepare(self, base: None, task: Task, train: Dataset, seed: int) -> Learner:
        from migaki.methods.bands import BandLearner

        require_fit(self, task)
        return BandLearner.new(task, train, self.penalty, bands=self.bands)

    def restore(self, base: None, task: Task, folder: Path) -> Learner:
        from migaki.methods.bands import BandLearner

        return BandLearner.load(folder)
