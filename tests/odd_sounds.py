"""Odd and broken sound files, each written by hand or by soundfile: what a folder of a user may hold."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

__all__ = ["BOMBS", "BROKEN", "ODD", "RATE_HZ", "tone", "wav", "write_all"]

RATE_HZ = 16_000


def tone(seconds: float = 0.5, rate_hz: int = RATE_HZ, hertz: float = 440.0, height: float = 0.3) -> np.ndarray:
    """A sine, (N,) float32."""
    at_N = np.arange(round(seconds * rate_hz)) / rate_hz
    return (height * np.sin(2 * np.pi * hertz * at_N)).astype(np.float32)


def _bytes(
    samples: np.ndarray,
    kind: str = "WAV",
    subtype: str | None = None,
    rate_hz: int = RATE_HZ,
    endian: str | None = None,
) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate_hz, format=kind, subtype=subtype, endian=endian)
    return out.getvalue()


def wav(
    data: bytes,
    rate_hz: int = RATE_HZ,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    promised: int | None = None,
) -> bytes:
    """A WAV with this header over these bytes, whether they fit or not."""
    align = channels * bits // 8
    size = len(data) if promised is None else promised
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * align & 0xFFFFFFFF, align, bits)
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + body


def _pcm(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def _float(samples: np.ndarray) -> bytes:
    return wav(samples.astype("<f4").tobytes(), bits=32, tag=3)


def _stereo(left: np.ndarray, right: np.ndarray) -> bytes:
    return _bytes(np.stack([left, right], 1))


def _with(value: float) -> np.ndarray:
    samples = tone()
    samples[100] = value
    return samples


def _noise(seconds: float = 0.5, height: float = 0.2) -> np.ndarray:
    n = round(seconds * RATE_HZ)
    return (height * np.random.default_rng(0).standard_normal(n)).clip(-1, 1).astype(np.float32)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _damaged(data: bytes) -> bytes:
    """With 64 bytes in the middle turned over."""
    at = len(data) // 2
    return data[:at] + bytes(b ^ 0xFF for b in data[at : at + 64]) + data[at + 64 :]


ODD: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "plain.wav": (lambda: _bytes(tone()), set()),
    "eight-bits.wav": (lambda: _bytes(tone(), subtype="PCM_U8"), set()),
    "twenty-four-bits.wav": (lambda: _bytes(tone(), subtype="PCM_24"), set()),
    "thirty-two-bits.wav": (lambda: _bytes(tone(), subtype="PCM_32"), set()),
    "float.wav": (lambda: _float(tone()), set()),
    "double.wav": (lambda: _bytes(tone(), subtype="DOUBLE"), set()),
    "mu-law.wav": (lambda: _bytes(tone(rate_hz=8000), subtype="ULAW", rate_hz=8000), set()),
    "a-law.wav": (lambda: _bytes(tone(rate_hz=8000), subtype="ALAW", rate_hz=8000), set()),
    "adpcm.wav": (lambda: _bytes(tone(), subtype="IMA_ADPCM"), set()),
    "gsm.wav": (lambda: _bytes(tone(rate_hz=8000), subtype="GSM610", rate_hz=8000), set()),
    "big-endian.wav": (lambda: _bytes(tone(), endian="BIG"), set()),
    "plain.flac": (lambda: _bytes(tone(), "FLAC"), set()),
    "vorbis.ogg": (lambda: _bytes(tone(), "OGG", "VORBIS"), set()),
    "speech.opus": (lambda: _bytes(tone(), "OGG", "OPUS"), set()),
    "plain.mp3": (lambda: _bytes(tone(), "MP3"), set()),
    "plain.aiff": (lambda: _bytes(tone(), "AIFF"), set()),
    "plain.au": (lambda: _bytes(tone(), "AU"), set()),
    "plain.caf": (lambda: _bytes(tone(), "CAF"), set()),
    "plain.w64": (lambda: _bytes(tone(), "W64"), set()),
    "flac-called-wav.wav": (lambda: _bytes(tone(), "FLAC"), set()),
    "telephone.wav": (lambda: _bytes(tone(rate_hz=8000), rate_hz=8000), set()),
    "studio.wav": (lambda: _bytes(tone(rate_hz=96_000), rate_hz=96_000), set()),
    "odd-rate.wav": (lambda: _bytes(tone(rate_hz=22_257), rate_hz=22_257), set()),
    "stereo.wav": (lambda: _stereo(tone(), tone(hertz=300)), {"mixed"}),
    "one-side-silent.wav": (lambda: _stereo(tone(), 0 * tone()), {"mixed"}),
    "six-channels.flac": (lambda: _bytes(np.stack([tone(hertz=200 + 50 * i) for i in range(6)], 1), "FLAC"), {"mixed"}),
    "upside-down.wav": (lambda: _stereo(tone(), -tone()), {"mixed", "opposed", "silent"}),
    "digital-silence.wav": (lambda: _bytes(0 * tone()), {"silent"}),
    "hum.wav": (lambda: _bytes(_noise(height=2e-4)), {"silent"}),
    "clipped.wav": (lambda: _bytes(tone(height=3.0).clip(-1, 1)), {"clipped"}),
    "beyond-full-scale.wav": (lambda: _float(tone(height=2.5)), {"scaled", "clipped"}),
    "one-sample.wav": (lambda: _bytes(tone()[1:2]), set()),
    "streamed.wav": (lambda: wav(_pcm(tone()), promised=0xFFFFFFFF), {"streamed"}),
    "streamed-by-ffmpeg.wav": (lambda: wav(_pcm(tone()), promised=0x7FFFF000), {"streamed"}),
    "with-a-tail.wav": (lambda: _bytes(tone()) + b"LIST\x04\x00\x00\x00abcd", set()),
    "cut-off.ogg": (lambda: _half(_bytes(_noise(3.0), "OGG", "VORBIS")), {"unended"}),
    "cut-off.opus": (lambda: _half(_bytes(_noise(3.0), "OGG", "OPUS")), {"unended"}),
    "constant.wav": (lambda: _bytes(0 * tone() + 0.25), set()),
}
"""Name -> how it is made, and the rules that have to be applied to it."""

BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "text.wav": (lambda: b"this is no recording at all\n" * 9, "cannot be read as a recording"),
    "zeros.wav": (lambda: bytes(4096), "cannot be read as a recording"),
    "random.flac": (lambda: np.random.default_rng(0).bytes(4096), "cannot be read as a recording"),
    "web-page.mp3": (lambda: b"<!DOCTYPE html><html><body>404</body></html>", "cannot be read as a recording"),
    "picture.wav": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(64), "cannot be read as a recording"),
    "header-alone.wav": (lambda: wav(b"")[:36], "cannot be read as a recording"),
    "half-a-header.wav": (lambda: wav(b"")[:20], "cannot be read as a recording"),
    "no-samples.wav": (lambda: wav(b""), "holds no samples"),
    "header-alone.flac": (lambda: _bytes(tone(), "FLAC")[:42], "cannot be read|is damaged|is cut off|holds no samples"),
    "cut-off.wav": (lambda: _half(_bytes(tone())), "is cut off"),
    "cut-off.aiff": (lambda: _half(_bytes(tone(), "AIFF")), "is cut off"),
    "cut-off.au": (lambda: _half(_bytes(tone(), "AU")), "is cut off"),
    "cut-off.w64": (lambda: _half(_bytes(tone(), "W64")), "is cut off"),
    "cut-off.caf": (lambda: _half(_bytes(tone(), "CAF")), "cannot be read as a recording"),
    "cut-off.flac": (lambda: _half(_bytes(_noise(), "FLAC")), "is cut off|is damaged"),
    "cut-off.mp3": (lambda: _half(_bytes(_noise(3.0), "MP3")), "is cut off"),
    "damaged.flac": (lambda: _damaged(_bytes(_noise(), "FLAC")), "is damaged|is cut off"),
    "promises-too-much.wav": (lambda: wav(_pcm(tone()), promised=1 << 24), "is cut off"),
    "nan.wav": (lambda: _float(_with(np.nan)), "no numbers"),
    "infinite.wav": (lambda: _float(_with(-np.inf)), "no numbers"),
    "no-rate.wav": (lambda: wav(_pcm(tone()), rate_hz=0), "samples a second|cannot be read"),
    "one-hertz.wav": (lambda: wav(_pcm(tone()), rate_hz=1), "says it has 1 samples a second"),
    "two-gigahertz.wav": (lambda: wav(_pcm(tone()), rate_hz=2_000_000_000), "samples a second|cannot be read"),
    "no-channels.wav": (lambda: wav(_pcm(tone()), channels=0), "cannot be read as a recording"),
    "many-channels.wav": (lambda: wav(bytes(200 * 64), channels=64), "has 64 channels"),
    "thousands-of-channels.wav": (lambda: wav(bytes(60_000), channels=9999), "cannot be read|channels"),
    "unknown-code.wav": (lambda: wav(_pcm(tone()), tag=0x7777), "cannot be read as a recording"),
    "hours.wav": (lambda: wav(bytes(4_000 * 3_700), rate_hz=4_000, bits=8), "longer than 60 minutes"),
    "phone.m4a": (lambda: b"\x00\x00\x00\x20ftypM4A " + bytes(64), "is AAC.*ffmpeg -i phone.m4a phone.wav"),
    "meeting.wma": (lambda: b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(64), "is Windows Media"),
    "browser.webm": (lambda: b"\x1a\x45\xdf\xa3" + bytes(64), "is WebM"),
    "old-phone.amr": (lambda: b"#!AMR\n" + bytes(64), "is AMR"),
}
"""Name -> how it is made, and the reason with which it is refused."""

BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    # More than an hour of silence in a few kilobytes.
    "silent-hours.flac": (lambda: _bytes(np.zeros(3_700 * 4_000, np.int16), "FLAC", rate_hz=4_000), "longer than 60 minutes"),
    # 32 channels of an hour at 384,000 samples a second would be 177 GB.
    "wide.wav": (lambda: wav(bytes(64 * 4_000), rate_hz=384_000, channels=32, promised=0x7FFFEFFF), "is cut off"),
    "hours.wav": BROKEN["hours.wav"],
}  # fmt: skip
"""Would take gigabytes if they were believed; all of them are among the broken ones."""
BROKEN |= BOMBS


def write_all(folder: Path) -> None:
    """Every file of both tables, under its name."""
    for name, (make, _) in (*ODD.items(), *BROKEN.items()):
        (folder / name).write_bytes(make())
