"""Loading: what is refused, what a fingerprint knows, and the one-time conversion of GGUF files."""

import json
import os
import shutil

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel

import migaki
from chats import TEMPLATES
from migaki.core.errors import DamagedError, ModelError
from migaki.core.store import verify
from migaki.core.types import Turn
from migaki.models import Model, locate
from migaki.models import base as module
from migaki.models.base import load_base
from migaki.models.conversion import weights_fingerprint
from tiny import chat_rows


def load(path, role="decoder"):
    return load_base(locate(Model(reference=str(path))), role)


@pytest.fixture
def folder(tiny_decoder, tmp_path):
    """A copy of the tiny decoder that a test may damage."""
    return shutil.copytree(tiny_decoder, tmp_path / "model")


def edit(folder, change):
    """Change the tensors of a model folder in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_loaded_base_is_frozen_float32_and_in_evaluation_mode(tiny_decoder, tiny_encoder):
    for path, role in ((tiny_decoder, "decoder"), (tiny_encoder, "encoder")):
        base = load(path, role)
        assert {p.dtype for p in base.model.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in base.model.parameters())
        assert not base.model.training


def test_half_precision_weights_are_loaded_in_float32(folder):
    edit(folder, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("config", "tokenizer", "limit"), [(256, None, 256), (256, 100, 100), (64, 10**30, 64), (64, 100, 64)]
)
def test_the_length_limit_is_the_smaller_of_model_and_tokenizer(folder, config, tokenizer, limit):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": config}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length", None)
    if tokenizer:
        settings["model_max_length"] = tokenizer
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load(folder).length_limit == limit


def test_weights_that_lack_a_tensor_are_refused(folder):
    """transformers would fill it with random numbers and warn."""
    edit(folder, lambda tensors: tensors.pop("model.layers.1.self_attn.q_proj.weight"))
    with pytest.raises(
        ModelError, match=r"lack 1 tensors of a decoder \(first: model\.layers\.1\.self_attn\.q_proj\.weight\)"
    ):
        load(folder)


def test_an_encoder_is_not_taken_for_a_decoder(tiny_encoder):
    """A BERT without its language-model head would write with a random one."""
    with pytest.raises(
        ModelError, match=r"lack \d+ tensors of a decoder.*Choose a model that was trained as a decoder"
    ):
        load(tiny_encoder, "decoder")


def test_tied_weights_that_stand_in_the_file_once_are_not_missing(tiny_decoder, tmp_path):
    from tiny import save_decoder

    for path in (tiny_decoder, save_decoder(tmp_path / "untied", tied=False)):
        tensors = load_file(path / "model.safetensors")
        assert ("lm_head.weight" in tensors) == (path != tiny_decoder)
        assert torch.equal(load(path).model.get_input_embeddings().weight, tensors["model.embed_tokens.weight"])


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder):
    name = "model.layers.0.mlp.up_proj.weight"
    edit(folder, lambda tensors: tensors.update({name: tensors[name][:60].clone()}))
    with pytest.raises(ModelError, match=r"up_proj\.weight has shape \(60, 32\) in the file.*asks for \(64, 32\)"):
        load(folder)


@pytest.mark.parametrize("bytes_left", [0, 4, 1000, -1])
def test_a_weight_file_that_was_cut_off_is_refused(folder, bytes_left):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(ModelError, match=r"cannot be loaded as a decoder.*is whole \(fetch it again\)"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_refused(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"cannot be loaded as a decoder.*is whole \(fetch it again\)"):
        load(folder)


def test_an_architecture_that_nobody_knows_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(ModelError, match=r"cannot be loaded as a decoder: .*nonesuch.*knows the architecture"):
        load(folder)


def test_pickled_weights_beside_safetensors_are_never_read(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 not to be opened")
    assert load(folder).model.config.hidden_size == 32


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_max_tokens": True}, None),
        (None, None),
    ],
)
def test_pooling_is_what_the_publisher_says(folder, settings, pooling):
    if settings is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert load(folder).pooling == pooling


def test_a_fingerprint_is_of_the_weights_alone(folder, tmp_path):
    first = weights_fingerprint(folder)
    other = shutil.copytree(folder, tmp_path / "elsewhere")
    (other / "README.md").write_text("license: mit\n")
    assert weights_fingerprint(other) == first
    edit(other, lambda tensors: tensors["model.norm.weight"].add_(1e-3))
    assert weights_fingerprint(other) != first


def test_a_fingerprint_does_not_believe_a_manifest_that_nobody_checked(folder):
    """A folder copied out of a run brings its manifest along; the weights beside it may have changed since."""
    first = load(folder).fingerprint
    manifest = {"files": [{"path": "model.safetensors", "sha256": "0" * 64, "bytes": 1}]}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    assert load(folder).fingerprint == first


# GGUF ---------------------------------------------------------------------------------------------------------------

TOKENS = ["<|pad|>", "<|start|>", "<|end|>", *sorted(ByteLevel.alphabet()), "Ġa", "he"]


def write_gguf(path, seed=0, vocabulary=None, leave_out=()):
    """A Llama of two layers with a byte-level tokenizer and a chat template in one GGUF file."""
    drawn = np.random.default_rng(seed)
    width, keys, inner, n = 32, 16, 64, vocabulary or len(TOKENS)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ a", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATES["tiny"])
    shapes = {"token_embd": (n, width), "output": (n, width), "output_norm": (width,)}
    for layer in range(2):
        for name, shape in {
            "attn_norm": (width,),
            "ffn_norm": (width,),
            "attn_q": (width, width),
            "attn_output": (width, width),
            "attn_k": (keys, width),
            "attn_v": (keys, width),
            "ffn_gate": (inner, width),
            "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }.items():
            shapes[f"blk.{layer}.{name}"] = shape
    for name, shape in shapes.items():
        if name not in leave_out:
            values = np.ones(shape) if len(shape) == 1 else drawn.normal(size=shape) * 0.1
            writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where conversions go in this test."""
    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


@pytest.fixture
def conversions(monkeypatch):
    """How often a file was really converted."""
    done = []
    convert = module._convert

    def counted(path, folder):
        done.append(path.name)
        convert(path, folder)

    monkeypatch.setattr(module, "_convert", counted)
    return done


def entries(cache):
    return sorted(path.name for path in cache.iterdir())


def test_a_gguf_file_is_a_model_with_its_tokenizer_and_template(tmp_path, cache):
    path = write_gguf(tmp_path / "tiny.gguf")
    base = load(path)
    stored = {t.name: torch.from_numpy(t.data.copy()) for t in gguf.GGUFReader(path).tensors}
    assert torch.equal(base.model.get_input_embeddings().weight, stored["token_embd.weight"])
    assert torch.equal(base.model.get_output_embeddings().weight, stored["output.weight"])
    assert torch.equal(base.model.model.layers[1].mlp.down_proj.weight, stored["blk.1.ffn_down.weight"])
    assert base.tokenizer("he a")["input_ids"] == [TOKENS.index("he"), TOKENS.index("Ġa")]
    assert base.tokenizer.chat_template == TEMPLATES["tiny"]
    assert base.tokenizer.eos_token == "<|end|>"
    assert base.length_limit == 128


def test_a_gguf_file_is_converted_once_and_says_so_only_then(tmp_path, cache, conversions, capsys):
    path = write_gguf(tmp_path / "tiny.gguf")
    first = load(path)
    said = capsys.readouterr()
    assert "Converting tiny.gguf once" in said.err
    # What a program reads is on the other stream.
    assert said.out == ""
    again = load(path)
    assert capsys.readouterr().err == ""
    assert conversions == ["tiny.gguf"]
    assert again.fingerprint == first.fingerprint == weights_fingerprint(cache / entries(cache)[0])
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_cache_knows_a_file_by_its_content(tmp_path, cache, conversions):
    path = write_gguf(tmp_path / "tiny.gguf")
    load(path)
    load(shutil.copy(path, tmp_path / "renamed.gguf"))
    assert conversions == ["tiny.gguf"]
    changed = load(write_gguf(path, seed=1))
    assert conversions == ["tiny.gguf", "tiny.gguf"]
    assert len(entries(cache)) == 2
    assert torch.equal(
        changed.model.get_input_embeddings().weight,
        torch.from_numpy(gguf.GGUFReader(path).tensors[0].data.copy()),
    )


def test_a_conversion_is_committed_whole(tmp_path, cache):
    load(write_gguf(tmp_path / "tiny.gguf"))
    (entry,) = entries(cache)
    files = {file["path"] for file in verify(cache / entry)["files"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files


@pytest.mark.parametrize("moment", ["before the weights", "before the tokenizer", "after all files"])
def test_a_conversion_that_is_broken_off_leaves_nothing(tmp_path, cache, monkeypatch, moment):
    path = write_gguf(tmp_path / "tiny.gguf")
    convert = module._convert

    def broken(gguf_path, folder):
        if moment != "before the weights":
            convert(gguf_path, folder)
        if moment == "before the tokenizer":
            (folder / "tokenizer.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_convert", broken)
    with pytest.raises(KeyboardInterrupt):
        load(path)
    assert entries(cache) == []
    monkeypatch.setattr(module, "_convert", convert)
    assert load(path).model.config.hidden_size == 32


def test_leftovers_of_a_killed_conversion_are_swept_and_those_of_a_living_one_are_not(tmp_path, cache):
    dead, alive = cache / f".x.tmp-{2**22 + 5}-aa", cache / f".y.tmp-{os.getpid()}-bb"
    dead.mkdir(parents=True)
    alive.mkdir()
    load(write_gguf(tmp_path / "tiny.gguf"))
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize("damage", ["flipped", "cut off", "missing", "manifest"])
def test_a_damaged_conversion_is_set_aside_and_made_again(tmp_path, cache, conversions, capsys, damage):
    path = write_gguf(tmp_path / "tiny.gguf")
    first = load(path)
    (entry,) = entries(cache)
    weights = cache / entry / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
        weights.write_bytes(content)
    elif damage == "cut off":
        weights.write_bytes(content[:-3])
    elif damage == "missing":
        (cache / entry / "tokenizer.json").unlink()
    else:
        (cache / entry / "MANIFEST.json").unlink()
    again = load(path)
    assert "was damaged" in capsys.readouterr().err
    assert len(conversions) == 2
    assert again.fingerprint == first.fingerprint
    assert entries(cache) == [f".corrupt-{entry}-0", entry]


def test_of_two_processes_that_convert_one_file_the_second_takes_the_firsts_result(tmp_path, cache, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    convert = module._convert

    def overtaken(gguf_path, folder):
        monkeypatch.setattr(module, "_convert", convert)
        load(path)  # the other process, quicker than this one
        convert(gguf_path, folder)

    monkeypatch.setattr(module, "_convert", overtaken)
    assert load(path).model.config.hidden_size == 32
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("keep", [0, 10, 5000, -5000])
def test_a_file_that_is_no_whole_gguf_is_refused_and_leaves_nothing(tmp_path, cache, keep):
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"tiny\.gguf cannot be read as a GGUF model.*is whole \(fetch it again\)"):
        load(path)
    assert entries(cache) == []


def test_a_gguf_that_lacks_a_tensor_is_refused_and_not_cached_with_a_random_one(tmp_path, cache):
    path = write_gguf(tmp_path / "tiny.gguf", leave_out=("blk.1.attn_q",))
    with pytest.raises(ModelError, match=r"lack 1 tensors of a decoder \(first: model\.layers\.1\.self_attn\.q_proj"):
        load(path)
    assert entries(cache) == []


def test_a_gguf_whose_tensors_do_not_fit_its_own_words_is_refused(tmp_path, cache):
    path = write_gguf(tmp_path / "tiny.gguf", vocabulary=len(TOKENS) + 4)
    with pytest.raises(ModelError, match=rf"has shape \({len(TOKENS) + 4}, 32\) in the file.*\({len(TOKENS)}, 32\)"):
        load(path)


def test_nothing_that_lies_beside_a_gguf_file_is_read_or_run(tmp_path, cache, monkeypatch, capsys):
    """transformers would take configuration from the same folder, and ask on the terminal whether to run its code."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    path = write_gguf(folder / "tiny.gguf")
    wanted = load(path).fingerprint
    shutil.rmtree(cache)
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}')
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", null]}, "chat_template": "x"}'
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    base = load(path)
    assert base.fingerprint == wanted
    assert base.tokenizer.chat_template == TEMPLATES["tiny"]
    assert not (tmp_path / "ran").exists()
    assert "custom code" not in capsys.readouterr().out


# An earlier run as the start of another ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tiny_decoder, tmp_path_factory):
    """A folder with one full and one LoRA run."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("full", {"kind": "lora", "rank": 2}):
        recipe = {
            "task": {"kind": "generate", "generated_rows": 0, "max_new_tokens": 6},
            "data": {"train": chat_rows(12)},
            "model": str(tiny_decoder),
            "method": method,
            "training": {"max_steps": 2, "learning_rate": 1e-2},
        }
        migaki.train(recipe, folder)
    return folder


@pytest.mark.parametrize("number", ["0001", "0002"])
def test_a_run_goes_on_from_the_model_that_an_earlier_one_ended_with(runs, number):
    from migaki.run import base_of

    earlier = migaki.load(number, runs)
    base = base_of(Model(reference=f"run:{number}"), "decoder", runs)
    assert base.reference == f"run:{number}"
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    ids = torch.tensor([[68, 69, 70, 71]])
    with torch.no_grad():
        tuned = earlier.learner.network.backbone(input_ids=ids).logits
        assert torch.allclose(base.model(input_ids=ids).logits, tuned, atol=1e-5)
    turns = [Turn("user", "hello")]
    assert earlier.generate(turns) == earlier.recipe.task.network(base, None, 0).answer([turns])[0]


def test_fingerprints_of_runs_differ_from_one_another_and_from_the_base(runs, tiny_decoder):
    from migaki.run import base_of

    prints = {base_of(Model(reference=f"run:{n}"), "decoder", runs).fingerprint for n in ("0001", "0002")}
    assert len({*prints, load(tiny_decoder).fingerprint}) == 3


def test_a_run_of_another_kind_of_task_is_no_start(runs):
    from migaki.run import base_of

    with pytest.raises(ModelError, match=r"run:0001 is a decoder \(generate\); this task needs"):
        base_of(Model(reference="run:0001"), "encoder", runs)


def test_a_damaged_run_is_no_start(runs, tmp_path):
    from migaki.run import base_of

    copy = shutil.copytree(runs, tmp_path / "runs")
    weights = next((copy / "0001-generate-full" / "model").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedError, match=r"is not the file that was written"):
        base_of(Model(reference="run:0001"), "decoder", copy)


@pytest.mark.slow
def test_the_bundled_chat_model_is_converted_once_and_answers(cache, conversions):
    """About a minute: SmolLM2-135M-Instruct, 134,515,008 parameters."""
    located = locate(Model(reference="bundled:smollm2"))
    first = load_base(located, "decoder")
    assert sum(p.numel() for p in first.model.parameters()) == 134_515_008
    assert load_base(located, "decoder").fingerprint == first.fingerprint
    assert conversions == [located.packed.name]
    from migaki.tasks import Generate

    network = Generate(max_new_tokens=32).network(first, None, 0)
    text, stopped = network.answer([[Turn("user", "What is the capital of France? Answer in one word.")]])[0]
    assert "Paris" in text
    assert stopped
