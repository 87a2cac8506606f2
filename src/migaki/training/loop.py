"""The only training loop. It knows the protocol Learner, and never a method, a task or the test split."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from migaki.core.cache import set_aside
from migaki.core.errors import DamagedError, NonFiniteError, StoppedError
from migaki.core.parts import Example, Foreseeing, Learner, ParameterGroup, Varied
from migaki.core.seeds import derive, generator
from migaki.core.store import RunFolder, check_space, sweep, verify
from migaki.core.types import Prediction, Row
from migaki.training.checkpoint import (
    Progress,
    Start,
    checkpoint_bytes,
    checkpoint_folders,
    load_progress,
    load_weights,
    prune,
    save_checkpoint,
)
from migaki.training.interrupts import Interrupts
from migaki.training.monitor import Monitor
from migaki.training.plan import epoch_steps, step_rows
from migaki.training.resampling import resampled
from migaki.training.schedules import rate_at
from migaki.training.settings import Training

__all__ = ["History", "Judge", "accumulate_gradients", "adamw", "fit"]

_SPARE_BYTES = 64 << 20
"""For logs, predictions and the report."""


@dataclass(frozen=True)
class Judge:
    """How validation predictions become figures, and which of them decides."""

    scores: Callable[[Sequence[Prediction]], dict[str, float]]
    metric: str
    better: Literal["max", "min"]

    def beats(self, new: Mapping[str, float], old: Mapping[str, float]) -> bool:
        """Whether `new` is strictly better; where the metric is equal nothing is gained and the earlier model stays."""
        if not old:
            return True
        return new[self.metric] > old[self.metric] if self.better == "max" else new[self.metric] < old[self.metric]


@dataclass(frozen=True)
class History:
    """How a training ended."""

    steps: int
    best_step: int
    best_scores: dict[str, float]
    seconds: float
    reason: str
    """Why it ended: all steps done, early stopping, or nothing to train by gradient."""
    start: Start | None
    """The weights before the first step; None where there was none."""


def accumulate_gradients(
    learner: Learner, examples: Sequence[Example], label_smoothing: float, accumulate: int = 1
) -> float:
    """Add the gradient of the step's mean loss to the parameters; the sum of the loss over the targets comes back.

    The mean is over all targets of the whole step, over every part and every process: a mean per part would favour
    parts with short answers. Returns NaN or Inf as it is; the caller decides.
    """
    weight = sum(example.weight for example in examples)
    world = dist.get_world_size() if dist.is_initialized() else 1
    total = 0.0
    for group in _own_groups(learner, examples, accumulate):
        loss = learner.loss([examples[i] for i in group], label_smoothing)
        (loss / weight).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    if world > 1:
        total = _add_over_processes(learner.parameter_groups(), total)
    return total


def _own_groups(learner: Learner, examples: Sequence[Example], accumulate: int) -> list[list[int]]:
    """What this process computes of a step, in order."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return learner.groups(examples, max(1, len(examples) // accumulate))[rank::world]


def _add_over_processes(groups: Sequence[ParameterGroup], total: float) -> float:
    for _, parameter in (pair for group in groups for pair in group.named):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
    both = torch.tensor([total], dtype=torch.float64)
    dist.all_reduce(both)
    return float(both)


def fit(
    learner: Learner,
    training: Training,
    train: Sequence[Example],
    valid: Sequence[Row],
    judge: Judge,
    run: RunFolder,
    *,
    learning_rate: float,
    seed: int,
    monitor: Monitor | None = None,
    interrupts: Interrupts | None = None,
    start_scores: dict[str, float] | None = None,
) -> History:
    """Train on `train`, judge on `valid`, keep the best, and leave the learner holding it.

    The untrained learner is judged too, when first something is judged: where training never beats it, it is what
    stays. A run folder with checkpoints is gone on with, as if nothing had happened in between.

    Args:
        start_scores: figures of the untrained learner, where another training has judged the very same one; where it is
            empty, they are put into it.
    Raises:
        NonFiniteError: loss or gradient became NaN or Inf; the step's rows are in `failed_batch.jsonl` of the run, and
            the weights of the last good checkpoint are untouched.
        StoppedError: a signal came; a checkpoint of the last whole step is there.
        StorageError: the disk is too small for two checkpoints and the model, or became full.
    """
    monitor, interrupts = monitor or Monitor(), interrupts or Interrupts()
    groups = learner.parameter_groups()
    parameters = {name: parameter for group in groups for name, parameter in group.named}
    if not parameters:
        return _without_steps(learner, train, valid, judge, run, monitor)
    checkpoints = run.path / "checkpoints"
    sweep(checkpoints)
    # The newest two checkpoints, the best one, the one being written; the start and the model are a third of one each.
    check_space(run.path, 5 * checkpoint_bytes(parameters) + _SPARE_BYTES)
    start = Start(run.path, parameters)
    optimizer = adamw(groups, training, learning_rate)
    per_epoch = epoch_steps(len(train), training.batch_size)
    progress = Progress(total_steps=min(per_epoch * training.epochs, training.max_steps or per_epoch * training.epochs))
    n_epochs = -(-progress.total_steps // per_epoch)
    always = isinstance(learner, Varied) and learner.varies == "always"
    passes = 0 if training.mask_tokens or always else n_epochs
    settled = learner.settle(train, valid, passes, monitor.note)
    _note_late(groups, n_epochs, monitor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "dropout"))
        progress = _resume(checkpoints, parameters, optimizer, progress, start, monitor)
        run.truncate("history.jsonl", progress.history_bytes)
        if not progress.history_bytes:
            run.append("history.jsonl", {"event": "start", **settled})
        loop = _Loop(
            learner=learner,
            training=training,
            train=train,
            valid=valid,
            judge=judge,
            run=run,
            optimizer=optimizer,
            groups=groups,
            parameters=parameters,
            start=start,
            start_scores={} if start_scores is None else start_scores,
            anchors=_anchors(start, parameters) if training.l2_sp else {},
            strata=[str(example.row.content.stratum()) for example in train] if training.resample else [],
            learning_rate=learning_rate,
            seed=seed,
            monitor=monitor,
            interrupts=interrupts,
            progress=progress,
            per_epoch=per_epoch,
        )
        try:
            monitor.start(progress.total_steps, progress.step)
            with loop.reading_ahead():
                reason = loop.run_steps()
        finally:
            monitor.stop()
            loop.let_move(max(group.from_epoch for group in groups))
    best_step = progress.best_step or 0
    if best_step:
        load_weights(_checkpoint_folder(checkpoints, best_step), parameters)
    else:
        start.load()
    learner.evaluation_mode()
    run.append("history.jsonl", {"event": "stop", "reason": reason, "step": progress.step, "best_step": best_step})
    return History(progress.step, best_step, progress.best_scores, progress.seconds, reason, start)


def _note_late(groups: Sequence[ParameterGroup], n_epochs: int, monitor: Monitor) -> None:
    """Say which tensors never move, since the epoch in which they would begin does not come."""
    late = [group for group in groups if group.from_epoch >= n_epochs]
    if late:
        n_late, n_all = (sum(len(group.named) for group in some) for some in (late, groups))
        monitor.note(
            f"{n_late} of {n_all} trained tensors never move: their turn comes in "
            f"epoch {1 + min(group.from_epoch for group in late)}, and there are {n_epochs}; raise training.epochs"
        )


def _without_steps(
    learner: Learner, train: Sequence[Example], valid: Sequence[Row], judge: Judge, run: RunFolder, monitor: Monitor
) -> History:
    """Methods that learn without gradients do it when they settle, so a resumed run does it again from the start."""
    began = time.monotonic()
    settled = learner.settle(train, valid, 0, monitor.note)
    seconds = time.monotonic() - began
    scores = judge.scores(learner.predict(valid, answers=0))
    run.truncate("history.jsonl", 0)
    run.append("history.jsonl", {"event": "start", **settled})
    run.append("history.jsonl", {"event": "stop", "reason": "nothing to train by gradient", "step": 0, "best_step": 0})
    return History(0, 0, scores, seconds, "nothing to train by gradient", None)


def adamw(groups: Sequence[ParameterGroup], training: Training, learning_rate: float) -> torch.optim.AdamW:
    """The optimizer over the groups; each has its `rate_factor` beside its rate, for whoever sets the rate anew."""
    return torch.optim.AdamW(
        [
            {
                "params": [parameter for _, parameter in group.named],
                "weight_decay": training.weight_decay if group.decays else 0.0,
                "lr": learning_rate * group.rate_factor,
                "rate_factor": group.rate_factor,
            }
            for group in groups
        ],
        lr=learning_rate,
        fused=True,
    )


def _anchors(start: Start, parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(parameters[name].device) for name, tensor in start.tensors().items()}


def _resume(
    checkpoints: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    fresh: Progress,
    start: Start,
    monitor: Monitor,
) -> Progress:
    """The newest checkpoint that is whole, and whose best one is too, or the fresh start; damage is set aside and said."""
    for folder in checkpoint_folders(checkpoints):
        looked_at = folder
        try:
            if not folder.is_dir():  # set aside a moment ago, as the best one of a newer checkpoint
                continue
            progress, generator_state = load_progress(folder, parameters, optimizer)
            if progress.best_step:
                looked_at = _checkpoint_folder(checkpoints, progress.best_step)
                verify(looked_at)
        except DamagedError as error:
            aside = set_aside(looked_at).name if looked_at.is_dir() else "nothing, for it is gone"
            monitor.note(f"a checkpoint is damaged and set aside as {aside}: {error}")
            continue
        torch.set_rng_state(generator_state)
        return progress
    # A checkpoint that was refused late may have left its weights here.
    start.load()
    return fresh


def _checkpoint_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


@dataclass(kw_only=True)
class _Loop:
    """The state of one call of `fit`."""

    learner: Learner
    training: Training
    train: Sequence[Example]
    valid: Sequence[Row]
    judge: Judge
    run: RunFolder
    optimizer: torch.optim.Optimizer
    groups: Sequence[ParameterGroup]
    parameters: Mapping[str, torch.nn.Parameter]
    start: Start
    start_scores: dict[str, float]
    """Figures of the untrained learner; empty until it was judged."""
    anchors: Mapping[str, torch.Tensor]
    """Where the weights are pulled to; empty where they are not."""
    strata: Sequence[str]
    """The label of each row; empty where rows are not drawn by it."""
    learning_rate: float
    seed: int
    monitor: Monitor
    interrupts: Interrupts
    progress: Progress
    per_epoch: int
    saved_at_s: float = field(default_factory=time.monotonic)
    drawn: dict[int, np.ndarray] = field(default_factory=dict)
    """Of the newest two epochs that were asked for: the rows before they are put in order."""

    def run_steps(self) -> str:
        progress, patience = self.progress, self.training.early_stopping
        while True:
            # A run that was killed before its evaluation was saved does it now.
            if self._is_due(progress.step) and progress.evaluated_step != progress.step:
                self._until_stopped(self._evaluate)
            if patience and progress.evaluations_since_best >= patience:
                return f"early stopping: {progress.evaluations_since_best} evaluations without a better one"
            if progress.step >= progress.total_steps:
                return "all steps done"
            self._until_stopped(self._step)
            if self._checkpoint_is_due(progress.step) and not self._is_due(progress.step):
                self._save()

    def _until_stopped(self, work: Callable[[], None]) -> None:
        """Do a step or an evaluation; where a signal has come, save what is whole and end."""
        try:
            work()
            self.interrupts.check()
        except StoppedError:
            self._save()
            raise

    def _is_due(self, step: int) -> bool:
        times = self.training.evaluations_per_epoch
        if step == 0:
            return False
        return (
            step == self.progress.total_steps or step * times // self.per_epoch > (step - 1) * times // self.per_epoch
        )

    def _checkpoint_is_due(self, step: int) -> bool:
        every, minutes = self.training.checkpoint_steps, self.training.checkpoint_minutes
        late = minutes is not None and time.monotonic() - self.saved_at_s > 60 * minutes
        return late or (every is not None and step % every == 0)

    def _save(self) -> None:
        """A checkpoint of this moment; the log up to here reaches the disk before it."""
        progress = self.progress
        overflowed = [name for name, p in self.parameters.items() if not bool(p.isfinite().all())]
        if overflowed:
            raise NonFiniteError(
                f"{len(overflowed)} of {len(self.parameters)} trained tensors hold NaN or Inf after step {progress.step} "
                f"(first: {overflowed[0]}), so no checkpoint was made of them. Lower training.learning_rate."
            )
        progress.history_bytes = self.run.flushed_bytes("history.jsonl")
        checkpoints = self.run.path / "checkpoints"
        save_checkpoint(checkpoints, progress, self.parameters, self.optimizer, torch.get_rng_state())
        prune(checkpoints, keep=progress.best_step)
        self.saved_at_s = time.monotonic()

    def let_move(self, epoch: int) -> None:
        """Gradients for the groups whose epoch has come and none for the others, which so neither move nor decay, and whose
        moments begin when they do. A function of the epoch alone, so that a resumed run does the same."""
        if any(group.from_epoch for group in self.groups):
            for group in self.groups:
                for _, parameter in group.named:
                    parameter.requires_grad_(group.from_epoch <= epoch)

    def _step(self) -> None:
        progress, training = self.progress, self.training
        began = time.monotonic()
        self.let_move(progress.step // self.per_epoch)
        rate = rate_at(progress.step, progress.total_steps, self.learning_rate, training.schedule, training.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        numbers = self._numbers(progress.step)
        examples = self._examples(numbers, progress.step)
        self.learner.train_mode(training.dropout)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = accumulate_gradients(self.learner, examples, training.label_smoothing, training.accumulate)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), training.clip or math.inf))
        weight = sum(example.weight for example in examples)
        if not math.isfinite(loss_sum) or not math.isfinite(norm):
            self._fail(examples, loss_sum / weight, norm)
        self.optimizer.step()
        if self.anchors:
            self._pull()
        progress.step += 1
        progress.rows_seen += len(examples)
        seconds = time.monotonic() - began
        progress.seconds += seconds
        facts = {
            "event": "step",
            "step": progress.step,
            "epoch": progress.step / self.per_epoch,
            "loss": loss_sum / weight,
            "learning_rate": rate,
            "gradient_norm": norm,
            "rows": len(examples),
            "samples": numbers.tolist(),
            "tokens": sum(len(e) for e in examples),
            "seconds": seconds,
        }
        self.run.append("history.jsonl", facts)
        self.monitor.step(facts)

    @torch.no_grad()
    def _pull(self) -> None:
        """w -= rate * l2_sp * (w - start), for what has just moved; never beyond the start, however large l2_sp is.

        Source: Li et al. 2018, arXiv:1802.01483, decoupled from the gradient as in arXiv:1711.05101.
        """
        for group, settings in zip(self.groups, self.optimizer.param_groups, strict=True):
            share = min(1.0, settings["lr"] * self.training.l2_sp)
            for name, parameter in group.named:
                if parameter.grad is not None:
                    parameter.lerp_(self.anchors[name], share)

    def _numbers(self, step: int) -> np.ndarray:
        """The rows of a step: those of the epoch, which are all rows or drawn by their labels, in the epoch's order."""
        numbers = step_rows(len(self.train), self.training.batch_size, self.seed, step)
        if not self.training.resample:
            return numbers
        epoch = step // self.per_epoch
        if epoch not in self.drawn:
            # Reading ahead is in the next epoch while a step is still in this one.
            kept = dict(list(self.drawn.items())[-1:])
            self.drawn = {**kept, epoch: resampled(self.strata, self.training.resample, self.seed, epoch)}
        return np.asarray(self.drawn[epoch][numbers])

    def _examples(self, numbers: np.ndarray, step: int) -> list[Example]:
        return [self._example(int(number), step // self.per_epoch) for number in numbers]

    def reading_ahead(self) -> AbstractContextManager[None]:
        """Inside, a learner that reads files may know which come next."""
        return self.learner.ahead(self._coming()) if isinstance(self.learner, Foreseeing) else nullcontext()

    def _coming(self) -> Iterator[Example]:
        """What this process is going to compute from here on, in order."""
        for step in range(self.progress.step, self.progress.total_steps):
            examples = self._examples(self._numbers(step), step)
            for group in _own_groups(self.learner, examples, self.training.accumulate):
                yield from (examples[i] for i in group)

    @functools.cached_property
    def _varied(self) -> Varied | None:
        """The learner, if it alters rows. Asked once: looking at a protocol takes as long as making an example."""
        return self.learner if isinstance(self.learner, Varied) else None

    def _example(self, number: int, epoch: int) -> Example:
        """Row `number` as epoch `epoch` sees it: a function of (seed, epoch, row), whoever computes it and when."""
        example = self.train[number]
        if self._varied is not None:
            example = self._varied.varied(example, number, epoch, self.train)
        if not self.training.mask_tokens:
            return example
        randomness = generator(self.seed, "mask", epoch, number)
        return self.learner.altered(example, self.training.mask_tokens, randomness)

    def _fail(self, examples: Sequence[Example], loss: float, norm: float) -> None:
        step = self.progress.step + 1
        for example in examples:
            self.run.append("failed_batch.jsonl", {"place": str(example.row.place), **example.row.content.as_json()})
        first = ", ".join(str(example.row.place) for example in examples[:3])
        raise NonFiniteError(
            f"The loss is {loss} and the gradient's norm {norm} at step {step}, so training stopped before they reached the weights. "
            f"The rows of this step are in {self.run.path / 'failed_batch.jsonl'} (first: {first}). "
            "Lower training.learning_rate, or look at these rows."
        )

    def _evaluate(self) -> None:
        if self.progress.evaluated_step is None:
            with self.start.restored():
                self._judge(0, self.start_scores)
        self._judge(self.progress.step, {})
        self._save()

    def _judge(self, step: int, known: dict[str, float]) -> None:
        """Judge the weights as they are, which are those of `step`; evaluating never changes anything of the training. Where
        their figures are not known yet, they are put there."""
        progress, began = self.progress, time.monotonic()
        if not known:
            self.learner.evaluation_mode()
            known.update(self.judge.scores(self.learner.predict(self.valid, answers=0, watch=self.interrupts.check)))
        scores = dict(known)
        if not math.isfinite(scores["loss"]):
            # Weights can overflow in the last step, where no later loss would tell; and nothing ever beats a NaN.
            remedy = (
                "Lower training.learning_rate."
                if step
                else "Nothing was trained yet: the model itself gives such numbers on these rows; use another one."
            )
            raise NonFiniteError(
                f"The validation loss is {scores['loss']} after step {step}, so training stopped. {remedy}"
            )
        best = self.judge.beats(scores, progress.best_scores)
        if best:
            progress.best_step, progress.best_scores, progress.evaluations_since_best = step, scores, 0
        else:
            progress.evaluations_since_best += 1
        progress.evaluated_step = step
        seconds = time.monotonic() - began
        progress.seconds += seconds
        facts = {
            "event": "evaluation",
            "step": step,
            "epoch": step / self.per_epoch,
            "loss": scores["loss"],
            "metric": self.judge.metric,
            "value": scores[self.judge.metric],
            "metrics": scores,
            "best": best,
            "seconds": seconds,
        }
        self.run.append("history.jsonl", facts)
        self.monitor.evaluation(facts)
