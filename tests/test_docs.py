"""What the two READMEs say is true: commands parse, recipes are valid, the Python runs, and both say the same."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from migaki.cli import _parser
from migaki.core.codec import parse_yaml
from migaki.models import BUNDLED
from migaki.recipe import Recipe

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.ja.md"]
both = pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def without_comments(code: str) -> str:
    return "\n".join(re.sub(r"(^|\s+)#.*", "", line).rstrip() for line in code.splitlines())


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command of the command line, `data show` as two words."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield " ".join(words)
    for action in below:
        for name, command in action.choices.items():
            yield from commands(command, (*words, name))


def migaki_lines(path: Path) -> list[list[str]]:
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("migaki ")]


@both
def test_a_readme_opens_with_exactly_two_commands_and_make_knows_them(path):
    first = without_comments(blocks(path, "sh")[0]).splitlines()
    assert first == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE) for line in first)
    # Nothing but the title stands before them.
    assert path.read_text(encoding="utf-8").split("```")[0].strip().count("\n") == 0


@both
def test_every_command_is_shown_and_every_line_shown_is_a_command(path):
    shown = migaki_lines(path)
    known = set(commands(_parser()))
    assert {name for name in known if any(" ".join(words[1:]).startswith(name) for words in shown)} == known
    for words in shown:
        assert callable(_parser().parse_args(words[1:]).verb)


@both
def test_every_recipe_that_a_command_names_is_there(path):
    named = re.findall(r"recipes/[\w-]+\.yaml", path.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@both
def test_the_recipe_in_a_readme_is_valid_and_says_what_it_seems_to_say(path, tmp_path):
    (text,) = blocks(path, "yaml")
    recipe = Recipe.from_mapping(parse_yaml(text, path.name)[0], tmp_path)
    assert (recipe.data.train, recipe.data.valid, recipe.data.test) == (str(tmp_path / "train.csv"), 0.1, 0.2)
    assert (recipe.method.kind, recipe.learning_rate, recipe.training.early_stopping) == ("lora", 1e-4, 2)


@both
def test_the_python_of_a_readme_runs(path, tiny_encoder, tmp_path, monkeypatch, capsys):
    from tiny import labelled_rows

    (code,) = blocks(path, "python")
    assert "bundled:minilm" in code
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "new.csv"):
        lines = ["text,label", *(f"{row['text']},{row['label']}" for row in labelled_rows(60))]
        Path(name).write_text("\n".join(lines), encoding="utf-8")
    exec(compile(code.replace("bundled:minilm", str(tiny_encoder)), path.name, "exec"), {})
    assert capsys.readouterr().out.count("Measure(value=") == 3


@both
def test_the_models_are_listed_with_the_licence_of_their_card(path):
    rows = re.findall(
        r"^\| `(bundled:[\w-]+)` \|.*\| ([\w.-]+) \| `([\w-]+)` \|$", path.read_text(encoding="utf-8"), re.M
    )
    assert rows == [(f"bundled:{card.name}", card.licence, card.package) for card in BUNDLED.values()]


@both
def test_the_files_of_a_run_are_those_that_are_listed(path, tiny_encoder, tmp_path):
    from migaki.pipeline import train
    from migaki.report.exhibits import EXHIBITS_FILE
    from tiny import labelled_rows

    training = {"epochs": 1, "max_steps": 1}
    recipe = Recipe(
        task="classify_text", model=str(tiny_encoder), data={"train": labelled_rows()}, method="full", training=training
    )
    run = train(recipe, tmp_path)
    (tree,) = blocks(path, "text")
    assert tree.splitlines()[0] == f"runs/{run.id}/"
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines()[1:]}
    written = {file.name for file in run.path.iterdir() if not file.name.startswith(".")}
    # Only where rows are files there is something to show of them.
    assert EXHIBITS_FILE in listed
    assert (listed - {EXHIBITS_FILE}) | {"state.json"} == written


def test_both_readmes_have_the_same_commands_recipes_tables_and_figures():
    english, japanese = READMES
    for language in ("sh", "yaml", "python"):
        pairs = zip(blocks(english, language), blocks(japanese, language), strict=True)
        for one, other in pairs:
            assert without_comments(one) == without_comments(other)

    def shape(path: Path) -> list[tuple[int, list[str]]]:
        """Headings, table rows by their number of cells, and every code word in a table."""
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.startswith(("|", "## "))]
        return [(line.count("|"), re.findall(r"`[^`]+`|\d\.\d{3}", line)) for line in kept]

    assert shape(english) == shape(japanese)


def test_links_inside_the_project_lead_somewhere():
    pages = [*READMES, ROOT / "CONTRIBUTING.md", ROOT / "recipes/README.md", ROOT / "docs/design/README.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
