"""Image files to pixels: one rule for every odd form, applied in training and afterwards alike.

Turned by its EXIF mark: turned upright. Palette, greyscale, CMYK and YCbCr: converted to RGB, colour profiles aside.
Transparent: laid over white. 16 bits a colour: its upper 8. 32 bits or fractions, which have no fixed range: from its
darkest to its brightest pixel. Animated, or of several pages: its first one. More than 100 million pixels: refused before
a pixel is decoded. Cut off or damaged: refused with the reason.
"""

# Shapes: H height, W width

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from migaki.data.exhibits import Exhibit, image_exhibit
from migaki.data.likeness import difference_hash
from migaki.data.media import Look

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGES", "decoded"]

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Of all that pillow opens: those that are pictures, and whose readers run no other program."""
_MOST_PIXELS = 100_000_000
_LOOKED_AT = 256
"""Longer side, in pixels, of the copy on which brightness and sharpness are measured."""
_DRAFT = 192
"""Pixels a side from which a thumbnail is made, where a format gives smaller copies for less work."""
_DEEP = {"I;16", "I;16B", "I;16L", "I;16N"}
_ENDLESS = {"I", "F"}


class _Images:
    """Images by pillow."""

    name = "image"
    version = "3"
    endings = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"})
    columns = ("image", "image_path", "image_file", "picture", "photo", "画像", "画像ファイル", "写真")
    told: Mapping[str, Sequence[str]] = {}
    remarks = {  # noqa: RUF012 - a table of words
        "turned": "are turned upright by their EXIF mark",
        "palette": "have a palette and are converted to RGB",
        "transparent": "are transparent and are laid over white",
        "deep": "have 16 bits a colour, of which the upper 8 are used",
        "grey": "are greyscale and are converted to RGB, three equal colours",
        "stretched": "have 32 bits or fractions and are stretched from their darkest to their brightest pixel",
        "cmyk": "are CMYK and are converted to RGB without a colour profile",
        "animated": "have several frames or pages, of which the first is used",
    }

    def look(self, path: Path) -> Look:
        """Size, form, light and sharpness of an image. Raises ValueError with the reason where it cannot be used.

        aspect: width over height. brightness and contrast: mean and standard deviation of the luma (0..1). sharpness:
        variance of its Laplacian on a copy of at most 256 pixels a side; out of focus it is near 0. Source: Pech-Pacheco et
        al. 2000, doi:10.1109/ICPR.2000.903548.
        """
        with _opened(path) as image:
            remarks = tuple(sorted(_remarks(image)))
            rgb = _converted(image)
        width, height = rgb.size
        small = rgb.convert("L")
        small.thumbnail((_LOOKED_AT, _LOOKED_AT))
        luma_HW = np.asarray(small, dtype=np.float64) / 255
        traits = {
            "width": float(width),
            "height": float(height),
            "aspect": round(width / height, 3),
            "brightness": round(float(luma_HW.mean()), 4),
            "contrast": round(float(luma_HW.std()), 4),
            "sharpness": round(_sharpness(luma_HW), 6),
        }
        return Look(traits, remarks, difference_hash(small))

    def show(self, path: Path) -> Exhibit:
        """Its thumbnail. Raises ValueError with the reason where it cannot be used."""
        with _opened(path) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in range(5, 9)
            width, height = (image.height, image.width) if turned else image.size
            # A JPEG of millions of pixels is decoded at an eighth of its size, in an instant.
            image.draft(None, (_DRAFT, _DRAFT))
            return image_exhibit(_converted(image), width, height)


IMAGES = _Images()


def decoded(path: str | Path) -> Image.Image:
    """The image as RGB, upright, whole. Raises ValueError with the reason where it cannot be used."""
    with _opened(Path(path)) as image:
        return _converted(image)


class _RefusedError(ValueError):
    """Says in our own words why an image cannot be used; readers of damaged files raise ValueError as well."""


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # Of sizes we judge ourselves; of odd metadata nobody needs to know.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise _RefusedError(
                        f"has {image.width} x {image.height} pixels, more than the {_MOST_PIXELS:,} that are read; make it smaller"
                    )
                yield image
        except _RefusedError:
            raise
        except Image.DecompressionBombError:
            raise _RefusedError(f"has more than the {_MOST_PIXELS:,} pixels that are read; make it smaller") from None
        except UnidentifiedImageError:
            said = f"is no image of a known kind ({_beginning(path)}); save it as PNG or JPEG, or remove it"
            raise _RefusedError(said) from None
        except MemoryError:
            raise _RefusedError("needs more memory than there is; make it smaller") from None
        except (
            Exception
        ) as error:  # readers of damaged files raise anything: OSError, ValueError, SyntaxError, struct.error, KeyError
            raise _RefusedError(f"is damaged or cut off ({_reason(error)}); get it again, or remove it") from None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100].rstrip(".")


def _beginning(path: Path) -> str:
    """What the first bytes of a file say about it, in words."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    known = {
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a zip archive",
        b"<svg": "an SVG drawing",
        b"<?xml": "an XML file",
        b"<!DO": "a web page",
        b"<htm": "a web page",
    }
    for mark, what in known.items():
        if head.startswith(mark):
            return what
    if head[4:8] == b"ftyp":
        return f"a file of kind {head[8:12].decode('latin-1')!r}, as photographs of some phones are"
    return f"it begins with {head[:8].hex(' ')}"


def _remarks(image: Image.Image) -> set[str]:
    """Names of the rules that are about to be applied."""
    found = set()
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        found.add("turned")
    if image.mode in ("P", "PA"):
        found.add("palette")
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        found.add("transparent")
    if image.mode in ("1", "L", "LA", "La"):
        found.add("grey")
    if image.mode in _DEEP:
        found.add("deep")
    if image.mode in _ENDLESS:
        found.add("stretched")
    if image.mode == "CMYK":
        found.add("cmyk")
    if getattr(image, "n_frames", 1) > 1:
        found.add("animated")
    return found


_ORIENTATION = 0x0112


def _converted(image: Image.Image) -> Image.Image:
    """RGB, upright, over white. The first frame is the one that is open."""
    from PIL import Image, ImageOps

    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _DEEP:
        return _grey(np.asarray(upright).astype(np.uint16) >> 8)
    if upright.mode in _ENDLESS:
        return _grey(_stretched(np.asarray(upright, dtype=np.float64)))
    if upright.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in upright.info:
        layered = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return upright.convert("RGB")


def _grey(luma_HW: Any) -> Image.Image:
    from PIL import Image

    return Image.fromarray(luma_HW.astype(np.uint8), "L").convert("RGB")


def _stretched(values_HW: np.ndarray) -> np.ndarray:
    """From 0 for the smallest number to 255 for the largest; what is no number counts as the smallest."""
    known = values_HW[np.isfinite(values_HW)]
    if not known.size:
        raise _RefusedError("holds no number that stands for a brightness; export it anew")
    low, high = float(known.min()), float(known.max())
    if high == low:
        return np.zeros(values_HW.shape)
    return np.asarray(np.nan_to_num((values_HW - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0) * 255)


def _sharpness(luma_HW: np.ndarray) -> float:
    if min(luma_HW.shape) < 3:
        return 0.0
    inner = luma_HW[1:-1, 1:-1]
    laplacian = luma_HW[:-2, 1:-1] + luma_HW[2:, 1:-1] + luma_HW[1:-1, :-2] + luma_HW[1:-1, 2:] - 4 * inner
    return float(laplacian.var())
