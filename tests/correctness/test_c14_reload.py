"""C14: a model saved and read again in a new process answers as it did, tied and untied, with added tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from learners import METHODS, answers, base_from, prepared, rows_of, task_of, trained
from migaki.training.loop import accumulate_gradients
from processes import run
from tiny import save_decoder, save_encoder

MODELS = [
    ("classify_text", True, False),
    ("classify_text", True, True),
    ("generate", True, False),
    ("generate", False, False),
    ("generate", True, True),
    ("generate", False, True),
]
CASES = [(kind, tied, added, method) for kind, tied, added in MODELS for method in METHODS]

RELOAD = """
import json
import sys
from pathlib import Path

from learners import METHODS, answers, base_from, task_of
from safetensors.torch import save_file

for case in json.loads(sys.argv[1]):
    folder, task, method = Path(case["folder"]), task_of(case["kind"]), METHODS[case["method"]]
    base = base_from(Path(case["base"]) if method.keeps_base else folder / "saved", task.base_role)
    learner = method.restore(base, task, folder / "saved")
    learner.evaluation_mode()
    save_file(answers(learner), folder / "found.safetensors")
"""


def base_folder(kind: str, tied: bool, added: bool, folder: Path) -> Path:
    """A tiny model; with `added`, its tokenizer knows two more tokens and its embedding has rows for them."""
    plain = save_encoder(folder / "plain") if kind == "classify_text" else save_decoder(folder / "plain", tied=tied)
    if not added:
        return plain
    base = base_from(plain, "encoder" if kind == "classify_text" else "decoder")
    assert base.tokenizer.add_tokens(["<|new|>", "<|other|>"]) == 2
    torch.manual_seed(11)
    base.model.resize_token_embeddings(len(base.tokenizer), mean_resizing=False)
    base.model.save_pretrained(folder / "added")
    base.tokenizer.save_pretrained(folder / "added")
    return folder / "added"


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool, bool, str], Path]:
    """For each case a folder with the answers before and after, after being those of another process."""
    folders, cases = {}, []
    for kind, tied, added, method in CASES:
        folder = tmp_path_factory.mktemp("reload")
        base = base_folder(kind, tied, added, folder)
        rows = rows_of(kind, 8)
        # A head of class means is already sure of these few rows: nothing would move.
        task = task_of(kind, head="random") if kind == "classify_text" else task_of(kind)
        learner = prepared(base, task, method, rows)
        learner.evaluation_mode()
        save_file(answers(learner), folder / "untrained.safetensors")
        learner.train_mode(0.0)
        accumulate_gradients(learner, learner.encode(rows), 0.0)
        torch.optim.SGD(trained(learner).values(), lr=0.3).step()
        learner.evaluation_mode()
        save_file(answers(learner), folder / "wanted.safetensors")
        if kind == "generate":
            backbone = learner.network.backbone  # type: ignore[attr-defined]
            is_tied = backbone.get_output_embeddings().weight is backbone.get_input_embeddings().weight
            assert is_tied == tied
        (folder / "saved").mkdir()
        learner.save(folder / "saved")
        folders[kind, tied, added, method] = folder
        cases.append({"kind": kind, "method": method, "base": str(base), "folder": str(folder)})
    run(RELOAD, json.dumps(cases))
    return folders


@pytest.mark.parametrize(("kind", "tied", "added", "method"), CASES)
def test_a_new_process_gives_the_same_logits(
    kind: str, tied: bool, added: bool, method: str, reloaded: dict[tuple[str, bool, bool, str], Path]
) -> None:
    folder = reloaded[kind, tied, added, method]
    untrained, wanted, found = (load_file(folder / f"{name}.safetensors") for name in ("untrained", "wanted", "found"))
    logits = [name for name in wanted if name.startswith("logits")]
    assert max(float((wanted[name] - untrained[name]).abs().max()) for name in logits) > 1e-3, "nothing was trained"
    assert found.keys() == wanted.keys()
    for name in found:
        if name.startswith("ids"):
            assert found[name].tolist() == wanted[name].tolist()
        else:
            assert float((found[name] - wanted[name]).abs().max()) <= 1e-6, name


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_stored_once_and_untied_ones_twice(
    tied: bool, reloaded: dict[tuple[str, bool, bool, str], Path]
) -> None:
    names = set(load_file(reloaded["generate", tied, False, "full"] / "saved" / "model.safetensors"))
    assert "model.embed_tokens.weight" in names
    assert ("lm_head.weight" in names) == (not tied)
