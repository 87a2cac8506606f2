"""What is said about texts whatever their task: languages, repeated passages, empty words, broken letters."""

from __future__ import annotations

import pytest

from migaki.audit.languages import probable_language
from migaki.audit.light import text_of
from migaki.audit.texts import broken_letters, languages, passages, repeated_passages, wordless
from migaki.core.types import Conversation, Dataset, Labelled, Place, Row, Span, Tagged, Turn
from migaki.data.cleaning import texts_of

SIGNATURE = "-- \nSent with Example Mail, the fast mail program"


def rows_of(*texts):
    return [Row(Place("a.csv", line), Labelled(text, "x")) for line, text in enumerate(texts, 2)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The printer is on, but it does not print.", "en"),
        ("Der Drucker ist an, aber er druckt nicht.", "de"),
        ("Où est mon colis et quand arrive-t-il ?", "fr"),
        ("¿Dónde está el paquete? No lo encuentro.", "es"),
        ("Dov'è il mio pacco? Non è ancora arrivato.", "it"),
        ("Onde está o meu pacote? Ainda não chegou.", "pt"),
        ("Waar is het pakket? Ik heb het niet gekregen.", "nl"),
        ("プリンターが動かない", "ja"),
        ("Windows 11 が起動しない", "ja"),
        ("He said こんにちは to the man and it was not what he had in mind", "en"),
        ("本日休業", "han"),
        ("프린터가 작동하지 않아요", "ko"),
        ("принтер не печатает", "cyrillic"),
        ("xyzzy", "latin"),
        ("12:30!", "none"),
    ],
)
def test_a_language_is_told_by_letters_and_frequent_words_and_left_open_without_them(text, language):
    assert probable_language(text) == language


def test_a_language_that_only_test_rows_are_in_is_named_with_its_rows():
    english = rows_of(*(f"this is the {n} that you have not seen" for n in range(20)))
    german = rows_of(*(f"das ist nicht der {n} und nicht die {n}" for n in range(3)))
    (light,) = languages((Dataset("train", tuple(english)), Dataset("valid", ()), Dataset("test", tuple(german))))
    assert (light.level, light.count, light.examples[0]) == ("yellow", 3, "a.csv:2")
    assert "probably in de" in light.message
    (light,) = languages((Dataset("train", tuple(english)), Dataset("valid", ()), Dataset("test", tuple(english))))
    assert light.level == "green"
    assert "by a rule (letters and frequent words): en 100%" in light.message


def test_a_signature_that_many_texts_share_is_found_with_the_step_that_takes_it_away():
    texts = [f"my {word} is broken since {n} days {n * n}" for n, word in enumerate("abcdefgh" * 3)]
    signed = [f"{text}\n{SIGNATURE}" if n % 3 == 0 else text for n, text in enumerate(texts)]
    (light,) = repeated_passages(rows_of(*signed))
    assert "in 8 different texts" in light.examples[0]
    assert light.remedy.startswith('data.clean: [{kind: remove, texts: ["')
    assert "Sent with Example Mail" in light.remedy
    assert list(repeated_passages(rows_of(*texts))) == []


def test_a_beginning_ends_with_a_whole_word_and_copies_of_a_text_count_once():
    words = ["ape", "apple", "apron", "apricot", "apt"]
    assert passages([f"This message is confidential: {word}" for word in words]) == {"This message is confidential:": 5}
    assert passages(["This message is confidential: ape"] * 9) == {}
    # An end is found as a beginning is, from behind.
    assert passages([f"{word} - this is all I had to say" for word in words]) == {"- this is all I had to say": 5}


@pytest.mark.parametrize("text", ["???", "N/A", " null ", "なし", "12:30"])
def test_texts_that_stand_for_nothing_are_named(text):
    (light,) = wordless(rows_of("my screen is black", text))
    assert light.count == 1
    assert light.examples[0].startswith("a.csv:3: ")
    assert list(wordless(rows_of("my screen is black", "何もない日"))) == []


def test_a_character_that_was_lost_cannot_be_repaired_and_mojibake_can():
    mojibake, lost = broken_letters(rows_of("cafÃ© au lait", "caf\ufffd au lait", "café"))
    assert (mojibake.name, mojibake.count, mojibake.remedy) == ("mojibake", 1, "data.clean: [mojibake]")
    assert (lost.name, lost.examples) == ("lost characters", ("a.csv:3",))


def test_every_text_of_a_row_is_looked_at_whatever_its_kind():
    turns = (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a"))
    chat = Row(Place("a", 1), Conversation(turns))
    pair = Row(Place("a", 2), Labelled("one", "x", "two"))
    tagged = Row(Place("a", 3), Tagged("Anna is here", (Span(0, 4, "NAME"),)))
    assert [texts_of(row) for row in (chat, pair, tagged)] == [["s", "u", "a"], ["one", "two"], ["Anna is here"]]
    assert [text_of(row) for row in (chat, pair, tagged)] == ["u", "one\ntwo", "Anna is here"]
