"""Models that hear, computed on exactly the frames that exist: a row comes out the same, alone or beside longer ones.

transformers fills every recording of Whisper up to 30 seconds and computes them all. Here the convolutions, the positions
and the blocks are run on the frames of the recording alone, which for a word of one second is a thirtieth of the work. It
is not the same computation: with the silence left out, what a decoder was trained on is missing, and Whisper base then
repeats itself (word error rate 3.9 instead of 0.06 on 50 telephone prompts). So features of an encoder are computed short,
and transcripts over the `whole_window`.
"""

# Shapes: B batch, N samples, F bands, T positions, D hidden

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from migaki.core.errors import ModelError

__all__ = ["Ear", "Heard", "PatchEar", "WaveEar", "WhisperEar", "ear_of"]

_SHORTEST_S = 0.1
"""A shorter recording is filled up with silence: the convolutions need something to stand on."""


@dataclass(frozen=True)
class Heard:
    """Hidden vectors of several recordings, and how many of them are real."""

    hidden_BTD: torch.Tensor
    lengths_B: torch.Tensor

    def mask(self) -> torch.Tensor:
        """(B, T), True where a position exists."""
        return torch.arange(self.hidden_BTD.shape[1], device=self.hidden_BTD.device) < self.lengths_B[:, None]

    def rows(self, numbers: Sequence[int]) -> Heard:
        """Some of the recordings."""
        return Heard(self.hidden_BTD[list(numbers)], self.lengths_B[list(numbers)])

    def mean(self) -> torch.Tensor:
        """(B, D), over the positions that exist."""
        real_BT1 = self.mask().unsqueeze(-1)
        return self.hidden_BTD.masked_fill(~real_BT1, 0.0).sum(1) / self.lengths_B[:, None]


class Ear(Protocol):
    """How one family of models turns samples into hidden vectors, in steps so that a beginning can be kept.

    `hear` is all of it; `embed` what comes before the blocks, `blocks` some of them, `finish` what comes behind them.
    """

    rate_hz: int
    """Samples a second that the model was trained on."""
    longest_s: float | None
    """The longest recording it can take at once, in seconds; None where it has no limit of its own."""
    layers: Sequence[nn.Module]
    """The blocks, in order."""
    bands: int
    """Bands of the spectrogram that it hears; 0 where it hears the samples themselves."""

    @property
    def width(self) -> int:
        """D"""
        ...

    def before(self) -> list[nn.Module]:
        """What is computed before the blocks."""
        ...

    def positions(self, n_samples: int) -> int:
        """How many hidden vectors so many samples become."""
        ...

    def frames(self, n_samples: int) -> int:
        """How many frames of the spectrogram tell of so many samples, and not of what they are filled up with; 0 where the
        samples themselves are heard."""
        ...

    def entering(self, wave_N: np.ndarray) -> torch.Tensor:
        """What goes into the network: a spectrogram (F, frames), or samples (N,)."""
        ...

    def embed(self, entering: Sequence[torch.Tensor]) -> Heard:
        """What enters the first block."""
        ...

    def outputs(self, heard: Heard, first: int = 0, last: int | None = None) -> Iterator[Heard]:
        """What comes out of each block from `first` to before `last`, one after the other."""
        ...

    def blocks(self, heard: Heard, first: int = 0, last: int | None = None) -> Heard:
        """Through the blocks from `first` to before `last`."""
        ...

    def finish(self, heard: Heard) -> Heard:
        """What comes out of the model, of what came out of the last block."""
        ...

    def pooled(self, heard: Heard) -> torch.Tensor:
        """One vector for each recording, (B, D), of what came out of the model."""
        ...


class _Blocks:
    """Blocks that take hidden vectors and a mask, as those of all families here do."""

    layers: Sequence[nn.Module]
    _config: Any

    @property
    def width(self) -> int:
        return int(self._config.hidden_size)

    def outputs(self, heard: Heard, first: int = 0, last: int | None = None) -> Iterator[Heard]:
        mask = create_bidirectional_mask(
            config=self._config, inputs_embeds=heard.hidden_BTD, attention_mask=heard.mask() if _uneven(heard) else None
        )
        hidden_BTD = heard.hidden_BTD
        for layer in self.layers[first:last]:
            hidden_BTD = layer(hidden_BTD, mask)
            yield Heard(hidden_BTD, heard.lengths_B)

    def blocks(self, heard: Heard, first: int = 0, last: int | None = None) -> Heard:
        for after in self.outputs(heard, first, last):
            heard = after
        return heard

    def pooled(self, heard: Heard) -> torch.Tensor:
        return heard.mean()


def _uneven(heard: Heard) -> bool:
    return bool((heard.lengths_B < heard.hidden_BTD.shape[1]).any())


def _filled_up(wave_N: np.ndarray, shortest: int) -> np.ndarray:
    missing = shortest - len(wave_N)
    return np.asarray(wave_N, dtype=np.float32) if missing <= 0 else np.pad(wave_N, (0, missing)).astype(np.float32)


def _trained(*modules: nn.Module) -> bool:
    return any(p.requires_grad for module in modules for p in module.parameters())


class WhisperEar(_Blocks):
    """Whisper's encoder. Source: Radford et al. 2022, arXiv:2212.04356, section 2.2."""

    def __init__(self, encoder: Any, extractor: Any, whole_window: bool = False) -> None:
        """`whole_window`: fill recordings up with silence to 30 s, as the model was trained, which its decoder needs."""
        self._encoder, self._extractor, self._whole = encoder, extractor, whole_window
        self._config = encoder.config
        self.layers = encoder.layers
        self.rate_hz = int(extractor.sampling_rate)
        self._hop = int(extractor.hop_length)
        self.bands = int(extractor.feature_size)
        self._most_frames = encoder.config.max_source_positions * encoder.conv2.stride[0]
        self.longest_s = self._most_frames * self._hop / self.rate_hz

    def before(self) -> list[nn.Module]:
        return [self._encoder.conv1, self._encoder.conv2, self._encoder.embed_positions]

    def positions(self, n_samples: int) -> int:
        return self._halved(int(self._most_frames) if self._whole else self.frames(n_samples))

    def frames(self, n_samples: int) -> int:
        return min(max(n_samples, round(_SHORTEST_S * self.rate_hz)) // self._hop, int(self._most_frames))

    @staticmethod
    def _halved(frames: int) -> int:
        return -(-frames // 2)

    def entering(self, wave_N: np.ndarray) -> torch.Tensor:
        """Log-mel spectrogram (F, frames), scaled by its own loudest point alone."""
        wave_N = _filled_up(wave_N[: self._most_frames * self._hop], round(_SHORTEST_S * self.rate_hz))
        if self._whole:
            wave_N = _filled_up(wave_N, self._most_frames * self._hop)
        found = self._extractor(wave_N, sampling_rate=self.rate_hz, padding="do_not_pad", return_tensors="pt")
        mel_FT: torch.Tensor = found["input_features"][0]
        return mel_FT

    def embed(self, entering: Sequence[torch.Tensor]) -> Heard:
        device = self._encoder.conv1.weight.device
        frames_B = torch.tensor([mel_FT.shape[1] for mel_FT in entering], device=device)
        mel_BFT = _stacked(entering).to(device)
        # Beside a longer row a frame that does not exist has to count nothing, as the zeros around a row do: not what the
        # first convolution makes of zeros, which is its bias.
        exists_B1T = torch.arange(mel_BFT.shape[2], device=device) < frames_B[:, None, None]
        first_BDT = nn.functional.gelu(self._encoder.conv1(mel_BFT)) * exists_B1T
        hidden_BTD = nn.functional.gelu(self._encoder.conv2(first_BDT)).transpose(1, 2)
        hidden_BTD = hidden_BTD + self._encoder.embed_positions.weight[: hidden_BTD.shape[1]]
        # What is frozen stays deterministic, and so does what comes out of it.
        hidden_BTD = nn.functional.dropout(hidden_BTD, self._encoder.dropout, self._encoder.conv1.training)
        return Heard(hidden_BTD, (frames_B + 1) // 2)

    def finish(self, heard: Heard) -> Heard:
        return Heard(self._encoder.layer_norm(heard.hidden_BTD), heard.lengths_B)


def _stacked(entering: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, F, T), zeros behind shorter ones."""
    longest = max(one.shape[-1] for one in entering)
    return torch.stack([nn.functional.pad(one, (0, longest - one.shape[-1])) for one in entering])


class WaveEar(_Blocks):
    """wav2vec 2.0 and HuBERT: convolutions over the samples, then blocks.

    Every recording goes through the convolutions alone, because the norm of their first layer is taken over time. Layers
    are never dropped as a whole and nothing is masked, whatever the model's configuration says: `augment` does that.
    Source: Baevski et al. 2020, arXiv:2006.11477; Hsu et al. 2021, arXiv:2106.07447.
    """

    longest_s: float | None = None
    bands = 0

    def __init__(self, model: Any, extractor: Any) -> None:
        self._model, self._extractor = model, extractor
        self._config = model.config
        self.layers = model.encoder.layers
        self.rate_hz = int(extractor.sampling_rate)
        if getattr(model, "adapter", None) is not None:
            raise ModelError(
                "This model has convolutions behind its blocks (add_adapter), which migaki does not compute. Use one without."
            )
        # A norm behind the blocks, or before them.
        self._stable = bool(model.config.do_stable_layer_norm)
        self._shortest = max(round(_SHORTEST_S * self.rate_hz), self._samples_of_one())

    def _samples_of_one(self) -> int:
        """Samples that become one position."""
        needed = 1
        for kernel, stride in zip(self._config.conv_kernel[::-1], self._config.conv_stride[::-1], strict=True):
            needed = (needed - 1) * stride + kernel
        return int(needed)

    def before(self) -> list[nn.Module]:
        encoder = self._model.encoder
        norm = [] if self._stable else [encoder.layer_norm]
        convolved = [self._model.feature_extractor, self._model.feature_projection, encoder.pos_conv_embed]
        return [*convolved, *norm, encoder.dropout]

    def positions(self, n_samples: int) -> int:
        length = max(n_samples, self._shortest)
        for kernel, stride in zip(self._config.conv_kernel, self._config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
        return length

    def frames(self, n_samples: int) -> int:
        return 0

    def entering(self, wave_N: np.ndarray) -> torch.Tensor:
        """Samples (N,), brought to mean 0 and variance 1 where the model was trained so."""
        found = self._extractor(_filled_up(wave_N, self._shortest), sampling_rate=self.rate_hz, return_tensors="pt")
        samples_N: torch.Tensor = found["input_values"][0]
        return samples_N

    def embed(self, entering: Sequence[torch.Tensor]) -> Heard:
        device = next(self._model.parameters()).device
        parts = [self._convolved(samples_N.to(device)) for samples_N in entering]
        lengths_B = torch.tensor([len(part_TD) for part_TD in parts], device=device)
        hidden_BTD = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        encoder = self._model.encoder
        hidden_BTD = hidden_BTD + encoder.pos_conv_embed(hidden_BTD)
        if not self._stable:
            hidden_BTD = encoder.layer_norm(hidden_BTD)
        return Heard(encoder.dropout(hidden_BTD), lengths_B)

    def _convolved(self, samples_N: torch.Tensor) -> torch.Tensor:
        """(T, D) of one recording, projected."""
        # In training it would ask for a gradient of the samples themselves.
        with torch.set_grad_enabled(torch.is_grad_enabled() and _trained(self._model.feature_extractor)):
            features_1CT = self._model.feature_extractor(samples_N[None])
        projected = self._model.feature_projection(features_1CT.transpose(1, 2))
        hidden_TD: torch.Tensor = (projected[0] if isinstance(projected, tuple) else projected)[0]
        return hidden_TD

    def finish(self, heard: Heard) -> Heard:
        return Heard(self._model.encoder.layer_norm(heard.hidden_BTD), heard.lengths_B) if self._stable else heard


class PatchEar(_Blocks):
    """The audio spectrogram transformer: a picture of a fixed size, cut into patches; shorter recordings are filled up.

    Source: Gong et al. 2021, arXiv:2104.01778.
    """

    def __init__(self, model: Any, extractor: Any) -> None:
        self._model, self._extractor = model, extractor
        self._config = model.config
        self.layers = model.layers
        self.rate_hz = int(extractor.sampling_rate)
        self.bands = int(model.config.num_mel_bins)
        # Frames of 25 ms, one every 10 ms, as Kaldi takes them.
        self.longest_s = 0.01 * model.config.max_length + 0.015
        self._positions = int(model.embeddings.position_embeddings.shape[1])

    def before(self) -> list[nn.Module]:
        return [self._model.embeddings]

    def positions(self, n_samples: int) -> int:
        return self._positions

    def frames(self, n_samples: int) -> int:
        length, step = round(0.025 * self.rate_hz), round(0.01 * self.rate_hz)
        n_samples = max(n_samples, round(_SHORTEST_S * self.rate_hz))
        return int(min(1 + max(0, n_samples - length) // step, self._config.max_length))

    def entering(self, wave_N: np.ndarray) -> torch.Tensor:
        """Spectrogram (F, frames)."""
        wave_N = _filled_up(wave_N, round(_SHORTEST_S * self.rate_hz))
        found = self._extractor(wave_N, sampling_rate=self.rate_hz, return_tensors="pt")
        mel_TF: torch.Tensor = found["input_values"][0]
        return mel_TF.T

    def embed(self, entering: Sequence[torch.Tensor]) -> Heard:
        device = self._model.embeddings.position_embeddings.device
        hidden_BTD = self._model.embeddings(torch.stack([mel_FT.T for mel_FT in entering]).to(device))
        return Heard(hidden_BTD, torch.full((len(entering),), hidden_BTD.shape[1], device=device))

    def finish(self, heard: Heard) -> Heard:
        return Heard(self._model.layernorm(heard.hidden_BTD), heard.lengths_B)

    def pooled(self, heard: Heard) -> torch.Tensor:
        # Of the two tokens in front that were trained to stand for the whole.
        return (heard.hidden_BTD[:, 0] + heard.hidden_BTD[:, 1]) / 2


def ear_of(model: Any, extractor: Any, whole_window: bool = False) -> Ear:
    """The way to compute an encoder.

    Args:
        model: the whole model, or one with a head on it.
        extractor: transformers' feature extractor of it.
        whole_window: see `WhisperEar`.
    Raises:
        ModelError: it is of a family that is not known here.
    """
    kind = model.config.model_type
    body = getattr(model, model.base_model_prefix, model)
    if kind == "whisper":
        return WhisperEar(getattr(body, "encoder", body), extractor, whole_window)
    if kind in ("wav2vec2", "hubert"):
        return WaveEar(body, extractor)
    if kind == "audio-spectrogram-transformer":
        return PatchEar(body, extractor)
    raise ModelError(
        f"migaki cannot hear with a model of type {kind}. Use one of whisper, wav2vec2, hubert or "
        "audio-spectrogram-transformer."
    )
