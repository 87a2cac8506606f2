"""A list of names: what is kept of the rows, and where it is found again."""

from __future__ import annotations

from typing import Any

from migaki.core.types import Dataset, Place, Row, Span, Tagged
from migaki.methods import Gazetteer
from migaki.tasks import TagTokens


def row(text: str, *named: tuple[str, str]) -> Row:
    spans = tuple(sorted(Span(text.index(name), text.index(name) + len(name), label) for name, label in named))
    return Row(Place("names", 1), Tagged(text, spans))


def learned(*rows: Row) -> Any:
    train = Dataset("train", rows)
    learner = Gazetteer().prepare(None, TagTokens(), train, 0)
    learner.settle(learner.encode(train), (), 0, lambda _: None)
    return learner


def found(learner: Any, text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.label) for s in learner.find(text)]


def test_the_longest_name_is_found_from_left_to_right():
    learner = learned(
        row("to York", ("York", "A")), row("to New York", ("New York", "B")), row("New day", ("New", "C"))
    )
    assert found(learner, "New York, York, New") == [("New York", "B"), ("York", "A"), ("New", "C")]


def test_a_name_is_no_piece_of_a_longer_word_but_japanese_has_no_words():
    learner = learned(row("Ann ran", ("Ann", "P")), row("京都は", ("京都", "L")), row("ＡＢ社", ("ＡＢ", "O")))
    assert found(learner, "Anna, Ann, DeAnn, Ann's") == [("Ann", "P"), ("Ann", "P")]
    assert found(learner, "東京都京都府") == [("京都", "L"), ("京都", "L")]
    assert found(learner, "ＡＢＣ ＡＢは") == [("ＡＢ", "O")]


def test_a_name_that_mostly_means_something_else_is_left_out():
    """may: named once of three times; Rose: once of two."""
    rows = [
        row("may May", ("May", "P")),
        row("May be"),
        row("May be not"),
        row("Rose", ("Rose", "P")),
        row("Rose garden"),
    ]
    learner = learned(*rows)
    assert found(learner, "May Rose") == [("Rose", "P")]
    (span,) = learner.find("Rose")
    assert span.confidence == 0.5


def test_a_name_has_the_label_it_had_most_often():
    learner = learned(row("Paris", ("Paris", "P")), row("in Paris", ("Paris", "L")), row("to Paris", ("Paris", "L")))
    assert found(learner, "Paris") == [("Paris", "L")]


def test_before_it_learned_it_names_nothing():
    learner = learned(row("Ann ran", ("Ann", "P")))
    asked = [row("Ann sat", ("Ann", "P"))]
    assert len(learner.predict(asked)[0].spans) == 1
    with learner.untrained():
        assert learner.predict(asked)[0].spans == ()
    assert learner.predict(asked)[0].part == (2.0, 2.0)
    assert learner.parameter_counts() == (1, 1)
