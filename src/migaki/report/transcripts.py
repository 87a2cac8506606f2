"""A transcript beside what was said, with what differs marked."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

__all__ = ["diff"]


def diff(pieces: Sequence[Sequence[str]]) -> Markup:
    """One line of text in which what was left out is struck through and what was written instead, or too much, is underlined.

    Args:
        pieces: kind (equal, substitute, delete, insert), what was said, what was written; see `evaluation.transcription`.

    >>> diff([("equal", "press", "press"), ("substitute", "one", "two")])
    Markup('press <del>one</del> <ins>two</ins>')
    >>> diff([("delete", "画", ""), ("equal", "面が", "面が")])
    Markup('<del>画</del>面が')
    """
    shown: list[tuple[str, Markup]] = []
    for kind, said, written in pieces:
        if kind == "equal":
            shown.append((said, escape(said)))
            continue
        if said:
            shown.append((said, Markup("<del>{}</del>").format(said)))
        if written:
            shown.append((written, Markup("<ins>{}</ins>").format(written)))
    line: list[str] = []
    for number, (text, marked) in enumerate(shown):
        # Between two letters of scripts without spaces there is none.
        if number and not (_unspaced(shown[number - 1][0][-1]) and _unspaced(text[0])):
            line.append(" ")
        line.append(marked)
    return Markup("").join(line)


def _unspaced(letter: str) -> bool:
    """Kana, Han and what stands between them, Thai, Lao, Burmese, Khmer: scripts without spaces between words."""
    return any(low <= letter <= high for low, high in _UNSPACED)


_UNSPACED = (("\u3005", "\u30ff"), ("\u31f0", "\u31ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\u0e00", "\u0eff"),
             ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\U00020000", "\U000323af"))  # fmt: skip
