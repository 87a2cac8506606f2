"""Loudness of a few bands, and a logistic regression over it: the floor that a model of sounds has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from migaki.core.parts import Role, Shape, Task
from migaki.methods.measuring import MeasuringFiles

if TYPE_CHECKING:
    from migaki.methods.bands import BandLearner

__all__ = ["Spectrum"]


class Spectrum(MeasuringFiles):
    """How loud some bands of frequencies are in each recording, and a logistic regression over that.

    Of each band the mean and how much it changes, without any pretrained model. It tells voices, microphones and noise apart,
    and knows no words: where it is as good as a model, the labels may be told by who speaks. What a model of sounds is worth
    is what it adds to this. Source: Davis & Mermelstein 1980, doi:10.1109/TASSP.1980.1163420 (the bands).
    """

    kind: Literal["spectrum"] = "spectrum"
    bands: Annotated[int, Field(ge=4, le=64)] = 40
    """Bands from 0 to 8 kHz, evenly on the mel scale."""

    measured_role: ClassVar[Role] = "audio"
    does: ClassVar[str] = "listens to recordings with labels"

    def space(self, task: Task, shape: Shape) -> dict[str, Any]:
        return {"method.bands": [20, 40, 64], "method.penalty": {"log": [0.01, 100.0]}}

    def learner(self, task: Task) -> type[BandLearner]:
        from migaki.methods.bands import BandLearner

        return BandLearner
