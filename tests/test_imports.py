"""Imports point one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from pathlib import Path

import pytest

import migaki
import processes

ROOT = Path(migaki.__file__).parent
MODULES = {
    ".".join(("migaki", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

LAYERS = [
    {"core"},
    {"environment"},
    {"data", "evaluation", "models", "report", "training"},
    {"retrieval", "tasks"},
    {"methods"},
    {"recipe"},
    {"exhibits", "generality", "run", "unfinished"},
    {"audit", "doctor", "pipeline", "todo", "trial"},
    {"choosing", "comparison", "search"},
    {"cli"},
    {"__main__", "migaki"},
]
"""A room may import rooms of the lines above its own; rooms of one line do not know each other."""
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}

HEAVY = (
    "jinja2",
    "numpy",
    "optuna",
    "pyarrow",
    "pydantic",
    "rich",
    "sacrebleu",
    "safetensors",
    "sqlalchemy",
    "tokenizers",
    "torch",
    "transformers",
)


def room_of(module: str) -> str:
    """The first name below migaki; `migaki` for the package itself."""
    return module.split(".")[1] if "." in module else module


def imported(path: Path) -> set[str]:
    """Every module of migaki that a file names in an import, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where it leads"
            # `from migaki import x` may name a module.
            names = [f"migaki.{a.name}" for a in node.names] if node.module == "migaki" else [node.module or ""]
            found |= {name for name in names if name.startswith("migaki")}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "migaki"}
    return found


def test_every_room_has_its_place_in_the_order():
    assert {room_of(module) for module in MODULES} == HEIGHT.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_room_and_rooms_above_it_in_the_order(module):
    own = room_of(module)
    wrong = {
        name for name in imported(MODULES[module]) if room_of(name) != own and not HEIGHT[room_of(name)] < HEIGHT[own]
    }
    assert wrong == set()


def test_the_report_knows_nothing_but_run_folders():
    """It reads what a run wrote; were it to import a task or the loop, an old run could not be shown any more."""
    rooms = {
        room_of(name) for module, path in MODULES.items() if room_of(module) == "report" for name in imported(path)
    }
    assert rooms <= {"report", "core"}


def test_the_loop_knows_no_method_no_task_and_no_data():
    rooms = {
        room_of(name) for module, path in MODULES.items() if room_of(module) == "training" for name in imported(path)
    }
    assert rooms <= {"training", "core", "environment"}


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh process holds after running the code."""
    report = f"\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    return set(json.loads(processes.lines(processes.run(code + report))[-1]))


def test_importing_the_package_imports_nothing_heavy():
    assert loaded_after("import migaki, migaki.cli, migaki.core, migaki.core.errors") == set()


def test_the_help_of_every_command_imports_nothing_heavy():
    code = """
import argparse
from migaki.cli import _parser, main

def commands(parser, words=()):
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from commands(command, (*words, name))

every = list(commands(_parser()))
assert ("data", "show") in every and len(every) > 9, every
for words in every:
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
"""
    assert loaded_after(code) == set()


def test_core_and_recipe_know_settings_and_numbers_but_no_networks():
    modules = [module for module in MODULES if room_of(module) in ("core", "recipe")]
    assert not loaded_after(f"import {', '.join(modules)}") & {"torch", "transformers", "tokenizers", "pyarrow"}


@pytest.mark.parametrize(
    "recipe",
    ["task: x\n", "task: classify_text\ndata: {train: none.csv}\nmodel: bundled:minilm\n"],
    ids=["recipe", "data"],
)
def test_a_fault_in_a_recipe_or_its_data_is_told_before_torch_is_imported(tmp_path, recipe):
    path = tmp_path / "r.yaml"
    path.write_text(recipe)
    code = (
        f"from migaki.cli import main\nassert main(['train', {str(path)!r}, '--runs', {str(tmp_path / 'runs')!r}]) == 2"
    )
    assert not loaded_after(code) & {"torch", "transformers"}


def rank(name: str) -> tuple[int, str]:
    """Constants, classes, the rest; each by the alphabet."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "migaki.__main__"])
def test_the_public_names_of_a_module_are_there_sorted_and_explained(module):
    found = importlib.import_module(module)
    names = getattr(found, "__all__", [])
    assert names == sorted(set(names), key=rank)
    for name in names:
        value = getattr(found, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name} has no docstring"
    assert found.__doc__


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        migaki.trian  # noqa: B018
