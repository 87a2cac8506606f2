"""Whether 95 % intervals are honest: simulated evaluations whose true figure is known hold it in 93 to 97 % of the cases.

300 evaluations of honest intervals miss 15, give or take 3.8, so 93 to 97 % (9 to 21 misses) are the middle 1.6 standard
deviations; seeds are fixed, so a run either always passes or never. A method that truly covers 90 % misses 30 and fails.
"""

from __future__ import annotations

import functools
import importlib

import numpy as np
import pytest
from scipy.stats import binom

from migaki.core.types import Place, Prediction
from migaki.evaluation import classification, intervals, wilson

N_ROWS, ACCURACY, EVALUATIONS = 200, 0.8, 300
JOINT = np.array([[0.34, 0.04, 0.02], [0.05, 0.26, 0.03], [0.02, 0.04, 0.20]])
"""How often each label (line) is answered by each (column): accuracy 0.8."""
LABELS = ("a", "b", "c")


def true_f1_macro() -> float:
    """2 P(both) / (P(label) + P(answer)) of each label, averaged: what endless rows would give."""
    return float(np.mean([2 * JOINT[c, c] / (JOINT[c].sum() + JOINT[:, c].sum()) for c in range(3)]))


def test_wilsons_exact_coverage_at_this_size_is_95_percent():
    """It swings with n and p, because hits come in whole numbers; 200 rows at 0.8 are chosen where it is near its mean, so
    that the simulation tests the code and not the swing."""
    assert JOINT.sum() == pytest.approx(1.0)
    assert JOINT.trace() == pytest.approx(ACCURACY)
    hits = np.arange(N_ROWS + 1)
    inside = [wilson(k, N_ROWS)[0] <= ACCURACY <= wilson(k, N_ROWS)[1] for k in hits]
    assert binom.pmf(hits, N_ROWS, ACCURACY)[inside].sum() == pytest.approx(0.95, abs=0.01)


def test_simulated_evaluations_hold_the_true_figures_in_93_to_97_percent(monkeypatch):
    """Wilson's interval for accuracy, the bootstrap's for macro F1 and for the mean loss (exponential, mean 1)."""
    # One seed and one number of rows: the same resamples each time, drawn once.
    draw = functools.cache(intervals.resample_weights)
    for module in (intervals, importlib.import_module("migaki.evaluation.classification")):
        monkeypatch.setattr(module, "resample_weights", draw)
    random = np.random.default_rng(11)
    truth = {"accuracy": ACCURACY, "f1_macro": true_f1_macro(), "loss": 1.0}
    held = dict.fromkeys(truth, 0)
    for _ in range(EVALUATIONS):
        pairs = np.divmod(random.choice(9, size=N_ROWS, p=JOINT.ravel()), 3)
        losses = random.exponential(size=N_ROWS)
        rows = [
            Prediction(Place("rows", i), LABELS[output], LABELS[target], None, float(loss), 1)
            for i, (target, output, loss) in enumerate(zip(*pairs, losses, strict=True))
        ]
        metrics = classification(rows, LABELS, seed=0).metrics
        for name, value in truth.items():
            held[name] += metrics[name].low <= value <= metrics[name].high
    assert all(0.93 <= n / EVALUATIONS <= 0.97 for n in held.values()), held
