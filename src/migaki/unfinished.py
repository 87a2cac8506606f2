"""Which run a training command goes on with: the unfinished one of the same recipe, data and model, or a new one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from migaki.core.codec import parse_yaml
from migaki.core.errors import DamagedError, RecipeError, UsageError
from migaki.core.store import RunFolder, list_runs, open_run, read_json, sweep

__all__ = ["finished_run", "open_or_create"]


def open_or_create(
    runs: Path,
    name: str,
    files: Mapping[str, str],
    note: Callable[[str], None],
    *,
    new: bool = False,
    resume: str | None = None,
) -> RunFolder:
    """The run to write, locked for this process.

    Args:
        runs: folder of the runs.
        name: what a new run is called behind its number.
        files: `recipe.yaml`, `environment.json` and `data.json` as a new run would begin with.
        note: told what is gone on with, and why.
        new: make a new run in any case.
        resume: a run's id, number or folder: this one, and no other.
    Raises:
        UsageError: the run to resume is finished, or is of another recipe, data or model; says what differs.
        LockedError: another process is writing the run that would be gone on with.
    """
    if resume is not None:
        if new:
            raise UsageError("--new and --resume contradict each other; give one of them.")
        run = open_run(resume, runs)
        if run.state()["state"] == "finished":
            raise UsageError(f"Run {run.id} is finished. Leave out --resume to make a new run.")
        changed = _changes(run, files)
        if changed:
            raise UsageError(
                f"Run {run.id} cannot be gone on with, because the result would be of neither: {'; '.join(changed)}. "
                "Restore what it was started with, or leave out --resume to make a new run."
            )
        return _taken_up(run, note)
    if not new:
        for run in reversed(list_runs(runs)):
            try:
                state = run.state()
                changed = _changes(run, files) if state["state"] != "finished" else []
            except (DamagedError, RecipeError) as error:
                # Another run's damage is no reason to refuse this one.
                note(f"run {run.id} is passed over, because it is damaged: {error}")
                continue
            # What ended in NaN would end there again; everything else can go on.
            if state["state"] == "finished" or state.get("error") == "NonFiniteError":
                continue
            if not changed:
                return _taken_up(run, note)
            if all(change.startswith(("the rows", "the weights")) for change in changed):
                note(f"run {run.id} is unfinished but stays so: {'; '.join(changed)}")
    return RunFolder.create(runs, name, files)


def finished_run(runs: Path, files: Mapping[str, str]) -> RunFolder | None:
    """The newest finished run of the same recipe, data and model."""
    for run in reversed(list_runs(runs)):
        try:
            if run.state()["state"] == "finished" and not _changes(run, files):
                return run
        except (DamagedError, RecipeError):
            continue
    return None


def _taken_up(run: RunFolder, note: Callable[[str], None]) -> RunFolder:
    run.lock()
    sweep(run.path)  # what the killed process was writing
    state = run.state()
    how = {"stopped": "was stopped", "failed": "had failed"}.get(state["state"], "was interrupted")
    note(f"going on with run {run.id}, which {how}; --new starts afresh")
    run.set_state("running")
    return run


def _changes(run: RunFolder, files: Mapping[str, str]) -> list[str]:
    """What differs between the run and what a new one would be; empty where it is the same work."""
    try:
        old = (run.path / "recipe.yaml").read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise DamagedError(f"{run.path / 'recipe.yaml'} is missing or unreadable.") from None
    if old != files["recipe.yaml"]:
        before, now = (_flat(parse_yaml(text, "recipe.yaml")[0]) for text in (old, files["recipe.yaml"]))
        keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if keys:
            return [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys]
    changed = []
    data, new_data = read_json(run.path / "data.json")["splits"], json.loads(files["data.json"])["splits"]
    changed += [
        f"the rows of {name} are others now"
        for name in data
        if data[name]["fingerprint"] != new_data[name]["fingerprint"]
    ]
    model = read_json(run.path / "environment.json")["model"]
    if model["fingerprint"] != json.loads(files["environment.json"])["model"]["fingerprint"]:
        changed.append(f"the weights of {model['reference']} are others now")
    return changed


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {path: values}
    return {
        key: value for name, inner in values.items() for key, value in _flat(inner, f"{path}.{name}".strip(".")).items()
    }
