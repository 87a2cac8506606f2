"""One run, from a recipe to a tuned and measured model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from migaki.core.cache import set_aside
from migaki.core.codec import parse_yaml
from migaki.core.errors import DamagedError, MigakiError, StoppedError, StorageError
from migaki.core.parts import Example, Learner
from migaki.core.store import RunFolder, commit, verify
from migaki.core.types import Ability, Dataset, Evaluation, Finding, Prediction, Splits
from migaki.data.replay import replay_rows
from migaki.data.workers import workers
from migaki.environment import describe_environment
from migaki.evaluation import forgetting, gain, measure_generality
from migaki.generality import probe_of, remedies
from migaki.recipe import Recipe
from migaki.run import Run, answer_seconds, base_of, evaluate_learner, judge_of
from migaki.tasks.lengths import cut_spans_finding, truncation_finding
from migaki.training.interrupts import Interrupts
from migaki.training.monitor import Monitor, forget_peak, peak_bytes
from migaki.unfinished import finished_run, open_or_create

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.training.loop import History

__all__ = ["train"]


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    runs: str | Path = "runs",
    monitor: Monitor | None = None,
    *,
    new: bool = False,
    resume: str | None = None,
    reuse: bool = False,
) -> Run:
    """Train, keep the best by validation, and measure base and tuned model on the test split.

    An unfinished run of the same recipe, data and model in `runs` is gone on with, as if it had never been interrupted.

    Args:
        recipe: a `Recipe`, its settings as a mapping, or the path of a YAML file.
        runs: folder in which the run's own folder is made.
        monitor: who is told about progress; nobody by default.
        new: start afresh, whatever is unfinished.
        resume: go on with this run, and with no other.
        reuse: where a finished run of the same recipe, data and model is there, take it as it is.
    Raises:
        UsageError: recipe, data or model cannot be used, or the run to resume is not one of them; no run was made.
        RunError: the run was started and failed; its folder says why.
    """
    recipe = _as_recipe(recipe)
    with workers(recipe.training.workers):
        return _trained(recipe, Path(runs), monitor or Monitor(), new, resume, reuse)


def _trained(recipe: Recipe, runs: Path, monitor: Monitor, new: bool, resume: str | None, reuse: bool) -> Run:
    forget_peak()
    written = recipe.to_yaml()
    # A run whose recipe cannot be read back would be lost at its end; rows handed over as a list can make it too large.
    parse_yaml(written, "recipe.yaml")
    splits = recipe.data.load(recipe.task.content_kind, recipe.seed)
    probe = probe_of(recipe)
    replay = None
    if wanted := recipe.training.replay:
        replay, found = replay_rows(
            recipe.data, wanted.rows, wanted.share, splits, recipe.task.content_kind, recipe.seed
        )
        splits = replace(splits, findings=(*splits.findings, *found))
    _note_findings(splits.findings, monitor)
    for setting in _without_effect(recipe):
        monitor.note(f"warning: {setting} changes nothing: {recipe.method.kind} takes no steps")
    # Torch takes seconds to import: faults of recipe and data are told before.
    base = base_of(recipe.model, recipe.task.base_role, runs) if recipe.method.uses_base else None
    from migaki.training.precision import measured_precision
    from migaki.training.tokens import joined

    learner = recipe.method.prepare(base, recipe.task, splits.train, recipe.seed)
    # Every split passes the door before anything is trained: a row that cannot be used must not end a run at its end.
    parts = (splits.train, splits.valid, splits.test, *([replay] if replay else []))
    encoded = {split.name: learner.encode(split) for split in parts}
    cut = _cut_findings(encoded)
    _note_findings(cut, monitor)
    splits = replace(splits, findings=(*splits.findings, *cut))
    environment = describe_environment()
    if base:
        precision = measured_precision(base.model, base.model.device, recipe.training.precision)
        learner.compute_in(precision.torch_dtype)
        environment["precision"] = precision.as_json()
    trained, total = learner.parameter_counts()
    environment["model"] = _describe_model(base, total, monitor)
    files = {
        "recipe.yaml": written,
        "environment.json": _json(environment),
        "data.json": _json(_describe_data(splits, parts, encoded, learner)),
    }
    if reuse and (finished := finished_run(runs, files)):
        monitor.note(f"run {finished.id} is of the same recipe, data and model, and is taken over")
        return Run(finished, runs)
    run = open_or_create(runs, f"{recipe.task.kind}-{recipe.method.kind}", files, monitor.note, new=new, resume=resume)
    monitor.note(
        f"run {run.id}: {recipe.task.kind} by {recipe.method.kind} on {environment['model']['reference']}; {len(splits.train)} train, "
        f"{len(splits.valid)} valid, {len(splits.test)} test rows; {trained:,} of {total:,} parameters are trained"
    )
    with _end_noted(run), Interrupts() as interrupts:
        rows = joined(encoded["train"], encoded["replay"]) if replay else encoded["train"]
        _train_and_judge(run, recipe, splits, probe, learner, rows, monitor, interrupts)
    return Run(RunFolder(run.path), runs)


def _cut_findings(encoded: Mapping[str, Sequence[Example]]) -> tuple[Finding, ...]:
    """What was too long, and named parts that no tokens have for their own."""
    rules = (truncation_finding, cut_spans_finding)
    return tuple(filter(None, (rule(examples, name) for name, examples in encoded.items() for rule in rules)))


def _describe_model(base: Base | None, parameters: int, monitor: Monitor) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "reference": base.reference if base else "none",
        "licence": base.licence if base else "no pretrained model",
        "fingerprint": base.fingerprint if base else "",
        "parameters": parameters,
    }
    if base and base.merge:
        facts["merge"] = base.merge
        monitor.note(
            f"the adapter of {base.reference} is merged: on {base.merge['rows']} rows a log-probability differs by at most "
            f"{base.merge['largest_difference']:.1e} nats, and the likeliest answer is the same for {base.merge['equal']:.1%}"
        )
    return facts


@contextlib.contextmanager
def _end_noted(run: RunFolder) -> Iterator[None]:
    """What ends the work inside too early stands in the state of the run, which is unlocked in any case."""
    try:
        yield
    except StoppedError as error:
        run.set_state("stopped", reason=str(error))
        raise
    except KeyboardInterrupt:
        run.set_state("stopped", reason="interrupted")
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, MigakiError) else f"{type(error).__name__}: {error}"
        # On a full disk this cannot be written either; a run that is neither locked nor finished can be gone on with.
        with contextlib.suppress(StorageError):
            run.set_state("failed", error=type(error).__name__, reason=reason)
        raise
    finally:
        run.unlock()


def _train_and_judge(
    run: RunFolder,
    recipe: Recipe,
    splits: Splits,
    probe: Sequence[Dataset],
    learner: Learner,
    train: Sequence[Example],
    monitor: Monitor,
    interrupts: Interrupts,
) -> None:
    from migaki.training.interpolation import keep_interpolated
    from migaki.training.loop import fit

    judge = judge_of(recipe, learner)
    history = fit(
        learner,
        recipe.training,
        train,
        splits.valid.rows,
        judge,
        run,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        monitor=monitor,
        interrupts=interrupts,
    )
    monitor.note(f"{history.reason}; best at step {history.best_step} of {history.steps}")
    mixture = None
    if recipe.training.interpolate is not None and history.start:
        mixture = keep_interpolated(
            learner, history.start, recipe.training.interpolate, judge, splits.valid.rows, interrupts.check
        )
        monitor.note(f"kept: the weights at {mixture['kept']:g} of the way from the base to the tuned model")
    decided = recipe.task.decide(learner, splits.valid.rows, interrupts.check)
    _save_model(run, learner)

    def measured(what: str) -> tuple[Evaluation, list[Ability]]:
        monitor.note(f"measuring {what}")
        found = evaluate_learner(learner, recipe.task, splits.test.rows, recipe.seed, interrupts.check)
        # Where no weight was moved, nothing can have been forgotten.
        moved = history.start is not None
        return found, measure_generality(learner, recipe.task, probe, interrupts.check) if moved else []

    # The base is measured last: training starts at once, and its weights are the ones from before the first step.
    after, able_after = measured("the tuned model")
    if mixture:
        after = replace(after, details={**after.details, "interpolation": mixture})
    if decided:
        after = replace(after, details={**after.details, "decided": decided})
    with history.start.restored() if history.start else learner.untrained():
        recipe.task.decide(learner, splits.valid.rows, interrupts.check)
        before, able_before = measured("the base")
    if decided:
        recipe.task.decide(learner, splits.valid.rows, interrupts.check)
    general = None
    if able_before:
        general = {"name": recipe.generality, **forgetting(able_before, able_after)}
        general["remedy"] = remedies(recipe) if general["forgotten"] else []
    latency_s = answer_seconds(learner, recipe.task, splits.test.rows, interrupts.check)
    if history.start:
        history.start.remove()
    _write_results(run, recipe, before, after, general, history.best_scores, _cost(history, learner, latency_s))


def _cost(history: History, learner: Learner, latency_s: Sequence[float]) -> dict[str, Any]:
    trained, total = learner.parameter_counts()
    return {
        "train_seconds": history.seconds,
        "peak_bytes": peak_bytes(),
        "trainable_parameters": trained,
        "total_parameters": total,
        "steps": history.steps,
        "best_step": history.best_step,
        "latency_p50_s": float(np.percentile(latency_s, 50)) if latency_s else None,
        "latency_p95_s": float(np.percentile(latency_s, 95)) if latency_s else None,
    }


def _save_model(run: RunFolder, learner: Learner) -> None:
    """The tuned model, unless an earlier life of this run has saved it already."""
    folder = run.path / "model"
    if folder.is_dir():
        try:
            verify(folder)
            return
        except DamagedError:
            set_aside(folder)
    with commit(folder) as temporary:
        learner.save(temporary)


def _note_findings(findings: Sequence[Finding], monitor: Monitor) -> None:
    for finding in findings:
        monitor.note(f"{finding.level}: {finding}")


def _without_effect(recipe: Recipe) -> list[str]:
    """Settings of training that a method without steps cannot follow; class weights it can."""
    if recipe.method.takes_steps:
        return []
    of_task = {f"task.{name}": getattr(recipe.task, name, None) for name in ("focal_gamma", "augment")}
    asked = {"training.resample": recipe.training.resample, **of_task}
    if not recipe.method.uses_base:
        asked["training.workers"] = recipe.training.workers
    return [name for name, value in asked.items() if value]


def _as_recipe(recipe: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.from_mapping(recipe) if isinstance(recipe, Mapping) else Recipe.from_file(recipe)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _describe_data(
    splits: Splits, parts: Sequence[Dataset], encoded: Mapping[str, Sequence[Example]], learner: Learner
) -> dict[str, Any]:
    def describe(split: Dataset) -> dict[str, Any]:
        examples = encoded[split.name]
        return {
            "rows": len(split),
            "fingerprint": split.fingerprint(),
            "source": split.rows[0].place.source,
            "tokens": sum(len(e) for e in examples),
            "targets": sum(e.targets for e in examples),
            "truncated": sum(e.truncated for e in examples),
        }

    return {
        "splits": {split.name: describe(split) for split in parts},
        "findings": [
            {"level": f.level, "message": f.message, "count": f.count, "examples": list(f.examples), "remedy": f.remedy}
            for f in splits.findings
        ],
        "columns": dict(splits.columns),
        **learner.describe(encoded["train"]),
    }


def _write_results(
    run: RunFolder,
    recipe: Recipe,
    before: Evaluation,
    after: Evaluation,
    general: Mapping[str, Any] | None,
    valid: Mapping[str, float],
    cost: Mapping[str, Any],
) -> None:
    lines = [
        json.dumps({**_prediction(new), "baseline": _prediction(old, brief=True)}, ensure_ascii=False)
        for new, old in zip(after.predictions, before.predictions, strict=True)
    ]
    run.write("predictions.jsonl", "".join(line + "\n" for line in lines))
    metric, better = recipe.task.primary
    run.write(
        "evaluation.json",
        _json(
            {
                "task": recipe.task.kind,
                "split": "test",
                "rows": len(after.predictions),
                "primary": metric,
                "better": better,
                "gain": gain(before, after, metric, recipe.seed).as_json(),
                **after.as_json(),
                "baseline": {"name": recipe.method.baseline_name(recipe.task), **before.as_json()},
                "generality": general,
                "valid": dict(valid),
                "cost": dict(cost),
            }
        ),
    )
    from migaki.exhibits import keep_exhibits_of_run
    from migaki.report import write_report

    keep_exhibits_of_run(run.path, recipe.task.content_kind)
    run.write("report.html", write_report(run.path))
    run.finish({"run": run.id})


def _prediction(prediction: Prediction, brief: bool = False) -> dict[str, Any]:
    found = {
        "output": prediction.output,
        "confidence": prediction.confidence,
        "loss": prediction.loss,
        "stopped": prediction.stopped,
    }
    if brief:
        return found
    place = {"source": prediction.place.source, "line": prediction.place.line}
    looked_up = {"sources": prediction.sources, "found_at": prediction.found_at} if prediction.sources else {}
    second = {"text_pair": prediction.pair} if prediction.pair is not None else {}
    part = {"part": list(prediction.part)} if prediction.part is not None else {}
    return {
        **place,
        "text": prediction.text,
        **second,
        "target": prediction.target,
        **found,
        "targets": prediction.targets,
        **part,
        **looked_up,
    }
