"""Odd and broken image files, each written by hand or by pillow: what a folder of a user may hold."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["BOMBS", "BROKEN", "ODD", "picture", "write_all"]


def picture(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    """Coloured noise under a gradient: no two sides are alike, so that a turned one is told apart."""
    noise = np.random.default_rng(seed).integers(0, 80, (height, width, 3))
    ramp = np.linspace(0, 170, width)[None, :, None] * np.array([1.0, 0.6, 0.2])
    return Image.fromarray((noise + ramp).astype(np.uint8), "RGB")


def _bytes(image: Image.Image, kind: str, **settings: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG with this header and these compressed rows, whether they fit or not."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _with_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    plain = _bytes(picture(), "PNG")
    return plain[:33] + _chunk(name, data) + plain[33:]


def _packed_zeros(megabytes: int) -> bytes:
    squeeze = zlib.compressobj(1)
    return b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(megabytes)) + squeeze.flush()


def _tiff(width: int, height: int) -> bytes:
    """A TIFF of one strip that says it has these sides."""
    tags = [
        *((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)),
        *((273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 8)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def _webp(width: int, height: int) -> bytes:
    """A lossless WebP that says it has these sides, at most 16384."""
    bits = struct.pack("<BI", 0x2F, (width - 1) | (height - 1) << 14)
    chunk = b"VP8L" + struct.pack("<I", len(bits) + 20) + bits + bytes(21)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _deep_colour() -> bytes:
    rows = b"".join(b"\0" + struct.pack(">12H", *(i * 5000 for i in range(12))) for _ in range(4))
    return png(4, 4, rows, depth=16, colour=2)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _frames(kind: str) -> bytes:
    first, *rest = (picture(seed=i) for i in range(3))
    return _bytes(first, kind, save_all=True, append_images=rest)


def _transparent() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _palette_with_hole() -> bytes:
    image = picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    return _bytes(image, "PNG", transparency=3)


def _deep_grey() -> bytes:
    values = np.linspace(0, 65535, 24 * 16).reshape(16, 24).astype(np.uint16)
    return _bytes(Image.fromarray(values), "PNG")


def _fractions() -> bytes:
    return _bytes(Image.fromarray(np.linspace(-3, 7, 24 * 16).reshape(16, 24).astype(np.float32), "F"), "TIFF")


def _wrong_checksum() -> bytes:
    data = bytearray(_bytes(picture(), "PNG"))
    data[29] ^= 0xFF
    return bytes(data)


def _scrambled(kind: str) -> bytes:
    """The middle of the file is noise."""
    data = bytearray(_bytes(picture(64, 64), kind))
    middle = len(data) // 2
    data[middle : middle + 200] = np.random.default_rng(1).bytes(200)
    return bytes(data)


ODD: dict[str, Callable[[], bytes]] = {
    "plain.png": lambda: _bytes(picture(), "PNG"),
    "plain.jpg": lambda: _bytes(picture(), "JPEG"),
    "plain.webp": lambda: _bytes(picture(), "WEBP"),
    "plain.bmp": lambda: _bytes(picture(), "BMP"),
    "plain.tif": lambda: _bytes(picture(), "TIFF"),
    "plain.ppm": lambda: _bytes(picture(), "PPM"),
    "progressive.jpg": lambda: _bytes(picture(), "JPEG", progressive=True),
    "grey.png": lambda: _bytes(picture().convert("L"), "PNG"),
    "grey.jpg": lambda: _bytes(picture().convert("L"), "JPEG"),
    "one-bit.png": lambda: _bytes(picture().convert("1"), "PNG"),
    "palette.png": lambda: _bytes(picture().convert("P"), "PNG"),
    "palette-hole.png": _palette_with_hole,
    "transparent.png": lambda: _bytes(_transparent(), "PNG"),
    "transparent.webp": lambda: _bytes(_transparent(), "WEBP"),
    "grey-transparent.png": lambda: _bytes(_transparent().convert("LA"), "PNG"),
    "deep.png": _deep_grey,
    "fractions.tif": _fractions,
    "cmyk.jpg": lambda: _bytes(picture().convert("CMYK"), "JPEG"),
    "cmyk.tif": lambda: _bytes(picture().convert("CMYK"), "TIFF"),
    "animated.gif": lambda: _frames("GIF"),
    "animated.webp": lambda: _frames("WEBP"),
    "animated.png": lambda: _frames("PNG"),
    "pages.tif": lambda: _frames("TIFF"),
    "one-pixel.png": lambda: _bytes(picture(1, 1), "PNG"),
    "thin.png": lambda: _bytes(picture(300, 1), "PNG"),
    "wrong-ending.png": lambda: _bytes(picture(), "JPEG"),
    **{f"turned-{i}.jpg": (lambda i=i: _bytes(picture(), "JPEG", exif=_exif(i), quality=95)) for i in range(2, 9)},
    "turned-nonsense.jpg": lambda: _bytes(picture(), "JPEG", exif=_exif(77)),
    "broken-exif.jpg": lambda: _bytes(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "broken-profile.png": lambda: _bytes(picture(), "PNG", icc_profile=b"no profile at all"),
    "tail.jpg": lambda: _bytes(picture(), "JPEG") + b"something of the camera's own" * 9,
    "tail.png": lambda: _bytes(picture(), "PNG") + bytes(99),
    "deep-colour.png": _deep_colour,
    "whole-numbers.tif": lambda: _bytes(Image.fromarray(np.arange(384, dtype=np.int32).reshape(16, 24) * 9999), "TIFF"),
    "luminance.tif": lambda: _bytes(picture().convert("LAB"), "TIFF"),
    "ycbcr.jpg": lambda: _bytes(picture().convert("YCbCr"), "JPEG"),
    "grey.pgm": lambda: _bytes(picture().convert("L"), "PPM"),
    "one-bit.tif": lambda: _bytes(picture().convert("1"), "TIFF", compression="group4"),
    "ENDING.JPEG": lambda: _bytes(picture(), "JPEG"),
}
"""Can be used; a rule says how."""

BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "is empty"),
    "zeros.png": (lambda: bytes(500), "is no image of a known kind"),
    "noise.jpg": (lambda: np.random.default_rng(0).bytes(500), "is no image of a known kind"),
    "text.png": (lambda: "これは画像ではない".encode(), "is no image of a known kind"),
    "web-page.jpg": (lambda: b"<!DOCTYPE html><title>404</title>", "a web page"),
    "drawing.png": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "document.jpg": (lambda: b"%PDF-1.7\n%%EOF", "a PDF"),
    "phone.jpg": (lambda: b"\0\0\0\x18ftypheic" + bytes(40), "save it as PNG or JPEG"),
    "postscript.png": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image of a known kind"),
    "cut.png": (lambda: _bytes(picture(64, 64), "PNG")[:900], "damaged or cut off"),
    "cut.jpg": (lambda: _bytes(picture(64, 64), "JPEG")[:900], "damaged or cut off"),
    "cut.webp": (lambda: _bytes(picture(64, 64), "WEBP", lossless=True)[:900], "damaged or cut off|no image"),
    "cut.gif": (lambda: _bytes(picture(64, 64), "GIF")[:1200], "damaged or cut off"),
    "cut.bmp": (lambda: _bytes(picture(64, 64), "BMP")[:900], "damaged or cut off"),
    "cut.tif": (lambda: _bytes(picture(64, 64), "TIFF")[:900], "damaged or cut off|no image"),
    "cut.ppm": (lambda: _bytes(picture(64, 64), "PPM")[:900], "damaged or cut off"),
    "header-only.png": (lambda: _bytes(picture(), "PNG")[:40], "damaged or cut off|no image"),
    "header-only.jpg": (lambda: _bytes(picture(), "JPEG")[:20], "damaged or cut off|no image"),
    "checksum.png": (_wrong_checksum, "damaged or cut off|no image"),
    "scrambled.png": (lambda: _scrambled("PNG"), "damaged or cut off"),
    "no-size.png": (lambda: png(0, 0, b""), "damaged or cut off|no image"),
    "bad-depth.png": (lambda: png(8, 8, bytes(72), depth=7), "damaged or cut off|no image"),
    "bad-colour.png": (lambda: png(8, 8, bytes(72), colour=5), "damaged or cut off|no image"),
    "bomb.png": (lambda: png(30_000, 30_000, bytes(1000)), "more than the 100,000,000"),
    "large.png": (lambda: png(11_000, 10_000, bytes(1000)), "more than the 100,000,000"),
    "bomb.gif": (lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20), "more than the 100,000,000|no image|damaged"),
    "bomb.ppm": (lambda: b"P6 60000 60000 255\n" + bytes(20), "more than the 100,000,000"),
    "negative.bmp": (lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, -5, 0, 1, 24, 0, 0, 0, 0, 0, 0), "damaged or cut off|no image"),
    "only-nan.tif": (lambda: _bytes(Image.fromarray(np.full((4, 4), np.nan, np.float32), "F"), "TIFF"), "no number"),
    "archive.png": (lambda: b"PK\x03\x04" + bytes(60), "a zip archive"),
}  # fmt: skip
"""Cannot be used; what the reason has to say (alternatives by |)."""

BROKEN |= {
    "icon.png": (lambda: _bytes(picture(16, 16), "ICO"), "is no image of a known kind"),
    "layers.jpg": (lambda: b"8BPS\0\1" + bytes(40), "is no image of a known kind"),
    "wavelets.jpg": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "is no image of a known kind"),
    "two-bytes.jpg": (lambda: b"\xff\xd8", "is no image of a known kind|damaged or cut off"),
    "cut.avif": (lambda: _bytes(picture(64, 64), "AVIF")[:400], "damaged or cut off|no image"),
}

BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.tif": (lambda: _tiff(60_000, 60_000), "more than the 100,000,000"),
    "bomb.webp": (lambda: _webp(16_384, 16_384), "more than the 100,000,000"),
    "bomb.bmp": (
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "more than the 100,000,000",
    ),
    "bomb-in-a-text.png": (lambda: _with_chunk(b"zTXt", b"x\0\0" + _packed_zeros(300)), "damaged or cut off"),
    "bomb-in-a-profile.png": (
        lambda: _with_chunk(b"iCCP", b"x\0\0" + _packed_zeros(300)),
        "damaged or cut off",
    ),
    **{name: BROKEN[name] for name in ("bomb.png", "bomb.gif", "bomb.ppm", "large.png")},
}  # fmt: skip
"""Would take gigabytes if they were believed; all of them are among the broken ones."""
BROKEN |= BOMBS


def write_all(folder: Path) -> tuple[list[Path], list[Path]]:
    """All of them as files, and what is no ordinary file among the broken ones: a pipe and a link to nowhere."""
    folder.mkdir(parents=True, exist_ok=True)
    odd, broken = [], []
    for name, make in ODD.items():
        odd.append(folder / name)
        odd[-1].write_bytes(make())
    for name, (make, _) in BROKEN.items():
        broken.append(folder / name)
        broken[-1].write_bytes(make())
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    return odd, [*broken, folder / "pipe.png", folder / "nowhere.png"]
