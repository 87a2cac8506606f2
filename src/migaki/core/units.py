"""Numbers as people read them: only for screens and messages, never for storage."""

from __future__ import annotations

__all__ = ["bytes_text", "count_text", "percent_text", "seconds_text"]


def bytes_text(n_bytes: float) -> str:
    """
    >>> bytes_text(1536), bytes_text(3 * 2**30)
    ('1.5 KiB', '3.0 GiB')
    """
    if round(abs(n_bytes)) < 1024:
        return f"{n_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        n_bytes /= 1024
        # Compared as it will be shown: 1023.99 KiB are told as 1.0 MiB.
        if round(abs(n_bytes), 1) < 1024 or unit == "GiB":
            return f"{n_bytes:.1f} {unit}"
    raise AssertionError("unreachable")


def seconds_text(seconds: float) -> str:
    """
    >>> seconds_text(0.25), seconds_text(75), seconds_text(7500)
    ('0.2 s', '1 min 15 s', '2 h 05 min')
    """
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if round(seconds, 1) < 10 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def count_text(n: int) -> str:
    """
    >>> count_text(950), count_text(22_713_216)
    ('950', '22.7 M')
    """
    if n < 1000:
        return str(n)
    count = float(n)
    for unit in ("k", "M", "G"):
        count /= 1000
        if round(count, 1) < 1000 or unit == "G":
            return f"{count:.1f} {unit}"
    raise AssertionError("unreachable")


def percent_text(ratio: float) -> str:
    """
    >>> percent_text(0.9143)
    '91.4 %'
    """
    return f"{100 * ratio:.1f} %"
