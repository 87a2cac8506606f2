"""The examples run; the two that train agree on the base, and teach something."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What an example prints, run in this process: torch is loaded already."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    capsys.readouterr()
    module.main()
    return capsys.readouterr().out


def losses(printed: str) -> tuple[float, float]:
    found = re.search(r"loss on 6 rows it never saw: ([\d.]+) before, ([\d.]+) after", printed)
    assert found, printed
    return float(found[1]), float(found[2])


def test_both_examples_learn_and_find_the_same_loss_before_training(tiny_decoder, tmp_path, monkeypatch, capsys):
    """Two ways to mask, to pad and to count the targets that share no line of code: one figure."""
    model = ["--model", str(tiny_decoder), "--steps", "12"]
    own_before, own_after = losses(run_example("loop", model, monkeypatch, capsys))
    before, after = losses(run_example("basic", [*model, "--runs", str(tmp_path)], monkeypatch, capsys))
    # The example computes in all digits, migaki in the format that is fastest here.
    assert own_before == pytest.approx(before, rel=1e-3)
    assert own_after < own_before
    assert after < before


def test_the_inline_loop_uses_nothing_of_migaki():
    tree = ast.parse((EXAMPLES / "loop.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "torch" in imported
    assert not [name for name in imported if name.split(".")[0] in ("migaki", "peft")]


def test_the_digits_are_written_with_a_recipe_that_reads_them(tmp_path, monkeypatch, capsys):
    from PIL import Image
    from sklearn.datasets import load_digits

    from migaki.recipe import Recipe

    said = run_example("digits", [str(tmp_path / "digits")], monkeypatch, capsys)
    assert "1797 images" in said
    first = Image.open(tmp_path / "digits" / "images" / "0" / "0000.png")
    assert (first.size, first.mode) == ((64, 64), "L")
    small_HW = load_digits().images[0] * 255 / 16
    assert abs(float(np.asarray(first).mean()) - float(small_HW.mean())) < 3  # enlarged, as bright as before
    recipe = Recipe.from_file(tmp_path / "digits" / "digits.yaml")
    assert recipe.task.size == 64
    assert len(list((tmp_path / "digits" / "images").glob("*/*.png"))) == 1797
