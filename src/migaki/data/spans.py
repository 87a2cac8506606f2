"""How a text with named parts is read: spans in characters, or tokens with a tag each."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from migaki.core.types import Finding, Record, Span, Tagged, shorten
from migaki.data.columns import check_named, guess, label_of, listed, sound, text_in

__all__ = ["SpanReader", "joined_tokens", "spans_of_tags"]

_EXAMPLES = 5
_START, _END, _LABEL = (
    ("start", "start_offset", "begin"),
    ("end", "end_offset"),
    ("label", "entity", "type", "tag", "entity_group"),
)
"""Keys of a span as people write them: our own, and those of doccano, Label Studio and transformers' pipelines."""
_TAG = re.compile(r"([BIESLUM])[-_](.+)")
_GOES_ON, _ENDS = "IEML", "ESLU"
_IDEOGRAPHIC = re.compile("[\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60\uff66-\uff9f]")


class SpanReader:
    """Texts with named parts, in these forms, in this order of preference:

    1. a text and `spans`: a list of {"start", "end", "label"} or of [start, end, label], in characters (code points)
       counted from 0, the end not included; also as JSON in a cell;
    2. `tokens` and `tags`: lists of equal length, tags as BIO, IOB1, BIOES or BILOU. The text is the column of it, in
       which the tokens are looked up in order, or else the tokens with a space between them, but without one between
       two Japanese or Chinese characters.
    """

    counts_characters = True
    """Nothing may change a text whose parts are counted in it."""
    roles: Mapping[str, Sequence[str]] = {
        "text": ("text", "sentence", "content", "body", "本文", "テキスト", "文章", "文"),
        "spans": ("spans", "entities", "annotations", "label", "labels", "ラベル"),
        "tokens": ("tokens", "words"),
        "tags": ("tags", "ner_tags", "bio", "iob", "labels"),
    }
    targets: Sequence[str] = ("spans", "tags")

    def choose(self, names: Sequence[str], named: Mapping[str, str], need_target: bool = True) -> dict[str, str]:
        check_named(names, named, self.roles)
        if "spans" in named and ("tokens" in named or "tags" in named):
            raise ValueError("data.spans and data.tokens or data.tags are named; keep one of the two ways")
        roles = {role: self.roles[role] for role in ("text", "tokens", "tags")}
        found = guess(names, named, {"text": roles["text"], "tokens": roles["tokens"]})
        if "spans" not in named and "tokens" in found:
            found = guess(names, found, roles)
            if "tags" in found or (not need_target and "text" not in found):
                return found
            found = {role: column for role, column in found.items() if role != "tokens" or role in named}
        found = guess(names, found, {"spans": self.roles["spans"]})
        if "text" in found and ("spans" in found or not need_target):
            return found
        missing = "spans" if "text" in found else "text"
        raise ValueError(
            f"no column looks like the {missing}; the columns are {listed(names)}. "
            "Say which: data.text: COLUMN and data.spans: COLUMN, or data.tokens: COLUMN and data.tags: COLUMN."
        )

    def __call__(self, values: Mapping[str, Any], columns: Mapping[str, str], need_target: bool) -> Tagged:
        tokens = _tokens(values, columns["tokens"]) if "tokens" in columns else None
        text = text_in(values, columns["text"], "text") if "text" in columns else None
        if text is None and "text" in columns:
            raise ValueError(f"the text in column {columns['text']!r} is empty; fill it in or remove the row")
        if tokens is None:
            assert text is not None
            return Tagged(text, _spans(values, columns, text, need_target))
        if text is None:
            text, places = joined_tokens(tokens)
        else:
            places = _looked_up(tokens, text)
        if "tags" not in columns or (not need_target and values.get(columns["tags"]) is None):
            return Tagged(text, None)
        return Tagged(text, tuple(spans_of_tags(_tags(values, columns["tags"], len(tokens)), places)))

    def remarks(self, records: Sequence[Record], columns: Mapping[str, str]) -> list[Finding]:
        """Spans that began or ended with white space, which no token holds."""
        if "spans" not in columns or "text" not in columns:
            return []
        found = []
        for record in records:
            text, listed_spans = record.values[columns["text"]], _loaded(record.values.get(columns["spans"]))
            for start, end, label in map(_parts, listed_spans or ()):
                if text[start:end] != text[start:end].strip():
                    found.append(f"{record.place}: {label} {text[start:end]!r}")
        if not found:
            return []
        message = f"{len(found)} spans begin or end with white space, which is left out of them"
        return [Finding("note", message, len(found), tuple(found[:_EXAMPLES]))]


# Spans


def _loaded(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise ValueError(f"{shorten(value)!r} is not a JSON list of spans; correct it") from None
    return value


def _spans(
    values: Mapping[str, Any], columns: Mapping[str, str], text: str, need_target: bool
) -> tuple[Span, ...] | None:
    column = columns.get("spans")
    value = values.get(column) if column is not None else None
    if value is None:
        if need_target:
            raise ValueError(f"column {column!r} is empty; write [] where nothing is to be found")
        return None
    value = _loaded(value)
    if not isinstance(value, list):
        raise ValueError(
            f'column {column!r} is {shorten(repr(value))}, not a list of spans; each is {{"start", "end", "label"}}'
        )
    spans = sorted(_span(item, text) for item in value)
    for one, other in itertools.pairwise(spans):
        if other.start < one.end:
            raise ValueError(
                f"the spans {_shown(one, text)} and {_shown(other, text)} stand on the same characters, and a character can "
                "have one label only; keep one of them"
            )
    return tuple(spans)


def _parts(item: Any) -> tuple[int, int, str]:
    """Start, end and label of a span in one of its forms."""
    if isinstance(item, Mapping):
        values = [next((item[key] for key in keys if key in item), None) for keys in (_START, _END, _LABEL)]
        label = values[2]
        if isinstance(label, list) and len(label) == 1:  # Label Studio lists its one label
            values[2] = label[0]
    else:
        values = list(item) if isinstance(item, list | tuple) and len(item) == 3 else [None] * 3
    start, end = values[:2]
    label = label_of(values[2], "the label of a span")
    if start is None or end is None or not _whole(start) or not _whole(end) or label is None:
        raise ValueError(
            f'{shorten(repr(item))} is no span; write {{"start": 0, "end": 5, "label": "NAME"}}, in characters from 0'
        )
    return int(start), int(end), label


def _whole(value: Any) -> bool:
    return (isinstance(value, int) or (isinstance(value, float) and value.is_integer())) and not isinstance(value, bool)


def _span(item: Any, text: str) -> Span:
    start, end, label = _parts(item)
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"the span {label} from {start} to {end} does not lie in the {len(text)} characters of its text; count characters "
            "(code points), not bytes, from 0, with the end not included"
        )
    said = item.get("text") if isinstance(item, Mapping) else None
    if isinstance(said, str) and said != text[start:end]:
        raise ValueError(
            f"the span {label} from {start} to {end} holds {text[start:end]!r} and not its own text {said!r}; correct "
            "the numbers: characters (code points), not bytes, from 0"
        )
    inner = text[start:end].strip()
    if not inner:
        raise ValueError(f"the span {label} from {start} to {end} holds only white space; correct or remove it")
    start += text[start:end].index(inner)
    return Span(start, start + len(inner), label)


def _shown(span: Span, text: str) -> str:
    return f"{span.label} {text[span.start : span.end]!r} ({span.start} to {span.end})"


# Tokens and tags


def _list(values: Mapping[str, Any], column: str, what: str) -> list[str]:
    value = values.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = value.split()
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"column {column!r} is {shorten(repr(value))}, not a list of {what}; correct or remove the row"
        )
    odd = next((item for item in value if not isinstance(item, str) or not item.strip()), None)
    if odd is not None or not all(isinstance(item, str) for item in value):
        hint = "write the names of the tags (B-PER), not their numbers" if isinstance(odd, int) else "correct it"
        raise ValueError(f"column {column!r} holds {odd!r} among its {what}; {hint}")
    return [sound(item, f"a token of column {column!r}") for item in value]


def _tokens(values: Mapping[str, Any], column: str) -> list[str]:
    return [token.strip() for token in _list(values, column, "tokens")]


def _tags(values: Mapping[str, Any], column: str, n_tokens: int) -> list[str]:
    tags = _list(values, column, "tags")
    if len(tags) != n_tokens:
        raise ValueError(f"there are {n_tokens} tokens and {len(tags)} tags; each token needs one, O where it has none")
    odd = next((tag for tag in tags if tag != "O" and not _TAG.fullmatch(tag)), None)
    if odd is not None:
        raise ValueError(f"{odd!r} is no tag; a tag is O, or B- or I- (also S-, E-, U-, L-) with a label behind it")
    return tags


def joined_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text that the tokens make up, and where each of them stands in it.

    >>> joined_tokens(["Aki", "lives", "in", "東京", "都", "."])
    ('Aki lives in 東京都 .', [(0, 3), (4, 9), (10, 12), (13, 15), (15, 16), (17, 18)])
    """
    text, places = "", []
    for token in tokens:
        if text and not (_IDEOGRAPHIC.match(text[-1]) and _IDEOGRAPHIC.match(token[0])):
            text += " "
        places.append((len(text), len(text) + len(token)))
        text += token
    return text, places


def _looked_up(tokens: Sequence[str], text: str) -> list[tuple[int, int]]:
    places, at = [], 0
    for number, token in enumerate(tokens, 1):
        start = text.find(token, at)
        # Between two tokens stands nothing but white space.
        if start < 0 or text[at:start].strip():
            raise ValueError(
                f"token {number}, {token!r}, does not stand in the text behind character {at}; give the text that the tokens "
                "were made of, or leave the text out"
            )
        at = start + len(token)
        places.append((start, at))
    return places


def spans_of_tags(tags: Sequence[str], places: Sequence[tuple[int, int]]) -> Iterator[Span]:
    """Spans in characters from one tag a token.

    An I- (or E-, L-, M-) goes on where the token before it has the same label and does not end it, and begins a span
    where it does not, as in IOB1. B-, S- and U- always begin one.

    Args:
        tags: O, or a prefix and a label.
        places: start and end of each token in the text.

    >>> [(s.start, s.end, s.label) for s in spans_of_tags(["B-A", "I-A", "I-B", "O", "S-B"], [(i, i + 1) for i in range(5)])]
    [(0, 2, 'A'), (2, 3, 'B'), (4, 5, 'B')]
    """
    label, start, end = "", 0, 0
    for tag, (token_start, token_end) in zip(tags, places, strict=True):
        found = _TAG.fullmatch(tag)
        prefix, name = found.groups() if found else ("O", "")
        if label and (prefix not in _GOES_ON or name != label):
            yield Span(start, end, label)
            label = ""
        if name:
            if not label:
                label, start = name, token_start
            end = token_end
            if prefix in _ENDS:
                yield Span(start, end, label)
                label = ""
    if label:
        yield Span(start, end, label)
