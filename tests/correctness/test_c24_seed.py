"""C24: what is drawn for a new adapter or head follows from the recipe's seed and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learners import CASES
from processes import finish, start
from tiny import chat_rows, labelled_rows, write_rows

STEP_0 = """
import random
import sys
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

import migaki
from migaki.training import loop

own, texts, chats, encoder, decoder, out = int(sys.argv[1]), *map(Path, sys.argv[2:])
random.seed(own)
numpy.random.seed(own)
fit = loop.fit


def stored(learner, *arguments, **settings):
    tensors = {n: p.detach().clone() for group in learner.parameter_groups() for n, p in group.named}
    save_file(tensors, out / f"{kind}-{method}-{settings['seed']}-{own}.safetensors")
    return fit(learner, *arguments, **settings)


loop.fit = stored
for kind, task, rows, model in (
    ("classify_text", {"kind": "classify_text", "head": "random"}, texts, encoder),
    ("generate", {"kind": "generate", "generated_rows": 0}, chats, decoder),
):
    for method in ("full", "lora", "reft"):
        for seed in (0, 1):
            # The state of the process differs each time, as it does between a notebook and a script.
            torch.manual_seed(own + 100 * seed)
            migaki.train(
                {
                    "task": task,
                    "method": method,
                    "model": str(model),
                    "data": {"train": str(rows), "valid": str(rows), "test": str(rows)},
                    "training": {"max_steps": 1},
                    "seed": seed,
                },
                runs=out / f"runs-{own}",
            )
"""


@pytest.fixture(scope="module")
def at_step_0(tiny_encoder: Path, tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two processes were about to train, for two seeds."""
    out = tmp_path_factory.mktemp("seeds")
    texts = write_rows(out / "texts.jsonl", labelled_rows(12))
    chats = write_rows(out / "chats.jsonl", chat_rows(8))
    arguments = (texts, chats, tiny_encoder, tiny_decoder, out)
    finish(*(start(STEP_0, own, *arguments, PYTHONHASHSEED=str(own)) for own in (3, 4)))
    return out


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_two_processes_start_from_the_same_weights(kind: str, method: str, seed: int, at_step_0: Path) -> None:
    one, other = (load_file(at_step_0 / f"{kind}-{method}-{seed}-{own}.safetensors") for own in (3, 4))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_another_seed_draws_other_new_weights_and_keeps_the_pretrained_ones(
    kind: str, method: str, at_step_0: Path
) -> None:
    zero, one = (load_file(at_step_0 / f"{kind}-{method}-{seed}-3.safetensors") for seed in (0, 1))
    # ReFT's W starts as the R that is made of A.
    drawn = {name for name in zero if "lora_A" in name or name in ("head.weight", "edits.a_URD", "edits.w_URD")}
    assert (drawn != set()) == ((kind, method) != ("generate", "full"))
    for name in zero:
        assert torch.equal(zero[name], one[name]) == (name not in drawn), name


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_no_two_layers_draw_the_same_factor(kind: str, at_step_0: Path) -> None:
    factors = [
        tensor for name, tensor in load_file(at_step_0 / f"{kind}-lora-0-3.safetensors").items() if "lora_A" in name
    ]
    assert len(factors) > 4
    for i, one in enumerate(factors):
        assert all(one.shape != other.shape or not torch.equal(one, other) for other in factors[:i])
