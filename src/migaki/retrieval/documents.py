"""Documents to passages: text, Markdown, HTML, tables and PDF, cut at paragraphs, each piece with its source and line."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from migaki.core.errors import DataError
from migaki.core.types import Place
from migaki.data import read_records
from migaki.data.encodings import decode
from migaki.retrieval.passages import Passage

__all__ = ["Library", "cut", "read_documents"]


@dataclass(frozen=True)
class Library:
    """What was read, and what was left out."""

    passages: tuple[Passage, ...]
    n_documents: int
    skipped: tuple[str, ...]
    """Files of a folder that are no documents, or hold no text."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph, or whatever else belongs together."""

    text: str
    line: int
    """Where its text begins, counted from 1."""
    follows_lines: bool
    """Whether a line break in the text is one of the file too."""


def read_documents(path: Path, chunk: int, overlap: int) -> Library:
    """All passages of a file or of a folder with everything below it, in the order of their names.

    Text and Markdown (`.txt`, `.md`), HTML, tables (`.csv`, `.tsv`: every row is a document of its own) and PDF (needs
    the package `pypdf`; its pages are the lines). In a folder, files of other kinds and hidden ones are left out.

    Args:
        path: the file or folder.
        chunk: characters of a passage at most.
        overlap: characters at the end of a passage that the next one may repeat.
    Raises:
        DataError: nothing there, no text in it, or a document that cannot be read; names file and remedy.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path)))
    elif path.is_file():
        files = [path]
        if path.suffix.lower() not in _READERS:
            raise DataError(f"{path} is no kind of document that can be read; give {_kinds()}.")
    else:
        raise DataError(
            f"There is no document or folder {path}. Check the path; in a recipe it is relative to the recipe."
        )
    passages: list[Passage] = []
    skipped: list[str] = []
    n_documents = 0
    for file in files:
        read = _READERS.get(file.suffix.lower())
        found = [
            Passage(Place(str(file), line), text)
            for blocks in (read(file) if read else ())
            for line, text in cut(blocks, chunk, overlap)
        ]
        passages += found
        n_documents += bool(found)
        if not found:
            skipped.append(str(file))
    if not passages:
        raise DataError(f"{path} holds no text that could be found. Give documents of another kind: {_kinds()}.")
    return Library(tuple(passages), n_documents, tuple(skipped))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _kinds() -> str:
    return ", ".join(sorted(_READERS))


# Cutting

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|(?<=[。！？])[」』）]*\s*|\n\s*")
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, or a part of one that is too long: its place in the document's text."""

    start: int
    end: int
    line: int
    opens: bool
    """Whether a paragraph begins with it."""


def cut(blocks: Sequence[_Block], chunk: int, overlap: int) -> Iterator[tuple[int, str]]:
    """Pieces of at most `chunk` characters with the line on which each begins.

    As many whole paragraphs as fit make a piece. Where that would leave it less than half full, it ends behind the last
    sentence that fits, and where no sentence fits, anywhere. A piece begins with the sentences that end the one before,
    as many as fit into `overlap` characters.
    """
    text = _BETWEEN.join(block.text for block in blocks)
    pieces = list(_pieces(blocks, chunk))
    first = after = 0
    while after < len(pieces):
        done = after
        after += 1
        while after < len(pieces) and pieces[after].end - pieces[first].start <= chunk:
            after += 1
        if after < len(pieces) and not pieces[after].opens:
            borders = [i for i in range(done + 1, after) if pieces[i].opens]
            if borders and pieces[borders[-1] - 1].end - pieces[first].start >= chunk / 2:
                after = borders[-1]
        yield pieces[first].line, text[pieces[first].start : pieces[after - 1].end]
        first = after
        # Not so far back that nothing new would fit.
        while (
            done < first
            and after < len(pieces)
            and pieces[after - 1].end - pieces[first - 1].start <= overlap
            and pieces[after].end - pieces[first - 1].start <= chunk
        ):
            first -= 1


def _pieces(blocks: Sequence[_Block], chunk: int) -> Iterator[_Piece]:
    at = 0
    for block in blocks:
        breaks = [m.start() for m in re.finditer("\n", block.text)] if block.follows_lines else []
        for number, (start, end) in enumerate(_sentences(block.text, chunk)):
            yield _Piece(at + start, at + end, block.line + bisect_right(breaks, start), number == 0)
        at += len(block.text) + len(_BETWEEN)


def _sentences(text: str, chunk: int) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence, without white space around it; one longer than `chunk` in parts, between words where
    it has any."""
    start = 0
    for border in [*((m.start(), m.end()) for m in _SENTENCE.finditer(text)), (len(text), len(text))]:
        end = max(border[0], start)
        # Closing quotes belong to the sentence that they close.
        end += len(text[end : border[1]].rstrip())
        while end - start > chunk:
            part = text[start : start + chunk + 1]
            gap = max(part.rfind(" "), part.rfind("\t"))
            stop = start + len(part[:gap].rstrip()) if gap > 0 else start + chunk
            yield start, stop
            start = stop + len(text[stop:end]) - len(text[stop:end].lstrip())
        if end > start:
            yield start, end
        start = border[1]


# Reading: a document is a list of blocks; a table is one document a row


def _plain(file: Path) -> Iterator[list[_Block]]:
    yield list(_paragraphs(_text(file)))


def _paragraphs(text: str, line: int = 1) -> Iterator[_Block]:
    """Paragraphs are what blank lines part."""
    at = 0
    for m in [*_PARAGRAPH.finditer(text), None]:
        raw = text[at : m.start() if m else len(text)]
        body = raw.strip()
        if body:
            begins = at + raw.index(body[0])
            yield _Block(body, line + text.count("\n", 0, begins), follows_lines=True)
        at = m.end() if m else at


def _text(file: Path, encoding: str | None = None) -> str:
    try:
        text, _ = decode(_bytes(file), str(file), encoding)
    except DataError as error:
        # The remedies that it names are those for rows.
        place, _, _ = str(error).partition(": ")
        raise DataError(
            f"{place}: this document cannot be read as text, for its encoding is not certain or not one throughout. "
            "Save it as UTF-8, or take it out of the folder."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}). Make it readable, or take it out.") from None


_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?\s*([\w-]+)", re.IGNORECASE)
_MEANT = {"iso-8859-1": "cp1252", "latin1": "cp1252", "shift_jis": "cp932", "x-sjis": "cp932"}
"""What browsers take these names for, by the WHATWG's Encoding Standard."""
_UNSEEN = frozenset(("script", "style", "template", "noscript", "svg", "nav"))
# fmt: off
_INLINE = frozenset((
    "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd", "label", "mark",
    "q", "rp", "rt", "ruby", "s", "samp", "small", "span", "strong", "sub", "sup", "td", "th", "time", "tt", "u", "var",
    "wbr",
))
# fmt: on


class _Page(HTMLParser):
    """Collects the visible text; every element that is not part of a line of text parts paragraphs."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[_Block] = []
        self._said: list[str] = []
        self._line = 1
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        if tag not in _INLINE:
            self.end_block()
        elif tag in ("td", "th") and self._said:
            self._said.append(" | ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _INLINE:
            self.end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN and self._unseen:
            self._unseen -= 1
        if tag not in _INLINE:
            self.end_block()

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._said and data.strip():
            before = data[: len(data) - len(data.lstrip())]
            self._line = self.getpos()[0] + before.count("\n")
        if self._said or data.strip():
            self._said.append(data)

    def end_block(self) -> None:
        text = " ".join("".join(self._said).split())
        if text:
            self.blocks.append(_Block(text, self._line, follows_lines=False))
        self._said = []


def _html(file: Path) -> Iterator[list[_Block]]:
    said = _CHARSET.search(_bytes(file)[:4096])
    page = _Page()
    name = said.group(1).decode().lower() if said else None
    page.feed(_text(file, _MEANT.get(name, name) if name else None))
    page.close()
    page.end_block()
    yield page.blocks


def _table(file: Path) -> Iterator[list[_Block]]:
    """Every row with the names of its columns; the name of an only column says nothing."""
    _text(file)  # for its message: the remedies of read_records are those for rows
    table = read_records(str(file))
    for record in table.records:
        cells = {name: str(value).strip() for name, value in record.values.items()}
        said = [f"{name}: {value}" if len(table.columns) > 1 else value for name, value in cells.items() if value]
        if said:
            yield [_Block("\n".join(said), record.place.line, follows_lines=False)]


def _pdf(file: Path) -> Iterator[list[_Block]]:
    try:
        import pypdf
    except ImportError:
        raise DataError(
            f"{file} is a PDF, and the package that reads those is not installed. Get it with: pip install pypdf; or save "
            "the document as text."
        ) from None
    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(file).pages]
    except Exception as error:  # damaged files show as anything
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(
            f"{file} cannot be read as a PDF ({reason}). Take off its password, save it again, or save it as text."
        ) from None
    if not any(page.strip() for page in pages):
        raise DataError(
            f"{file} holds no text: its pages are pictures. Let a text recognition go over it, or take it out of the folder."
        )
    # A page is its own line number; paragraphs that run over a page's end are cut there.
    yield [
        _Block(block.text, number, follows_lines=False)
        for number, page in enumerate(pages, 1)
        for block in _paragraphs(page)
    ]


_READERS: dict[str, Callable[[Path], Iterator[list[_Block]]]] = {
    ".csv": _table,
    ".htm": _html,
    ".html": _html,
    ".md": _plain,
    ".pdf": _pdf,
    ".tsv": _table,
    ".txt": _plain,
}
