"""A page taken apart, for tests of what it says and holds."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "line", "circle", "polyline"}


class Page(HTMLParser):
    """The elements of a page with their attributes, each with the text inside; unclosed or crossing tags are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[list[str]] = []
        self._open: list[tuple[str, int]] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append([])
        if tag not in VOID:
            self._open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append([])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, at in self._open:
            self.texts[at].append(data)

    def all(self, tag: str, style: str = "") -> list[str]:
        """Texts of the elements of this name and class, white space folded."""
        return [
            " ".join("".join(text).split())
            for (name, attributes), text in zip(self.elements, self.texts, strict=True)
            if name == tag and style in [*(attributes.get("class") or "").split(), ""]
        ]
