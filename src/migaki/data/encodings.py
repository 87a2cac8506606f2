"""Bytes to text: UTF-8 unless the bytes say otherwise, and never a silent guess."""

from __future__ import annotations

import codecs
import re
import unicodedata

from migaki.core.errors import DataError
from migaki.core.types import shorten

__all__ = ["decode", "encoding_of"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_JAPANESE = ("cp932", "euc_jp")
_SHOWN_AS = ("cp1252", *_JAPANESE)
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\u30fc]")
_KANA_SHARE = 0.2
_LOOKED_AT = 1 << 14
"""Bytes on each side of a bad one by which damaged UTF-8 is told from another encoding."""
_WHITE = frozenset("\t\r\n")
_ASCII = re.compile(r"[\x00-\x7f]+")
_SAVE = "Save the file as UTF-8"


def decode(data: bytes, source: str, encoding: str | None = None) -> tuple[str, str]:
    """The text of a file, without a byte order mark, and the encoding it was read with.

    UTF-8 (with or without a mark), UTF-16 with a mark and ISO-2022-JP by its escapes are certain. Other bytes are
    read as Shift-JIS (CP932) or EUC-JP where just one of the two turns them into text with kana, which no other
    language has and no wrong decoding yields. Everything else is refused: a wrong guess would put unreadable text
    into the model without a word.

    Args:
        data: all bytes of the file.
        source: its name, for messages.
        encoding: what the recipe says; it is then used strictly, and nothing is guessed.
    Raises:
        DataError: undecidable, mixed, or not in the encoding that was asked for; names the line.

    >>> decode("本".encode("utf-16"), "a.csv")
    ('本', 'utf-16')
    """
    if encoding is not None:
        text, found = _as_told(data, source, encoding), encoding
    else:
        text, found = _found_out(data, source)
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise DataError(f"{source}:{line}: holds a NUL character, so the file is damaged. Remove it, or export again.")
    return text.removeprefix("\ufeff"), found


def encoding_of(piece: bytes, source: str, encoding: str | None = None, lines_before: int = 0) -> str:
    """The encoding of a file by a piece of it; see `decode`, which wants the whole.

    Args:
        piece: begins with a line.
        source: name of the file, for messages.
        encoding: what the user says; it is only looked up.
        lines_before: how many lines of the file stand before the piece.
    Raises:
        DataError: undecidable, or there is no such encoding.
    """
    if encoding is not None:
        _as_told(b"", source, encoding)
        return encoding
    for mark, name in _MARKS:
        if piece.startswith(mark) and not lines_before:
            return name
    whole = piece[: piece.rfind(b"\n") + 1] or piece
    # Line ends in place of the lines before, so that a message counts from the file's beginning.
    return decode(b"\n" * lines_before + whole, source)[1]


def _as_told(data: bytes, source: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except LookupError:
        raise DataError(
            f"{source}: there is no encoding {encoding!r}. Set data.encoding to a name such as utf-8, cp932, euc_jp, "
            "cp1252 or utf-16."
        ) from None
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        what = f"the byte {data[at]:#04x} is not {encoding}"
        raise DataError(f"{source}:{_line(data, at)}: {what}. Correct the line, or data.encoding.") from None


def _found_out(data: bytes, source: str) -> tuple[str, str]:
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(name), name
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{source}:{_line(data, error.start)}: begins as {name} but breaks at byte {error.start}. "
                    f"The file is damaged or was joined from two. {_SAVE}."
                ) from None
    if b"\x00" in data:
        hint = ""
        if order := _unmarked_utf16(data):
            hint = f": it looks like UTF-16 without a mark. Set data.encoding: {order}, or s"
        at = data.index(b"\x00")
        raise DataError(f"{source}:{_line(data, at)}: holds a NUL byte{hint or '. Remove it, or s'}{_SAVE[1:]}.")
    if data.isascii() and b"\x1b$" in data:
        try:
            return data.decode("iso2022_jp"), "iso2022_jp"
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source}:{_line(data, error.start)}: the escapes of ISO-2022-JP break here. {_SAVE}, "
                "or name its encoding: data.encoding: iso2022_jp_ext."
            ) from None
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        return _japanese(data, source, error.start)


def _unmarked_utf16(data: bytes) -> str | None:
    """The byte order in which data with NULs is text; None where it is in none, so that the NULs are damage.

    Of ASCII characters, of which a table has its line ends at least, the NUL is the second byte in UTF-16-LE.
    """
    name = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    text = _text(data[: len(data) & ~1], name)
    if (
        text is None
        or "\n" not in text
        or any(unicodedata.category(ch) in ("Cn", "Co", "Cc") for ch in set(text) - _WHITE)
    ):
        return None
    return name


def _japanese(data: bytes, source: str, bad_at: int) -> tuple[str, str]:
    """Text that is not UTF-8, if it is certainly Japanese in one encoding throughout; `bad_at`: its first bad byte."""
    lines = data.split(b"\n")
    foreign = [number for number, line in enumerate(lines, 1) if not line.isascii()]
    utf8 = {number for number in foreign if _text(lines[number - 1], "utf-8") is not None}
    if utf8:
        # A file put together from two: no one encoding fits. The smaller part is the one to mend.
        others = [number for number in foreign if number not in utf8]
        if len(utf8) < len(others):
            odd, what = min(utf8), "is UTF-8 while others are not"
        else:
            odd, what = others[0], "is not UTF-8 while others are"
        raise DataError(
            f"{source}:{odd}: this line {what}, so the file mixes encodings: {shorten(repr(lines[odd - 1]))}. "
            f"{_SAVE}, or name its one encoding: data.encoding: cp932."
        )
    number = _line(data, bad_at)
    repaired = data[max(0, bad_at - _LOOKED_AT) : bad_at + _LOOKED_AT].decode("utf-8", "replace")
    if sum(ch >= "\u0800" and ch != "\ufffd" for ch in repaired) > repaired.count("\ufffd"):
        raise DataError(
            f"{source}:{number}: the byte {data[bad_at]:#04x} breaks the UTF-8 of this line; it was cut off or "
            f"damaged. Correct the line. {_SAVE}."
        )
    readings = {name: text for name in _JAPANESE if (text := _text(data, name)) is not None}
    believed = [name for name, text in readings.items() if _kana_share(text) >= _KANA_SHARE]
    if len(believed) != 1:
        raise DataError(
            f"{source}:{number}: the byte {data[bad_at]:#04x} is not UTF-8, and which encoding it is cannot be told "
            f"for certain; this line reads {_samples(lines[number - 1])}. {_SAVE}, or name the right one: "
            "data.encoding: cp932."
        )
    (name,) = believed
    (other,) = set(_JAPANESE) - {name}
    as_read = readings[name].split("\n")
    for number in foreign:
        if _KANA.search(as_read[number - 1]):
            continue
        if _kana_share(_text(lines[number - 1], other) or "") >= _KANA_SHARE:
            raise DataError(
                f"{source}:{number}: this line is {other} while others are {name}, so the file mixes encodings. "
                f"{_SAVE}, or, if this line is right as it is, set data.encoding: {name}."
            )
    return readings[name], name


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _text(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _kana_share(text: str) -> float:
    """Share of the characters beyond ASCII that are full-width kana (0..1).

    Half-width kana do not count: Western, Chinese and EUC-JP bytes all turn into them when read as CP932.
    """
    beyond = len(_ASCII.sub("", text))
    return len(_KANA.findall(text)) / beyond if beyond else 0.0


def _samples(line: bytes) -> str:
    """The line under every encoding that can read it, for the user to recognise the right one."""
    readings = [f"{shorten(text, 30)!r} as {name}" for name in _SHOWN_AS if (text := _text(line, name)) is not None]
    return ", ".join(readings) or "in none of the usual ones"
