"""C19: a class that is never predicted is said, however good the accuracy looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learners import METHODS
from migaki.cli import main
from tiny import write_rows


def lopsided_rows(n: int, rare: int) -> list[dict[str, str]]:
    """`rare` of n rows are rare, with the very words of the others: nothing tells them apart."""
    return [{"text": f"the order has not arrived {i}", "label": "rare" if i < rare else "usual"} for i in range(n)]


@pytest.mark.parametrize("method", METHODS)
def test_the_report_of_95_to_5_rows_says_that_the_rare_class_is_never_predicted(
    method: str, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "train.jsonl", lopsided_rows(60, 3))
    write_rows(tmp_path / "valid.jsonl", [row | {"text": f"valid {row['text']}"} for row in lopsided_rows(20, 1)])
    write_rows(tmp_path / "test.jsonl", [row | {"text": f"test {row['text']}"} for row in lopsided_rows(100, 5)])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: {{kind: classify_text, head: random}}\nmethod: {method}\nmodel: {tiny_encoder}\n"
        "data: {train: train.jsonl, valid: valid.jsonl, test: test.jsonl}\n"
        # The loss decides: accuracy is the same from the first step on, and equal ones keep the earlier.
        "training: {epochs: 2, learning_rate: 0.01, keep_best_by: loss}\n",
        encoding="utf-8",
    )
    assert main(["train", str(recipe), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    (run,) = (tmp_path / "runs").glob("0001-*")
    results = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))

    metrics, details = results["metrics"], results["details"]
    assert metrics["accuracy"]["value"] == pytest.approx(0.95)
    # F1 of usual: 2 * 95 / (95 + 100) = 0.9744, of rare 0; their mean is 0.4872.
    assert metrics["f1_macro"]["value"] == pytest.approx(190 / 195 / 2)
    assert metrics["recall_macro"]["value"] == pytest.approx(0.5)
    assert details["per_class"]["rare"]["recall"]["value"] == 0.0
    assert details["per_class"]["usual"]["recall"]["value"] == 1.0
    assert details["per_class"]["rare"]["support"] == 5
    assert details["never_predicted"] == ["rare"]
    # Who always says the most frequent label is right just as often.
    assert details["majority"]["label"] == "usual"
    assert details["majority"]["accuracy"]["value"] == pytest.approx(0.95)

    assert "never predicted: rare" in said
    assert "f1_macro" in said
    page = (run / "report.html").read_text(encoding="utf-8")
    report = " ".join(page.split())
    for words in ("never predicted", "most frequent label", "95.0 %", "recall", "rare"):
        assert words in report.lower(), words
