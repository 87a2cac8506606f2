"""Documents of every kind, and how they are cut."""

from __future__ import annotations

import builtins
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migaki.core.errors import DataError
from migaki.retrieval import read_documents
from migaki.retrieval.documents import _paragraphs, cut


def pieces(text: str, chunk: int = 60, overlap: int = 0) -> list[tuple[int, str]]:
    return list(cut(list(_paragraphs(text)), chunk, overlap))


def read(path: Path, chunk: int = 600, overlap: int = 0) -> list[tuple[str, int, str]]:
    return [(Path(p.place.source).name, p.place.line, p.text) for p in read_documents(path, chunk, overlap).passages]


def a_pdf(*pages: str) -> bytes:
    """The smallest PDF with these words on its pages, written by hand."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, page in enumerate(pages):
        stream = f"BT /F1 12 Tf 20 20 Td ({page}) Tj ET" if page else ""
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 100] {font} /Contents {5 + 2 * i} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    text, starts = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        starts.append(len(text))
        text += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    text += f"{head}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(text)}\n%%EOF\n"
    return text.encode()


# Cutting


def test_paragraphs_that_fit_stay_together_with_the_line_on_which_they_begin():
    text = "\n\nOne.\n\nTwo\ngoes on.\n   \n\nThree is a longer paragraph than the others."
    assert pieces(text, 200) == [(3, "One.\n\nTwo\ngoes on.\n\nThree is a longer paragraph than the others.")]
    assert pieces(text, 50) == [(3, "One.\n\nTwo\ngoes on."), (9, "Three is a longer paragraph than the others.")]


def test_a_long_paragraph_is_cut_between_sentences_and_each_piece_knows_its_line():
    text = 'He said "stop." Then he went\non for a long time. And on, and on, without an end. It ended.'
    assert pieces(text, 50) == [
        (1, 'He said "stop." Then he went\non for a long time.'),
        (2, "And on, and on, without an end. It ended."),
    ]


def test_japanese_sentences_end_without_a_space():
    assert [text for _, text in pieces("返品は三十日以内です。「送料は無料。」手数料はありません。", 20)] == [
        "返品は三十日以内です。「送料は無料。」",
        "手数料はありません。",
    ]


def test_a_sentence_longer_than_a_piece_is_cut_between_words_or_where_there_are_none_anywhere():
    assert [text for _, text in pieces("a" * 25, 10)] == ["a" * 10, "a" * 10, "a" * 5]
    assert [text for _, text in pieces("one two   three fourteen", 10)] == ["one two", "three", "fourteen"]
    assert [text for _, text in pieces("one two ten", 11)] == ["one two ten"]
    assert [text for _, text in pieces("one two, ten", 8)] == ["one two,", "ten"]


def test_a_piece_ends_at_a_paragraph_unless_it_would_be_less_than_half_full():
    early = "Short.\n\n" + "A sentence of the second one. " * 3
    assert pieces(early, 60)[0][1] == "Short.\n\nA sentence of the second one."
    late = "A first paragraph of some length.\n\n" + "A sentence of the second. " * 3
    assert pieces(late, 60)[0][1] == "A first paragraph of some length."


def test_the_end_of_a_piece_is_said_again_at_the_beginning_of_the_next():
    text = "First one here. Second one here. Third one here. Fourth one here."
    assert [said for _, said in pieces(text, 34, 17)] == [
        "First one here. Second one here.",
        "Second one here. Third one here.",
        "Third one here. Fourth one here.",
    ]
    assert [said for _, said in pieces(text, 34, 0)] == [
        "First one here. Second one here.",
        "Third one here. Fourth one here.",
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["word ", "A sentence. ", "終わり。", "\n", "\n\n", "」", "x" * 23]), max_size=40),
    st.integers(10, 60),
    st.integers(0, 30),
)
def test_nothing_is_lost_nothing_is_too_long_and_every_line_is_right(parts, chunk, overlap):
    text = "".join(parts)
    overlap = min(overlap, chunk // 2)
    lines, ends = text.split("\n"), {0}
    plain = re.sub(r"\s", "", text)
    for line, said in pieces(text, chunk, overlap):
        assert 0 < len(said) <= chunk
        assert said.split("\n")[0].rstrip() in lines[line - 1]
        found = re.sub(r"\s", "", said)
        # Each piece begins where the text that was given so far ends, or a little before. Text that repeats itself leaves
        # open which of several places that is.
        ends = {
            i + len(found)
            for at in ends
            for i in range(max(0, at - overlap), at + 1)
            if plain.startswith(found, i) and i + len(found) > at
        }
        assert ends
    assert len(plain) in ends


# Reading


def test_text_and_markdown_are_read_in_the_encoding_they_have(tmp_path):
    (tmp_path / "a.md").write_text("# Title\r\n\r\nBody.\r\n", encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_bytes("返品はできますか。\n\n三十日以内ならできます。".encode("cp932"))
    assert read(tmp_path, 40) == [
        ("a.md", 1, "# Title\n\nBody."),
        ("b.txt", 1, "返品はできますか。\n\n三十日以内ならできます。"),
    ]


def test_a_page_gives_its_visible_text_by_paragraphs_with_their_lines(tmp_path):
    page = (
        "<!doctype html><html><head><title>Help</title><style>p {color: red}</style>\n"
        "<script>var hidden = 1 < 2;</script></head>\n<body><nav>Home</nav><h1>Printer &amp; paper</h1>\n"
        "<p>It does\n<b>not</b> print.<p>Turn\n it off.\n"
        "<table><tr><th>Error<th>Cure</tr>\n<tr><td>E1</td><td>wait</td></tr></table></body></html>"
    )
    (tmp_path / "a.html").write_text(page)
    assert read(tmp_path / "a.html", 40) == [
        ("a.html", 1, "Help\n\nPrinter & paper"),
        ("a.html", 4, "It does not print.\n\nTurn it off."),
        ("a.html", 7, "Error | Cure\n\nE1 | wait"),
    ]


def test_a_page_is_read_in_the_encoding_that_it_names(tmp_path):
    (tmp_path / "a.htm").write_bytes('<meta charset="ISO-8859-1"><p>Größe “12”'.encode("cp1252"))
    assert read(tmp_path / "a.htm") == [("a.htm", 1, "Größe “12”")]


def test_every_row_of_a_table_is_a_document_of_its_own(tmp_path):
    (tmp_path / "a.csv").write_text('question,answer\nHow?,So.\n"Why?",\n"Where\nto?",There.\n')
    (tmp_path / "b.tsv").write_text("tip\nTurn it off.\n")
    assert read(tmp_path) == [
        ("a.csv", 2, "question: How?\nanswer: So."),
        ("a.csv", 3, "question: Why?"),
        ("a.csv", 4, "question: Where\nto?\nanswer: There."),
        ("b.tsv", 2, "Turn it off."),
    ]


def test_a_long_cell_is_cut_and_all_its_pieces_name_its_line(tmp_path):
    (tmp_path / "a.csv").write_text("text\nshort\n" + "One sentence more. " * 6)
    found = read(tmp_path / "a.csv", 60)
    assert [line for _, line, _ in found] == [2, 3, 3]


def test_the_pages_of_a_pdf_are_its_lines(tmp_path):
    pytest.importorskip("pypdf")
    (tmp_path / "a.pdf").write_bytes(a_pdf("First page.", "", "Third page."))
    assert read(tmp_path / "a.pdf", 40) == [("a.pdf", 1, "First page.\n\nThird page.")]
    assert read(tmp_path / "a.pdf", 12) == [("a.pdf", 1, "First page."), ("a.pdf", 3, "Third page.")]


def test_a_pdf_without_text_or_without_its_package_is_refused_with_the_remedy(tmp_path, monkeypatch):
    pytest.importorskip("pypdf")
    (tmp_path / "a.pdf").write_bytes(a_pdf(""))
    with pytest.raises(DataError, match=r"a\.pdf holds no text: its pages are pictures"):
        read(tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"no pdf at all")
    with pytest.raises(DataError, match=r"a\.pdf cannot be read as a PDF"):
        read(tmp_path)
    plain = builtins.__import__

    def without(name, *rest, **more):
        if name == "pypdf":
            raise ImportError(name)
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"a\.pdf is a PDF, and .* pip install pypdf"):
        read(tmp_path)


def test_a_folder_is_read_to_its_depths_and_says_what_it_left_out(tmp_path):
    for name, text in (
        ("z.txt", "last"),
        ("deep/er/a.md", "deep"),
        (".hidden/a.txt", "hidden"),
        ("empty.txt", " \n"),
        ("picture.png", "x"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    library = read_documents(tmp_path, 600, 0)
    assert [p.text for p in library.passages] == ["deep", "last"]
    assert library.n_documents == 2
    assert [Path(name).name for name in library.skipped] == ["empty.txt", "picture.png"]


def test_a_document_that_cannot_be_read_is_named_with_its_line_and_a_remedy(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nGr\xf6\xdfe 12\n")
    with pytest.raises(DataError, match=r"a\.txt:2: this document cannot be read as text.*Save it as UTF-8") as caught:
        read(tmp_path)
    assert "data.encoding" not in str(caught.value)
    (tmp_path / "a.txt").rename(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv:2: this document .*Save it as UTF-8"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_document_without_permission_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(DataError, match=r"a\.txt cannot be read \(Permission denied\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), r"holds no text that could be found.*\.csv, \.htm, \.html, \.md, \.pdf, \.tsv, \.txt"),
        (lambda p: None, "There is no document or folder"),
    ],
    ids=["empty", "absent"],
)
def test_a_folder_without_documents_is_refused(tmp_path, make, message):
    make(tmp_path / "docs")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "docs")


def test_a_file_of_an_unknown_kind_is_refused_with_those_that_are_known(tmp_path):
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"a\.docx is no kind of document that can be read; give \.csv"):
        read(tmp_path / "a.docx")
