"""Where a model is worse than elsewhere: the metric on parts of the rows, each part tested against all the others."""

# Shapes: N rows

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from migaki.core.types import Measure, Prediction
from migaki.evaluation.intervals import bootstrap, proportion

__all__ = ["accuracy_slices", "error_slices", "fisher_exact", "holm", "loss_slices", "rank_sum", "script_of"]

_CERTAIN = 0.05
"""Below it, after Holm's correction, a part is called worse: over all parts together chance alone does so once in 20."""

# Letters alone decide. Han is counted as Japanese: by its characters a Chinese text cannot be told from 本日休業.
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]")
_JAPANESE = re.compile(
    "[\u3005\u3006\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U000323af]"
)

_MOST_NAMES = 20
_OTHERS = "(all others)"

Script = Literal["latin", "japanese", "mixed", "other"]


def script_of(text: str) -> Script:
    """Which letters a text is written with; mixed: Latin and Japanese ones both, other: neither.

    >>> [script_of(text) for text in ("Größe 12", "画面が真っ暗です。", "Windowsが起動しない", "12:30!", "привет")]
    ['latin', 'japanese', 'mixed', 'other', 'other']
    """
    latin, japanese = _LATIN.search(text), not text.isascii() and _JAPANESE.search(text)
    if latin and japanese:
        return "mixed"
    return "latin" if latin else "japanese" if japanese else "other"


def accuracy_slices(predictions: Sequence[Prediction], by_label: bool = True) -> list[dict[str, Any]]:
    """Share of right rows by label, length, source file and script, or of files by what was measured on them, JSON-able; first what is worse than the rest beyond chance.

    Each has `by`, `value`, the `figure` with its Wilson interval, the `rest` likewise, `p` (Fisher's exact test of the
    part against the rest, two-sided, Holm-corrected over all parts) and `worse`. A part that is all rows is left out.

    Args:
        predictions: at least one, each with its target.
        by_label: whether the target is one label.
    """
    hit_N = np.array([p.output == p.target for p in predictions])
    found = []
    for by, value, inside_N in [*(_by_label(predictions) if by_label else ()), *_by_content(predictions)]:
        part, rest = hit_N[inside_N], hit_N[~inside_N]
        figure, other = proportion(int(part.sum()), len(part)), proportion(int(rest.sum()), len(rest))
        p = fisher_exact(int(part.sum()), len(part), int(rest.sum()), len(rest))
        found.append((by, value, figure, other, p))
    return _ordered(found, higher_is_worse=False)


def loss_slices(predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    """Loss per target token by length, source file and script, in the form of `accuracy_slices`.

    The figures weigh rows by their tokens, as the metric does, with a bootstrap interval; `p` compares the losses per
    token of whole rows (Wilcoxon's rank-sum test).

    Args:
        predictions: at least one, each with a loss.
    """
    loss_N = np.array([p.loss for p in predictions], dtype=np.float64)
    tokens_N = np.array([p.targets for p in predictions], dtype=np.float64)
    return _ratio_slices(predictions, loss_N, tokens_N, seed)


def error_slices(predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    """Errors per word by what is known of each recording, in the form of `loss_slices`.

    Args:
        predictions: at least one, each with its errors and its words as its `part`. A row without words has no error rate;
            its errors count in the figures and not in `p`.
    """
    errors_N, words_N = (np.array([(p.part or (0.0, 0.0))[i] for p in predictions]) for i in (0, 1))
    return _ratio_slices(predictions, errors_N, words_N, seed)


def _ratio_slices(
    predictions: Sequence[Prediction], above_N: np.ndarray, below_N: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """Parts by what is known of each row, judged by a ratio of sums over their rows; more is worse."""

    def ratio(chosen_N: np.ndarray) -> Measure:
        above, below = above_N[chosen_N], below_N[chosen_N]
        # A resample may hold only rows without anything below the line.
        return bootstrap(above, seed, lambda weights_KN: (weights_KN @ above) / np.maximum(weights_KN @ below, 1.0))

    counted_N = below_N > 0
    found = []
    for by, value, inside_N in _by_content(predictions):
        each = [above_N[chosen] / below_N[chosen] for chosen in (inside_N & counted_N, ~inside_N & counted_N)]
        p = rank_sum(*each) if len(each[0]) and len(each[1]) else 1.0
        found.append((by, value, ratio(inside_N), ratio(~inside_N), p))
    return _ordered(found, higher_is_worse=True)


def _by_label(predictions: Sequence[Prediction]) -> Iterator[tuple[str, str, np.ndarray]]:
    return _parts("label", [str(p.target) for p in predictions])


def _by_content(predictions: Sequence[Prediction]) -> Iterator[tuple[str, str, np.ndarray]]:
    """By length and script of a text; of an image or a recording by each of its traits, since its path says nothing."""
    measured = [dict(p.traits) for p in predictions]
    if any(measured):
        for name in sorted(set.intersection(*map(set, measured))):
            yield from _parts(name, _trait_names([traits[name] for traits in measured]))
        yield from _parts("source", [p.place.source for p in predictions])
        return
    yield from _parts("length", _length_names([len(p.text) for p in predictions]))
    yield from _parts("source", [p.place.source for p in predictions])
    yield from _parts("script", [script_of(p.text) for p in predictions])


def _parts(by: str, values: Sequence[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    names = sorted(set(values))
    of_N = np.array([names.index(value) for value in values]) if len(names) > 1 else np.zeros(0)
    for i, name in enumerate(names if len(names) > 1 else []):
        yield by, name, of_N == i


def _length_names(lengths: Sequence[int]) -> list[str]:
    """The third of the rows, by their characters, that each row belongs to; equal lengths are never divided.

    >>> _length_names([5, 1, 9, 2, 5, 8])
    ['3–5', '≤ 2', '≥ 6', '≤ 2', '3–5', '≥ 6']
    """
    low, high = (int(x) for x in np.quantile(lengths, [1 / 3, 2 / 3], method="inverted_cdf"))
    middle = f"{low + 1}–{high}" if high > low + 1 else str(high)
    return [f"≤ {low}" if n <= low else middle if n <= high else f"≥ {high + 1}" for n in lengths]


def _trait_names(values: Sequence[float | str]) -> list[str]:
    """The part that each row belongs to: a third of the rows by a number, or the rows with one word."""
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) == len(values):
        return _third_names(numbers)
    return _frequent_names([str(value) for value in values])


def _third_names(values: Sequence[float]) -> list[str]:
    """The same of measured numbers, which may lie anywhere between two others.

    >>> _third_names([0.5, 0.1, 0.92, 0.2, 0.5, 0.8])
    ['≤ 0.5', '≤ 0.2', '> 0.5', '≤ 0.2', '≤ 0.5', '> 0.5']
    """
    low, high = (float(x) for x in np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf"))
    first, second = _digits(low), _digits(high)
    return [f"≤ {first}" if x <= low else f"≤ {second}" if x <= high else f"> {second}" for x in values]


def _digits(number: float) -> str:
    """Three digits, or all of those before the point.

    >>> _digits(0.12345), _digits(16000.0), _digits(-23.04)
    ('0.123', '16000', '-23')
    """
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _frequent_names(values: Sequence[str]) -> list[str]:
    """The words themselves; of more than 20 different ones the 20 most frequent, since each further part makes it harder for
    all of them to stand out from chance.

    >>> _frequent_names(["ann", "ben", "ann"])
    ['ann', 'ben', 'ann']
    """
    counts = Counter(values)
    kept = {word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMES]}
    return [value if value in kept else _OTHERS for value in values]


def _ordered(found: Sequence[tuple[str, str, Measure, Measure, float]], higher_is_worse: bool) -> list[dict[str, Any]]:
    """Worse beyond chance first, the surest at the top; the others from the worst figure to the best."""
    sign = 1 if higher_is_worse else -1
    rows = []
    for (by, value, figure, rest, _), p in zip(found, holm([p for *_, p in found]), strict=True):
        worse = p < _CERTAIN and sign * (figure.value - rest.value) > 0
        row = {"by": by, "value": value, "figure": figure.as_json(), "rest": rest.as_json(), "p": p, "worse": worse}
        rows.append(((not worse, p if worse else 0.0, -sign * figure.value, by, value), row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def fisher_exact(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Chance of a table at most as likely as this one if both parts have one rate of hits; right for any number of rows.

    Source: Fisher 1922, J. R. Stat. Soc. 85, 87-94; two-sided as R's fisher.test: all tables that are not likelier.

    >>> round(fisher_exact(3, 4, 1, 4), 4)  # tables with 0..4 hits weigh 1, 16, 36, 16, 1 of 70
    0.4857
    """
    total, rows = hits + other_hits, n + other_n
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, rows + 1)))])

    def log_choose(n_all: int, chosen: np.ndarray) -> np.ndarray:
        return np.asarray(log_factorial[n_all] - log_factorial[chosen] - log_factorial[n_all - chosen])

    k = np.arange(max(0, total - other_n), min(n, total) + 1)
    weight = log_choose(n, k) + log_choose(other_n, total - k)
    p_k = np.exp(weight - weight.max())
    p_k /= p_k.sum()
    # Tables that are equally likely come out of the sum of logarithms a rounding apart.
    return float(min(p_k[p_k <= p_k[hits - k[0]] * (1 + 1e-7)].sum(), 1.0))


def rank_sum(values: np.ndarray, others: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's rank-sum test: normal approximation with correction for ties and continuity.

    Source: Mann & Whitney 1947, Ann. Math. Stat. 18, 50-60.
    """
    n, m = len(values), len(others)
    _, inverse, counts = np.unique(np.concatenate([values, others]), return_inverse=True, return_counts=True)
    rank_of = np.cumsum(counts) - (counts - 1) / 2
    u = float(rank_of[inverse[:n]].sum()) - n * (n + 1) / 2
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = n * m / 12 * (n + m + 1 - ties / ((n + m) * max(n + m - 1, 1)))
    if variance <= 0:
        return 1.0
    return min(math.erfc(max(abs(u - n * m / 2) - 0.5, 0.0) / math.sqrt(2 * variance)), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected so that calling those below 0.05 is wrong anywhere at most once in 20 times.

    Source: Holm 1979, Scand. J. Stat. 6, 65-70.

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]  # 3 x 0.01, 2 x 0.03, and 0.04 not below the one before
    [0.03, 0.06, 0.06]
    """
    n, found, highest = len(p_values), [1.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        highest = max(highest, min((n - place) * p_values[i], 1.0))
        found[i] = highest
    return found
