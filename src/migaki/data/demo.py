"""The help desk of a small company: real question-answer pairs of the PyPI package chatterbot-corpus.

Only its YAML files are read, in place; its code is never imported and its text is not part of migaki.
LICENCE of the corpus: BSD, as its metadata says. Its Japanese part is machine translation: it shows that the path
works, not how well Japanese is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import yaml

from migaki.core.codec import nearest
from migaki.core.errors import DataError
from migaki.core.types import Place, Record

__all__ = ["DEMO_SETS", "demo_records"]

_PACKAGE, _VERSION = "chatterbot-corpus", "1.3.3"


def demo_records(source: str) -> list[Record]:
    """The records of `demo:NAME`.

    Raises:
        DataError: no such demo set, or the package is not installed.
    """
    name = source.removeprefix("demo:")
    if name not in DEMO_SETS:
        raise DataError(f"There is no demo set {source!r}; {nearest(name, list(DEMO_SETS))}")
    return DEMO_SETS[name]()


def _corpus(language: str) -> list[Path]:
    try:
        listed = files(_PACKAGE) or []
    except PackageNotFoundError:
        raise DataError(
            f"The demo data are in the package {_PACKAGE}, which is not installed. "
            f"Get it with: pip install {_PACKAGE}=={_VERSION}"
        ) from None
    return sorted(Path(str(f.locate())) for f in listed if f.match(f"chatterbot_corpus/data/{language}/*.yml"))


def _conversations(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and sentences of each conversation."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    for key, value in root.value:
        if key.value == "conversations":
            for node in value.value:
                said = node.value if isinstance(node, yaml.SequenceNode) else [node]
                yield node.start_mark.line + 1, [str(item.value).strip() for item in said]


def _topics(language: str) -> list[Record]:
    """The first sentence of each conversation with its topic, once each."""
    records, seen = [], set()
    for path in _corpus(language):
        for line, (text, *_) in _conversations(path):
            if text and (text, path.stem) not in seen:
                seen.add((text, path.stem))
                records.append(Record(Place(f"{language}/{path.name}", line), {"text": text, "label": path.stem}))
    return records


def _chat(language: str, topics: tuple[str, ...]) -> list[Record]:
    """Every question of these topics with each of its answers, once: the corpus repeats ten pairs a hundred times."""
    records, seen = [], set()
    for path in _corpus(language):
        if path.stem not in topics:
            continue
        for line, (question, *answers) in _conversations(path):
            for answer in answers:
                if question and answer and (question, answer) not in seen:
                    seen.add((question, answer))
                    values = {"prompt": question, "completion": answer}
                    records.append(Record(Place(f"{language}/{path.name}", line), values))
    return records


DEMO_SETS: dict[str, Callable[[], list[Record]]] = {
    "helpdesk-chat": lambda: _chat("english", ("tech_support", "computers")),
    "helpdesk-topics": lambda: _topics("english"),
    "helpdesk-topics-ja": lambda: _topics("japanese"),
}
