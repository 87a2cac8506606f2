"""C15: evaluation is without dropout, leaves the mode as it was, and draws no random number from the training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from learners import CASES, prepared, rows_of, task_of
from migaki.core.parts import Learner, Method
from migaki.core.store import RunFolder
from migaki.core.types import Dataset
from migaki.methods import Full, Lora, Reft
from migaki.training import Training
from migaki.training.checkpoint import checkpoint_folders
from migaki.training.loop import Judge, fit

METHODS: dict[str, Method] = {"full": Full(), "lora": Lora(rank=4, dropout=0.5), "reft": Reft(rank=4, dropout=0.5)}


def learner_and_rows(kind: str, method: str, encoder: Path, decoder: Path) -> tuple[Learner, Dataset]:
    rows = rows_of(kind, 12)
    task = task_of(kind, head="random") if kind == "classify_text" else task_of(kind, max_new_tokens=4)
    return prepared(encoder if kind == "classify_text" else decoder, task, METHODS[method], rows), rows


def is_training(learner: Any) -> set[bool]:
    """The modes that the modules of the network are in."""
    return {module.training for module in learner.network.modules()}


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_dropout_of_one_half_acts_in_training_and_never_in_evaluation(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder)
    examples = learner.encode(rows)
    learner.train_mode(0.5)
    losses = {float(learner.loss(examples, 0.0).detach()) for _ in range(3)}
    assert len(losses) == 3, "dropout does nothing, so this test would see nothing"

    first, second = ([asdict(p) for p in learner.predict(rows.rows)] for _ in range(2))
    assert first == second
    assert is_training(learner) == {True}
    learner.evaluation_mode()
    assert [asdict(p) for p in learner.predict(rows.rows)] == first
    assert is_training(learner) == {False}


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_mode_comes_back_after_an_evaluation_that_failed(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder)
    learner.train_mode(0.5)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.predict(rows.rows, watch=stop)
    assert is_training(learner) == {True}


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_evaluation_leaves_the_random_state_alone(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder)
    learner.train_mode(0.5)
    before = torch.get_rng_state()
    learner.predict(rows.rows)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dropout", [0.5, None])
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_evaluating_more_often_does_not_change_the_weights(
    kind: str, method: str, dropout: float | None, tmp_path: Path
) -> None:
    """Six steps with one evaluation and with six: bitwise the same weights and optimizer at the end."""
    from tiny import save_decoder, save_encoder

    # None keeps the rates of the model itself.
    encoder, decoder = save_encoder(tmp_path / "encoder", dropout=0.5), save_decoder(tmp_path / "decoder", dropout=0.5)
    ends, calm = [], []
    for times, rate in ((1, dropout), (6, dropout), (1, 0.0)):
        learner, rows = learner_and_rows(kind, method, encoder, decoder)
        run = RunFolder.create(tmp_path / "runs", "dropout", {})
        training = Training(epochs=2, batch_size=4, dropout=rate, evaluations_per_epoch=times)
        judge = Judge(lambda predictions: {"loss": sum(p.loss or 0.0 for p in predictions)}, "loss", "min")
        fit(learner, training, learner.encode(rows), rows.rows, judge, run, learning_rate=1e-2, seed=0)
        run.unlock()
        newest = checkpoint_folders(run.path / "checkpoints")[0]
        assert newest.name == "step-00000006"
        (ends if rate == dropout else calm).append(
            load_file(newest / "weights.safetensors") | load_file(newest / "optimizer.safetensors")
        )
    rarely, often = ends
    assert rarely.keys() == often.keys()
    for name in rarely:
        assert torch.equal(rarely[name], often[name]), name
    if method == "full" or dropout is not None:
        weights = [name for name in calm[0] if name in rarely and not name[0].isdigit() and name != "generator"]
        assert any(not torch.equal(calm[0][name], rarely[name]) for name in weights), "dropout changed nothing"
