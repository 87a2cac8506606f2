"""Search by words, by vectors and by both, each against numbers worked out by hand or another computation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from migaki.core.errors import DamagedError
from migaki.core.types import Place
from migaki.retrieval import Index, Passage, read_passages, write_passages
from migaki.retrieval.dense import DenseIndex, normalised
from migaki.retrieval.fusion import fused
from migaki.retrieval.sparse import SparseIndex, terms


def passages(*texts: str) -> list[Passage]:
    return [Passage(Place("text", i), text) for i, text in enumerate(texts, 1)]


def numbers(hits):
    return [hit.number for hit in hits]


# By words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("My screen is BLACK!", ["my", "screen", "is", "black"]),
        ("ＰＤＦ file-1", ["pdf", "file", "1"]),
        ("返品したい", ["返", "返品", "品", "品し", "した", "たい"]),
        ("ｶﾞｽが", ["ガス", "スが"]),
        ("犬 か", ["犬", "か"]),
        ("サーバー", ["サー", "ーバ", "バー"]),
        ("iPhoneの画面", ["iphone", "の画", "画", "画面", "面"]),
        ("환불 요청", ["환불", "요청"]),
        ("!? …", []),
    ],
)
def test_a_text_is_found_by_its_words_or_by_characters_and_their_pairs(text, wanted):
    assert terms(text) == wanted


def test_bm25_of_three_texts_by_hand():
    """Lengths 4, 2, 1, mean 7/3; "printer" is in two of three texts, once and twice."""
    index = SparseIndex(["my printer is black", "printer printer", "invoice"])
    weight = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    first = 1 / (1 + 1.5 * (0.25 + 0.75 * 4 / (7 / 3)))
    second = 2 / (2 + 1.5 * (0.25 + 0.75 * 2 / (7 / 3)))
    assert index.scores("printer") == pytest.approx([weight * first, weight * second, 0])
    # A word that is asked twice counts twice.
    assert index.scores("Printer, printer?") == pytest.approx([2 * weight * first, 2 * weight * second, 0])


def test_bm25_of_many_texts_is_the_formula_term_by_term():
    rng = random.Random(0)
    texts = [" ".join(rng.choice("abcdefghij") for _ in range(rng.randint(1, 12))) for _ in range(40)]
    words = [text.split() for text in texts]
    mean = sum(map(len, words)) / len(words)

    def formula(query: str, text: list[str]) -> float:
        score = 0.0
        for word in query.split():
            n, f = sum(word in other for other in words), text.count(word)
            idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
            score += idf * f / (f + 1.5 * (1 - 0.75 + 0.75 * len(text) / mean))
        return score

    query = "a c c j z"
    assert SparseIndex(texts).scores(query) == pytest.approx([formula(query, text) for text in words])


@pytest.mark.parametrize("texts", [[], ["!"], ["", "…"]])
def test_texts_without_a_word_are_never_found(texts):
    assert Index(passages(*texts), "sparse").search(["a word", ""], None, 3) == [[], []]


def test_a_text_that_shares_no_word_with_the_question_is_no_hit():
    index = Index(passages("my printer", "the invoice", "printer paper for a printer of my printer"), "sparse")
    (hits,) = index.search(["printer"], None, 3)
    assert numbers(hits) == [2, 0]
    assert {hit.similarity for hit in hits} == {None}


def test_equal_texts_are_found_in_their_order():
    index = Index(passages(*["same text"] * 30, "other"), "sparse")
    assert numbers(index.search(["text"], None, 5)[0]) == [0, 1, 2, 3, 4]


def test_japanese_is_found_by_words_in_another_sentence():
    index = Index(
        passages("請求書を再送してください。", "プリンターが動きません。", "返品の方法を教えてください。"), "sparse"
    )
    found = index.search(["商品を返品したい", "再送できますか", "プリンタ"], None, 1)
    assert [numbers(hits) for hits in found] == [[2], [0], [1]]


# By vectors


def test_dense_search_is_what_comparing_each_pair_finds():
    rng = np.random.default_rng(0)
    vectors_ND, queries_QD = rng.normal(size=(50, 8)), 3 * rng.normal(size=(7, 8))
    index = Index(passages(*map(str, range(50))), "dense", normalised(vectors_ND))
    for query_D, hits in zip(queries_QD, index.search([""] * 7, queries_QD, 5), strict=True):
        cosines = [float(v @ query_D / (math.dist(v, 0 * v) * math.dist(query_D, 0 * v))) for v in vectors_ND]
        wanted = sorted(range(50), key=lambda i: -cosines[i])[:5]
        assert numbers(hits) == wanted
        assert [hit.similarity for hit in hits] == pytest.approx([cosines[i] for i in wanted], abs=1e-5)


def test_a_vector_of_length_zero_is_similar_to_nothing():
    assert DenseIndex(normalised(np.eye(2))).similarities(np.zeros((1, 2))).tolist() == [[0, 0]]


def test_similarities_that_differ_by_rounding_alone_are_equal():
    vectors_ND = normalised(np.array([[1, 0], [1, 2e-7], [0, 1]]))
    assert numbers(Index(passages("a", "b", "c"), "dense", vectors_ND).search([""], np.array([[1.0, 1e-7]]), 3)[0]) == [
        0,
        1,
        2,
    ]


def test_more_queries_than_are_compared_at_once_find_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    vectors_ND = normalised(rng.normal(size=(9, 4)))
    index = Index(passages(*"abcdefghi"), "hybrid", vectors_ND)
    asked = list("iihgfedcba"), rng.normal(size=(10, 4))
    whole = index.search(*asked, 4)
    monkeypatch.setattr("migaki.retrieval.index._COMPARED_AT_ONCE", 20)
    assert index.search(*asked, 4) == whole


# By both


def test_reciprocal_rank_fusion_by_hand():
    """4 stands second and first, 1 first and third, 9 third alone, 7 second alone."""
    wanted = [(4, 1 / 62 + 1 / 61), (1, 1 / 61 + 1 / 63), (7, 1 / 62), (9, 1 / 63)]
    found = fused([[1, 4, 9], [4, 7, 1]])
    assert [number for number, _ in found] == [number for number, _ in wanted]
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted])


def test_what_stands_equally_high_in_two_rankings_is_ordered_by_number():
    assert [number for number, _ in fused([[5, 2], [2, 5]])] == [2, 5]


def test_a_hybrid_search_finds_what_only_one_of_the_two_would():
    """By vectors 0, 1, 2, 3; by words 3 alone: 1/64 + 1/61 beats 1/61."""
    vectors_ND = normalised(np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]]))
    index = Index(passages("a", "b", "c", "printer"), "hybrid", vectors_ND)
    (hits,) = index.search(["printer"], np.array([[1.0, 0.0]]), 4)
    assert numbers(hits) == [3, 0, 1, 2]
    assert hits[1].similarity == 1.0


@pytest.mark.parametrize("way", ["sparse", "dense", "hybrid"])
def test_what_is_barred_is_found_by_no_way(way):
    index = Index(passages("printer", "printer paper", "printer ink"), way, normalised(np.eye(3)))
    found = index.search(["printer"] * 2, np.eye(3)[:2], 3, [{0, 2}, ()])
    assert numbers(found[0]) == [1]
    assert sorted(numbers(found[1])) == [0, 1, 2]


# On disk


def test_passages_are_read_as_they_were_written(tmp_path):
    written = [
        Passage(Place("a b.txt", 3), 'two\nlines, "quotes", \u2028 and 日本語'),
        Passage(Place("rows", 1), "text", asked="question", label="yes"),
        Passage(Place("rows", 2), "text", label=""),
    ]
    write_passages(tmp_path / "p.jsonl", written)
    assert read_passages(tmp_path / "p.jsonl") == written


@pytest.mark.parametrize("text", ["{", '{"text": "a"}\n', "3\n"])
def test_a_file_that_holds_no_passages_is_damage(tmp_path, text):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DamagedError, match=r"p\.jsonl"):
        read_passages(tmp_path / "p.jsonl")
    with pytest.raises(DamagedError, match="missing"):
        read_passages(tmp_path / "none.jsonl")
