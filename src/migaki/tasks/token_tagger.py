"""The network behind `tag_tokens`: encoder, linear head on every token."""

# Shapes: B windows, T tokens, P judged tokens of all windows, D hidden, C tags

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from migaki.core.cache import Cache
from migaki.core.errors import DataError, ModelError
from migaki.core.parts import Example
from migaki.core.seeds import derive, generator
from migaki.core.store import read_json
from migaki.core.types import Dataset, Prediction, Row, Span, shorten, spans_text
from migaki.tasks.bio import OUTSIDE, Window, best_tags, own_places, spans_of, tag_names, tags_of, windows
from migaki.tasks.body import Body
from migaki.tasks.classifier import HEAD_FILE, STATE_FILE
from migaki.training.plan import token_groups
from migaki.training.tokens import Examples, Known, Tokens, tokenizer_fingerprint

if TYPE_CHECKING:
    from migaki.models.base import Base
    from migaki.tasks.tag_tokens import TagTokens

__all__ = ["TokenTagger", "new_tagger", "restore_tagger"]

_LENGTH_CAP = 512
_TOKENISED_AT_ONCE, _ANSWERED_AT_ONCE = 4096, 1024
_FEATURES_FORMAT, _FEATURE_BYTES = "1", 1 << 30
_HEAD_TOKENS = 200_000
_IGNORED = -100
_ALONE = "\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
_PIECE = re.compile(rf"\s*(?:[{_ALONE}]|[^\s{_ALONE}]+)")
"""One Japanese or Chinese character, or a run of others, with the white space before it."""

Placed = tuple[Sequence[int], None, Sequence[tuple[int, int]]]


class TokenTagger(nn.Module):
    """Final hidden vectors of the backbone through one linear layer to the logits of the tags."""

    def __init__(self, base: Base, task: TagTokens, labels: Sequence[str]) -> None:
        super().__init__()
        self.backbone = cast(Any, base.model)
        if getattr(self.backbone, "pooler", None) is not None:
            # Nobody pools here; an unused pooler would be trained by nobody and adapted for nothing.
            self.backbone.pooler = None
        self.tokenizer = base.tokenizer
        self.labels = tuple(labels)
        self.tags = tag_names(labels)
        self.units, self.overlap = task.units, task.overlap
        self.limit = min(task.max_length or _LENGTH_CAP, base.length_limit)
        if task.max_length and task.max_length > base.length_limit:
            raise ModelError(
                f"task.max_length is {task.max_length}, but {base.reference} takes at most {base.length_limit} tokens. Lower it."
            )
        self._before, self._behind = _framing(self.tokenizer)
        self.room = self.limit - len(self._before) - len(self._behind)
        """Tokens of a text that a window holds."""
        if self.room < 1:
            raise ModelError(f"task.max_length is {self.limit}, which leaves no room beside special tokens. Raise it.")
        config = base.model.config.get_text_config()
        self.body = Body(self.backbone, self.tokenizer.pad_token_id or 0)
        self._known = Known()
        self.fingerprint = base.fingerprint
        self.normalised = False
        """Whether the head sees vectors of length sqrt(D), whatever length they have."""
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(config.hidden_size, len(self.tags))
        self.to(base.model.device)

    judges_all_tokens = True

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    # Rows as tokens

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows as windows with a tag for each token that is judged in them; every token of a row is judged in one window.

        Raises:
            DataError: the tokenizer makes no token of a text.
        """
        made_by = [tokenizer_fingerprint(self.tokenizer), self.units]
        tokens = Tokens.cached(dataset, made_by, lambda: self._tokenised(dataset.rows))
        self._known.add(dataset.rows, tokens)
        parts = self._parts(tokens, len(dataset))
        there = {number for number, _ in parts}
        empty = next((row for number, row in enumerate(dataset.rows) if number not in there), None)
        if empty is not None:
            raise DataError(
                f"{empty.place}: the tokenizer makes no token of {shorten(empty.content.text)!r}. Remove the row."
            )

        def example(at: int) -> Example:
            number, window = parts[at]
            row = dataset.rows[number]
            tags_T = self._tags(row, tokens.places(number))
            made = self._window(row, tokens.ids(number), tags_T, window)
            first = at == 0 or parts[at - 1][0] != number
            return replace(made, cut_spans=self._cut(row, tokens.places(number), tags_T)) if first else made

        return Examples(len(parts), example)

    def inputs(self, rows: Sequence[Row]) -> list[Example]:
        """Rows as they are predicted, in windows; their labels only say which tokens are answered where."""
        tokens = self._known.find(rows) or Tokens.of(self._tokenised(rows))
        return [
            self._window(rows[number], tokens.ids(number), _unknown(tokens.places(number)), window)
            for number, window in self._parts(tokens, len(rows))
        ]

    def _parts(self, tokens: Tokens, n_rows: int) -> list[tuple[int, Window]]:
        """Every row's windows in which a token is answered, with the row's number."""
        return [
            (number, window)
            for number in range(n_rows)
            for places_T2 in [tokens.places(number)]
            for window in windows(len(places_T2), self.room, self.overlap)
            if (places_T2[window.own_start : window.own_end, 0] < places_T2[window.own_start : window.own_end, 1]).any()
        ]

    def _window(self, row: Row, ids_T: np.ndarray, tags_T: np.ndarray, window: Window) -> Example:
        """What the network sees of a row at once; tokens that another window answers are no targets here."""
        own_T = np.full(window.end - window.start, _IGNORED, dtype=np.int64)
        own = slice(window.own_start - window.start, window.own_end - window.start)
        own_T[own] = tags_T[window.own_start : window.own_end]
        n_targets = int((own_T != _IGNORED).sum())
        return Example(
            row,
            (*self._before, *ids_T[window.start : window.end].tolist(), *self._behind),
            (*[_IGNORED] * len(self._before), *own_T.tolist(), *[_IGNORED] * len(self._behind)),
            float(n_targets),
            targets=n_targets,
        )

    def _tags(self, row: Row, places_T2: np.ndarray) -> np.ndarray:
        """The tag of each token of the row, (T,); -100 where it stands for no character of its own."""
        tags_T, judged_T = _unknown(places_T2), places_T2[:, 0] < places_T2[:, 1]
        tags_T[judged_T] = tags_of(row.content.spans, places_T2[judged_T], self.labels)
        return tags_T

    def _said(self, places_T2: np.ndarray, tags_T: np.ndarray) -> tuple[Span, ...]:
        """The named parts that tags can say."""
        judged_T = tags_T != _IGNORED
        return spans_of(tags_T[judged_T].tolist(), places_T2[judged_T], self.labels)

    def _cut(self, row: Row, places_T2: np.ndarray, tags_T: np.ndarray) -> tuple[str, ...]:
        """Each named part that no tags can say, with what they say instead."""
        text, said = row.content.text, self._said(places_T2, tags_T)
        found = []
        for span in sorted(set(row.content.spans) - set(said)):
            near = [text[s.start : s.end] for s in said if s.start < span.end and span.start < s.end]
            instead = ", ".join(map(repr, near)) if near else "nothing"
            found.append(f"{row.place}: {span.label} {text[span.start : span.end]!r}, at best {instead}")
        return tuple(found)

    def _tokenised(self, rows: Sequence[Row]) -> Iterator[Placed]:
        """Token ids of each text at full length, without special tokens, and the characters that each token stands for."""
        for at in range(0, len(rows), _TOKENISED_AT_ONCE):
            texts = [row.content.text for row in rows[at : at + _TOKENISED_AT_ONCE]]
            found = self._whole(texts) if self.units == "tokens" else map(self._by_character, texts)
            for text, (ids, places) in zip(texts, found, strict=True):
                yield ids, None, own_places(text, places)

    def _whole(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[int], Sequence[tuple[int, int]]]]:
        found = self.tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        return zip(found["input_ids"], found["offset_mapping"], strict=True)

    def _by_character(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        pieces = [(m.start(), m.group()) for m in _PIECE.finditer(text)]
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        if pieces:
            for (start, _), (piece_ids, piece_places) in zip(pieces, self._whole([p for _, p in pieces]), strict=True):
                ids += piece_ids
                places += [(start + a, start + b) for a, b in piece_places]
        return ids, places

    # The network

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """Final hidden vectors of the judged tokens, window after window, (P, D)."""
        return self.body.at([e.ids for e in examples], [_judged(e) for e in examples])

    def forward(self, examples: Sequence[Example]) -> torch.Tensor:
        """Logits of the judged tokens, window after window, (P, C)."""
        features_PD = self.features(examples)
        if self.normalised:
            features_PD = F.normalize(features_PD, dim=-1) * features_PD.shape[-1] ** 0.5
        return self.head(self.dropout(features_PD))  # type: ignore[no-any-return]

    def loss(self, examples: Sequence[Example], label_smoothing: float) -> torch.Tensor:
        """Sum of the cross-entropy over the judged tokens, scalar."""
        tags_P = torch.tensor([tag for e in examples for tag in e.labels if tag != _IGNORED], device=self.device)
        return F.cross_entropy(self(examples).float(), tags_P, label_smoothing=label_smoothing, reduction="sum")

    def generic_loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """The loss without smoothing, computed as transformers does: what the flat way is compared with."""
        flat, self.body.use_flat = self.body.use_flat, False
        try:
            return self.loss(examples, 0.0)
        finally:
            self.body.use_flat = flat

    def mask_id(self) -> int | None:
        """The token that stands for a hidden one, None where the tokenizer has none."""
        found: int | None = self.tokenizer.mask_token_id
        return found

    @torch.no_grad()
    def present_features(
        self, examples: Sequence[Example], watch: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """The mean over all judged tokens of each row, (N, D) float32, of the backbone as it is now."""
        numbers = {id(row): i for i, row in enumerate({id(e.row): e.row for e in examples}.values())}
        sums_ND, counts_N = np.zeros((len(numbers), self.head.in_features)), np.zeros(len(numbers))
        for done, (group, features_PD) in enumerate(self._in_groups(examples)):
            at = 0
            for i in group:
                number, n = numbers[id(examples[i].row)], examples[i].targets
                sums_ND[number] += features_PD[at : at + n].sum(0)
                counts_N[number] += n
                at += n
            watch(done)
        return (sums_ND / counts_N[:, None]).astype(np.float32)

    def _in_groups(self, examples: Sequence[Example]) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Numbers of windows that are computed together, with the vectors of their judged tokens."""
        for group in token_groups([len(e) for e in examples]):
            yield group, self.features([examples[i] for i in group]).float().cpu().numpy()

    @torch.no_grad()
    def head_rows(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every judged token the vector (P, D) of the backbone as it was loaded, the tag (P,), and what it weighs (P,).

        Kept on disk for other methods, seeds and runs. Not to be asked once the backbone was trained. Of more than 200,000
        tokens so many are taken, in whole windows drawn with a fixed seed: a linear head learns nothing more from others.
        """
        examples = _some(examples)
        facts = [_FEATURES_FORMAT, "tokens", self.fingerprint, self.backbone.config.to_json_string()]
        digest = hashlib.sha256("\x1f".join(facts).encode())
        for e in examples:
            numbers = [len(e), *e.ids, *_judged(e).tolist()]
            digest.update(np.asarray(numbers, dtype=np.int32).tobytes())

        def make(folder: Path) -> None:
            ends = np.cumsum([e.targets for e in examples])
            found_PD = np.zeros((int(ends[-1]), self.head.in_features), dtype=np.float32)
            for group, features_PD in self._in_groups(examples):
                at = 0
                for i in group:
                    n = examples[i].targets
                    found_PD[ends[i] - n : ends[i]] = features_PD[at : at + n]
                    at += n
            np.save(folder / "features.npy", found_PD)

        entry = Cache("features", _FEATURE_BYTES).get(digest.hexdigest()[:32], make)
        tags_P = np.array([tag for e in examples for tag in e.labels if tag != _IGNORED])
        return np.load(entry / "features.npy"), tags_P, np.ones(len(tags_P))

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """The named parts of each text, exact in its characters. Tags cost nothing, so all rows are answered whatever
        `answers` says."""
        tokens = self._known.find(rows) or Tokens.of(self._tokenised(rows))
        found: list[Prediction] = []
        parts = self._parts(tokens, len(rows))
        of_part = [number for number, _ in parts]
        for at in range(0, len(rows), _ANSWERED_AT_ONCE):
            numbers = range(at, min(at + _ANSWERED_AT_ONCE, len(rows)))
            first, last = bisect_left(of_part, numbers.start), bisect_left(of_part, numbers.stop)
            log_p = self._log_probabilities(rows, tokens, parts[first:last])
            tagged = best_tags([log_p[number] for number in numbers])
            found += [
                self._answer(rows[number], tokens.places(number), log_p[number], tags_J)
                for number, tags_J in zip(numbers, tagged, strict=True)
            ]
            watch(len(found))
        return found

    def _log_probabilities(
        self, rows: Sequence[Row], tokens: Tokens, parts: Sequence[tuple[int, Window]]
    ) -> defaultdict[int, np.ndarray]:
        """Of each row, by its number, those of the tags of all its judged tokens (J, C) float64."""
        examples = [
            self._window(rows[number], tokens.ids(number), _unknown(tokens.places(number)), window)
            for number, window in parts
        ]
        of_window: list[np.ndarray] = [np.zeros(0)] * len(examples)
        for group in token_groups([len(e) for e in examples]):
            log_p_PC = self([examples[i] for i in group]).double().log_softmax(-1).cpu().numpy()
            ends = np.cumsum([examples[i].targets for i in group])
            for i, end in zip(group, ends, strict=True):
                of_window[i] = log_p_PC[end - examples[i].targets : end]
        found: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros((0, len(self.tags))))
        for (number, _), log_p in zip(parts, of_window, strict=True):
            # Windows stand in order, and each answers its own tokens only.
            found[number] = np.concatenate([found[number], log_p])
        return found

    def _answer(self, row: Row, places_T2: np.ndarray, log_p_JC: np.ndarray, tags_J: np.ndarray) -> Prediction:
        content = row.content
        own_J2 = places_T2[places_T2[:, 0] < places_T2[:, 1]]
        spans = spans_of(tags_J.tolist(), own_J2, self.labels, np.take_along_axis(log_p_JC, tags_J[:, None], 1)[:, 0])
        wanted: tuple[Span, ...] | None = getattr(content, "spans", None)
        known, loss = False, None
        if wanted is not None and content.names() <= set(self.labels):
            known = True
            wanted_J = tags_of(wanted, own_J2, self.labels)
            loss = float(-np.take_along_axis(log_p_JC, wanted_J[:, None], 1).sum())
        hits = len(set(wanted or ()) & set(spans))
        return Prediction(
            place=row.place,
            output=spans_text(spans),
            target=None if wanted is None else spans_text(wanted),
            loss=loss,
            targets=len(own_J2) if known else 0,
            text=content.text,
            spans=spans,
            part=(2.0 * hits, float(len(wanted) + len(spans))) if wanted is not None else None,
        )

    # What is kept and told

    def save(self, folder: Path) -> None:
        """Head and labels; the backbone is saved by the method."""
        save_file(
            {"weight": self.head.weight.detach().contiguous(), "bias": self.head.bias.detach().contiguous()},
            folder / HEAD_FILE,
        )
        state = {
            "labels": list(self.labels),
            "max_length": self.limit,
            "overlap": self.overlap,
            "units": self.units,
            "normalised": self.normalised,
        }
        (folder / STATE_FILE).write_text(json.dumps(state, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def marked(self, example: Example) -> list[tuple[str, bool]]:
        """The text of the row, in pieces, with the parts as its tokens can say them."""
        tokens = Tokens.of(self._tokenised([example.row]))
        text, pieces, at = example.row.content.text, [], 0
        for span in self._said(tokens.places(0), self._tags(example.row, tokens.places(0))):
            pieces += [(text[at : span.start], False), (f"{text[span.start : span.end]}/{span.label}", True)]
            at = span.end
        return [piece for piece in (*pieces, (text[at:], False)) if piece[0]]

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What the report tells about the parts of a split."""
        rows = {id(e.row): e.row for e in examples}.values()
        counts = Counter(span.label for row in rows for span in row.content.spans)
        return {
            "labels": {label: counts[label] for label in self.labels},
            "length": self.limit,
            "windows": len(examples),
        }


def _some(examples: Sequence[Example]) -> list[Example]:
    found, n = list(examples), 0
    if sum(e.targets for e in found) <= _HEAD_TOKENS:
        return found
    chosen = []
    for i in generator(0, "head rows").permutation(len(found)).tolist():
        n += found[i].targets
        if n > _HEAD_TOKENS:
            break
        chosen.append(i)
    return [found[i] for i in sorted(chosen)]


def _framing(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and behind a text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    inside = [i for i, special in enumerate(found["special_tokens_mask"]) if not special]
    ids = found["input_ids"]
    return tuple(ids[: inside[0]]), tuple(ids[inside[-1] + 1 :])


def _unknown(places_T2: np.ndarray) -> np.ndarray:
    """Some tag for each token that is judged, -100 for the others, (T,)."""
    return np.where(places_T2[:, 0] < places_T2[:, 1], OUTSIDE, _IGNORED).astype(np.int64)


def _judged(example: Example) -> np.ndarray:
    return np.flatnonzero(np.asarray(example.labels) != _IGNORED)


def new_tagger(base: Base, task: TagTokens, train: Dataset, seed: int) -> TokenTagger:
    """A tagger for the sorted labels of the training rows.

    The head starts from small random weights; its bias makes the untrained model say the shares of the tags, so that
    training does not begin with learning that most tokens are outside.
    """
    network = TokenTagger(base, task, sorted({label for row in train.rows for label in row.content.names()}))
    counts = Counter(tag for e in network.encode(train) for tag in e.labels if tag != _IGNORED)
    count_C = torch.tensor([counts[tag] + 1.0 for tag in range(len(network.tags))])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive(seed, "head"))
        nn.init.normal_(network.head.weight, std=0.02)
        network.head.bias.copy_((count_C / count_C.sum()).log())
    return network


def restore_tagger(base: Base, task: TagTokens, folder: Path) -> TokenTagger:
    """The tagger of a saved run, over the given backbone."""
    state = read_json(folder / STATE_FILE)
    kept = {name: state[name] for name in ("max_length", "overlap", "units")}
    network = TokenTagger(base, task.model_copy(update=kept), state["labels"])
    network.head.load_state_dict(load_file(folder / HEAD_FILE))
    network.normalised = state["normalised"]
    return network
