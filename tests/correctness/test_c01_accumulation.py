"""C1: a step's update is the same however it is divided into parts or over processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learners import CASES, clear, difference, gradients, lopsided, plain_losses, prepared, rows_of, task_of, trained
from migaki.core.parts import Learner
from migaki.core.store import RunFolder
from migaki.core.types import Dataset
from migaki.training import Training
from migaki.training.loop import Judge, accumulate_gradients, fit
from migaki.training.plan import step_rows
from processes import finish, start

WEIGHINGS = [
    (kind, method, smoothing, weights)
    for kind, method in CASES
    for smoothing in (0.0, 0.1)
    for weights in (("none", "balanced") if kind == "classify_text" else ("none",))
]
"""Every task and method with and without label smoothing and, where there are classes, class weights."""


def learner_and_rows(
    kind: str, method: str, encoder: Path, decoder: Path, class_weights: str = "none", n: int = 8
) -> tuple[Learner, Dataset]:
    if kind == "classify_text":
        task, rows = task_of(kind, class_weights=class_weights, head="random"), lopsided(n)
        return prepared(encoder, task, method, rows), rows
    rows = rows_of(kind, n)
    return prepared(decoder, task_of(kind), method, rows), rows


def plain_gradients(learner: Learner, rows: Dataset, label_smoothing: float) -> tuple[float, dict[str, torch.Tensor]]:
    """Sum of the loss and gradient of its mean, one row at a time."""
    clear(learner)
    total, weight = plain_losses(learner, rows.rows, label_smoothing)
    (total / weight).backward()
    found = gradients(learner)
    clear(learner)
    return float(total.detach()), found


@pytest.mark.parametrize(("kind", "method", "label_smoothing", "class_weights"), WEIGHINGS)
def test_the_number_of_parts_does_not_change_the_update(
    kind: str, method: str, label_smoothing: float, class_weights: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    """8x1, 4x2, 2x4 and 1x8 rows give the gradient of the mean over all targets of the eight rows."""
    learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder, class_weights)
    examples = learner.encode(rows)
    assert len({len(e) for e in examples}) > 3, "rows of one length would hide a mean per part"
    total, wanted = plain_gradients(learner, rows, label_smoothing)
    learner.train_mode(0.0)
    for parts in (8, 4, 2, 1):
        clear(learner)
        found = accumulate_gradients(learner, examples, label_smoothing, accumulate=parts)
        assert found == pytest.approx(total, rel=1e-5)
        assert difference(gradients(learner), wanted) <= 1e-5


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_one_step_of_plain_descent_lands_on_the_same_weights(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    ends = []
    for parts in (8, 4, 2, 1):
        learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder)
        before = {name: p.detach().clone() for name, p in trained(learner).items()}
        learner.train_mode(0.0)
        accumulate_gradients(learner, learner.encode(rows), 0.0, accumulate=parts)
        torch.optim.SGD(trained(learner).values(), lr=1.0).step()
        ends.append({name: p.detach() - before[name] for name, p in trained(learner).items()})
    for end in ends[1:]:
        assert difference(end, ends[0]) <= 1e-5


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_last_partial_step_counts_its_own_targets(
    kind: str, method: str, accumulate: int, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    """11 rows in steps of 4: the third step has 3, and the log shows the loss and gradient of the mean over those 3."""
    learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder, "balanced", n=11)
    learner.evaluation_mode()
    wanted = []
    for step in range(3):
        at = step_rows(11, 4, seed=7, step=step)
        chosen = Dataset("train", tuple(rows.rows[i] for i in at))
        total, found = plain_gradients(learner, chosen, 0.0)
        weight = plain_losses(learner, chosen.rows, 0.0)[1]
        wanted.append((len(at), total / weight, math.sqrt(sum(float(g.square().sum()) for g in found.values()))))
    assert [n for n, _, _ in wanted] == [4, 4, 3]
    run = RunFolder.create(tmp_path, "steps", {})
    # A rate this small leaves the weights where they are, so each step can be worked out on its own.
    training = Training(epochs=1, batch_size=4, accumulate=accumulate, weight_decay=0.0, clip=None)
    judge = Judge(lambda predictions: {"loss": 1.0}, "loss", "min")
    fit(learner, training, learner.encode(rows), (), judge, run, learning_rate=1e-20, seed=7)
    run.unlock()
    events = [json.loads(line) for line in (run.path / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert [step["rows"] for step in steps] == [4, 4, 3]
    for step, (_, loss, norm) in zip(steps, wanted, strict=True):
        assert step["loss"] == pytest.approx(loss, rel=1e-5)
        assert step["gradient_norm"] == pytest.approx(norm, rel=1e-5)


def test_a_step_is_computed_in_as_many_parts_as_asked_where_it_has_the_rows(tiny_encoder: Path) -> None:
    rows = lopsided(8)
    learner = prepared(tiny_encoder, task_of("classify_text"), "lora", rows)
    examples = learner.encode(rows)
    calls: list[int] = []

    class Counting:
        def loss(self, part: list[object], label_smoothing: float) -> torch.Tensor:
            calls.append(len(part))
            return learner.loss(part, label_smoothing)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(learner, name)

    for n, parts, at_least in ((8, 3, 3), (6, 4, 4), (8, 5, 5), (3, 8, 3)):
        calls.clear()
        accumulate_gradients(Counting(), examples[:n], 0.0, accumulate=parts)  # type: ignore[arg-type]
        assert len(calls) >= at_least, (n, parts)
        assert sum(calls) == n


RANK = """
import sys
from pathlib import Path

import torch.distributed as dist
from learners import CASES, clear, gradients, lopsided, prepared, rows_of, task_of
from safetensors.torch import save_file

from migaki.training.loop import accumulate_gradients

rank, meeting, encoder, decoder, out = int(sys.argv[1]), *map(Path, sys.argv[2:])
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
for kind, method in CASES:
    text = kind == "classify_text"
    rows = lopsided(8) if text else rows_of(kind, 8)
    task = task_of(kind, class_weights="balanced", head="random") if text else task_of(kind)
    learner = prepared(encoder if text else decoder, task, method, rows)
    learner.train_mode(0.0)
    total = accumulate_gradients(learner, learner.encode(rows), 0.1, accumulate=4)
    save_file(gradients(learner), out / f"{kind}-{method}-{rank}.safetensors", metadata={"total": repr(total)})
    # One row for two processes: the second has nothing to do and must still take part in the sum.
    clear(learner)
    accumulate_gradients(learner, learner.encode(rows)[:1], 0.0)
    save_file(gradients(learner), out / f"{kind}-{method}-one-{rank}.safetensors")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_ranks(tiny_encoder: Path, tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the gradients that each of two gloo processes held after the same step."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    out = tmp_path_factory.mktemp("ranks")
    finish(*(start(RANK, rank, out / "meeting", tiny_encoder, tiny_decoder, out) for rank in (0, 1)))
    return out


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_two_processes_make_the_step_of_one(
    kind: str, method: str, two_ranks: Path, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    from safetensors import safe_open

    learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder, "balanced")
    total, wanted = plain_gradients(learner, rows, 0.1)
    for rank in (0, 1):
        path = two_ranks / f"{kind}-{method}-{rank}.safetensors"
        assert difference(load_file(path), wanted) <= 1e-5
        with safe_open(path, "pt") as file:
            assert float(file.metadata()["total"]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_a_process_without_rows_still_gets_the_step(
    kind: str, method: str, two_ranks: Path, tiny_encoder: Path, tiny_decoder: Path
) -> None:
    learner, rows = learner_and_rows(kind, method, tiny_encoder, tiny_decoder, "balanced")
    _, wanted = plain_gradients(learner, Dataset("train", rows.rows[:1]), 0.0)
    for rank in (0, 1):
        assert difference(load_file(two_ranks / f"{kind}-{method}-one-{rank}.safetensors"), wanted) <= 1e-5
