"""Compressed files to bytes, with a bound, so that a small file cannot fill the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from migaki.core.errors import DataError
from migaki.core.units import bytes_text

__all__ = ["PACKED", "opened", "unpacked"]

PACKED = {".gz": "gzip", ".zst": "zstd"}
"""Ending of the name -> the codec."""
_MOST_BYTES, _MOST_TIMES = 1 << 30, 200
"""What a file may grow to: so much, or so many times its own size. Text shrinks to a tenth, seldom to a fiftieth."""
_PIECE = 1 << 20


def opened(path: Path) -> Any:
    """A binary file to read from, unpacked on the way where its name says that it is compressed."""
    import pyarrow as pa

    codec = PACKED.get(path.suffix.lower())
    return pa.input_stream(str(path), compression=codec, buffer_size=_PIECE)


def unpacked(path: Path) -> bytes:
    """All bytes of a file, unpacked where its name says that it is compressed.

    Raises:
        DataError: it is damaged, or grows beyond all measure.
        OSError: it cannot be read.
    """
    if path.suffix.lower() not in PACKED:
        return path.read_bytes()
    import pyarrow as pa

    most = max(_MOST_BYTES, _MOST_TIMES * path.stat().st_size)
    pieces: list[bytes] = []
    size = 0
    try:
        with opened(path) as stream:
            while piece := stream.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise DataError(
                        f"{path} grows to more than {bytes_text(most)} when it is unpacked, which no text does. Check where "
                        "it comes from; if it is right, unpack it yourself and name the file."
                    )
                pieces.append(piece)
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise DataError(f"{path} is damaged or not compressed as its name says ({reason}). Get it again.") from None
    return b"".join(pieces)
