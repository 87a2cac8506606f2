"""The loop on one number: w is pulled to the rows' targets, and validation scores are as the test dictates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from learners import labelled, lopsided, plain_losses, prepared, task_of, trained
from migaki.core.errors import NonFiniteError
from migaki.core.parts import ParameterGroup
from migaki.core.store import RunFolder
from migaki.core.types import Labelled, Place, Row
from migaki.training import Training
from migaki.training.checkpoint import checkpoint_folders
from migaki.training.loop import History, Judge, accumulate_gradients, fit
from migaki.training.monitor import Monitor


class Number:
    """A learner with one weight, w, and the loss (w - target)^2 a row."""

    def __init__(self, trains: bool = True) -> None:
        self.w = torch.nn.Parameter(torch.zeros(1))
        self.trains = trains
        self.modes: list[str] = []
        self.judged_at: list[float] = []

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([("w", self.w)], decays=False)] if self.trains else []

    def settle(self, train: Any, valid: Any, passes: int, note: Any) -> dict[str, Any]:
        return {"path": "number"}

    def groups(self, examples: Sequence[Any], max_rows: int) -> list[list[int]]:
        return [list(range(i, min(i + max_rows, len(examples)))) for i in range(0, len(examples), max_rows)]

    def loss(self, examples: Sequence[Any], label_smoothing: float) -> torch.Tensor:
        assert self.modes[-1] == "training"
        return sum(((self.w - e.target).square().sum() * e.weight for e in examples), torch.zeros(()))

    def train_mode(self, dropout: float | None) -> None:
        self.modes.append("training")

    def evaluation_mode(self) -> None:
        self.modes.append("evaluation")

    def predict(self, rows: Sequence[Row], **how: Any) -> list[Any]:
        assert not self.modes or self.modes[-1] == "evaluation"
        self.judged_at.append(float(self.w.detach()))
        return []


class Rows(list[Any]):
    """Rows with these targets, each of weight 1 unless said."""

    def __init__(self, targets: Sequence[float], weights: Sequence[float] | None = None) -> None:
        for i, target in enumerate(targets):
            row = Row(Place("numbers", i + 1), Labelled(str(target), None))
            self.append(Example(row, target, weights[i] if weights else 1.0))


class Example(SimpleNamespace):
    def __init__(self, row: Row, target: float, weight: float) -> None:
        super().__init__(row=row, target=target, weight=weight)

    def __len__(self) -> int:
        return 1


def dictated(values: Sequence[float], metric: str = "accuracy", better: Any = "max") -> Judge:
    """A judge that gives these figures one after the other."""
    left = iter(values)

    def scores(predictions: Sequence[Any]) -> dict[str, float]:
        value = next(left)
        return {"loss": 1.0, "accuracy": 0.0} | {metric: value}

    return Judge(scores, metric, better)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder.create(tmp_path, "loop", {})
    yield folder
    folder.unlock()


def trained_number(
    run: RunFolder, judge: Judge, rows: Rows | None = None, rate: float = 0.1, **settings: Any
) -> tuple[Number, History]:
    learner = Number()
    training = Training(**({"batch_size": 1, "schedule": "constant", "warmup": 0.0, "clip": None} | settings))
    history = fit(learner, training, rows or Rows([1.0] * 6), (), judge, run, learning_rate=rate, seed=0)  # type: ignore[arg-type]
    return learner, history


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = (run.path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def test_the_best_is_kept_and_restored(run: RunFolder) -> None:
    """Scores 0.1 (untrained), 0.5, 0.9, 0.9, 0.2 over four epochs of one step: the second step is the best."""
    learner, history = trained_number(run, dictated([0.1, 0.5, 0.9, 0.9, 0.2]), Rows([1.0]), epochs=4)
    assert (history.steps, history.best_step, history.best_scores["accuracy"]) == (4, 2, 0.9)
    assert history.reason == "all steps done"
    assert float(learner.w.detach()) == learner.judged_at[2]
    assert len(set(learner.judged_at)) == 5
    assert learner.modes[-1] == "evaluation"
    stored = load_file(run.path / "checkpoints" / "step-00000002" / "weights.safetensors")
    assert float(stored["w"]) == learner.judged_at[2]


def test_training_that_never_beats_the_untrained_model_leaves_it(run: RunFolder) -> None:
    learner, history = trained_number(run, dictated([0.5, 0.5, 0.4]), Rows([1.0]), epochs=2)
    assert (history.steps, history.best_step) == (2, 0)
    assert float(learner.w.detach()) == 0.0


def test_a_loss_is_better_where_it_is_lower(run: RunFolder) -> None:
    _, history = trained_number(run, dictated([3.0, 2.0, 2.5], "loss", "min"), Rows([1.0]), epochs=2)
    assert (history.best_step, history.best_scores["loss"]) == (1, 2.0)


def test_early_stopping_counts_evaluations_without_a_better_one(run: RunFolder) -> None:
    """0.3, then 0.5 (better), then 0.5 and 0.4 (neither is): it ends after the third step of ten."""
    learner, history = trained_number(run, dictated([0.3, 0.5, 0.5, 0.4]), Rows([1.0]), epochs=10, early_stopping=2)
    assert (history.steps, history.best_step) == (3, 1)
    assert history.reason.startswith("early stopping")
    assert float(learner.w.detach()) == learner.judged_at[1]
    assert events(run, "stop")[-1] == {"event": "stop", "reason": history.reason, "step": 3, "best_step": 1}


def test_without_early_stopping_all_steps_are_done(run: RunFolder) -> None:
    _, history = trained_number(run, dictated([0.9, *[0.1] * 10]), Rows([1.0]), epochs=10)
    assert history.steps == 10


@pytest.mark.parametrize(
    ("times", "due"),
    [
        (1, [0, 5, 10]),
        # 5 steps an epoch: half of one is 2.5, reached by the third step.
        (2, [0, 3, 5, 8, 10]),
        (5, list(range(11))),
        # There is nothing new to judge between two steps.
        (50, list(range(11))),
    ],
)
def test_validation_is_judged_as_often_in_an_epoch_as_asked(run: RunFolder, times: int, due: list[int]) -> None:
    """Nine rows in steps of two, two epochs."""
    judge = dictated([0.0] * 20)
    trained_number(run, judge, Rows([1.0] * 9), epochs=2, batch_size=2, evaluations_per_epoch=times)
    assert [event["step"] for event in events(run, "evaluation")] == due


@pytest.mark.parametrize(("max_steps", "steps"), [(1, 1), (7, 7), (50, 10)])
def test_max_steps_only_ever_shortens(run: RunFolder, max_steps: int, steps: int) -> None:
    judge = dictated([0.0] * 20)
    _, history = trained_number(run, judge, Rows([1.0] * 5), epochs=2, max_steps=max_steps)
    assert history.steps == steps
    assert len(events(run, "step")) == steps
    # The end is judged, wherever in the epoch it comes.
    assert events(run, "evaluation")[-1]["step"] == steps


def test_the_schedule_is_laid_over_the_shortened_run(run: RunFolder) -> None:
    """Four of ten steps, a line without warm-up: 1, 3/4, 1/2, 1/4 of the rate."""
    judge = dictated([0.0] * 20)
    trained_number(run, judge, Rows([1.0] * 5), rate=0.8, epochs=2, max_steps=4, schedule="linear")
    assert [event["learning_rate"] for event in events(run, "step")] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_every_row_is_seen_once_an_epoch(run: RunFolder) -> None:
    seen: list[float] = []
    learner = Number()
    whole = learner.loss

    def loss(examples: Sequence[Any], label_smoothing: float) -> torch.Tensor:
        seen.extend(e.target for e in examples)
        return whole(examples, label_smoothing)

    learner.loss = loss  # type: ignore[method-assign]
    rows, training = Rows(list(range(7))), Training(epochs=3, batch_size=3)
    fit(learner, training, rows, (), dictated([0.0] * 9), run, learning_rate=0.1, seed=0)  # type: ignore[arg-type]
    epochs = [seen[i : i + 7] for i in (0, 7, 14)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_log_has_loss_and_gradient_of_the_step_worked_out_by_hand(run: RunFolder) -> None:
    """w = 0, targets 1 and 3 with weights 1 and 3: loss (1 + 27) / 4 = 7, gradient |-2 - 18| / 4 = 5."""
    rows = Rows([1.0, 3.0], weights=[1.0, 3.0])
    trained_number(run, dictated([0.0, 0.0]), rows, epochs=1, batch_size=2)
    (step,) = events(run, "step")
    assert step["loss"] == pytest.approx(7.0)
    assert step["gradient_norm"] == pytest.approx(5.0)
    assert (step["rows"], step["tokens"], step["epoch"], step["step"]) == (2, 2, 1.0, 1)


def test_a_long_gradient_is_shortened_to_the_clip_and_logged_as_it_was(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, closure: Any = None) -> Any:
        lengths.extend(float(p.grad.norm()) for group in self.param_groups for p in group["params"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trained_number(run, dictated([0.0, 0.0]), Rows([1.0, 3.0], [1.0, 3.0]), epochs=1, batch_size=2, clip=0.5)
    assert lengths == pytest.approx([0.5], rel=1e-4)
    assert events(run, "step")[0]["gradient_norm"] == pytest.approx(5.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(run: RunFolder, bad: float) -> None:
    learner = Number()
    rows = Rows([1.0, 1.0, bad, 1.0])
    training = Training(epochs=1, batch_size=1, evaluations_per_epoch=4)
    with pytest.raises(NonFiniteError) as error:
        fit(learner, training, rows, (), dictated([0.0] * 9), run, learning_rate=0.1, seed=0)  # type: ignore[arg-type]
    assert "numbers:3" in str(error.value)
    (failed,) = [json.loads(line) for line in (run.path / "failed_batch.jsonl").read_text().splitlines()]
    assert failed["place"] == "numbers:3"
    done = len(events(run, "step"))
    assert f"at step {done + 1}" in str(error.value)
    assert checkpoint_folders(run.path / "checkpoints")[0].name == f"step-{done:08d}"
    assert torch.isfinite(learner.w).all()


def test_a_validation_loss_that_is_not_finite_stops_before_it_is_saved(run: RunFolder) -> None:
    with pytest.raises(NonFiniteError, match="after step 1"):
        trained_number(run, dictated([1.0, float("nan")], "loss", "min"), Rows([1.0]), epochs=3)
    assert checkpoint_folders(run.path / "checkpoints") == []


def test_a_checkpoint_between_evaluations_is_never_made_of_weights_that_overflowed(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third step leaves an infinite weight; its checkpoint would be what a resumed run goes on from."""
    step, done = torch.optim.AdamW.step, []

    def overflowing(self: torch.optim.AdamW, closure: Any = None) -> Any:
        done.append(step(self, closure))
        if len(done) == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(torch.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", overflowing)
    with pytest.raises(NonFiniteError, match="after step 3"):
        trained_number(run, dictated([1.0] * 9), Rows([1.0] * 8), epochs=1, checkpoint_steps=1)
    assert [folder.name for folder in checkpoint_folders(run.path / "checkpoints")] == [
        "step-00000002",
        "step-00000001",
    ]


def test_a_model_that_starts_with_nan_is_told_to_be_the_cause(run: RunFolder) -> None:
    with pytest.raises(NonFiniteError, match="the model itself"):
        trained_number(run, dictated([float("nan")], "loss", "min"), Rows([1.0]), epochs=3)


def test_a_learner_that_trains_nothing_is_judged_and_left_alone(run: RunFolder) -> None:
    learner = Number(trains=False)
    judge = dictated([0.7])
    history = fit(learner, Training(), Rows([1.0]), (), judge, run, learning_rate=0.1, seed=0)  # type: ignore[arg-type]
    assert (history.steps, history.best_step, history.best_scores["accuracy"]) == (0, 0, 0.7)
    assert history.reason == "nothing to train by gradient"
    assert checkpoint_folders(run.path / "checkpoints") == []


def test_fit_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    """Stopped by an error after four steps of six and started again: the same weights as in one go."""

    class Stop(Monitor):
        def step(self, facts: Any) -> None:
            if facts["step"] == 4:
                raise KeyboardInterrupt

    def start(run: RunFolder, monitor: Monitor | None = None) -> tuple[Number, History]:
        learner, training = Number(), Training(epochs=2, batch_size=2, evaluations_per_epoch=3)
        judge = Judge(lambda _: {"loss": (3.5 - learner.judged_at[-1]) ** 2}, "loss", "min")
        rows = Rows([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        return learner, fit(learner, training, rows, (), judge, run, learning_rate=0.1, seed=0, monitor=monitor)  # type: ignore[arg-type]

    whole, broken = RunFolder.create(tmp_path, "whole", {}), RunFolder.create(tmp_path, "broken", {})
    try:
        wanted, _ = start(whole)
        with pytest.raises(KeyboardInterrupt):
            start(broken, Stop())
        newest = checkpoint_folders(broken.path / "checkpoints")[0]
        assert newest.name in ("step-00000003", "step-00000004")
        found, history = start(broken)
    finally:
        whole.unlock()
        broken.unlock()
    assert (history.steps, history.best_step) == (6, 6)
    assert float(found.w.detach()) == float(wanted.w.detach())


def test_the_random_state_of_the_process_is_left_as_it_was(run: RunFolder) -> None:
    before = torch.get_rng_state()
    trained_number(run, dictated([0.0] * 9), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_monitor_hears_of_every_step_and_evaluation_and_of_the_end(run: RunFolder) -> None:
    heard: list[Any] = []

    class Listening(Monitor):
        def start(self, total_steps: int, done: int) -> None:
            heard.append(("start", total_steps, done))

        def step(self, facts: Any) -> None:
            heard.append(("step", facts["step"]))

        def evaluation(self, facts: Any) -> None:
            heard.append(("evaluation", facts["step"], facts["best"]))

        def stop(self) -> None:
            heard.append("stop")

    judge, listening = dictated([0.5, 0.6]), Listening()
    training = Training(epochs=1, batch_size=1)
    fit(Number(), training, Rows([1.0, 2.0]), (), judge, run, learning_rate=0.1, seed=0, monitor=listening)  # type: ignore[arg-type]
    assert heard == [
        ("start", 2, 0),
        ("step", 1),
        ("step", 2),
        # The untrained model is judged when first there is something to compare it with.
        ("evaluation", 0, True),
        ("evaluation", 2, True),
        "stop",
    ]


# the pull to the start


class Pulled(Number):
    """Two weights that start at 0.5, the second with three times the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.v = torch.nn.Parameter(torch.full((1,), 0.5))
        self.w = torch.nn.Parameter(torch.full((1,), 0.5))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup([("w", self.w)], decays=False),
            ParameterGroup([("v", self.v)], decays=False, rate_factor=3.0),
        ]

    def loss(self, examples: Sequence[Any], label_smoothing: float) -> torch.Tensor:
        return sum(((self.w + self.v - e.target).square().sum() for e in examples), torch.zeros(()))


def pulled(run: RunFolder, steps: int, **settings: Any) -> Pulled:
    learner = Pulled()
    training = Training(batch_size=1, schedule="constant", warmup=0.0, clip=None, max_steps=steps, **settings)
    judge, rows = dictated([0.1, 0.2]), Rows([9.0] * steps)
    fit(learner, training, rows, (), judge, run, learning_rate=0.1, seed=0)  # type: ignore[arg-type]
    return learner


def test_a_step_goes_back_its_share_of_the_way_to_the_start(run: RunFolder) -> None:
    """Adam's first step goes by the rate, to 0.6 and 0.8; 0.1 * 2 and 0.3 * 2 of the way back are 0.02 and 0.18."""
    learner = pulled(run, 1, l2_sp=2.0)
    assert float(learner.w.detach()) == pytest.approx(0.58, rel=1e-5)
    assert float(learner.v.detach()) == pytest.approx(0.62, rel=1e-5)


def test_a_pull_of_nothing_is_none_and_an_endless_one_ends_at_the_start(tmp_path: Path) -> None:
    ends = []
    for number, settings in enumerate(({}, {"l2_sp": 0.0}, {"l2_sp": 1e-3}, {"l2_sp": 1e9})):
        run = RunFolder.create(tmp_path, str(number), {})
        learner = pulled(run, 5, **settings)
        run.unlock()
        ends.append((float(learner.w.detach()), float(learner.v.detach())))
    assert ends[0] == ends[1]
    assert 0.5 < ends[2][0] < ends[0][0]
    # More than the whole way back would be beyond the start.
    assert ends[3] == (0.5, 0.5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_whole_network_is_held_where_it_started_bit_for_bit(method: str, tiny_encoder: Path, run: RunFolder) -> None:
    """Norms, biases, the new head, and LoRA's factors, of which B starts at zero and A at what was drawn."""
    rows = labelled(8)
    learner = prepared(tiny_encoder, task_of("classify_text", head="random"), method, rows, moved=False)
    before = {name: p.detach().clone() for name, p in trained(learner).items()}
    training = Training(epochs=2, batch_size=4, l2_sp=1e9)
    fit(learner, training, learner.encode(rows), rows.rows, dictated([0, 1, 2]), run, learning_rate=1e-2, seed=0)
    assert events(run, "step")[0]["gradient_norm"] > 0
    for name, p in trained(learner).items():
        assert torch.equal(p, before[name]), name


def test_norms_and_biases_do_not_decay(tiny_encoder: Path, run: RunFolder) -> None:
    """With a gradient of zero, decay alone moves a matrix: by 1 - rate * decay = 0.95 in one step of AdamW."""
    rows = labelled(4)
    learner = prepared(tiny_encoder, task_of("classify_text", head="random"), "full", rows)
    whole: Callable[..., torch.Tensor] = learner.loss
    learner.loss = lambda examples, smoothing: whole(examples, smoothing) * 0.0  # type: ignore[method-assign]
    before = {name: p.detach().clone() for name, p in trained(learner).items()}
    training = Training(max_steps=1, batch_size=4, weight_decay=0.5, schedule="constant", warmup=0.0)
    examples = learner.encode(rows)
    fit(learner, training, examples, rows.rows, dictated([0.0, 1.0]), run, learning_rate=0.1, seed=0)
    assert any(p.ndim == 1 for p in before.values())
    for name, p in trained(learner).items():
        factor = 0.95 if p.ndim >= 2 else 1.0
        assert torch.allclose(p, before[name] * factor, rtol=1e-6, atol=0), name


def test_a_rare_class_weighs_more_when_balanced(tiny_encoder: Path) -> None:
    """5, 2 and 1 rows of 8: weights 8 / (3 * 5), 8 / (3 * 2) and 8 / 3, which average to 1 over the rows."""
    rows = lopsided(8)
    learner = prepared(tiny_encoder, task_of("classify_text", class_weights="balanced", head="random"), "full", rows)
    examples = learner.encode(rows)
    by_label = {example.row.content.label: example.weight for example in examples}
    assert by_label == pytest.approx({"billing": 8 / 15, "technical": 8 / 6, "delivery": 8 / 3})
    assert sum(example.weight for example in examples) == pytest.approx(8.0)
    learner.train_mode(0.0)
    total = accumulate_gradients(learner, examples, 0.0)
    alone = [(float(plain_losses(learner, [row], 0.0)[0].detach()), row.content.label) for row in rows.rows]
    # plain_losses carries the class weight already; without it each row's loss is -log of its label's probability.
    assert total == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)
    unweighted = learner.predict(rows.rows)
    for (loss, label), prediction in zip(alone, unweighted, strict=True):
        assert loss == pytest.approx((prediction.loss or 0.0) * by_label[label], rel=1e-5)
