"""Too long rows: what is refused, what is allowed and said."""

import pytest

from chats import row
from migaki.core.errors import TruncationError
from migaki.core.parts import Example
from migaki.tasks.lengths import Overlong, check_truncation, truncation_finding


def overlong(n):
    return [Overlong(row(("user", "a"), ("assistant", "b"), line=i + 1), 50 + i) for i in range(n)]


@pytest.mark.parametrize(
    ("n", "n_rows", "allowed"), [(0, 10, 0.0), (1, 100, 0.01), (3, 100, 0.03), (10, 10, 1.0), (29, 100, 0.29)]
)
def test_as_many_rows_as_allowed_pass(n, n_rows, allowed):
    check_truncation(overlong(n), n_rows, 32, allowed, "train")


@pytest.mark.parametrize(("n", "n_rows", "allowed"), [(1, 10, 0.0), (1, 99, 0.01), (2, 100, 0.01), (30, 100, 0.29)])
def test_one_row_more_is_an_error(n, n_rows, allowed):
    with pytest.raises(TruncationError, match=f"{n} of {n_rows} valid rows are longer than 32 tokens"):
        check_truncation(overlong(n), n_rows, 32, allowed, "valid")


@pytest.mark.parametrize(("n", "n_rows"), [(1, 3), (2, 300), (7, 9), (10, 10), (199, 200), (1, 1000)])
def test_the_share_that_the_message_offers_is_enough(n, n_rows):
    with pytest.raises(TruncationError) as caught:
        check_truncation(overlong(n), n_rows, 32, 0.0, "train")
    offered = float(str(caught.value).rsplit("task.allow_truncated: ", 1)[1].rstrip("."))
    check_truncation(overlong(n), n_rows, 32, offered, "train")


def test_the_first_rows_and_the_longest_are_named():
    with pytest.raises(TruncationError) as caught:
        check_truncation(overlong(7), 10, 32, 0.0, "train")
    message = str(caught.value)
    assert "chats.jsonl:1 (50 tokens)" in message
    assert "chats.jsonl:5 (54 tokens)" in message
    assert "chats.jsonl:6" not in message
    assert "the longest row has 56" in message


def test_rows_that_may_be_cut_are_found_with_their_places():
    examples = [
        Example(row(("user", "a"), line=i + 1), (1,) * 32, (1,) * 32, 32.0, 32, truncated=i in (1, 3)) for i in range(5)
    ]
    found = truncation_finding(examples, "train")
    assert (found.level, found.count, found.examples) == ("warning", 2, ("chats.jsonl:2", "chats.jsonl:4"))
    assert found.message == "2 of 5 train rows are longer than 32 tokens and lose their end"
    assert truncation_finding([e for e in examples if not e.truncated], "train") is None
