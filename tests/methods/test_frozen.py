"""Partly frozen: what moves, what is saved, and that keeping what is below changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from architectures import decoder
from learners import base_from, conversations, difference, prepared, rows_of, task_of, trained
from migaki.core.errors import DamagedError, RecipeError
from migaki.core.parts import Task
from migaki.core.store import RunFolder
from migaki.core.types import Dataset
from migaki.methods import Frozen
from migaki.tasks.body import Body
from migaki.training import Training
from migaki.training.loop import Judge, fit


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))


def settings_for(kind: str) -> Task:
    return task_of(kind, head="random") if kind == "classify_text" else task_of(kind, max_new_tokens=4)


def learner_for(kind: str, blocks: int, rows: Dataset, encoder: Path, decoder: Path) -> Any:
    folder = encoder if kind == "classify_text" else decoder
    return prepared(folder, settings_for(kind), Frozen(blocks=blocks), rows)


def fitted(
    learner: Any, rows: Dataset, folder: Path, valid: Dataset | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Train on the rows, judged by the loss; what the run logged."""
    run = RunFolder.create(folder, "frozen", {})
    training = Training(**({"epochs": 3, "batch_size": 4, "keep_best_by": "loss"} | settings))
    # Whatever comes last counts as best, so that the learner is left with the weights of the last step.
    steps = iter(range(99, 0, -1))
    judge = Judge(lambda predictions: {"loss": float(next(steps))}, "loss", "min")
    examples = learner.encode(rows)
    fit(learner, training, examples, (valid or rows).rows, judge, run, learning_rate=1e-2, seed=0)
    run.unlock()
    return [json.loads(line) for line in (run.path / "history.jsonl").read_text(encoding="utf-8").splitlines()]


MOVED = {
    ("classify_text", 0): ("head.",),
    ("classify_text", 1): ("head.", "backbone.encoder.layer.1."),
    ("classify_text", 2): ("head.", "backbone.encoder.layer."),
    ("generate", 1): ("backbone.model.layers.1.", "backbone.model.norm."),
    ("generate", 2): ("backbone.model.layers.", "backbone.model.norm."),
}


@pytest.mark.parametrize(("kind", "blocks"), MOVED)
def test_only_the_last_blocks_the_norm_behind_them_and_the_head_move(
    kind: str, blocks: int, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    rows = rows_of(kind, 8)
    learner = learner_for(kind, blocks, rows, tiny_encoder, tiny_decoder)
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    fitted(learner, rows, tmp_path / "runs", epochs=1)
    moved = {name for name, p in learner.network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(MOVED[kind, blocks])}
    assert moved == set(trained(learner))


def test_the_norm_behind_the_blocks_goes_by_other_names_too(tiny_decoder: Path) -> None:
    for kind, name in (("gpt2", "transformer.ln_f"), ("bloom", "transformer.ln_f"), ("gemma2", "model.norm")):
        learner = Frozen(blocks=1).prepare(decoder(kind, tiny_decoder), task_of("generate"), conversations(4), 0)
        norms = {n for n in trained(learner) if ".h.1." not in n and ".layers.1." not in n}
        assert {n.rsplit(".", 1)[0] for n in norms} == {f"backbone.{name}"}, kind


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_only_what_was_trained_is_saved_and_a_new_learner_says_the_same(
    kind: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    rows = rows_of(kind, 8)
    learner = learner_for(kind, 1, rows, tiny_encoder, tiny_decoder)
    untouched = [asdict(p) for p in learner.predict(rows.rows)]
    fitted(learner, rows, tmp_path / "runs", epochs=2)
    wanted = [asdict(p) for p in learner.predict(rows.rows)]
    assert wanted != untouched
    learner.save(tmp_path)
    names = {f"backbone.{name}" for name in load_file(tmp_path / "trained.safetensors")}
    assert names == {name for name in trained(learner) if not name.startswith("head.")}
    folder, role = (tiny_encoder, "encoder") if kind == "classify_text" else (tiny_decoder, "decoder")
    restored = Frozen(blocks=1).restore(base_from(folder, role), settings_for(kind), tmp_path)
    restored.evaluation_mode()
    assert [asdict(p) for p in restored.predict(rows.rows)] == wanted


@pytest.mark.parametrize("damage", ["missing", "left over", "shape"])
def test_saved_weights_that_do_not_fit_are_refused(damage: str, tiny_decoder: Path, tmp_path: Path) -> None:
    learner = learner_for("generate", 1, conversations(4), tiny_decoder, tiny_decoder)
    learner.save(tmp_path)
    path = tmp_path / "trained.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[2]
    if damage == "missing":
        del tensors[name]
    elif damage == "left over":
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(64, 32)
    else:
        tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, path)
    with pytest.raises(DamagedError):
        Frozen(blocks=1).restore(base_from(tiny_decoder, "decoder"), task_of("generate"), tmp_path)


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_more_blocks_than_there_are_is_refused(kind: str, tiny_encoder: Path, tiny_decoder: Path) -> None:
    with pytest.raises(RecipeError) as error:
        learner_for(kind, 3, rows_of(kind, 4), tiny_encoder, tiny_decoder)
    (problem,) = error.value.problems
    assert problem.path == "method.blocks"
    assert "3 is more than the 2 blocks" in problem.message


def test_a_generator_has_no_head_of_its_own_to_train_alone(tiny_decoder: Path) -> None:
    with pytest.raises(RecipeError, match="with 0 blocks nothing of a generator is left"):
        learner_for("generate", 0, conversations(4), tiny_decoder, tiny_decoder)


# what the recipe names instead of blocks, and beside them

NAMED: dict[str, tuple[str, dict[str, Any], str]] = {
    # kind, settings, and a regular expression for the names that move
    "a block": ("classify_text", {"train": ["layer.0"]}, r"head\.|.*layer\.0\."),
    "layers of one name": ("generate", {"train": ["q_proj"]}, r".*\.q_proj\."),
    "one parameter": (
        "classify_text",
        {"train": ["layer.1.output.dense.bias"]},
        r"head\.|.*layer\.1\.output\.dense\.bias",
    ),
    "with a star": (
        "generate",
        {"train": ["layers.1.*.up_proj", "model.norm"]},
        r".*layers\.1\.mlp\.up_proj\.|.*model\.norm",
    ),
    "the head by its other name": ("generate", {"train": ["lm_head"]}, r".*embed_tokens\."),
    "BitFit": ("classify_text", {"blocks": 0, "biases": True}, r"head\.|.*\.bias$"),
    "norms": ("classify_text", {"blocks": 0, "norms": True}, r"head\.|.*LayerNorm\."),
    "norms of a decoder": ("generate", {"blocks": 0, "norms": True}, r".*norm\."),
    "norms beside a block": ("generate", {"norms": True}, r".*layers\.1\.|.*norm\."),
    "the head alone": ("classify_text", {"train": []}, r"head\."),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_the_recipe_names_moves_and_nothing_else(
    name: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    kind, settings, wanted = NAMED[name]
    rows, folder = rows_of(kind, 8), tiny_encoder if kind == "classify_text" else tiny_decoder
    learner: Any = prepared(folder, settings_for(kind), Frozen(**settings), rows)
    before = {n: p.detach().clone() for n, p in learner.network.named_parameters()}
    fitted(learner, rows, tmp_path / "runs", epochs=1)
    moved = {n for n, p in learner.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if re.match(wanted, n)} == set(trained(learner))
    assert moved
    learner.save(tmp_path)
    again = Frozen(**settings).restore(
        base_from(folder, "encoder" if kind == "classify_text" else "decoder"), settings_for(kind), tmp_path
    )
    for n, p in again.network.named_parameters():  # type: ignore[attr-defined]
        assert torch.equal(p, dict(learner.network.named_parameters())[n]), n


def test_one_block_is_trained_where_the_recipe_says_nothing(tiny_encoder: Path) -> None:
    rows = rows_of("classify_text", 4)
    one, nothing = (
        prepared(tiny_encoder, settings_for("classify_text"), f, rows) for f in (Frozen(blocks=1), Frozen())
    )
    assert trained(one).keys() == trained(nothing).keys()


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a name that is none": (
        "generate",
        {"train": ["q_proj", "query"]},
        "method.train",
        "'query' matches no layer that is meant here; they are called down_proj, embed_tokens, gate_proj, input_layernorm",
    ),
    "no biases": ("generate", {"biases": True}, "method.biases", "this model has no biases"),
    "nothing named": ("generate", {"train": []}, "method.train", "names nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused(name: str, tiny_encoder: Path, tiny_decoder: Path) -> None:
    kind, settings, path, found = REFUSED[name]
    folder = tiny_encoder if kind == "classify_text" else tiny_decoder
    with pytest.raises(RecipeError) as error:
        prepared(folder, settings_for(kind), Frozen(**settings), rows_of(kind, 4))
    (problem,) = error.value.problems
    assert problem.path == path
    assert problem.message.startswith(found)


def test_blocks_and_names_together_are_refused() -> None:
    from migaki.recipe import Recipe

    method = {"kind": "frozen", "blocks": 1, "train": ["layer.0"]}
    with pytest.raises(RecipeError, match="blocks and train both say what is trained; leave one of them out"):
        Recipe(task="classify_text", data={"train": "a.csv"}, method=method)


def weights(learner: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trained(learner).items()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("kind", "blocks"), [("classify_text", 0), ("classify_text", 1), ("generate", 1)])
def test_training_over_kept_activations_ends_where_computing_everything_ends(
    kind: str,
    blocks: int,
    dropout: float,
    tiny_encoder: Path,
    tiny_decoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dropout falls only above the cut, so that both draw the same masks."""
    rows, valid = rows_of(kind, 8), Dataset("valid", rows_of(kind, 11).rows[8:])
    ends, events = [], []
    for budget in ("1000000", "0"):
        monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / budget))
        monkeypatch.setenv("MIGAKI_ACTIVATION_BYTES", budget)
        learner = learner_for(kind, blocks, rows, tiny_encoder, tiny_decoder)
        before = weights(learner)
        events.append(fitted(learner, rows, tmp_path / "runs", valid, dropout=dropout))
        ends.append(weights(learner))
        assert difference(ends[-1], before) > 0.01
    assert [log[0]["activations_kept"] for log in events] == [True, False]
    assert difference(*ends) <= 1e-5
    losses = [[e["loss"] for e in log if e["event"] == "step"] for log in events]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows for which what is below the cut was computed."""
    found: list[int] = []
    below: Callable[..., Any] = Body.below

    def counted(self: Body, rows: Sequence[Any], *arguments: Any) -> Any:
        found.append(len(rows))
        return below(self, rows, *arguments)

    monkeypatch.setattr(Body, "below", counted)
    return found


def test_a_second_training_finds_what_the_first_one_kept(
    computed: list[int], tiny_encoder: Path, tmp_path: Path
) -> None:
    rows, valid = rows_of("classify_text", 8), Dataset("valid", rows_of("classify_text", 11).rows[8:])
    for blocks, wanted in ((1, [8, 3]), (1, [8, 3]), (0, [8, 3, 8, 3])):
        learner = learner_for("classify_text", blocks, rows, tiny_encoder, tiny_encoder)
        assert fitted(learner, rows, tmp_path / "runs", valid)[0]["activations_kept"]
        assert computed == wanted


@pytest.mark.parametrize(
    ("blocks", "settings"),
    [
        pytest.param(1, {"mask_tokens": 0.2}, id="rows altered at random"),
        pytest.param(1, {"epochs": 1}, id="read once"),
        pytest.param(1, {"epochs": 5, "max_steps": 2}, id="read once before max_steps"),
        pytest.param(2, {}, id="nothing is frozen but the embeddings"),
    ],
)
def test_nothing_is_kept_where_it_would_not_pay(
    blocks: int, settings: dict[str, Any], computed: list[int], tiny_encoder: Path, tmp_path: Path
) -> None:
    rows = rows_of("classify_text", 8)
    learner = learner_for("classify_text", blocks, rows, tiny_encoder, tiny_encoder)
    kept = fitted(learner, rows, tmp_path / "runs", **settings)[0]["activations_kept"]
    assert (kept, computed) == (False, [])


def test_what_is_frozen_stays_as_in_evaluation_while_the_rest_trains(tiny_encoder: Path) -> None:
    """Dropout below the cut would make what is kept differ from what is computed."""
    learner = learner_for("classify_text", 1, rows_of("classify_text", 4), tiny_encoder, tiny_encoder)
    learner.train_mode(0.3)
    backbone = learner.network.backbone
    assert {m.training for part in (backbone.embeddings, backbone.encoder.layer[0]) for m in part.modules()} == {False}
    assert {m.training for m in backbone.encoder.layer[1].modules()} == {True}
    assert learner.network.dropout.training
