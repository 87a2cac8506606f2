"""Two texts in one row of tokens: how a tokenizer puts them together, and how they are cut to a length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migaki.core.errors import DataError, ModelError
from migaki.core.types import Row

__all__ = ["PairForm", "check_pairs", "cut_pair", "pair_form", "shared_room"]


@dataclass(frozen=True)
class PairForm:
    """How many special tokens stand before the first text, between the two, and behind the second one."""

    before: int
    between: int
    behind: int
    separator: int | None
    """The token behind whose first occurrence the token type is 1; None where the model knows one type only."""


def check_pairs(rows: Sequence[Row], paired: bool) -> None:
    """Raises DataError where a row has a second text and others have none, or the other way round."""
    odd = next((row for row in rows if (row.content.pair is not None) != paired), None)
    if odd is None:
        return
    if paired:
        found = "has no second text, but the model is for pairs. Give both: data.text and data.text_pair"
    else:
        found = "has a second text, but the model is for single ones. Leave it out, or train with data.text_pair"
    raise DataError(f"{odd.place} {found}.")


def pair_form(tokenizer: Any, n_types: int) -> PairForm | None:
    """None where the tokenizer sets nothing between two texts (most decoders): they then have to be joined as text.

    Args:
        tokenizer: a fast one.
        n_types: token types that the model knows.
    Raises:
        ModelError: it numbers the types in another way than 0 up to a separator and 1 behind it.
    """
    found = tokenizer("a", "b", return_token_type_ids=True)
    of = found.sequence_ids(0)
    first, second = [i for i, s in enumerate(of) if s == 0], [i for i, s in enumerate(of) if s == 1]
    if not first or not second or second[0] == first[-1] + 1:
        return None
    before, between, behind = first[0], second[0] - first[-1] - 1, len(of) - second[-1] - 1
    ids, types = found["input_ids"], found["token_type_ids"]
    if n_types < 2 or not any(types):
        return PairForm(before, between, behind, None)
    separator = ids[first[-1] + 1]
    wanted = [int(separator in ids[:i]) for i in range(len(ids))]
    if list(types) != wanted:
        raise ModelError(
            f"This tokenizer gives two texts the token types {list(types)}, which migaki does not know how to number "
            f"(known: {wanted}). Use another model for pairs of texts."
        )
    return PairForm(before, between, behind, int(separator))


def shared_room(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text stay where both have to fit in `room`: the longer one is cut first.

    >>> shared_room(3, 20, 10), shared_room(20, 20, 11), shared_room(2, 3, 10)
    ((3, 7), (5, 6), (2, 3))
    """
    if first + second <= room:
        return first, second
    if first > second:
        return shared_room(second, first, room)[::-1]
    kept = min(first, room // 2)
    return kept, room - kept


def cut_pair(ids: Sequence[int], n_second: int, form: PairForm, limit: int) -> list[int]:
    """A row of two texts with at most `limit` tokens; every special token stays, each text may lose its end.

    Args:
        ids: the whole row.
        n_second: tokens of the second text in it.
        form: of the tokenizer.
        limit: more than the special tokens alone.
    """
    n_first = len(ids) - n_second - form.before - form.between - form.behind
    first, second = shared_room(n_first, n_second, limit - form.before - form.between - form.behind)
    at = form.before + n_first
    then = at + form.between
    return [
        *ids[: form.before + first],
        *ids[at : then + second],
        *ids[then + n_second :],
    ]
