"""C9: a NaN ends the run within its step, and none reaches a saved weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from learners import CASES
from migaki.cli import main
from migaki.core.store import verify
from migaki.methods.tuned import TunedLearner
from migaki.training.checkpoint import checkpoint_folders
from migaki.training.plan import step_rows
from tiny import chat_rows, labelled_rows, write_rows

BATCH = 4
POISON = "poison"


class _BadGradient(torch.autograd.Function):
    """A loss that looks well and a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * torch.inf


def poison_row(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Any part of a step with the poisoned row has a bad loss, or a good one with a bad gradient."""
    whole = TunedLearner.loss

    def loss(self: TunedLearner, examples: Any, label_smoothing: float) -> torch.Tensor:
        found = whole(self, examples, label_smoothing)
        if any(POISON in json.dumps(example.row.content.as_json()) for example in examples):
            return _BadGradient.apply(found) if fault == "gradient" else found * torch.nan  # type: ignore[no-untyped-call]
        return found

    monkeypatch.setattr(TunedLearner, "loss", loss)


def recipe(kind: str, method: str, folder: Path, model: Path) -> tuple[Path, int]:
    """A recipe whose train rows hold one poisoned row, and the step (from 1) that meets it."""
    n = 16
    rows = (labelled_rows if kind == "classify_text" else chat_rows)(n + 6)
    # Step 3 of 4 in the order of seed 0.
    at = int(step_rows(n, BATCH, seed=0, step=2)[0])
    key = "text" if kind == "classify_text" else "prompt"
    rows[at] = rows[at] | {key: f"{rows[at][key]} {POISON}"}
    for name, part in (("train", rows[:n]), ("valid", rows[n : n + 3]), ("test", rows[n + 3 :])):
        write_rows(folder / f"{name}.jsonl", part)
    path = folder / "recipe.yaml"
    path.write_text(
        f"task: {kind}\nmethod: {method}\nmodel: {model}\n"
        "data: {train: train.jsonl, valid: valid.jsonl, test: test.jsonl}\n"
        f"training: {{epochs: 1, batch_size: {BATCH}, evaluations_per_epoch: 4}}\n",
        encoding="utf-8",
    )
    return path, 3


@pytest.mark.parametrize("fault", ["loss", "gradient"])
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_nan_fails_the_run_within_its_step(
    kind: str,
    method: str,
    fault: str,
    tiny_encoder: Path,
    tiny_decoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, bad_step = recipe(kind, method, tmp_path, tiny_encoder if kind == "classify_text" else tiny_decoder)
    poison_row(monkeypatch, fault)
    code = main(["train", str(path), "--runs", str(tmp_path / "runs")])
    said = capsys.readouterr().err
    (run,) = (tmp_path / "runs").glob("0001-*")

    assert code == 1
    assert f"at step {bad_step}" in said
    assert str(run / "failed_batch.jsonl") in said
    assert "Traceback" not in said
    state = json.loads((run / "state.json").read_text(encoding="utf-8"))
    assert state["state"] == "failed"
    assert f"at step {bad_step}" in state["reason"]

    # Nothing of the bad step is in the log, and no model was made of it.
    events = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, bad_step))
    assert not (run / "model").exists()

    # The last good checkpoint is whole and finite.
    newest = checkpoint_folders(run / "checkpoints")[0]
    assert newest.name == f"step-{bad_step - 1:08d}"
    verify(newest)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        for name, tensor in load_file(newest / file).items():
            assert torch.isfinite(tensor.float()).all(), name

    # The rows of the step are written out, as they stand in the data.
    rows = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    lines = {1 + int(i) for i in step_rows(len(rows), BATCH, seed=0, step=bad_step - 1)}
    failed = [json.loads(line) for line in (run / "failed_batch.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["place"].rsplit(":", 1)[1] for row in failed} == {str(line) for line in lines}
    assert sum(POISON in json.dumps(row) for row in failed) == 1


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_a_validation_loss_that_is_not_a_number_fails_the_run(
    kind: str,
    method: str,
    tiny_encoder: Path,
    tiny_decoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights can overflow in the very last step, where no later loss would tell."""
    path, _ = recipe(kind, method, tmp_path, tiny_encoder if kind == "classify_text" else tiny_decoder)
    step = torch.optim.AdamW.step
    done = 0

    def last_step_overflows(self: torch.optim.AdamW, closure: Any = None) -> Any:
        nonlocal done
        done += 1
        step(self, closure)
        if done == 4:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.fill_(torch.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", last_step_overflows)
    code = main(["train", str(path), "--runs", str(tmp_path / "runs")])
    (run,) = (tmp_path / "runs").glob("0001-*")
    assert code == 1
    assert "The validation loss is" in capsys.readouterr().err
    assert json.loads((run / "state.json").read_text(encoding="utf-8"))["state"] == "failed"
    newest = checkpoint_folders(run / "checkpoints")[0]
    assert newest.name == "step-00000003"
    for name, tensor in load_file(newest / "weights.safetensors").items():
        assert torch.isfinite(tensor).all(), name
