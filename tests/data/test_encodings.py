"""Bytes to text: certain or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migaki.core.errors import DataError
from migaki.data.encodings import decode

JAPANESE = "本文,ラベル\n返品したいのですが、どうすればよいですか。,返品\n"


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "iso2022_jp"])
def test_japanese_files_of_the_past_are_told_from_their_bytes(encoding):
    assert decode(JAPANESE.encode(encoding), "a.csv") == (JAPANESE, encoding)


@pytest.mark.parametrize(
    ("encoding", "found"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("utf-32", "utf-32")],
)
def test_unicode_is_read_with_and_without_its_mark(encoding, found):
    assert decode(JAPANESE.encode(encoding), "a.csv") == (JAPANESE, found)


def test_utf_16_is_read_in_both_byte_orders():
    for mark, order in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        assert decode(mark + JAPANESE.encode(order), "a.csv") == (JAPANESE, "utf-16")


def test_a_named_encoding_is_used_and_its_mark_removed():
    assert decode("café".encode("cp1252"), "a.csv", "cp1252") == ("café", "cp1252")
    assert decode("a".encode("utf-8-sig"), "a.csv", "utf-8")[0] == "a"
    assert decode(b"\xff\xfea\x00", "a.csv", "utf-16-le")[0] == "a"


@given(st.text())
def test_every_text_comes_back_from_utf_8_or_is_refused_for_its_nul(text):
    data = text.encode()
    if "\x00" in text or (text.isascii() and "\x1b$" in text) or text.startswith("\ufeff"):
        return
    assert decode(data, "a.csv") == (text, "utf-8")


# What each is, and what a detector that only asks "does it decode?" makes of it.
FOREIGN = {
    "French in cp1252, valid cp932": "caf\xe9s, th\xe9s\n".encode("cp1252"),
    "German in cp1252": "Grüße aus Köln\n".encode("cp1252"),
    "Korean in EUC-KR, valid EUC-JP": "배송이 너무 늦어요\n".encode("euc_kr"),
    "Chinese in GBK, valid EUC-JP": "我的电脑打不开了\n".encode("gbk"),
    "Chinese in Big5": "我的電腦打不開了\n".encode("big5"),
    "Russian in cp1251": "Мой компьютер не включается\n".encode("cp1251"),
    "half-width kana alone": "ﾃｽﾄ\n".encode("cp932"),
    "kanji alone": "東京都\n".encode("euc_jp"),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_certainly_japanese_is_refused_rather_than_guessed(data):
    with pytest.raises(DataError, match=r"a\.csv:1: .*data\.encoding: cp932"):
        decode(data, "a.csv")


def test_the_refusal_shows_how_the_line_reads_so_that_the_right_name_can_be_picked():
    with pytest.raises(DataError, match="'cafés' as cp1252, 'caf駸' as cp932"):
        decode("ok\ncafés\n".encode("cp1252"), "a.csv")


MIXED = {
    "one cp932 line among utf-8": ("こんにちは\n".encode() * 3 + "返品です\n".encode("cp932"), 4),
    "one utf-8 line among cp932": ("こんにちは\n".encode("cp932") * 3 + "返品です\n".encode(), 4),
    "one line each": ("こんにちは\n".encode() + "返品です\n".encode("cp932"), 2),
    "one euc_jp line among cp932": ("こんにちは\n".encode("cp932") * 3 + "ありがとう\n".encode("euc_jp"), 4),
    "a cut character in one long utf-8 line": (b"ok\n" + "こんにちは".encode()[:-1] + "、さようなら".encode(), 2),
}


@pytest.mark.parametrize(("data", "line"), MIXED.values(), ids=MIXED)
def test_a_file_of_two_encodings_is_an_error_that_names_the_odd_line(data, line):
    with pytest.raises(DataError, match=rf"a\.csv:{line}: "):
        decode(data, "a.csv")


def test_a_named_encoding_that_does_not_fit_names_the_line():
    with pytest.raises(DataError, match=r"a\.csv:2: the byte 0x82 is not utf-8\. Correct .*data\.encoding"):
        decode("ok\nあ".encode("cp932"), "a.csv", "utf-8")


@pytest.mark.parametrize("name", ["klingon", "rot13", "hex", ""])
def test_a_name_that_is_no_text_encoding_is_refused(name):
    with pytest.raises(DataError, match=r"data\.encoding"):
        decode(b"abc", "a.csv", name)


def test_utf_16_without_a_mark_is_named_as_what_it_looks_like():
    with pytest.raises(DataError, match="utf-16-le"):
        decode("text,label\n".encode("utf-16-le"), "a.csv")
