"""C2: the evaluation loss is a mean over targets, whatever is computed together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learners import CASES, plain_losses, prepared, rows_of, task_of
from migaki.core.parts import Learner, Task
from migaki.core.types import Dataset, Prediction

N_ROWS = 11  # 8 and a partial batch of 3


def learner_and_rows(kind: str, method: str, encoder: Path, decoder: Path) -> tuple[Learner, Task, Dataset]:
    rows, task = rows_of(kind, N_ROWS), task_of(kind)
    return prepared(encoder if kind == "classify_text" else decoder, task, method, rows), task, rows


@torch.no_grad()
def loss_by_hand(learner: Learner, rows: Dataset) -> float:
    """Sum of the loss over all targets by their number, each row alone."""
    total, weight = plain_losses(learner, rows.rows, 0.0)
    return float(total) / weight


@pytest.mark.parametrize("batch", [1, 2, 8, N_ROWS])
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_evaluation_loss_is_the_target_mean_for_every_batch_size(
    kind: str, method: str, batch: int, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    learner, task, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder)
    predictions: list[Prediction] = []
    for start in range(0, N_ROWS, batch):
        predictions += learner.predict(rows.rows[start : start + batch], answers=0)
    by_hand = loss_by_hand(learner, rows)
    assert task.scores(predictions, learner.labels)["loss"] == pytest.approx(by_hand, rel=1e-5)
    assert task.evaluate(predictions, learner.labels, seed=0).metrics["loss"].value == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_long_answer_counts_by_its_tokens_not_as_one_row(method: str, tiny_encoder: Path, tiny_decoder: Path) -> None:
    """The mean of the rows' means is another number, so the test above can tell the two apart."""
    learner, task, rows = learner_and_rows("generate", method, tiny_encoder, tiny_decoder)
    predictions = learner.predict(rows.rows, answers=0)
    losses = [p.loss for p in predictions if p.loss is not None]
    of_rows = sum(loss / p.targets for loss, p in zip(losses, predictions, strict=True)) / N_ROWS
    assert abs(task.scores(predictions, ())["loss"] - of_rows) > 1e-4
    assert sum(p.targets for p in predictions) == plain_losses(learner, rows.rows, 0.0)[1]


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_each_row_has_its_own_loss_in_its_own_place(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """Rows are computed in another order than they come in; none of them may get its neighbour's figure."""
    learner, _, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder)
    for row, prediction in zip(rows.rows, learner.predict(rows.rows, answers=0), strict=True):
        assert prediction.place == row.place
        # Of a loss near zero only rounding is left, so the row's bound of 1e-6 nats holds beside the relative one.
        alone = float(plain_losses(learner, [row], 0.0)[0].detach())
        assert prediction.loss == pytest.approx(alone, rel=1e-5, abs=1e-6)
