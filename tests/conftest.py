"""Fixtures that every room uses: tiny models on disk, recipes over them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Kept between runs: real models are converted once, and the machine's speed is measured once.
os.environ["MIGAKI_CACHE"] = str(Path(__file__).parents[1] / ".cache")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer BERT."""
    from tiny import save_encoder

    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama."""
    from tiny import save_decoder

    return save_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_decoder: Path) -> Path:
    """A user's folder: recipes, rows, and three runs made by the command line, whose output stands in `N.out`.

    1 classifies, with a label in five wrong so that no figure is 1; 2 chats; 3 goes on from 2. Tests that change a run
    copy `runs` first.
    """
    import contextlib
    import io

    from migaki.cli import main
    from tiny import LABELS, chat_rows, labelled_rows, write_rows

    home = tmp_path_factory.mktemp("finished")
    rows = [{**row, "label": LABELS[0]} if i % 5 == 0 else row for i, row in enumerate(labelled_rows(90))]
    write_rows(home / "rows.jsonl", rows)
    write_rows(home / "chats.jsonl", chat_rows(24))
    chat = "task: {kind: generate, max_new_tokens: 6, generated_rows: 3}\ndata: {train: chats.jsonl, test: 0.3}\n"
    recipes = (
        f"task: classify_text\ndata: {{train: rows.jsonl}}\nmodel: {tiny_encoder}\nmethod: lora\n"
        "training: {epochs: 2, learning_rate: 1e-3}\n",
        f"{chat}model: {tiny_decoder}\nmethod: full\ntraining: {{epochs: 25, learning_rate: 5e-3}}\n",
        f"{chat}model: run:2\nmethod: {{kind: lora, rank: 2}}\ntraining: {{epochs: 1}}\n",
    )
    for number, text in enumerate(recipes, 1):
        (home / f"{number}.yaml").write_text(text, encoding="utf-8")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(["train", str(home / f"{number}.yaml"), "--runs", str(home / "runs"), "--json"]) == 0
        (home / f"{number}.out").write_text(out.getvalue(), encoding="utf-8")
    return home
