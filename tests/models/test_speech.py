"""Recordings of different lengths, computed together: each as if it were alone, and as transformers computes it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from migaki.core.errors import ModelError
from migaki.models.speech import Heard, ear_of
from odd_sounds import RATE_HZ
from tiny_speech import FAMILIES, WINDOW_S, chirp, loaded

SECONDS = (0.05, 0.31, 0.5, 0.123, 0.77)


def through(ear, waves) -> Heard:
    return ear.finish(ear.blocks(ear.embed([ear.entering(wave_N) for wave_N in waves])))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    model, extractor = loaded(request.param, tmp_path_factory.mktemp("model"))
    return request.param, model, extractor


@torch.no_grad()
def test_a_row_beside_longer_ones_is_what_it_is_alone(family):
    ear = ear_of(family[1], family[2])
    waves = [chirp(i, seconds) for i, seconds in enumerate(SECONDS)]
    together = through(ear, waves)
    for i, wave_N in enumerate(waves):
        alone = through(ear, [wave_N])
        n = int(together.lengths_B[i])
        assert n == alone.hidden_BTD.shape[1]
        torch.testing.assert_close(together.hidden_BTD[i, :n], alone.hidden_BTD[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ear.pooled(together)[i], ear.pooled(alone)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_as_many_positions_come_out_as_were_told_before(family):
    ear = ear_of(family[1], family[2])
    for seconds in (0.001, 0.1, 0.10001, 0.2345, 0.5, 1.0):
        wave_N = chirp(0, seconds)
        assert int(through(ear, [wave_N]).lengths_B[0]) == ear.positions(len(wave_N)), seconds


@torch.no_grad()
def test_the_blocks_in_two_parts_are_the_blocks_in_one(family):
    ear = ear_of(family[1], family[2])
    entering = [ear.entering(chirp(i, s)) for i, s in enumerate(SECONDS)]
    whole = ear.blocks(ear.embed(entering))
    parts = ear.blocks(ear.blocks(ear.embed(entering), last=1), first=1)
    torch.testing.assert_close(whole.hidden_BTD, parts.hidden_BTD, rtol=0, atol=0)


@torch.no_grad()
def test_models_that_transformers_computes_without_filling_up_agree_with_it(family):
    kind, model, extractor = family
    if kind == "whisper":
        pytest.skip("transformers fills Whisper up; see the tests of its own")
    ear = ear_of(model, extractor)
    wave_N = chirp(3, 0.6)
    inputs = extractor(wave_N, sampling_rate=RATE_HZ, return_tensors="pt")
    wanted = model(inputs["input_values"])
    found = through(ear, [wave_N])
    torch.testing.assert_close(found.hidden_BTD, wanted.last_hidden_state, rtol=1e-4, atol=1e-5)
    if kind == "audio-spectrogram-transformer":
        torch.testing.assert_close(ear.pooled(found), wanted.pooler_output, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return loaded("whisper", tmp_path_factory.mktemp("whisper"))


@torch.no_grad()
def test_the_whole_window_of_whisper_is_what_transformers_computes(whisper):
    model, extractor = whisper
    wave_N = chirp(1, 0.6)
    wanted = model.encoder(extractor(wave_N, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"])
    found = through(ear_of(model, extractor, whole_window=True), [wave_N])
    torch.testing.assert_close(found.hidden_BTD, wanted.last_hidden_state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.2, 0.5])
@torch.no_grad()
def test_the_frames_that_exist_are_what_an_encoder_of_just_that_size_computes(whisper, seconds):
    """transformers takes one length alone: so it is given an encoder of that length with the same weights."""
    model, extractor = whisper
    ear = ear_of(model, extractor)
    mel_FT = ear.entering(chirp(2, seconds))
    config = WhisperConfig.from_dict({**model.config.to_dict(), "max_source_positions": mel_FT.shape[1] // 2})
    small = WhisperEncoder(config).eval()
    weights = model.encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][: mel_FT.shape[1] // 2]
    small.load_state_dict(weights)
    wanted = small(mel_FT[None]).last_hidden_state
    torch.testing.assert_close(through(ear, [chirp(2, seconds)]).hidden_BTD, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_block_of_whisper_worked_out_in_numpy(whisper):
    model, extractor = whisper
    ear = ear_of(model, extractor)
    weights = {name: p.double().numpy() for name, p in model.encoder.state_dict().items()}
    mel_FT = ear.entering(chirp(4, 0.13)).double().numpy()
    wanted = _first_block(weights, mel_FT, model.config.encoder_attention_heads)
    found = ear.blocks(ear.embed([ear.entering(chirp(4, 0.13)), ear.entering(chirp(5, 0.4))]), last=1)
    n = int(found.lengths_B[0])
    np.testing.assert_allclose(found.hidden_BTD[0, :n].numpy(), wanted, rtol=1e-4, atol=1e-5)


def _first_block(weights, mel_FT, heads):
    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def convolved(x_IT, name, stride):
        w_OIK, b_O = weights[f"{name}.weight"], weights[f"{name}.bias"]
        padded = np.pad(x_IT, ((0, 0), (1, 1)))
        starts = range(0, x_IT.shape[1], stride)
        return np.stack([(w_OIK * padded[None, :, t : t + 3]).sum((1, 2)) + b_O for t in starts], 1)

    def norm(x_TD, name):
        centred = x_TD - x_TD.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x_TD, name):
        return x_TD @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    h_TD = gelu(convolved(gelu(convolved(mel_FT, "conv1", 1)), "conv2", 2)).T
    h_TD = h_TD + weights["embed_positions.weight"][: len(h_TD)]
    x_TD = norm(h_TD, "layers.0.self_attn_layer_norm")
    q, k, v = (linear(x_TD, f"layers.0.self_attn.{name}_proj") for name in "qkv")
    size = q.shape[1] // heads
    mixed = []
    for head in range(heads):
        at = slice(head * size, (head + 1) * size)
        scores = q[:, at] @ k[:, at].T / math.sqrt(size)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        mixed.append(shares / shares.sum(1, keepdims=True) @ v[:, at])
    h_TD = h_TD + linear(np.concatenate(mixed, 1), "layers.0.self_attn.out_proj")
    inner = gelu(linear(norm(h_TD, "layers.0.final_layer_norm"), "layers.0.fc1"))
    return h_TD + linear(inner, "layers.0.fc2")


def test_a_recording_longer_than_the_window_loses_its_end(whisper):
    ear = ear_of(*whisper)
    assert ear.longest_s == WINDOW_S
    long_N = chirp(0, WINDOW_S + 1.0)
    assert ear.positions(len(long_N)) == 50 * WINDOW_S
    torch.testing.assert_close(ear.entering(long_N), ear.entering(long_N[: WINDOW_S * RATE_HZ]))


def test_a_frozen_beginning_asks_for_no_gradient(tmp_path):
    model, extractor = loaded("wav2vec2", tmp_path)
    model.requires_grad_(False)
    model.train()
    ear = ear_of(model, extractor)
    assert not ear.embed([ear.entering(chirp(0, 0.3))]).hidden_BTD.requires_grad
    model.feature_extractor.requires_grad_(True)
    assert ear.embed([ear.entering(chirp(0, 0.3))]).hidden_BTD.requires_grad


def test_a_model_of_words_cannot_hear(tmp_path):
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match="cannot hear with a model of type bert"):
        ear_of(AutoModel.from_pretrained(tmp_path), None)
