"""Full fine-tuning: everything moves, and what is saved is an ordinary model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learners import METHODS, base_from, labelled, prepared, rows_of, task_of, trained
from migaki.training.loop import accumulate_gradients


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_every_weight_has_a_gradient(kind: str, tiny_encoder: Path, tiny_decoder: Path) -> None:
    rows = rows_of(kind, 8)
    task = task_of(kind, head="random") if kind == "classify_text" else task_of(kind)
    learner = prepared(tiny_encoder if kind == "classify_text" else tiny_decoder, task, "full", rows)
    trained_count, total = learner.parameter_counts()
    assert trained_count == total == sum(p.numel() for p in trained(learner).values())
    learner.train_mode(0.0)
    accumulate_gradients(learner, learner.encode(rows), 0.0)
    for name, parameter in trained(learner).items():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("kind", ["classify_text", "generate"])
def test_transformers_alone_reads_what_was_saved(
    kind: str, tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    rows = rows_of(kind, 8)
    learner = prepared(tiny_encoder if kind == "classify_text" else tiny_decoder, task_of(kind), "full", rows)
    with torch.no_grad():
        for parameter in trained(learner).values():
            parameter.add_(0.01)
    learner.save(tmp_path)
    model = (AutoModel if kind == "classify_text" else AutoModelForCausalLM).from_pretrained(tmp_path)
    backbone = learner.network.backbone  # type: ignore[attr-defined]
    own = dict(backbone.named_parameters())
    read = {name: p for name, p in model.named_parameters() if not name.startswith("pooler.")}
    assert read.keys() == own.keys()
    for name, parameter in own.items():
        assert torch.equal(read[name], parameter), name
    text = "the printer does not print"
    assert (
        AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
        == (
            learner.network.tokenizer(text)["input_ids"]  # type: ignore[attr-defined]
        )
    )


def test_a_saved_folder_holds_the_whole_model_and_no_pickle(tiny_encoder: Path, tmp_path: Path) -> None:
    task = task_of("classify_text")
    learner = prepared(tiny_encoder, task, "full", labelled(12))
    learner.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".jinja", ".txt"}
    assert METHODS["full"].keeps_base is False
    again = METHODS["full"].restore(base_from(tmp_path, "encoder"), task, tmp_path)
    learner.evaluation_mode()
    again.evaluation_mode()
    rows = labelled(6).rows
    assert [p.scores for p in again.predict(rows)] == [p.scores for p in learner.predict(rows)]


def test_the_pooler_that_nobody_uses_is_left_out(tmp_path: Path, tiny_encoder: Path) -> None:
    """A pooler would be trained by nothing and reloaded as if it had been."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig.from_pretrained(tiny_encoder)).save_pretrained(tmp_path / "with")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "with")
    learner = prepared(tmp_path / "with", task_of("classify_text"), "full", labelled(6))
    assert not [name for name in trained(learner) if "pooler" in name]
    (tmp_path / "saved").mkdir()
    learner.save(tmp_path / "saved")
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if "pooler" in name]


@pytest.mark.parametrize("architecture", ["opt", "bloom", "gpt2", "llama"])
def test_the_recipes_dropout_reaches_every_way_of_writing_it(
    architecture: str, tiny_decoder: Path, tmp_path: Path
) -> None:
    """Modules (GPT-2), numbers handed to a function (OPT, Bloom), and a number for attention alone (Llama)."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_decoder)
    common = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = {
        "opt": lambda: transformers.OPTConfig(
            hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, dropout=0.5, word_embed_proj_dim=32,
            max_position_embeddings=256, **common,
        ),
        "bloom": lambda: transformers.BloomConfig(
            hidden_size=32, n_layer=2, n_head=2, hidden_dropout=0.5, attention_dropout=0.5, **common
        ),
        "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, resid_pdrop=0.5, **common),
        "llama": lambda: transformers.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, attention_dropout=0.5,
            max_position_embeddings=256, **common,
        ),
    }[architecture]()  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = rows_of("generate", 4)
    learner = prepared(tmp_path, task_of("generate"), "full", rows)
    examples = learner.encode(rows)

    def losses() -> set[float]:
        return {float(learner.loss(examples, 0.0).detach()) for _ in range(3)}

    learner.evaluation_mode()
    (quiet,) = losses()
    learner.train_mode(None)
    assert len(losses()) == 3
    learner.train_mode(0.0)
    assert list(losses()) == [pytest.approx(quiet, rel=1e-6)]
    learner.train_mode(0.5)
    assert len(losses()) == 3
