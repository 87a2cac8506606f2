"""Bytes to text: UTF-8 unless the bytes say otherwise, and never a silent guess."""

from __future__ import annotations

import codecs

from migaki.core.errors import DataError

__all__ = ["decode"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_JAPANESE = ("cp932", "euc_jp")


def decode(data: bytes, source: str, encoding: str | None = None) -> tuple[str, str]:
    """The text of a file and the encoding it was read with.

    UTF-8 (with or without a mark), UTF-16 with a mark and ISO-2022-JP by its escapes are certain. Other bytes are read
    as Shift-JIS (CP932) or EUC-JP where just one of the two decodes them to ordinary Japanese; everything else is
    refused, because a wrong guess puts unreadable text into the model.

    Raises:
        DataError: undecidable, or not in the encoding that was asked for; names the line of the first bad byte.
    """
    if encoding is not None:
        try:
            return data.decode(encoding), encoding
        except LookupError:
            raise DataError(f"{source}: there is no encoding {encoding!r}. Set data.encoding to a name such as utf-8, cp932, euc_jp or utf-16.") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{source}:{_line(data, error.start)}: the byte {data[error.start]:#04x} is not {encoding}. Correct the line, or data.encoding.") from None
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(name), name
            except UnicodeDecodeError as error:
                raise DataError(f"{source}: begins as {name} but breaks off at byte {error.start}. The file is damaged; export it again.") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _other(data, source, error)
    if "\x1b$" in text and text.isascii():
        try:
            return data.decode("iso2022_jp"), "iso2022_jp"
        except UnicodeDecodeError:
            pass
    if "\x00" in text:
        at = text.index("\x00")
        hint = "It looks like UTF-16 without a mark: save it as UTF-8, or set data.encoding: utf-16-le." if text.count("\x00") > len(text) // 4 else "Remove it; the file may be damaged."
        raise DataError(f"{source}:{text.count(chr(10), 0, at) + 1}: holds a NUL character. {hint}")
    return text, "utf-8"


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _other(data: bytes, source: str, utf8_error: UnicodeDecodeError) -> tuple[str, str]:
    line = _line(data, utf8_error.start)
    # A file whose lines are UTF-8 in their majority and break in a few was put together from two: no one encoding fits.
    rows = [row for row in data.split(b"\n") if not row.isascii()]
    valid = sum(_is(row, "utf-8") for row in rows)
    if valid * 2 > len(rows):
        raise DataError(f"{source}:{line}: this line is not UTF-8 while {valid} others are, so the file mixes encodings. Save it again as UTF-8.")
    plausible = [(name, text) for name in _JAPANESE if (text := _text(data, name)) is not None and _japanese_share(text) > 0.8]
    if len(plausible) == 1:
        name, text = plausible[0]
        return text, name
    raise DataError(f"{source}:{line}: the byte {data[utf8_error.start]:#04x} is not UTF-8 and the encoding cannot be told for certain. Save the file as UTF-8, or name it: data.encoding: cp932 (or euc_jp, latin-1, utf-16).")


def _is(data: bytes, encoding: str) -> bool:
    return _text(data, encoding) is not None


def _text(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _japanese_share(text: str) -> float:
    """Share of the non-ASCII characters that are kana, common punctuation, or kanji; half-width kana, which wrong
    decodings are full of, do not count."""
    strange = [ch for ch in text if not ch.isascii()]
    ordinary = sum("\u3000" <= ch <= "\u30ff" or "\u4e00" <= ch <= "\u9fff" or "\uff01" <= ch <= "\uff5e" for ch in strange)
    return ordinary / max(len(strange), 1)
