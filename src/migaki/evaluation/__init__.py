"""Metrics with their intervals, and what goes wrong where. Numpy only, with scikit-learn and scipy as the oracles of the
tests; the one exception is the logistic regression behind suspicious labels."""

from migaki.evaluation.calibration import calibration, temperature_scaling
from migaki.evaluation.classification import classification, classification_scores
from migaki.evaluation.forgetting import ability_change, ability_figure, forgetting, measure_generality
from migaki.evaluation.gain import gain
from migaki.evaluation.generation import character_f1, generation, generation_scores
from migaki.evaluation.intervals import bootstrap, wilson
from migaki.evaluation.multi_label import best_threshold, labelling, labelling_scores
from migaki.evaluation.slices import accuracy_slices, error_slices, loss_slices
from migaki.evaluation.suspicion import out_of_fold, suspects
from migaki.evaluation.tagging import tagging, tagging_scores
from migaki.evaluation.transcription import transcription, transcription_scores

__all__ = [
    "ability_change",
    "ability_figure",
    "accuracy_slices",
    "best_threshold",
    "bootstrap",
    "calibration",
    "character_f1",
    "classification",
    "classification_scores",
    "error_slices",
    "forgetting",
    "gain",
    "generation",
    "generation_scores",
    "labelling",
    "labelling_scores",
    "loss_slices",
    "measure_generality",
    "out_of_fold",
    "suspects",
    "tagging",
    "tagging_scores",
    "temperature_scaling",
    "transcription",
    "transcription_scores",
    "wilson",
]
