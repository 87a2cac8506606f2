from __future__ import annotations

import itertools

import pytest

from migaki.data.privacy import find_personal, mask_personal


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to taro.yamada+x@example.co.jp, please", "write to [email], please"),
        # 4111 1111 1111 1111 passes the Luhn check (sum 30), one digit more does not.
        ("card 4111 1111 1111 1111!", "card [card]!"),
        ("card 4111 1111 1111 1112!", "card 4111 1111 1111 1112!"),
        ("order 1234567890123456", "order 1234567890123456"),
        ("call 03-1234-5678 or 090-1234-5678", "call [phone] or [phone]"),
        ("携帯は０９０−１２３４ではない 09012345678", "携帯は０９０−１２３４ではない [phone]"),
        ("+81 3 1234 5678", "[phone]"),
        ("〒150-0001 東京都渋谷区", "[postcode_ja] 東京都渋谷区"),
        ("番号は 1234 5678 9018 です", "番号は [my_number] です"),
        ("番号は 1234 5678 9012 です", "番号は 1234 5678 9012 です"),
        ("on 2026-01-31 at 12:30, version 1.2.3", "on 2026-01-31 at 12:30, version 1.2.3"),
        ("0000 0000 0000 0000", "0000 0000 0000 0000"),
    ],
)
def test_what_is_personal_is_masked_and_what_only_looks_like_it_is_not(text, masked):
    assert mask_personal(text) == masked


def test_the_check_digit_of_a_my_number_follows_the_ordinance():
    # P_n from the right with Q_n = n + 1 for n <= 6, else n - 5: digits 1,0,9,8,7,6 | 5,4,3,2,1 and weights 2..7 | 2..6:
    # 2 + 0 + 36 + 40 + 42 + 42 + 10 + 12 + 12 + 10 + 6 = 212; 212 mod 11 = 3; 11 - 3 = 8.
    assert [p.kind for p in find_personal("123456789018")] == ["my_number"]
    for digit in "012345679":
        assert find_personal("12345678901" + digit, ("my_number",)) == []


def test_only_the_kinds_that_are_asked_for_are_looked_for():
    text = "a@example.org 03-1234-5678"
    assert mask_personal(text, ("phone",)) == "a@example.org [phone]"


def test_findings_stand_in_order_and_never_overlap():
    found = find_personal("〒150-0001 a@b.jp 03-1234-5678, 4111-1111-1111-1111")
    assert [p.kind for p in found] == ["postcode_ja", "email", "phone", "card"]
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    "number", ["03-1234-5678", "+81 (3) 12 34", "〒\u3000150-0001", "123456789018", "4111 1111 1111 1111"]
)
def test_a_number_is_found_wherever_it_stands(number):
    (alone,) = find_personal(number)
    for before, behind in (("call ", "!"), ("1 2 3, ", " (1)x"), ("12345678x", "x12345678"), ("\n- ", "\n- 12345a")):
        shifted = [
            (p.kind, p.start - len(before), p.end - len(before)) for p in find_personal(before + number + behind)
        ]
        assert (alone.kind, alone.start, alone.end) in shifted
