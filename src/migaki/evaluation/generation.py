"""Token loss, perplexity, and how close the written answers are to the wanted ones; right for Japanese too."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from migaki.core.errors import DataError
from migaki.core.types import Evaluation, Measure, Prediction
from migaki.evaluation.intervals import bootstrap, proportion
from migaki.evaluation.recall import recall_at
from migaki.evaluation.slices import loss_slices

__all__ = ["character_f1", "generation", "generation_scores"]


def generation(predictions: Sequence[Prediction], seed: int) -> Evaluation:
    """Metrics on rows with a wanted answer.

    `loss` is the mean over all target tokens (nats), `perplexity` its exponential; the interval draws rows, since the
    tokens of one answer depend on one another. The text metrics use the rows for which an answer was written:
    `exact_match` and `stopped` (ended by itself) are shares of rows, `chrf` is the mean sentence chrF and
    `character_f1` the mean overlap of characters, both 0..1.

    Raises:
        DataError: no rows, or a row without a target.
    Source: chrF: Popović 2015, W15-3049, by sacrebleu.
    """
    loss_N, tokens_N = _losses(predictions)
    n = len(predictions)
    loss = bootstrap(loss_N, seed, lambda weights_KN: (weights_KN @ loss_N) / (weights_KN @ tokens_N))
    value, low, high = (float(np.exp(x)) for x in (loss.value, loss.low, loss.high))
    metrics = {"loss": loss, "perplexity": Measure(value, low, high, n)}
    written = [p for p in predictions if p.stopped is not None]
    if written:
        pairs = [(p.output, p.target or "") for p in written]
        metrics["exact_match"] = proportion(
            sum(_plain(output) == _plain(target) for output, target in pairs), len(written)
        )
        metrics["chrf"] = _mean(_chrf(pairs), seed)
        metrics["character_f1"] = _mean([character_f1(output, target) for output, target in pairs], seed)
        metrics["stopped"] = proportion(sum(bool(p.stopped) for p in written), len(written))
    details = {
        "rows": n,
        "target_tokens": int(tokens_N.sum()),
        "generated_rows": len(written),
        "slices": loss_slices(predictions, seed),
        **({"recall_at": found} if (found := recall_at(predictions)) else {}),
    }
    return Evaluation(metrics, details, predictions)


def generation_scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Token loss without interval, for watching a training."""
    loss_N, tokens_N = _losses(predictions)
    return {"loss": float(loss_N.sum() / tokens_N.sum())}


def _losses(predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    if not predictions:
        raise DataError("There are no rows to judge. Give at least one row with an answer.")
    for p in predictions:
        if p.loss is None or p.targets == 0:
            raise DataError(f"{p.place} has no wanted answer, so it cannot be judged. Give it one, or remove the row.")
    return np.array([p.loss for p in predictions], dtype=np.float64), np.array(
        [p.targets for p in predictions], dtype=np.float64
    )


def _mean(values: Sequence[float], seed: int) -> Measure:
    values_N = np.array(values)
    return bootstrap(values_N, seed, lambda weights_KN: weights_KN @ values_N / len(values_N), share=True)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def character_f1(output: str, target: str) -> float:
    """Overlap of characters, order and white space aside, 0..1; no word borders are needed, so it suits Japanese.

    >>> round(character_f1("東京です", "東京都です"), 4)  # 4 shared: precision 4/4, recall 4/5
    0.8889
    """
    a, b = (Counter("".join(unicodedata.normalize("NFKC", text).split())) for text in (output, target))
    if not a or not b:
        return float(a == b)
    return 2 * (a & b).total() / (a.total() + b.total())


def _chrf(pairs: Sequence[tuple[str, str]]) -> list[float]:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    return [metric.sentence_score(output, [target]).score / 100 for output, target in pairs]
