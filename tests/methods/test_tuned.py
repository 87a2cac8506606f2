"""The choice between the two ways of computing: made on the model at hand, said, and never to the result's cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from learners import CASES, conversations, difference, labelled, prepared, rows_of, task_of, trained
from migaki.core.store import RunFolder
from migaki.methods import Full
from migaki.methods.tuned import TunedLearner, blocks_of
from migaki.models import flat
from migaki.training import Training
from migaki.training.loop import Judge, fit
from migaki.training.monitor import Monitor
from tiny import save_encoder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it may be known already that the two ways agree."""
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


class Heard(Monitor):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def learner_for(kind: str, method: str, encoder: Path, decoder: Path) -> Any:
    task = task_of(kind, head="random") if kind == "classify_text" else task_of(kind)
    return prepared(encoder if kind == "classify_text" else decoder, task, method, rows_of(kind, 8))


def fitted(kind: str, learner: Any, folder: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights after four steps, and what was said on the way."""
    rows, heard = rows_of(kind, 8), Heard()
    run = RunFolder.create(folder, "settled", {})
    steps = iter(range(9, 0, -1))
    judge = Judge(lambda predictions: {"loss": float(next(steps))}, "loss", "min")
    training = Training(epochs=2, batch_size=4)
    fit(learner, training, learner.encode(rows), rows.rows, judge, run, learning_rate=1e-2, seed=0, monitor=heard)
    run.unlock()
    path = '"path": "generic"' if not learner.network.body.use_flat else '"path": "flat"'
    assert path in (run.path / "history.jsonl").read_text(encoding="utf-8").splitlines()[0]
    return {name: p.detach().clone() for name, p in trained(learner).items()}, heard.notes


def turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention a hundredth too large: far above rounding, and small enough to train without anybody seeing it."""
    plain = torch.nn.functional.scaled_dot_product_attention

    def larger(*arguments: Any, **settings: Any) -> torch.Tensor:
        return 1.01 * plain(*arguments, **settings)

    class Functional:
        scaled_dot_product_attention = staticmethod(larger)
        silu = staticmethod(torch.nn.functional.silu)

    monkeypatch.setattr(flat, "F", Functional)


# Attention of random weights is so small a part of an encoder's vectors that edits of these hardly feel the hundredth.
@pytest.mark.parametrize(("kind", "method"), [case for case in CASES if case != ("classify_text", "reft")])
def test_a_wrong_flat_way_steps_aside_and_training_is_what_transformers_would_do(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "MIGAKI_CACHE", str(tmp_path / "cache")
    )  # elsewhere it is known already that the flat way is right
    learner = learner_for(kind, method, tiny_encoder, tiny_decoder)
    learner.network.body.use_flat = False
    wanted, notes = fitted(kind, learner, tmp_path)
    assert notes == []

    learner = learner_for(kind, method, tiny_encoder, tiny_decoder)
    assert learner.network.body.use_flat
    turned_off(monkeypatch)
    found, notes = fitted(kind, learner, tmp_path)
    assert not learner.network.body.use_flat
    assert len(notes) == 1
    assert notes[0].startswith("the model is computed as transformers does: the faster way differs by ")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_two_ways_are_compared_once_for_the_same_weights_and_again_for_others(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    difference = TunedLearner._difference
    monkeypatch.setattr(TunedLearner, "_difference", lambda *asked: compared.append(1) or difference(*asked))

    def settled(encoder: Path, method: Any) -> Any:
        learner = prepared(encoder, task_of("classify_text"), method, labelled(8))
        return learner.settle(learner.encode(labelled(8)), (), 0, print)

    first = settled(tiny_encoder, "full")
    assert settled(tiny_encoder, "full") == first
    assert len(compared) == 1
    settled(tiny_encoder, "lora")
    settled(save_encoder(tmp_path / "other", seed=3), "full")
    assert len(compared) == 3


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_flat_way_trains_to_the_weights_of_the_other(
    kind: str, method: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    ends = []
    for use_flat in (True, False):
        learner = learner_for(kind, method, tiny_encoder, tiny_decoder)
        learner.network.body.use_flat = use_flat
        end, notes = fitted(kind, learner, tmp_path)
        assert notes == []
        assert learner.network.body.use_flat == use_flat
        ends.append(end)
    # AdamW divides by the gradient's own size, so rounding in a gradient of almost nothing moves a weight visibly.
    assert difference(*ends) <= 1e-3


def test_a_wrong_gradient_behind_a_right_value_is_found_too(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = flat._SwiGlu.backward

    def halved(ctx: Any, *grads: Any) -> Any:
        gate, up = backward(ctx, *grads)
        return gate, up / 2

    learner = prepared(tiny_decoder, task_of("generate"), "lora", conversations(4))
    assert learner._difference(learner.encode(conversations(4))) < 1e-4  # type: ignore[attr-defined]
    monkeypatch.setattr(flat._SwiGlu, "backward", staticmethod(halved))
    notes: list[str] = []
    facts = learner.settle(learner.encode(conversations(4)), (), 0, notes.append)
    assert facts == {"path": "generic", "activations_kept": False}
    assert len(notes) == 1


def test_settling_changes_nothing_that_is_trained_and_leaves_no_gradient(tiny_decoder: Path) -> None:
    learner = prepared(tiny_decoder, task_of("generate"), "full", conversations(4))
    before = {name: p.detach().clone() for name, p in trained(learner).items()}
    state = torch.get_rng_state()
    learner.settle(learner.encode(conversations(4)), conversations(4).rows, 2, lambda _: None)
    assert torch.equal(torch.get_rng_state(), state)
    for name, p in trained(learner).items():
        assert p.grad is None
        assert torch.equal(p, before[name])


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_the_blocks_are_found_in_their_order(kind: str, tiny_encoder: Path, tiny_decoder: Path) -> None:
    folder = tiny_encoder if kind == "classify_text" else tiny_decoder
    backbone = prepared(folder, task_of(kind), Full(), rows_of(kind, 4)).network.backbone  # type: ignore[attr-defined]
    wanted = backbone.encoder.layer if kind == "classify_text" else backbone.model.layers
    assert [id(block) for block in blocks_of(backbone)] == [id(block) for block in wanted]
