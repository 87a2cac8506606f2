"""The learners of `retrieve`: neighbours that vote, and a generator that reads what was found; and their index on disk."""

# Shapes: N passages, K neighbours, C classes, Q rows asked, D features, T temperatures, E doubts

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from migaki.core.cache import Cache
from migaki.core.errors import DamagedError, DataError, ModelError
from migaki.core.parts import Example, ParameterGroup
from migaki.core.store import commit, read_json, sweep, verify
from migaki.core.types import Conversation, Dataset, Place, Prediction, Row, Turn
from migaki.evaluation.slices import script_of
from migaki.methods.tuned import TunedLearner
from migaki.models import Model, locate
from migaki.models.base import Base, load_base
from migaki.retrieval import Hit, Index, Library, Passage, Way, read_passages, write_passages
from migaki.retrieval.dense import normalised
from migaki.tasks.answers import traits_of
from migaki.tasks.body import Body
from migaki.tasks.pairs import check_pairs
from migaki.training.plan import token_groups

if TYPE_CHECKING:
    from migaki.methods.retrieve import Retrieve

__all__ = [
    "Encoder",
    "ReadingLearner",
    "Vote",
    "VotingLearner",
    "add_passages",
    "fit_vote",
    "load_encoder",
    "load_index",
    "load_passages",
    "load_state",
    "passages_of",
    "votes",
]

_PASSAGES, _VECTORS, _STATE, _ADDED = "passages.jsonl", "vectors.safetensors", "retrieval.json", "index"
_LOOKED_AT = 10
"""How far down the right one is looked for, for recall."""
_NAMED_SOURCES = 5


# What is looked up


def passages_of(row: Row) -> list[Passage]:
    """What a row is found as: a labelled text, or each question of a conversation with its answer."""
    content = row.content
    if not isinstance(content, Conversation):
        return [Passage(row.place, content.text, label=content.label, pair=content.pair)]
    turns = content.turns
    return [
        Passage(row.place, f"{before.content}\n{turn.content}", asked=before.content)
        for before, turn in itertools.pairwise(turns)
        if (before.role, turn.role) == ("user", "assistant")
    ]


class _Origins:
    """Which passages are a row itself: from the same file and line, or with the same text and answer.

    A row that found itself would find its own answer, which says nothing about the rows that are asked about later.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = passages
        self._by_place: dict[tuple[str, int], list[int]] = {}
        self._by_content: dict[tuple[str | None, ...], list[int]] = {}
        for number, passage in enumerate(passages):
            self._by_place.setdefault(_where(passage.place), []).append(number)
            self._by_content.setdefault(passage.said, []).append(number)

    def of(self, row: Row) -> set[int]:
        """Numbers of its passages."""
        contents = (self._by_content.get(p.said, ()) for p in passages_of(row))
        return {*self._by_place.get(_where(row.place), ()), *itertools.chain.from_iterable(contents)}


def _where(place: Place) -> tuple[str, int]:
    # One file is named once as the recipe sees it and once from where the command is given.
    return os.path.abspath(place.source), place.line


# Encoders


class Encoder:
    """Texts to vectors, by a model that stays as it is."""

    def __init__(self, base: Base) -> None:
        self.reference, self.fingerprint, self.licence = base.reference, base.fingerprint, base.licence
        self._tokenizer = base.tokenizer
        self._body = Body(base.model, base.tokenizer.pad_token_id or 0)
        self._pooling: Any = base.pooling or "mean"
        self._prompt = base.prompt
        self._limit = min(512, base.length_limit)

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """At length 1, (Q, D) float32. What is longer than the model's limit counts with its beginning."""
        prompted = [self._prompt + text for text in texts]
        ids = self._tokenizer(prompted, truncation=True, max_length=self._limit)["input_ids"]
        found_QD = np.zeros((len(ids), self._body.width), dtype=np.float32)
        for group in token_groups([len(row) for row in ids]):
            found_QD[group] = self._body.pooled([ids[i] for i in group], self._pooling).float().cpu().numpy()
        return normalised(found_QD)

    def kept_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """The same, kept on disk for other runs."""
        key = hashlib.sha256(
            json.dumps([self.fingerprint, self._pooling, self._prompt, self._limit, *texts]).encode()
        ).hexdigest()

        def make(folder: Path) -> None:
            np.save(folder / "vectors.npy", self.vectors(texts))

        entry = Cache("vectors", 1 << 30).get(key[:32], make)
        return np.load(entry / "vectors.npy")  # type: ignore[no-any-return]


def load_encoder(model: Model, fingerprint: str | None = None) -> Encoder:
    """The encoder a recipe names.

    Raises:
        ModelError: it cannot be loaded, or has other weights than those behind `fingerprint`.
    """
    encoder = Encoder(load_base(locate(model), "encoder"))
    if fingerprint is not None and encoder.fingerprint != fingerprint:
        raise ModelError(
            f"{model.reference} has other weights now than when the index was made (sha256 {encoder.fingerprint[:12]}, then "
            f"{fingerprint[:12]}), so its vectors do not fit. Restore that model, or train again."
        )
    return encoder


# The index on disk


def load_state(folder: Path) -> dict[str, Any]:
    """How the index of a saved model is searched."""
    state: dict[str, Any] = read_json(folder / _STATE)
    return state


def load_index(folder: Path) -> Index:
    """The index of a saved model, with what was added to its run since.

    Raises:
        DamagedError: a file is missing, is not what was written, or does not fit the others.
    """
    way = load_state(folder)["way"]
    parts = [folder, *_added(folder)]
    passages = [read_passages(part / _PASSAGES) for part in parts]
    if way == "sparse":
        return Index([p for few in passages for p in few], way)
    vectors = [_load_vectors(part / _VECTORS, len(few)) for part, few in zip(parts, passages, strict=True)]
    return Index([p for few in passages for p in few], way, np.concatenate(vectors))


def load_passages(folder: Path) -> list[Passage]:
    """The passages alone, without the model that makes vectors."""
    return [p for part in (folder, *_added(folder)) for p in read_passages(part / _PASSAGES)]


def _added(folder: Path) -> list[Path]:
    """What was added to the run of this model, each part checked against its own manifest.

    It lies beside the sealed files of the run, so that these stay what was measured; removing a part takes it out again.
    """
    home = folder.parent / _ADDED
    parts = sorted(p for p in home.iterdir() if p.is_dir() and p.name[0] != ".") if home.is_dir() else []
    for part in parts:
        verify(part)
    return parts


def _load_vectors(path: Path, n: int) -> np.ndarray:
    try:
        vectors_ND = load_file(path)["vectors"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DamagedError(f"{path} holds no vectors ({error}).") from None
    if vectors_ND.ndim != 2 or len(vectors_ND) != n:
        raise DamagedError(f"{path}: vectors of shape {vectors_ND.shape} do not fit {n} passages.")
    return vectors_ND


def _write(folder: Path, passages: Sequence[Passage], vectors_ND: np.ndarray | None) -> None:
    write_passages(folder / _PASSAGES, passages)
    if vectors_ND is not None:
        save_file({"vectors": np.ascontiguousarray(vectors_ND)}, folder / _VECTORS)


def add_passages(
    folder: Path, passages: Sequence[Passage], vectors: Callable[[Sequence[Passage]], np.ndarray], source: str
) -> int:
    """Put passages beside the model in `folder`, as one more part of its run's index; how many were new.

    Args:
        vectors: makes them, if the index needs any.
        source: what was asked for, for the message.
    Raises:
        DataError: every one of them is there already.
    """
    there = {p.said for p in load_passages(folder)}
    new = [p for p in passages if p.said not in there]
    if not new:
        raise DataError(f"All {len(passages)} passages of {source} are in the index already; nothing was added.")
    vectors_ND = vectors(new) if load_state(folder)["way"] != "sparse" else None
    home = folder.parent / _ADDED
    sweep(home)
    while True:
        number = 1 + max((int(p.name) for p in home.glob("*") if p.name.isdecimal()), default=0)
        try:
            with commit(home / f"{number:04d}", {"added": source}) as temporary:
                _write(temporary, new, vectors_ND)
        except FileExistsError:
            continue  # another process took the number
        return len(new)


# Learners


class _SearchingLearner(TunedLearner):
    """A network beside an index; nothing of the network is trained."""

    def __init__(self, network: Any, way: Way, index: Index | None) -> None:
        super().__init__(network, self._write_index)
        network.requires_grad_(False)
        network.eval()
        self.way: Way = way
        self.index = index
        self._asleep = False
        self._origins = _Origins(())

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def _own(self, rows: Sequence[Row]) -> list[set[int]]:
        """For each row the passages that it must not find."""
        assert self.index is not None
        if self._origins.passages is not self.index.passages:
            self._origins = _Origins(self.index.passages)
        return [self._origins.of(row) for row in rows]

    @contextmanager
    def untrained(self) -> Iterator[None]:
        self._asleep = True
        try:
            yield
        finally:
            self._asleep = False

    def _write_index(self, network: Any, folder: Path) -> None:
        assert self.index is not None
        _write(folder, self.index.passages, self.index.vectors_ND)
        (folder / _STATE).write_text(json.dumps({"way": self.way, **self._state()}, indent=1) + "\n", encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        raise NotImplementedError


# Classification


@dataclass(frozen=True)
class Vote:
    """How neighbours become probabilities."""

    temperature: float | None
    """A neighbour counts exp(similarity / temperature); None: 1 / rank, where there are no similarities."""
    doubt: float
    """Share of the probability that is spread evenly over all labels (0..1), so that none has probability 0."""


_TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.5)
_DOUBTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def votes(hits: Sequence[Hit], temperature: float | None) -> np.ndarray:
    """What share of the vote each neighbour has, (K,), summing to 1.

    >>> votes([Hit(4), Hit(2)], None).round(4).tolist(), votes([Hit(4, 0.9), Hit(2, 0.9)], 0.1).tolist()
    ([0.6667, 0.3333], [0.5, 0.5])
    """
    if temperature is None:
        weight_K = 1 / np.arange(1, len(hits) + 1)
    else:
        similarity_K = np.array([hit.similarity for hit in hits])
        weight_K = np.exp((similarity_K - similarity_K.max(initial=-1.0)) / temperature)
    return np.asarray(weight_K / weight_K.sum())


def fit_vote(found: Sequence[Sequence[Hit]], right: Sequence[np.ndarray], n_labels: int) -> Vote:
    """The temperature and the doubt under which the validation rows have the smallest loss.

    Args:
        found: the neighbours of each row; without similarities only the doubt is chosen.
        right: for each row which of its neighbours have its label, (K,).
    """
    similar = all(hit.similarity is not None for hits in found for hit in hits)
    temperatures: Sequence[float | None] = _TEMPERATURES if similar else [None]
    share_QT = np.array(
        [
            [votes(hits, t)[right_K].sum() if len(hits) else 1 / n_labels for t in temperatures]
            for hits, right_K in zip(found, right, strict=True)
        ]
    )
    doubt_E = np.array(_DOUBTS)
    loss_TE = -np.log((1 - doubt_E) * share_QT[..., None] + doubt_E / n_labels).mean(0)
    t, e = np.unravel_index(loss_TE.argmin(), loss_TE.shape)
    return Vote(temperatures[t], _DOUBTS[e])


class VotingLearner(_SearchingLearner):
    """A classifier whose training rows vote: those nearest to the text, each by its similarity."""

    def __init__(
        self, network: Any, neighbours: int, way: Way, index: Index | None = None, vote: Vote | None = None
    ) -> None:
        super().__init__(network, way, index)
        self.neighbours, self.vote = neighbours, vote

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        passages = [p for e in train for p in passages_of(e.row)]
        vectors_ND = normalised(self.network.kept_features(list(train))) if self.way != "sparse" else None
        self.index = Index(passages, self.way, vectors_ND)
        found = [hits[: self.neighbours] for hits in self.find(valid)]
        right = [
            np.array([passages[hit.number].label == row.content.label for hit in hits], dtype=bool)
            for hits, row in zip(found, valid, strict=True)
        ]
        self.vote = fit_vote(found, right, len(self.labels))
        note(f"{len(passages)} rows vote, {self.neighbours} at a time, found by a {self.way} index")
        return {"path": "index", "index": self.way, "passages": len(passages), **asdict(self.vote)}

    def vectors(self, rows: Sequence[Row]) -> np.ndarray:
        """Of texts, by the network's backbone: at length 1, (Q, D)."""
        return normalised(self.network.present_features(self.network.inputs(rows)))

    def passage_vectors(self, passages: Sequence[Passage]) -> np.ndarray:
        """The same of rows that are to be looked up."""
        return self.vectors([self.network.row_of(p.place, p.text, p.label, p.pair) for p in passages])

    def find(self, rows: Sequence[Row]) -> list[list[Hit]]:
        """The nearest training rows of each row, itself left out; at least as many as vote, and as recall looks at."""
        assert self.index is not None
        queries_QD = self.vectors(rows) if self.way != "sparse" else None
        texts = [row.content.both for row in rows]
        return self.index.search(texts, queries_QD, max(self.neighbours, _LOOKED_AT), self._own(rows))

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        if self._asleep:
            return super().predict(rows, answers=answers, watch=watch)
        assert self.index is not None
        check_pairs(rows, self.network.paired)
        index_of = {label: i for i, label in enumerate(self.labels)}
        weight_C = self.network.class_weight.double().cpu().numpy()
        label_N = np.array([index_of[str(p.label)] for p in self.index.passages])
        predictions = []
        for row, hits in zip(rows, self.find(rows), strict=True):
            probability_C = self._probabilities(hits[: self.neighbours], label_N, weight_C)
            best, target = int(probability_C.argmax()), row.content.label
            looked_at = [int(label_N[hit.number]) for hit in hits[:_LOOKED_AT]]
            predictions.append(
                Prediction(
                    place=row.place,
                    output=self.labels[best],
                    target=target,
                    confidence=float(probability_C[best]),
                    loss=float(-np.log(probability_C[index_of[target]])) if target in index_of else None,
                    targets=int(target in index_of),
                    scores=tuple(probability_C.tolist()),
                    text=row.content.text,
                    pair=row.content.pair,
                    traits=traits_of(row),
                    sources=_sources(self.index, hits),
                    found_at=_first([label == index_of.get(target) for label in looked_at]) if target else None,
                )
            )
            watch(len(predictions))
        return predictions

    def _probabilities(self, hits: Sequence[Hit], label_N: np.ndarray, weight_C: np.ndarray) -> np.ndarray:
        """(C,), by the vote of these neighbours; class weights make the rare ones count more."""
        assert self.vote is not None
        n_labels = len(self.labels)
        if not hits:
            return np.full(n_labels, 1 / n_labels)
        of_K = label_N[[hit.number for hit in hits]]
        share_C = np.bincount(of_K, votes(hits, self.vote.temperature) * weight_C[of_K], minlength=n_labels)
        return np.asarray((1 - self.vote.doubt) * share_C / share_C.sum() + self.vote.doubt / n_labels)

    def _state(self) -> dict[str, Any]:
        assert self.vote is not None
        return {"vote": asdict(self.vote)}


def _sources(index: Index, hits: Sequence[Hit]) -> tuple[str, ...]:
    return tuple(str(index.passages[hit.number].place) for hit in hits[:_NAMED_SOURCES])


def _first(right: Sequence[bool]) -> int:
    """Rank of the first right one, 0 where there is none."""
    return next((rank for rank, hit in enumerate(right, 1) if hit), 0)


# Generation

_PROMPTS = {
    "en": "Answer the question with the help of these passages. What they do not say, answer as you know it.\n\n"
    "{passages}\n\nQuestion: {question}",
    "ja": "次の資料を参考にして質問に答えてください。資料にないことは、あなたの知識で答えてください。\n\n{passages}\n\n質問: {question}",
}
_LEAST_SHOWN = 20
"""Characters; fewer of a passage say nothing."""
_WORD = re.compile(r"\w+")


class ReadingLearner(_SearchingLearner):
    """A generator that reads the passages nearest to the question before it answers."""

    def __init__(
        self,
        network: Any,
        method: Retrieve,
        way: Way,
        encoder: Encoder | None,
        library: Library | None,
        index: Index | None = None,
    ) -> None:
        super().__init__(network, way, index)
        self.method, self._encoder, self._library = method, encoder, library
        self._known: dict[tuple[Turn, ...], list[Hit]] = {}
        if index is not None:
            network.show(self._with_passages)

    def encode(self, dataset: Dataset) -> Sequence[Example]:
        """Rows without passages: what is found for them is no part of the data."""
        with self.untrained():
            return super().encode(dataset)

    def settle(
        self, train: Sequence[Example], valid: Sequence[Row], passes: int, note: Callable[[str], None]
    ) -> dict[str, Any]:
        library = self._library
        passages = library.passages if library else [p for e in train for p in passages_of(e.row)]
        vectors_ND = None
        if self._encoder is not None:
            vectors_ND = self._encoder.kept_vectors([p.searched for p in passages])
        self.index = Index(passages, self.way, vectors_ND)
        self.network.show(self._with_passages)
        what = f"{library.n_documents} documents" if library else f"{len(train)} rows"
        note(f"{len(passages)} passages of {what} in a {self.way} index")
        if library and library.skipped:
            n = len(library.skipped)
            note(f"{n} files of {self.method.documents} hold no text that can be read (first: {library.skipped[0]})")
        return {"path": "index", "index": self.way, "passages": len(passages)}

    @contextmanager
    def untrained(self) -> Iterator[None]:
        self.network.show(None)
        try:
            with super().untrained():
                yield
        finally:
            if self.index is not None:
                self.network.show(self._with_passages)

    def find(self, questions: Sequence[str], barred: Sequence[set[int]] | None = None) -> list[list[Hit]]:
        """The nearest passages of each question; at least as many as are shown, and as recall looks at."""
        assert self.index is not None
        queries_QD = self._encoder.vectors(questions) if self._encoder is not None else None
        return self.index.search(questions, queries_QD, max(self.method.passages, _LOOKED_AT), barred)

    def predict(
        self, rows: Sequence[Row], *, answers: int | None = None, watch: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """As the task's network, and for each row what was found, which is never the row's own answer."""
        if self._asleep:
            return super().predict(rows, answers=answers, watch=watch)
        assert self.index is not None
        asked = [_before_answer(row) for row in rows]
        # Rows that ask the same are asked the same: none of them may find the answer of another.
        barred: dict[tuple[Turn, ...], set[int]] = {}
        for turns, own in zip(asked, self._own(rows), strict=True):
            barred.setdefault(turns, set()).update(own)
        found = self.find([_question(turns).content for turns in barred], list(barred.values()))
        self._known = dict(zip(barred, found, strict=True))
        try:
            predictions = super().predict(rows, answers=answers, watch=watch)
            return [
                replace(p, sources=self._shown_sources(turns), found_at=self._answer_at(turns, p.target))
                for p, turns in zip(predictions, asked, strict=True)
            ]
        finally:
            self._known = {}

    def _shown_sources(self, turns: tuple[Turn, ...]) -> tuple[str, ...]:
        assert self.index is not None
        return _sources(self.index, self._known[turns][: self.method.passages])

    def _answer_at(self, turns: tuple[Turn, ...], answer: str | None) -> int | None:
        """Rank of the first passage that holds the wanted answer word for word; None where none is known."""
        if answer is None:
            return None
        assert self.index is not None
        texts = [self.index.passages[hit.number].text for hit in self._known[turns][:_LOOKED_AT]]
        return _first([_holds(text, answer) for text in texts])

    def _with_passages(self, turns: tuple[Turn, ...], n_answer: int) -> tuple[Turn, ...]:
        """The turns with what was found put before the last question."""
        assert self.index is not None
        hits = self._known[turns] if turns in self._known else self.find([_question(turns).content])[0]
        texts = [self.index.passages[hit.number].text for hit in hits[: self.method.passages]]
        return self._fitting(turns, texts, self.network.limit - n_answer)

    def _fitting(self, turns: tuple[Turn, ...], texts: Sequence[str], room: int) -> tuple[Turn, ...]:
        """As many of the passages as the prompt may hold within `room` tokens, the last one cut; none where none fits."""
        at = max(i for i, turn in enumerate(turns) if turn.role == "user")
        template = self.method.prompt or _PROMPTS[_language(turns[at].content)]

        def asked(shown: Sequence[str]) -> tuple[Turn, ...]:
            passages = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(shown, 1))
            before, _, after = template.partition("{question}")
            said = turns[at].content.join(part.replace("{passages}", passages) for part in (before, after))
            return (*turns[:at], Turn("user", said), *turns[at + 1 :])

        def fits(shown: Sequence[str]) -> bool:
            return len(self.network.chat.prompt(asked(shown))) <= room

        shown: list[str] = []
        for text in texts:
            if fits([*shown, text]):
                shown.append(text)
                continue
            low, high = 0, len(text)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fits([*shown, text[:middle] + "…"]) else (low, middle)
            if low >= _LEAST_SHOWN:
                shown.append(text[:low] + "…")
            break
        return asked(shown) if shown else turns

    def _state(self) -> dict[str, Any]:
        e = self._encoder
        made_by = {"reference": e.reference, "fingerprint": e.fingerprint, "licence": e.licence} if e else None
        return {"encoder": made_by}


def _before_answer(row: Row) -> tuple[Turn, ...]:
    turns: tuple[Turn, ...] = row.content.turns
    return turns[:-1] if turns[-1].role == "assistant" else turns


def _question(turns: Sequence[Turn]) -> Turn:
    """What the user said last."""
    return next(turn for turn in reversed(turns) if turn.role == "user")


def _language(text: str) -> str:
    return "ja" if script_of(text) in ("japanese", "mixed") else "en"


def _holds(text: str, answer: str) -> bool:
    """Whether the answer stands in the text word for word, width, case and punctuation aside.

    Japanese is compared without white space, for it is broken into lines anywhere.
    """
    text, answer = (unicodedata.normalize("NFKC", said).casefold() for said in (text, answer))
    if _language(answer) == "ja":
        return "".join(answer.split()) in "".join(text.split())
    return f" {' '.join(_WORD.findall(answer))} " in f" {' '.join(_WORD.findall(text))} "
