"""Rates that fall with the depth, and blocks that join one after the other: by hand, and bitwise where nothing may move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from correctness.resuming import recipe_for
from correctness.resuming import trained as run_trained
from learners import difference, prepared, rows_of, task_of, trained
from migaki.core.store import RunFolder
from migaki.core.types import Dataset
from migaki.methods import Frozen, Full
from migaki.methods.depth import pace_of
from migaki.training import Training
from migaki.training.checkpoint import checkpoint_folders
from migaki.training.loop import Judge, fit
from migaki.training.monitor import Monitor


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


def learner_for(kind: str, method: Any, encoder: Path, decoder: Path) -> Any:
    task = task_of(kind, head="random") if kind == "classify_text" else task_of(kind)
    return prepared(encoder if kind == "classify_text" else decoder, task, method, rows_of(kind, 8))


def fitted(learner: Any, kind: str, folder: Path, monitor: Monitor | None = None, **settings: Any) -> RunFolder:
    """Trained on eight rows, and left with the weights of the last step."""
    rows, run = rows_of(kind, 8), RunFolder.create(folder, "deep", {})
    left = iter(range(999, 0, -1))
    judge = Judge(lambda _: {"loss": float(next(left))}, "loss", "min")
    training = Training(**({"batch_size": 4, "warmup": 0.0, "schedule": "constant"} | settings))
    examples, valid = learner.encode(rows), Dataset("valid", rows_of(kind, 11).rows[8:]).rows
    fit(learner, training, examples, valid, judge, run, learning_rate=1e-3, seed=0, monitor=monitor)
    run.unlock()
    return run


# What stands where: the head and the norm behind the blocks at full rate, block 1 at a half, block 0 at a quarter of it.
PLACES = {
    "classify_text": {
        "head.": 1.0,
        "backbone.encoder.layer.1.": 0.5,
        "backbone.encoder.layer.0.": 0.25,
        "backbone.embeddings.": 0.125,
    },
    "generate": {
        "backbone.model.norm.": 1.0,
        "backbone.model.layers.1.": 0.5,
        "backbone.model.layers.0.": 0.25,
        "backbone.model.embed_tokens.": 0.125,
    },
}


def place_of(kind: str, name: str) -> str:
    (found,) = [place for place in PLACES[kind] if name.startswith(place)]
    return found


@pytest.mark.parametrize("kind", PLACES)
def test_the_first_step_moves_each_layer_by_its_share_of_the_rate(
    kind: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    """The first step of Adam moves a number by its rate; the median leaves out those whose gradient is next to nothing."""
    learner = learner_for(kind, Full(layer_decay=0.5), tiny_encoder, tiny_decoder)
    factors = {name: group.rate_factor for group in learner.parameter_groups() for name, _ in group.named}
    assert factors == {name: PLACES[kind][place_of(kind, name)] for name in factors}
    before = {name: p.detach().clone() for name, p in trained(learner).items()}
    fitted(learner, kind, tmp_path, max_steps=1, weight_decay=0.0)
    moved: dict[str, list[torch.Tensor]] = {place: [] for place in PLACES[kind]}
    for name, p in trained(learner).items():
        steps = (p.detach() - before[name]).abs().flatten()
        moved[place_of(kind, name)].append(steps[steps > 0])
    for place, steps in moved.items():
        assert float(torch.cat(steps).median()) == pytest.approx(1e-3 * PLACES[kind][place], rel=0.1), place


def test_a_norm_behind_the_blocks_that_is_made_before_them_is_known_by_its_name() -> None:
    """OPT makes its final norm before its blocks."""
    config = transformers.OPTConfig(
        vocab_size=40, hidden_size=16, ffn_dim=16, num_hidden_layers=3, num_attention_heads=2, word_embed_proj_dim=16
    )

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = transformers.OPTForCausalLM(config)

    network = Network()
    factor = pace_of(network, 0.5, gradual=False).rate_factor
    names = [name for name, _ in network.named_parameters()]
    assert names.index("backbone.model.decoder.final_layer_norm.weight") < names.index(
        "backbone.model.decoder.layers.0.self_attn.q_proj.weight"
    )
    assert factor("backbone.model.decoder.final_layer_norm.weight") == 1.0
    assert [factor(f"backbone.model.decoder.layers.{i}.fc1.weight") for i in range(3)] == [0.125, 0.25, 0.5]
    assert factor("backbone.model.decoder.embed_positions.weight") == 0.0625


def test_without_decay_the_groups_are_what_they_were(tiny_encoder: Path) -> None:
    plain, explicit = (
        learner_for("classify_text", method, tiny_encoder, tiny_encoder).parameter_groups()
        for method in (Full(), Full(layer_decay=1.0, gradual=False))
    )
    assert [(g.decays, g.rate_factor, g.from_epoch) for g in plain] == [(True, 1.0, 0), (False, 1.0, 0)]
    assert [[n for n, _ in g.named] for g in plain] == [[n for n, _ in g.named] for g in explicit]


# gradual unfreezing


class Snapshots(Monitor):
    """The weights after every step, what had a gradient in it, and what was said."""

    def __init__(self, learner: Any) -> None:
        self._trained = trained(learner)
        self.weights = [{name: p.detach().clone() for name, p in self._trained.items()}]
        self.gradients: list[set[str]] = []
        self.notes: list[str] = []

    def step(self, facts: Any) -> None:
        self.weights.append({name: p.detach().clone() for name, p in self._trained.items()})
        self.gradients.append({name for name, p in self._trained.items() if p.grad is not None})

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("kind", PLACES)
def test_a_block_joins_in_each_epoch_and_nothing_moves_before_its_turn(
    kind: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    """Two steps an epoch. Decay and momentum would move what is not frozen, so bits are compared."""
    learner = learner_for(kind, Full(gradual=True), tiny_encoder, tiny_decoder)
    snapshots = Snapshots(learner)
    fitted(learner, kind, tmp_path, snapshots, epochs=4, weight_decay=0.5)
    turn = {place: max(0, i - 1) for i, place in enumerate(PLACES[kind])}
    assert list(turn.values()) == [0, 0, 1, 2]
    assert len(snapshots.weights) == 9
    for name, start in snapshots.weights[0].items():
        begins = 2 * turn[place_of(kind, name)]
        for step in range(1, 9):
            moved = not torch.equal(snapshots.weights[step][name], start)
            assert moved == (step > begins), (name, step)
            assert (name in snapshots.gradients[step - 1]) == (step > begins), (name, step)
    assert snapshots.notes == []
    # What was held back is trained like all the rest when it is over.
    assert learner.parameter_counts()[0] == sum(p.numel() for p in snapshots.weights[0].values())


def test_the_moments_of_a_block_begin_with_its_turn(tiny_encoder: Path, tmp_path: Path) -> None:
    """Adam counts the steps of each parameter on its own: four epochs of two steps, joined in epochs 0, 0, 1 and 2."""
    learner = learner_for("classify_text", Full(gradual=True), tiny_encoder, tiny_encoder)
    run = fitted(learner, "classify_text", tmp_path, epochs=4)
    stored = load_file(checkpoint_folders(run.path / "checkpoints")[0] / "optimizer.safetensors")
    names = list(trained(learner))
    counts = {name: int(stored[f"{i}.step"]) for i, name in enumerate(names)}
    wanted = {"head.": 8, "backbone.encoder.layer.1.": 8, "backbone.encoder.layer.0.": 6, "backbone.embeddings.": 4}
    assert counts == {name: wanted[place_of("classify_text", name)] for name in names}


def test_of_named_layers_the_highest_begins(tiny_encoder: Path) -> None:
    """Block 1 has nothing to train, so block 0 need not wait for it."""
    method = Frozen(train=["layer.0.output", "embeddings"], gradual=True)
    groups = learner_for("classify_text", method, tiny_encoder, tiny_encoder).parameter_groups()
    turns = {name: group.from_epoch for group in groups for name, _ in group.named}
    assert {turn for name, turn in turns.items() if name.startswith("head.")} == {0}
    assert {turn for name, turn in turns.items() if ".layer.0." in name} == {0}
    assert {turn for name, turn in turns.items() if ".embeddings." in name} == {1}


def test_blocks_whose_turn_never_comes_are_told(tiny_encoder: Path, tmp_path: Path) -> None:
    learner = learner_for("classify_text", Full(gradual=True), tiny_encoder, tiny_encoder)
    snapshots = Snapshots(learner)
    fitted(learner, "classify_text", tmp_path, snapshots, epochs=1)
    (note,) = snapshots.notes
    held = sum("layer.0." in name or "embeddings." in name for name in trained(learner))
    assert note == (
        f"{held} of {len(trained(learner))} trained tensors never move: their turn comes in epoch 2, and there are 1; "
        "raise training.epochs"
    )


@pytest.mark.parametrize("kind", PLACES)
def test_a_gradual_run_that_was_stopped_ends_with_the_same_bits(
    kind: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    """Three epochs of four steps, stopped in the first and in the second: before and after block 0 has joined."""
    model = tiny_encoder if kind == "classify_text" else tiny_decoder
    method = {"kind": "frozen", "blocks": 2, "gradual": True, "layer_decay": 0.7}
    recipe = recipe_for(kind, tmp_path, model, method, weight_decay=0.3, l2_sp=9.0)
    ends = []
    for folder, stops in (("whole", ()), ("broken", (2, 6))):
        run = run_trained(recipe, tmp_path / folder, stops)
        newest = checkpoint_folders(run.path / "checkpoints")[0]
        assert newest.name == "step-00000012"
        ends.append({**load_file(newest / "weights.safetensors"), **load_file(newest / "optimizer.safetensors")})
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_gradual_training_over_kept_activations_ends_where_computing_everything_ends(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three blocks two are trained in turn: what enters the lower of them is kept from the start."""
    config = transformers.BertConfig.from_pretrained(tiny_encoder, num_hidden_layers=3)
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "three")
    transformers.AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "three")
    ends, kept = [], []
    for budget in ("1000000", "0"):
        monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / budget))
        monkeypatch.setenv("MIGAKI_ACTIVATION_BYTES", budget)
        learner = learner_for("classify_text", Frozen(blocks=2, gradual=True), tmp_path / "three", tiny_encoder)
        run = fitted(learner, "classify_text", tmp_path / f"runs-{budget}", epochs=3, dropout=0.2)
        ends.append({name: p.detach().clone() for name, p in trained(learner).items()})
        kept.append('"activations_kept": true' in (run.path / "history.jsonl").read_text().splitlines()[0])
    assert kept == [True, False]
    assert difference(*ends) <= 1e-5
