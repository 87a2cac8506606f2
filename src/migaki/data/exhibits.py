"""Files as a page shows them: small, and as text that can stand in it (data URIs), so that nothing has to be fetched.

An image becomes a thumbnail. A recording becomes a compressed copy of its beginning, its outline, and a picture of its
bands of frequencies.
"""

# Shapes: T frames, B bands, S samples, P columns

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from migaki.data.bands import BANDS_RATE_HZ, band_levels

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Exhibit", "exhibits", "image_exhibit", "recording_exhibit"]

Exhibit = Mapping[str, Any]
"""JSON-able, with its `kind`. image: `picture`, with `width` and `height` of the file. recording: `sound` (its first
`heard_s` of all `seconds`), `outline` (0..100 for each of some columns) with the `peak_db` of its highest point, and
`picture`, its spectrogram."""

_SIDE = 96
_HEARD_S = 20.0
_COLUMNS, _BANDS, _SHADES = 240, 64, 32
_RANGE = 6.0
"""Powers of ten below the loudest level that are told apart in a spectrogram: 60 dB."""
_DARK_TO_BRIGHT = ((8, 8, 30), (60, 15, 110), (150, 40, 125), (230, 85, 90), (250, 170, 90), (252, 250, 200))
"""Colours of a spectrogram, equally far apart; their lightness rises throughout, so that it can be read without colours."""
_AT_ONCE = 32


def exhibits(paths: Iterable[str], show: Callable[[Path], Exhibit], most_characters: int) -> dict[str, Exhibit]:
    """An exhibit for each file in this order, until the next ones would make them larger than allowed together.

    Files that cannot be read any more have none.

    Args:
        paths: those that matter most first.
        show: makes one; raises ValueError where the file cannot be read.
        most_characters: of all data URIs together.
    """

    def shown(path: str) -> Exhibit | None:
        try:
            return show(Path(path))
        except ValueError:
            return None

    found: dict[str, Exhibit] = {}
    left, coming = most_characters, iter(dict.fromkeys(paths))
    with ThreadPoolExecutor(4) as pool:
        while few := list(islice(coming, _AT_ONCE)):
            for path, exhibit in zip(few, pool.map(shown, few), strict=True):
                if exhibit is None:
                    continue
                left -= sum(len(value) for value in exhibit.values() if isinstance(value, str))
                if left < 0:
                    return found
                found[path] = exhibit
    return found


def image_exhibit(image: Image.Image, width: int, height: int) -> Exhibit:
    """The thumbnail of an image, at most 96 pixels a side, as PNG or JPEG, whichever is smaller.

    Args:
        image: RGB; may be a smaller copy of what was read.
        width: of the file, in pixels; with `height`.
    """
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    as_png = _picture(small, "PNG", optimize=True)
    as_jpeg = _picture(small, "JPEG", quality=80)
    picture = min(as_png, as_jpeg, key=len)
    return {"kind": "image", "picture": picture, "width": width, "height": height}


def recording_exhibit(wave_S: np.ndarray) -> Exhibit:
    """The beginning of a recording to be heard and seen.

    Args:
        wave_S: all its samples at 16 kHz, -1..1.
    """
    heard_S = wave_S[: round(_HEARD_S * BANDS_RATE_HZ)]
    starts_P = np.unique(np.linspace(0, len(heard_S), _COLUMNS, endpoint=False).astype(int))
    outline_P = np.maximum.reduceat(np.abs(heard_S), starts_P)
    peak = float(outline_P.max())
    return {
        "kind": "recording",
        "sound": _sound(heard_S),
        "seconds": round(len(wave_S) / BANDS_RATE_HZ, 2),
        "heard_s": round(len(heard_S) / BANDS_RATE_HZ, 2),
        "outline": np.round(100 * outline_P / (peak or 1.0)).astype(int).tolist(),
        "peak_db": round(20 * float(np.log10(max(peak, 1e-6))), 1),
        "picture": _picture(_spectrogram(band_levels(heard_S, _BANDS)), "PNG", optimize=True),
    }


def _sound(wave_S: np.ndarray) -> str:
    import soundfile

    out = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        # About 3 KB a second; what matters is to hear what was said.
        settings: dict[str, Any] = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.8}
        soundfile.write(out, wave_S, BANDS_RATE_HZ, **settings)
        return _uri("audio/mpeg", out)
    soundfile.write(out, wave_S, BANDS_RATE_HZ, format="FLAC", subtype="PCM_16")
    return _uri("audio/flac", out)


def _spectrogram(levels_TB: np.ndarray) -> Image.Image:
    """Time from left to right, bands from the lowest at the bottom to the highest at the top."""
    from PIL import Image

    starts_P = np.unique(np.linspace(0, len(levels_TB), _COLUMNS, endpoint=False).astype(int))
    levels_PB = np.maximum.reduceat(levels_TB, starts_P, axis=0)
    shares_PB = np.clip(1 + (levels_PB - levels_PB.max()) / _RANGE, 0.0, 1.0)
    shades_BP = np.round(shares_PB * (_SHADES - 1)).astype(np.uint8).T[::-1]
    picture = Image.fromarray(np.ascontiguousarray(shades_BP), "P")
    at = np.linspace(0, 1, _SHADES)
    anchors = np.linspace(0, 1, len(_DARK_TO_BRIGHT))
    colours = np.stack([np.interp(at, anchors, channel) for channel in zip(*_DARK_TO_BRIGHT, strict=True)], 1)
    picture.putpalette(colours.round().astype(np.uint8).tobytes())
    return picture


def _picture(image: Image.Image, kind: str, **settings: Any) -> str:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return _uri(f"image/{kind.lower()}", out)


def _uri(kind: str, out: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
