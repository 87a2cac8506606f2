"""How a recording is altered at random before it is heard in training. Settings, and what is drawn by them; no torch.

Source of the masks: Park et al. 2019 (SpecAugment), arXiv:1904.08779, section 2.
"""

# Shapes: N samples, F bands, T frames

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from migaki.core.parts import Part
from migaki.core.seeds import generator

__all__ = ["AugmentSound", "SoundView"]

_NOISE_SPAN_DB = 20.0
"""So far above the lowest ratio of speech to noise others are drawn."""

Mask = tuple[float, float]
"""Where it begins and how much it covers, as shares of the whole (0..1)."""


class AugmentSound(Part):
    """What may happen to a recording in training. How it is altered follows from the seed, its number and the epoch alone, so
    a run that was interrupted hears the same."""

    gain_db: Annotated[float, Field(ge=0, le=40)] = 0.0
    """How much louder or quieter it may become, in decibels; what goes beyond full scale is cut off. 6 is usual. Whisper and
    most wav2vec 2.0 models scale what they hear themselves and hardly notice."""
    noise_db: Annotated[float, Field(ge=-10, le=80)] | None = None
    """White noise is added, at least this many decibels below the mean loudness of the recording and at most 20 more; null:
    none. 10 is a loud room, 30 is hardly heard."""
    shift_s: NonNegativeFloat = 0.0
    """At most so many seconds of silence are put before it, as far as the model hears; nothing is cut off."""
    time_masks: NonNegativeInt = 0
    """How many stretches of time are hidden (SpecAugment): in a spectrogram by its mean, in samples by silence. 2 is usual."""
    time_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Longest share of the recording that one of them covers. Words that are hidden have to be guessed, so keep it short for
    transcripts."""
    band_masks: NonNegativeInt = 0
    """How many bands of frequencies are hidden: in a spectrogram by its mean, in samples by a filter. 2 is usual."""
    band_share: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Largest share of the bands that one of them covers."""
    views: PositiveInt | None = None
    """In how many ways each recording is altered. null: in another way every time it is heard. A number: the epochs take
    turns with so many, and what is frozen below the trained part is computed once for each of them and kept."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        changes = self.gain_db, self.shift_s, self.time_masks, self.band_masks
        if not any(changes) and self.noise_db is None:
            raise ValueError(
                "as it is it changes nothing; set gain_db, noise_db, shift_s, time_masks or band_masks, or leave augment out."
            )
        return self

    def draw(self, seed: int, number: int, epoch: int) -> SoundView:
        """How the recording of row `number` is altered in epoch `epoch`."""
        turn = epoch % self.views if self.views else epoch
        randomness = generator(seed, "augment", turn, number)
        # Everything is drawn whether it is used or not: the noise stays as loud as it was when masks are switched on.
        gain_db = self.gain_db * float(randomness.uniform(-1, 1))
        above_db = _NOISE_SPAN_DB * float(randomness.uniform())
        silence_s = self.shift_s * float(randomness.uniform())
        return SoundView(
            gain_db=gain_db,
            noise_db=None if self.noise_db is None else self.noise_db + above_db,
            noise_of=(seed, turn, number),
            silence_s=silence_s,
            time=_masks(generator(seed, "time masks", turn, number), self.time_masks, self.time_share),
            bands=_masks(generator(seed, "band masks", turn, number), self.band_masks, self.band_share),
        )


def _masks(randomness: np.random.Generator, n: int, largest: float) -> tuple[Mask, ...]:
    """Each covers 0 up to `largest`, anywhere inside the whole."""
    found = []
    for width, place in randomness.uniform(size=(n, 2)).tolist():
        found.append((place * (1 - width * largest), width * largest))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SoundView:
    """One way to hear a recording."""

    gain_db: float
    noise_db: float | None
    """How far below the mean loudness of the recording the noise lies; None: there is none."""
    noise_of: tuple[int, int, int]
    """Seed, turn and row, from which the noise follows."""
    silence_s: float
    time: tuple[Mask, ...]
    bands: tuple[Mask, ...]

    def of(self, wave_N: np.ndarray, rate_hz: int, longest: int | None = None) -> np.ndarray:
        """The samples (N',) float32 in -1..1, without the masks.

        Args:
            longest: samples that the model hears at most; silence before the recording pushes nothing of it beyond.
        """
        silence = round(self.silence_s * rate_hz)
        if longest is not None:
            silence = max(0, min(silence, longest - len(wave_N)))
        found_N = np.pad(wave_N, (silence, 0)).astype(np.float32)
        found_N *= 10 ** (self.gain_db / 20)
        if self.noise_db is not None and len(wave_N):
            level = float(np.sqrt(np.mean(np.square(found_N[silence:], dtype=np.float64))))
            seed, turn, number = self.noise_of
            noise_N = generator(seed, "noise", turn, number).standard_normal(len(found_N), dtype=np.float32)
            found_N += noise_N * np.float32(level * 10 ** (-self.noise_db / 20))
        return np.clip(found_N, -1.0, 1.0)

    def masked_samples(self, wave_N: np.ndarray) -> np.ndarray:
        """For a model that hears samples: silence in the stretches, and a filter that lets the bands not through.

        The shares of `bands` are of all frequencies up to half the rate.
        """
        found_N = wave_N
        if self.bands:
            spectrum_F = np.fft.rfft(wave_N)
            for at in _slices(self.bands, len(spectrum_F)):
                spectrum_F[at] = 0
            found_N = np.fft.irfft(spectrum_F, len(wave_N)).astype(np.float32)
        if self.time:
            found_N = found_N.copy()
            for at in _slices(self.time, len(wave_N)):
                found_N[at] = 0
        return found_N

    def masked_bands(self, mel_FT: np.ndarray, n_frames: int) -> np.ndarray:
        """For a model that hears a spectrogram: its mean in the stretches and bands of the first `n_frames` frames, behind
        which there is no recording any more."""
        if not (self.time or self.bands):
            return mel_FT
        found_FT = mel_FT.copy()
        heard_FT = found_FT[:, :n_frames]
        mean = heard_FT.mean()
        for at in _slices(self.time, heard_FT.shape[1]):
            heard_FT[:, at] = mean
        for at in _slices(self.bands, heard_FT.shape[0]):
            heard_FT[at] = mean
        return found_FT


def _slices(masks: tuple[Mask, ...], n: int) -> list[slice]:
    return [slice(round(start * n), round((start + width) * n)) for start, width in masks]
