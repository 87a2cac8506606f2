"""Runs with hostile data, once for all tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import chat_rows, labelled_rows, write_rows

HOSTILE = "<script>alert('x')</script>&amp; \"quoted\" </style><img src=http://evil.example/x.png> printer"


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """Folder of a run whose labels, texts and file name try to break out of the page."""
    from migaki.pipeline import train

    home = tmp_path_factory.mktemp("classified")
    rows = labelled_rows(90)
    for number, row in enumerate(rows):
        if row["label"] == "technical":
            row["label"] = "<b>technical & more</b>"
        if number % 4 == 0:
            row |= {"text": f"{HOSTILE} {number}", "label": "billing" if number % 8 else "delivery"}
    rows += [rows[1], {**rows[2], "label": "billing"}]
    recipe = {
        "task": {"kind": "classify_text", "allow_truncated": 1.0},
        "data": {"train": str(write_rows(home / "<i>rows.jsonl", rows))},
        "model": str(tiny_encoder),
        "method": "full",
        "training": {"epochs": 2, "learning_rate": 1e-3},
    }
    return train(recipe, home / "runs").path


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Path:
    """Folder of a run of a chat model, hostile and Japanese prompts among its rows."""
    from migaki.pipeline import train

    home = tmp_path_factory.mktemp("generated")
    rows = [*chat_rows(24), *({"prompt": f"{HOSTILE} {i}", "completion": "画面が真っ暗です"} for i in range(8))]
    recipe = {
        "task": {"kind": "generate", "max_new_tokens": 4, "generated_rows": 4},
        "data": {"train": str(write_rows(home / "rows.jsonl", rows))},
        "model": str(tiny_decoder),
        "method": "full",
        "training": {"epochs": 2, "learning_rate": 1e-3},
    }
    return train(recipe, home / "runs").path
