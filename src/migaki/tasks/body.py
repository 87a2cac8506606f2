"""A backbone and the two ways to compute it: as transformers runs it, or flat; and what is kept below its cut.

The generic way always works. The flat way is taken where the blocks are laid out as `flat` knows them, and only after
it was compared with the generic one on this very model (`TunedLearner.settle`). Both share every weight.
"""

# Shapes: B rows, T longest row, N tokens of all rows in line, P wanted tokens, D hidden

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from migaki.core.parts import Example
from migaki.models.flat import Edit, FlatDecoder, FlatEncoder, Line, flat_decoder, flat_encoder
from migaki.training.activations import activations_of
from migaki.training.plan import FLAT_PADDING_COST, pad, token_groups

__all__ = ["Body", "Edits", "common_prefix", "fingerprint_of", "tokens_at_once"]

Rows = Sequence[Sequence[int]]
Pooling = Literal["mean", "cls", "last"]

_ACTIVATION_BYTES = 1536 << 20
"""Memory for what a backward pass has to remember; how many tokens are computed at once follows from it."""
_MOST_TOKENS, _MOST_TOKENS_ON_A_GPU = 8192, 65536
_COMPARED_TOKENS, _TOLERANCE = 24, 1e-3
"""Two ways of adding the same float32 numbers differ by about 1e-6 of their size; a wrong one by far more."""
_PREFIX_TOKENS = 8
"""A shorter common beginning is not worth its own attention."""


class Edits(Protocol):
    """What a method changes in the outputs of blocks, at tokens that follow from where the prompt ends."""

    @property
    def first_block(self) -> int:
        """Number of the lowest block whose output is changed."""
        ...

    def marks(self, prompt: int, length: int) -> np.ndarray:
        """Which change falls on each token of a row whose first `prompt` tokens are its prompt, (T,); 0: none."""
        ...

    def over(self, marks_N: np.ndarray, device: torch.device) -> Edit:
        """The changes of one pass over tokens in line, given the mark of each."""
        ...

    def during(self, marks_BT: np.ndarray) -> AbstractContextManager[None]:
        """Inside, a call of the backbone changes these tokens; T counts from the first token that is in its cache."""
        ...


class Body:
    """Hidden vectors of rows of token ids."""

    def __init__(self, backbone: Any, fill: int) -> None:
        self.backbone = backbone
        self.fill = fill
        """Any id, for padding under the mask."""
        self.flat: FlatDecoder | FlatEncoder | None = flat_encoder(backbone) or flat_decoder(backbone)
        self.share_prefix = True
        self.edits: Edits | None = None
        """What the method changes in the outputs of blocks, if it does."""
        self._second_behind: int | None = None
        self._find: Callable[[Sequence[int]], np.ndarray | None] | None = None
        self._cut = 0
        self.use_flat = self.flat is not None and self._agrees()

    def tell_pairs_apart(self, separator: int) -> None:
        """From now on tokens behind the first `separator` of a row are those of its second text (token type 1)."""
        self._second_behind = separator
        if isinstance(self.flat, FlatEncoder):
            self.flat.second_behind = separator

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Whether both ways give the same vectors for a few tokens.

        Blocks of one layout may still be joined in another way (Granite scales them, SmolLM3 leaves rotations out), or
        take no line of tokens at all: experts unpack three sides (ValueError), and where a part of each head is rotated,
        sizes do not fit (RuntimeError). Asked here and not only before a training, because a saved model is never trained
        again.
        """
        config = self.backbone.config.get_text_config()
        # RoBERTa takes its padding token for no token at all.
        ids = set(range(min(_COMPARED_TOKENS, config.vocab_size))) - {self.fill, config.pad_token_id}
        rows = [sorted(ids), sorted(ids)[::-2]]
        try:
            found_ND = self._above(Line.of(rows, self.device), rows, None)
        except (RuntimeError, ValueError):
            return False
        hidden_BTD, mask_BT = self._padded(rows)
        wanted_ND = hidden_BTD[mask_BT.bool()]
        return bool((found_ND - wanted_ND).norm() <= _TOLERANCE * wanted_ND.norm())

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """D"""
        return int(self.backbone.config.get_text_config().hidden_size)

    def tokens_at_once(self) -> int:
        """Tokens of one forward and backward pass, so that its memory stays within a bound whatever the rows are."""
        return tokens_at_once(self.backbone.config.get_text_config(), self.device)

    def groups(self, examples: Sequence[Example], max_rows: int | None = None) -> list[list[int]]:
        """Which examples of a step are computed together: of similar length, at most `max_rows` of them."""
        cost = FLAT_PADDING_COST if self.use_flat else 1.0
        return token_groups([len(e) for e in examples], self.tokens_at_once(), max_rows, cost)

    def groups_without_gradient(self, examples: Sequence[Example]) -> list[list[int]]:
        """The same where nothing has to be remembered for a backward pass."""
        return token_groups([len(e) for e in examples])

    def edited(
        self, rows: Rows, prompts: Sequence[int] | None = None, left: bool = False
    ) -> AbstractContextManager[None]:
        """Inside, a call of the backbone on these rows, padded as `pad` does it, has the method's changes in it.

        Args:
            rows: token ids of each row.
            prompts: how many tokens of each row, from its first, are its prompt; None: all of them.
            left: whether the rows are filled on the left.
        """
        if self.edits is None:
            return contextlib.nullcontext()
        marks_BT, _ = pad([marks_T.tolist() for marks_T in self._marks(rows, prompts)], 0, torch.device("cpu"), left)
        return self.edits.during(marks_BT.numpy())

    def _marks(self, rows: Rows, prompts: Sequence[int] | None) -> list[np.ndarray]:
        """Which change falls on each token of each row; empty without changes."""
        if self.edits is None:
            return []
        prompts = prompts if prompts is not None else [len(row) for row in rows]
        return [self.edits.marks(prompt, len(row)) for row, prompt in zip(rows, prompts, strict=True)]

    def at(self, rows: Rows, wanted: Sequence[np.ndarray], prompts: Sequence[int] | None = None) -> torch.Tensor:
        """Final hidden vectors (P, D) at the wanted positions of each row (rising), row after row; `prompts` as in
        `edited`."""
        if not self.use_flat:
            hidden_BTD, _ = self._padded(rows, prompts)
            row_P = np.repeat(np.arange(len(rows)), [len(places) for places in wanted])
            place_P = np.concatenate(list(wanted))
            return hidden_BTD[torch.from_numpy(row_P), torch.from_numpy(place_P.astype(np.int64))]
        marks = self._marks(rows, prompts)
        shared = self._shared(rows, min(int(places[0]) for places in wanted if len(places)), marks)
        line = Line.of(rows, self.device, shared)
        wanted_P = np.concatenate(
            [places + (start - shared) for places, start in zip(wanted, line.starts(), strict=True)]
        )
        return self._above(line, rows, torch.from_numpy(wanted_P.astype(np.int64)).to(self.device), marks)

    def pooled(self, rows: Rows, pooling: Pooling) -> torch.Tensor:
        """One vector a row, (B, D)."""
        if not self.use_flat:
            hidden_BTD, mask_BT = self._padded(rows)
            if pooling == "cls":
                return hidden_BTD[:, 0]
            if pooling == "last":
                return hidden_BTD[torch.arange(len(rows)), mask_BT.sum(1) - 1]
            weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
            return (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
        line, marks = Line.of(rows, self.device), self._marks(rows, None)
        lengths_B1 = torch.tensor(line.lengths, device=self.device)[:, None]
        if pooling == "mean":
            return line.grid(self._above(line, rows, None, marks)).sum(1) / lengths_B1
        starts_B = torch.tensor(line.starts(), device=self.device)
        return self._above(line, rows, starts_B if pooling == "cls" else starts_B + lengths_B1[:, 0] - 1, marks)

    def _padded(self, rows: Rows, prompts: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, D) as transformers computes it, and the mask (B, T)."""
        ids_BT, mask_BT = pad(rows, self.fill, self.device)
        body = getattr(self.backbone, self.backbone.base_model_prefix, self.backbone)
        settings: dict[str, Any] = {"use_cache": False} if getattr(body.config, "use_cache", None) is not None else {}
        if self._second_behind is not None:
            found_BT = (ids_BT == self._second_behind).long()
            settings["token_type_ids"] = (found_BT.cumsum(1) > found_BT).long()
        with self.edited(rows, prompts):
            return body(input_ids=ids_BT, attention_mask=mask_BT, **settings).last_hidden_state, mask_BT

    def _shared(self, rows: Rows, first_wanted: int, marks: Sequence[np.ndarray] = ()) -> int:
        """Tokens at the beginning of all rows that are computed once: equal ids with equal changes behind every block."""
        if not self.share_prefix or not isinstance(self.flat, FlatDecoder) or len(rows) < 2:
            return 0
        shared = min(common_prefix(rows), first_wanted, min(len(row) for row in rows) - 1)
        if marks and shared:
            shared = min(shared, common_prefix([marks_T[:shared].tolist() for marks_T in marks]))
        return shared if shared >= _PREFIX_TOKENS else 0

    def _above(
        self, line: Line, rows: Rows, wanted_P: torch.Tensor | None, marks: Sequence[np.ndarray] = ()
    ) -> torch.Tensor:
        assert self.flat is not None
        edit = None
        if self.edits is not None:
            in_line = [marks[0][: line.shared], *(marks_T[line.shared :] for marks_T in marks)]
            edit = self.edits.over(np.concatenate(in_line), self.device)
        # Only a row too long for one pass asks for it: everything else was grouped so that it fits.
        self.flat.recompute = len(line.ids_N) > 2 * self.tokens_at_once()
        kept_ND = self._kept(line, rows)
        if kept_ND is not None:
            return self.flat.hidden(line, kept_ND, wanted_P, first=self._cut, edit=edit)
        return self.flat.hidden(line, self.flat.embed(line), wanted_P, edit=edit)

    # What is kept below the first trained block

    def first_trained(self) -> int:
        """Number of the first block with a trained parameter or a changed output, so that what enters it is fixed; 0 where
        something before the blocks is trained."""
        assert self.flat is not None
        layers = self.flat.layers
        inside = {id(p) for layer in layers for p in layer.parameters()}
        after = {
            id(p) for name in ("norm", "pooler") if (m := getattr(self.flat.body, name, None)) for p in m.parameters()
        }
        if any(p.requires_grad and id(p) not in inside | after for p in self.flat.body.parameters()):
            return 0
        trained = [i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())]
        if self.edits is not None:
            trained.append(self.edits.first_block)
        return min(trained, default=len(layers))

    def fingerprint_below(self, cut: int) -> str:
        """sha256 of the architecture and of all weights below block `cut`."""
        assert self.flat is not None
        architecture = f"{type(self.flat.body).__name__} {self.flat.body.config.to_json_string()}"
        if self._second_behind is not None:
            architecture += f"second text behind {self._second_behind}"
        return fingerprint_of(architecture, self._below(cut))

    def _below(self, cut: int) -> list[nn.Module]:
        assert self.flat is not None
        embeddings = self.flat.body.embed_tokens if isinstance(self.flat, FlatDecoder) else self.flat.body.embeddings
        return [embeddings, *self.flat.layers[:cut]]

    def frozen_parts(self) -> list[nn.Module]:
        """The embeddings and the blocks below the first trained one; empty where the embeddings are trained."""
        if self.flat is None or not (cut := self.first_trained()):
            return []
        return self._below(cut)

    def keep(
        self,
        train: Sequence[Example],
        valid: Callable[[], Sequence[Example]],
        passes: int,
        made_by: Sequence[str],
        note: Callable[[str], None],
    ) -> bool:
        """Compute what enters the first trained block once and read it from then on, where that pays: see `Trunk.keep`."""
        if not self.use_flat or not (cut := self.first_trained()):
            return False
        made_by = [self.fingerprint_below(cut), str(cut), *made_by]
        kept = []
        for rows in ([e.ids for e in train], [e.ids for e in valid()]):
            groups = token_groups([len(row) for row in rows], padding_cost=FLAT_PADDING_COST)
            compute = functools.partial(self.below, rows, cut, groups)
            kept.append(activations_of(rows, made_by, self.width, compute, passes=passes, note=note))
        found = [activations for activations in kept if activations is not None]
        if not found:
            return False

        def find(row: Sequence[int]) -> np.ndarray | None:
            return next((h_TD for a in found if (h_TD := a.find(row)) is not None), None)

        self.keep_below(cut, find)
        return True

    def keep_below(self, cut: int, find: Callable[[Sequence[int]], np.ndarray | None] | None) -> None:
        """From now on take what enters block `cut` from `find` where it knows the row; None: compute everything."""
        self._cut, self._find = cut, find

    def _kept(self, line: Line, rows: Rows) -> torch.Tensor | None:
        if self._find is None:
            return None
        found = []
        for row in rows:
            h_TD = self._find(row)
            if h_TD is None:
                return None
            found.append(h_TD)
        parts = [found[0][: line.shared], *(h_TD[line.shared :] for h_TD in found)]
        return torch.from_numpy(np.concatenate(parts)).to(self.device)

    @torch.no_grad()
    def below(
        self, rows: Rows, cut: int, groups: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Sequence[int], list[np.ndarray]]]:
        """What enters block `cut`: for each group its row numbers and their vectors (T, D)."""
        assert self.flat is not None
        for group in groups:
            line = Line.of([rows[i] for i in group], self.device)
            h_ND = self.flat.hidden(line, self.flat.embed(line), None, last=cut).float().cpu()
            yield group, [part.numpy() for part in torch.split(h_ND, list(line.lengths))]


def tokens_at_once(config: Any, device: torch.device) -> int:
    """Tokens of one forward and backward pass through blocks of this width and number, so that its memory stays within a
    bound."""
    room = _ACTIVATION_BYTES
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 2
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    bytes_per_token = 4 * config.num_hidden_layers * (10 * config.hidden_size + 3 * inner)
    return int(min(_MOST_TOKENS if device.type == "cpu" else _MOST_TOKENS_ON_A_GPU, max(256, room // bytes_per_token)))


def fingerprint_of(architecture: str, parts: Iterable[nn.Module]) -> str:
    """sha256 of how a network is built and of all weights in these parts of it."""
    digest = hashlib.sha256(architecture.encode())
    for part in parts:
        for name, tensor in part.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def common_prefix(rows: Rows) -> int:
    """Tokens at the beginning that all rows share.

    >>> common_prefix([(1, 2, 3), (1, 2, 4, 5)]), common_prefix([(1,), (2,)])
    (2, 0)
    """
    # The smallest and the largest row in order differ where any two do.
    low, high = min(map(tuple, rows)), max(map(tuple, rows))
    n = min(len(low), len(high))
    return next((i for i in range(n) if low[i] != high[i]), n)
