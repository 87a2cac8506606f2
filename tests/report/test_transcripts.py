"""What was said beside what was written: insertions, deletions and substitutions, worked out by hand."""

from __future__ import annotations

import pytest

from migaki.evaluation.transcription import aligned, plain_speech
from migaki.report.transcripts import diff


def marked(said: str, written: str) -> str:
    (one,) = aligned([plain_speech(said)], [plain_speech(written)])
    return str(diff(one.pieces))


@pytest.mark.parametrize(
    ("said", "written", "line"),
    [
        ("Press one, please.", "press one please", "press one please"),
        ("press one now", "press two now", "press <del>one</del> <ins>two</ins> now"),
        ("press one now", "press now", "press <del>one</del> now"),
        ("press now", "press one two now", "press <ins>one two</ins> now"),
        ("press one", "", "<del>press one</del>"),
        ("call forward on", "call for word on", "call <ins>for</ins> <del>forward</del> <ins>word</ins> on"),
        # Japanese letter by letter, without spaces.
        ("画面が真っ暗です", "画面が真っ黒です", "画面が真っ<del>暗</del><ins>黒</ins>です"),
        ("電源を入れる", "電源入れるよ", "電源<del>を</del>入れる<ins>よ</ins>"),
        ("Windowsを起動", "Windowsの起動", "windows <del>を</del><ins>の</ins>起動"),
    ],
)
def test_what_differs_is_marked(said, written, line):
    assert marked(said, written) == line


def test_hostile_words_stay_words():
    pieces = [("substitute", "<b>", "<script>"), ("equal", "a & b", "a & b"), ("insert", "", '"><img>')]
    assert str(diff(pieces)) == (
        "<del>&lt;b&gt;</del> <ins>&lt;script&gt;</ins> a &amp; b <ins>&#34;&gt;&lt;img&gt;</ins>"
    )


def test_nothing_is_an_empty_line():
    assert diff([]) == ""
