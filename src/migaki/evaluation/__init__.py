"""Metrics with their intervals. Numpy only; scikit-learn and scipy are the oracles of the tests."""

from migaki.evaluation.classification import classification, classification_scores
from migaki.evaluation.gain import gain
from migaki.evaluation.generation import character_f1, generation, generation_scores
from migaki.evaluation.intervals import bootstrap, wilson

__all__ = [
    "bootstrap",
    "character_f1",
    "classification",
    "classification_scores",
    "gain",
    "generation",
    "generation_scores",
    "wilson",
]
