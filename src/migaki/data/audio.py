"""Sound files: decoded once, mixed to one channel, brought to the rate that a model hears, and looked into.

The rules, the same for every file:

- **Channels** are averaged. Where they cancel one another out (one is the other turned upside down) that is told.
- **Rate**: resampled once, by soxr at its high quality, to what the model was trained on.
- **Loudness** stays as it is; only samples of a float file that go beyond full scale are scaled back to it, all alike.
- **Length**: an hour at most, by the samples that are there, not by what the header promises.
- A file that ends before its header says, or holds samples that are no numbers, is not used.
"""

# Shapes: N samples of a recording, C channels, W windows of 25 ms

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from migaki.core.cache import Cache
from migaki.core.errors import DataError
from migaki.core.types import Media
from migaki.core.units import bytes_text
from migaki.data.bands import BANDS_RATE_HZ
from migaki.data.exhibits import Exhibit, recording_exhibit
from migaki.data.media import Look
from migaki.data.workers import in_order

if TYPE_CHECKING:
    import soundfile

__all__ = ["LONGEST_S", "RECORDINGS", "Recordings", "Waves", "need_audio", "read_wave"]

LONGEST_S = 3600.0
"""The longest recording that is read, in seconds."""

_LOWEST_RATE, _HIGHEST_RATE = 4_000, 384_000
_MOST_CHANNELS = 32
_BLOCK_FRAMES = 1 << 16
_WINDOW_S = 0.025
_SILENT_DB = -60.0
"""Below full scale. The rounding of 16 bits lies at -98, a quiet room in a good recording at -70 to -50."""
_FULL_SCALE = 0.999
_CLIPPED_SHARE = 1e-3
_CANCELLED = 0.1
"""Share of their level that the mean of channels keeps where they are called opposed; of unlike ones it is 0.7."""
_MOST_SNR_DB = 100.0
"""Digital silence in the pauses; no microphone is that quiet."""
_FLOOR_DB = -120.0
"""What digital silence counts as, so that every level is a number."""
_WAVES_FORMAT, _WAVES_BYTES = "1", 8 << 30

_CHUNK = re.compile(r"^ *(?:data|SSND|riff|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""How libsndfile's log tells of a WAV, AIFF, W64 or AU file whose samples are not as many as it says."""
_LONGEST_PAGE = 65_307
_GUESSED = 0.2
"""An MP3 without a table of contents has no length of its own: one that is guessed may be wrong by this share."""

_UNREADABLE = {
    **dict.fromkeys((".m4a", ".aac", ".mp4"), "AAC"),
    **dict.fromkeys((".wma", ".asf"), "Windows Media"),
    **dict.fromkeys((".webm", ".mka"), "WebM"),
    **dict.fromkeys((".amr", ".3gp"), "AMR"),
}
"""Endings of recordings in formats that libsndfile does not know."""


class Recordings:
    """How a sound file is read; see `media.MediaKind`."""

    name = "recording"
    version = "2"
    endings = frozenset(
        {
            ".wav",
            ".flac",
            ".ogg",
            ".oga",
            ".opus",
            ".mp3",
            ".aiff",
            ".aif",
            ".aifc",
            ".au",
            ".snd",
            ".caf",
            ".w64",
            ".rf64",
        }
        | _UNREADABLE.keys()
    )
    columns: Sequence[str] = ("audio", "audio_path", "wav", "sound", "recording", "clip", "音声", "録音")
    told: Mapping[str, Sequence[str]] = {
        "speaker": ("speaker", "speaker_id", "speaker_name", "client_id", "話者", "話者id", "話し手")
    }
    remarks: Mapping[str, str] = {
        "mixed": "have several channels, which are averaged",
        "opposed": "have channels that cancel one another out, so that their average is almost silent; keep one of them",
        "silent": f"hold nothing louder than {_SILENT_DB:g} dB below full scale",
        "clipped": f"are clipped: more than {_CLIPPED_SHARE:.1%} of their samples stand at full scale; record them more quietly",
        "scaled": "hold samples beyond full scale and are scaled back to it",
        "unended": "lack the mark that ends an Ogg file and may be cut off; compare them with where they came from",
        "streamed": "do not say how long they are; they are taken to the last sample that is there",
    }

    def look(self, path: Path) -> Look:
        """Seconds, rate, level, noise, silence and clipping. The file is read block by block, so memory stays small.

        Traits: `seconds`; `rate_hz`; `level_db`, the loudness, and `noise_db`, that of the quietest tenth of windows, both
        in dB below full scale; `snr_db`, how far the loudest tenth of windows is above the quietest, which of a voice with
        pauses is about its distance from the noise (dB, 0 where the sound never changes, 100 at most); `silence` and
        `clipped`, shares (0..1) of windows and samples.
        """
        facts, remarks = _Facts(), set()
        with _opened(path) as file:
            if file.channels > 1:
                remarks.add("mixed")
            if _streamed(file):
                remarks.add("streamed")
            if file.format == "OGG" and not _ended(path):
                remarks.add("unended")
            for block_NC in _blocks(file, path):
                facts.add(block_NC, file.samplerate)
            rate = file.samplerate
        if facts.peak > 1:
            remarks.add("scaled")
        level_db, silence, clipped = facts.level_db(), facts.silence(), facts.n_full / facts.n_numbers
        if facts.opposed():
            remarks.add("opposed")
        if silence == 1:
            remarks.add("silent")
        if clipped > _CLIPPED_SHARE:
            remarks.add("clipped")
        traits = {
            "seconds": round(facts.n_frames / rate, 3),
            "rate_hz": float(rate),
            "level_db": round(level_db, 1),
            "noise_db": round(facts.noise_db(), 1),
            "snr_db": round(facts.snr_db(), 1),
            "silence": round(silence, 4),
            "clipped": round(clipped, 6),
        }
        return Look(traits, tuple(sorted(remarks)))

    def show(self, path: Path) -> Exhibit:
        """Its beginning to be heard and seen. Raises ValueError with the reason where it cannot be read."""
        return recording_exhibit(read_wave(path, BANDS_RATE_HZ))


RECORDINGS = Recordings()


@dataclass
class _Facts:
    """What is added up over the blocks of a file."""

    n_frames: int = 0
    n_numbers: int = 0
    n_full: int = 0
    peak: float = 0.0
    power: float = 0.0
    """Sum of the squares of the averaged channels."""
    power_apart: float = 0.0
    """Sum of the squares of all channels, over their number."""
    windows: list[np.ndarray] = field(default_factory=list)
    """Mean square of each window."""

    def add(self, block_NC: np.ndarray, rate: int) -> None:
        size_NC = np.abs(block_NC)
        self.n_frames += len(block_NC)
        self.n_numbers += block_NC.size
        self.n_full += int((size_NC >= _FULL_SCALE).sum())
        self.peak = max(self.peak, float(size_NC.max(initial=0.0)))
        square_N = block_NC.mean(1, dtype=np.float64) ** 2
        self.power += float(square_N.sum())
        self.power_apart += float((block_NC.astype(np.float64) ** 2).mean(1).sum())
        starts_W = np.arange(0, len(square_N), max(1, round(_WINDOW_S * rate)))
        counts_W = np.diff([*starts_W, len(square_N)])
        self.windows.append(np.add.reduceat(square_N, starts_W) / counts_W)

    def level_db(self) -> float:
        return _decibel(self.power / self.n_frames / self._scale())

    def noise_db(self) -> float:
        return _decibel(float(np.quantile(np.concatenate(self.windows), 0.1)) / self._scale())

    def snr_db(self) -> float:
        noise, loud = np.quantile(np.concatenate(self.windows), [0.1, 0.9])
        return min(_decibel(float(loud)) - _decibel(float(noise)), _MOST_SNR_DB)

    def _scale(self) -> float:
        """What the squares are divided by where samples are scaled back."""
        return max(self.peak, 1.0) ** 2

    def silence(self) -> float:
        """Share of windows that are silent."""
        return float((np.concatenate(self.windows) < 10 ** (_SILENT_DB / 10)).mean())

    def opposed(self) -> bool:
        return self.power < _CANCELLED**2 * self.power_apart


def _decibel(mean_square: float) -> float:
    return max(10 * math.log10(mean_square), _FLOOR_DB) if mean_square > 0 else _FLOOR_DB


def need_audio() -> None:
    """Raises DataError where the packages are missing by which recordings are read and transcripts judged."""
    missing = [name for name in ("soundfile", "soxr", "jiwer") if find_spec(name) is None]
    if missing:
        raise DataError(f"Recordings need further packages ({', '.join(missing)}): pip install 'migaki[audio]'.")


def _opened(path: Path) -> soundfile.SoundFile:
    """The file, open at its beginning. Raises ValueError with the reason where it is no recording that can be used."""
    need_audio()
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        if kind := _UNREADABLE.get(path.suffix.lower()):
            raise ValueError(
                f"is {kind}, which libsndfile cannot read; convert it: ffmpeg -i {path.name} {path.stem}.wav"
            ) from None
        raise ValueError(f"cannot be read as a recording ({_reason(error)}); record or convert it anew") from None
    try:
        _check_header(file)
    except ValueError:
        file.close()
        raise
    return file


def _check_header(file: soundfile.SoundFile) -> None:
    if not _LOWEST_RATE <= file.samplerate <= _HIGHEST_RATE:
        raise ValueError(
            f"says it has {file.samplerate} samples a second; from {_LOWEST_RATE} to {_HIGHEST_RATE} is what is recorded. Correct "
            "its header, or export it anew"
        )
    if file.channels > _MOST_CHANNELS:
        raise ValueError(
            f"has {file.channels} channels; {_MOST_CHANNELS} are read at most. Export the one that is meant"
        )
    promised, there = _chunk_sizes(file)
    if promised > there and not _streamed(file):
        raise ValueError(
            f"is cut off: its header promises {bytes_text(promised)} of samples, {bytes_text(there)} are there; get it again"
        )


def _chunk_sizes(file: soundfile.SoundFile) -> tuple[int, int]:
    """Bytes of samples by the header and as they are there; equal where the format does not tell."""
    # libsndfile takes a cut off file for a shorter one and says so in its log alone.
    found = _CHUNK.search(file.extra_info)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _streamed(file: soundfile.SoundFile) -> bool:
    """Whether the header was written before anybody knew how long the recording would be."""
    return _chunk_sizes(file)[0] >= 0x7FFFF000


def _ended(path: Path) -> bool:
    """Whether the last page of an Ogg file is marked as the last one (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_PAGE))
        tail = file.read()
    at = tail.rfind(b"OggS")
    return at >= 0 and len(tail) > at + 5 and bool(tail[at + 5] & 4)


def _blocks(file: soundfile.SoundFile, path: Path) -> Iterator[np.ndarray]:
    """(N, C) float32, to the end of the file. Raises ValueError where it is broken, too long, or holds no numbers."""
    import soundfile

    n_frames = 0
    while True:
        try:
            block_NC: np.ndarray = file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            at = n_frames / file.samplerate
            raise ValueError(f"is damaged after {at:.2f} s ({_reason(error)}); get it again") from None
        n_frames += len(block_NC)
        if not len(block_NC):
            break
        if not np.isfinite(block_NC).all():
            raise ValueError("holds samples that are no numbers (NaN or Inf); export it anew")
        if n_frames > LONGEST_S * file.samplerate:
            raise ValueError(f"is longer than {LONGEST_S / 60:g} minutes; cut it into parts")
        yield block_NC
    if not n_frames:
        raise ValueError("holds no samples; record it again")
    missing = file.frames - n_frames
    if missing > (_GUESSED * file.frames if file.format == "MP3" else 0) and not _streamed(file):
        raise ValueError(
            f"is cut off: it should have {file.frames / file.samplerate:.2f} s and ends after "
            f"{n_frames / file.samplerate:.2f} s; get it again"
        )


def _reason(error: Exception) -> str:
    """The last part of what libsndfile says, without the path, which stands before it anyway."""
    said = str(error).rsplit(": ", 1)[-1].strip().rstrip(".") or type(error).__name__
    # Its reader of MP3 says so of whatever it cannot make sense of.
    return "Format not recognised" if said.startswith("File does not exist") else said


def read_wave(path: Path | str, rate_hz: int) -> np.ndarray:
    """The samples of a recording, its channels averaged, at this rate: (N,) float32 in -1..1.

    Raises:
        ValueError: it cannot be read, with the reason.
    """
    import soxr

    path = Path(path)
    parts: list[np.ndarray] = []
    peak = 0.0
    with _opened(path) as file:
        same = file.samplerate == rate_hz
        stream = None if same else soxr.ResampleStream(file.samplerate, rate_hz, 1, dtype="float32", quality="HQ")
        for block_NC in _blocks(file, path):
            peak = max(peak, float(np.abs(block_NC).max()))
            mono_N = block_NC.mean(1, dtype=np.float32)
            parts.append(mono_N if stream is None else stream.resample_chunk(mono_N))
        if stream is not None:
            parts.append(stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    wave_N: np.ndarray = np.concatenate(parts)
    del parts  # an hour of samples must not stand in memory three times
    if peak > 1:
        wave_N /= np.float32(peak)
    # Resampling may swing a little beyond what it was given; that is no scaling of the recording.
    return np.clip(wave_N, -1.0, 1.0, out=wave_N)


class _WaveAt:
    """From the path of a recording that could be read when it was looked into to its samples, here or in a worker."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz

    def __call__(self, path: str) -> np.ndarray:
        try:
            return read_wave(path, self._rate_hz)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None


def _known_waves(media: Sequence[Media], rate_hz: int) -> Iterator[np.ndarray]:
    """The samples of each, in order, decoded ahead where workers are at hand."""
    return in_order(_WaveAt(rate_hz), [one.path for one in media])


class Waves(Sequence[np.ndarray]):
    """The samples of many recordings, memory-mapped; decoded and resampled once, whoever asks for them later.

    They are read only: what changes them makes a copy.
    """

    def __init__(self, samples_N: np.ndarray, ends: np.ndarray) -> None:
        self._samples_N, self._ends = samples_N, ends

    @classmethod
    def cached(cls, media: Sequence[Media], rate_hz: int) -> Waves:
        """From the cache, or decoded now and kept under the hashes of the files.

        Raises:
            ValueError: a file changed since it was looked into and cannot be read any more.
            StorageError: the disk is full.
        """
        facts = [_WAVES_FORMAT, RECORDINGS.version, str(rate_hz), *(m.sha256 for m in media)]

        def make(folder: Path) -> None:
            ends, n = np.zeros(len(media), dtype=np.int64), 0
            # Written, not mapped: a disk that fills up is then an error and not a crash.
            with (folder / "samples.bin").open("wb") as file:
                for number, wave_N in enumerate(_known_waves(media, rate_hz)):
                    file.write(wave_N.tobytes())
                    n += len(wave_N)
                    ends[number] = n
            np.save(folder / "ends.npy", ends)

        entry = Cache("waves", _WAVES_BYTES).get(hashlib.sha256("\x1f".join(facts).encode()).hexdigest()[:32], make)
        return cls(np.memmap(entry / "samples.bin", np.float32, "r"), np.load(entry / "ends.npy"))

    @classmethod
    def of(cls, media: Sequence[Media], rate_hz: int) -> Waves:
        """In memory only, for recordings that are heard once."""
        waves = list(_known_waves(media, rate_hz))
        return cls(np.concatenate(waves), np.cumsum([len(wave_N) for wave_N in waves], dtype=np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Samples of each recording, int64."""
        return np.diff(self._ends, prepend=0)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, at: slice) -> list[np.ndarray]: ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        start = int(self._ends[at - 1]) if at else 0
        return self._samples_N[start : int(self._ends[at])]
