"""The demo sets come out of an installed package and keep their places."""

from collections import Counter
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

import pytest

from migaki.core.errors import DataError
from migaki.data import Data, read_records

pytestmark = pytest.mark.skipif(find_spec("chatterbot_corpus") is None, reason="the demo data are not installed")


def test_topics_are_questions_under_the_name_of_their_file():
    records = read_records("demo:helpdesk-topics").records
    assert records[0].values == {"text": "What is AI?", "label": "ai"}
    # Line 5 of english/ai.yml: `- - What is AI?`.
    assert str(records[0].place) == "english/ai.yml:5"
    assert len({(r.values["text"], r.values["label"]) for r in records}) == len(records)


def test_topics_of_fifteen_rows_and_more_are_eleven():
    counts = Counter(r.values["label"] for r in read_records("demo:helpdesk-topics").records)
    frequent = {label: n for label, n in counts.items() if n >= 15}
    assert len(frequent) == 11
    assert (frequent["trivia"], frequent["coding"], frequent["money"]) == (261, 96, 16)


def test_chat_has_each_answer_of_a_question_as_a_row_of_its_own():
    records = read_records("demo:helpdesk-chat").records
    answers = Counter(r.values["prompt"] for r in records)
    assert answers["What is a computer?"] == 4
    assert answers["My printer is not printing."] == 1


def test_the_japanese_topics_are_japanese():
    records = read_records("demo:helpdesk-topics-ja").records
    assert records[0].values["text"] == "AIとは何ですか？"


@pytest.mark.parametrize(
    ("name", "kind"), [("topics", "labelled"), ("topics-ja", "labelled"), ("chat", "conversation")]
)
def test_every_demo_set_makes_three_splits(name, kind):
    splits = Data(train=f"demo:helpdesk-{name}", min_rows_per_label=15).load(kind, seed=0)
    n_rows = sum(map(len, (splits.train, splits.valid, splits.test)))
    assert len(splits.test) == pytest.approx(0.2 * n_rows, abs=3)
    assert len(splits.valid) == pytest.approx(0.1 * n_rows, abs=3)


def test_an_unknown_demo_set_names_the_nearest():
    with pytest.raises(DataError, match="did you mean 'helpdesk-chat'"):
        read_records("demo:helpdesk-caht")


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("migaki.data.demo.files", missing)
    with pytest.raises(DataError, match=r"pip install chatterbot-corpus==1\.3\.3"):
        read_records("demo:helpdesk-topics")
