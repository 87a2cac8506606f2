"""The edit of hidden vectors behind blocks, where in a prompt it falls, how it is attached, and its files.

h + R'(W h + b - R h) at the first and the last tokens of the prompt, or at all of them. Source: Wu et al. 2024, arXiv:2404.03592, eq. 2.
"""

# Shapes: U units, N tokens in line, P wanted tokens, K edited tokens, B rows, T tokens, D hidden, R rank

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from migaki.core.errors import DamagedError, ModelError, Problem, RecipeError
from migaki.core.seeds import derive
from migaki.core.store import read_json
from migaki.methods.stored import fill
from migaki.methods.tuned import blocks_of
from migaki.models.flat import Edit, take

if TYPE_CHECKING:
    from migaki.methods.reft import Reft

__all__ = ["Interventions", "intervene", "load_interventions", "prompt_marks", "save_interventions"]

_WEIGHTS, _CONFIG = "reft_model.safetensors", "reft_config.json"
_FIRST, _LAST = 1, 2
"""Marks of the tokens at the beginning and at the end of the prompt."""
_USUAL_FIRST = 7


def prompt_marks(prompt: int, length: int, first: int | Literal["all"], last: int) -> np.ndarray:
    """Which tokens of a row are edited, (T,) int8: 1 at the first ones of its prompt, or all of them, 2 at the last ones, 0
    elsewhere.

    A prompt too short for both is divided between them, so that no token is edited twice (section 4.1 of the paper).

    Args:
        prompt: tokens of the prompt, with which the row begins.
        length: tokens of the row.

    >>> prompt_marks(5, 8, first=2, last=2).tolist(), prompt_marks(5, 6, first=7, last=7).tolist()
    ([1, 1, 0, 2, 2, 0, 0, 0], [1, 1, 2, 2, 2, 0])
    """
    if first == "all":
        first, last = prompt, 0
    if first and last and prompt < first + last:
        first, last = min(first, prompt // 2), min(last, prompt - prompt // 2)
    marks_T = np.zeros(length, dtype=np.int8)
    marks_T[: min(first, prompt)] = _FIRST
    marks_T[max(prompt - last, 0) : prompt] = _LAST
    return marks_T


class Interventions(nn.Module):
    """All edits of a model: one unit for each chosen block, or one each for the beginning and the end of the prompt.

    The units stand in one tensor each of A, W and b, so that one factorisation makes all of them orthonormal and a unit
    without tokens in a step has a gradient of zero. LoReFT's R is not stored but made of A: A may grow, shrink or be
    averaged, and R keeps its orthonormal rows.
    """

    def __init__(self, reft: Reft, blocks: Sequence[int], width: int, seed: int, device: torch.device) -> None:
        super().__init__()
        self.first: int | Literal["all"] = _USUAL_FIRST if reft.first is None else reft.first
        self.last = 0 if self.first == "all" else reft.last
        marked = {"first": (_FIRST, self.first), "last": (_LAST, self.last)}
        names = ["all"] if reft.tied else [name for name, (_, n) in marked.items() if n]
        self.places: Mapping[str, Sequence[int]] = {
            name: (_FIRST, _LAST) if name == "all" else marked[name][:1] for name in names
        }
        """By the name of a place its marks."""
        self.units = [(block, name) for block in blocks for name in names]
        """Block and place of each unit."""
        self.reft = reft
        # The recipe's dropout is for the base; adapters keep their own by this name.
        self.adapter_dropout = nn.Dropout(reft.dropout)
        drawn = [_drawn(width, reft.rank, derive(seed, "reft", *unit)) for unit in self.units]
        a, w, b = (torch.stack(tensors) for tensors in zip(*drawn, strict=True))
        if reft.form != "loreft":
            # Without a constraint R is one more matrix, and is drawn like one.
            a = torch.stack([_drawn(width, reft.rank, derive(seed, "reft target", *unit))[1] for unit in self.units])
        self.a_URD, self.w_URD, self.b_UR = (nn.Parameter(x.to(device)) for x in (a, w, b))
        if reft.init == "identity":
            with torch.no_grad():
                # R as this device computes it, to the last bit.
                self.w_URD.copy_(torch.zeros_like(self.w_URD) if reft.form == "direft" else self.rotations())
                self.b_UR.zero_()
        self._marks_BT: np.ndarray | None = None
        self._edit: Edit | None = None

    @property
    def first_block(self) -> int:
        """Number of the lowest edited block."""
        return min(block for block, _ in self.units)

    def marks(self, prompt: int, length: int) -> np.ndarray:
        """As `prompt_marks`, with the recipe's numbers of tokens."""
        return prompt_marks(prompt, length, self.first, self.last)

    def rotations(self) -> torch.Tensor:
        """R of every unit, (U, R, D); for LoReFT with orthonormal rows: L^-1 A with L L' = A A' (CholeskyQR).

        Parametrised so and not by Householder reflections, whose base matrix takes D x D numbers and which weight decay
        turns into zero. In float64, because the factorisation squares the condition of A.
        """
        if self.reft.form != "loreft":
            return self.a_URD
        a_URD = self.a_URD.double()
        l_URR, failed_U = torch.linalg.cholesky_ex(a_URD @ a_URD.mT)
        r_URD: torch.Tensor = torch.linalg.solve_triangular(l_URR, a_URD, upper=False)
        # Weights that overflowed must show in the loss, which the loop watches, and not as an error of this function.
        return r_URD.masked_fill((failed_U != 0)[:, None, None], torch.nan).to(self.a_URD.dtype)

    def over(self, marks_N: np.ndarray, device: torch.device) -> Edit:
        """The edits of one pass over tokens in line, given the mark of each."""
        with torch.autocast(device.type, enabled=False):
            r_URD = self.rotations()
            # W h - R h as one product: with W = R it is exactly zero.
            w_URD = self.w_URD if self.reft.form == "direft" else self.w_URD - r_URD
        units = dict(zip(self.units, zip(w_URD.unbind(), self.b_UR.unbind(), r_URD.unbind(), strict=True), strict=True))
        at = {
            name: torch.from_numpy(np.flatnonzero(np.isin(marks_N, marks))).to(device)
            for name, marks in self.places.items()
        }

        def edit(block: int, h_ND: torch.Tensor, wanted_P: torch.Tensor | None) -> torch.Tensor:
            for name, at_K in at.items():
                if (block, name) not in units:
                    continue
                if wanted_P is not None:
                    # The other tokens are gone, and behind the last block an edit of them would have reached nothing.
                    at_K = torch.isin(wanted_P, at_K).nonzero()[:, 0]
                w_RD, b_R, r_RD = units[block, name]
                with torch.autocast(device.type, enabled=False):
                    x_KD = take(h_ND, at_K).to(w_RD.dtype)
                    change_KD = self.adapter_dropout(F.linear(x_KD, w_RD, b_R) @ r_RD)
                h_ND = h_ND.index_add(0, at_K, change_KD.to(h_ND.dtype))
            return h_ND

        return edit

    # Where transformers computes the blocks

    @contextmanager
    def during(self, marks_BT: np.ndarray) -> Iterator[None]:
        """Inside, a call of the backbone edits these tokens; T counts from the first token that is in its cache."""
        self._marks_BT = marks_BT
        try:
            yield
        finally:
            self._marks_BT = self._edit = None

    def attach(self, backbone: Any) -> None:
        """Edit what comes out of the blocks whenever transformers calls them."""
        body = getattr(backbone, backbone.base_model_prefix, backbone)
        body.register_forward_pre_hook(self._begin, with_kwargs=True)
        blocks = blocks_of(backbone)
        for number in sorted({block for block, _ in self.units}):
            blocks[number].register_forward_hook(functools.partial(self._behind, number))

    def _begin(self, body: nn.Module, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> None:
        if self._marks_BT is None:
            raise RuntimeError(
                "the model does not know where the prompt ends: call it inside `body.edited(rows, prompts)`"
            )
        given = (settings.get("input_ids"), *arguments[:1], settings.get("inputs_embeds"))
        n_tokens = next(x for x in given if x is not None).shape[1]
        cache = settings.get("past_key_values")
        done = cache.get_seq_length() if cache is not None else 0
        here_BT = np.zeros((len(self._marks_BT), n_tokens), dtype=np.int8)
        known_BT = self._marks_BT[:, done : done + n_tokens]
        # What is generated stands behind the prompt and is never edited.
        here_BT[:, : known_BT.shape[1]] = known_BT
        needed = here_BT.any() or torch.is_grad_enabled()
        self._edit = self.over(here_BT.reshape(-1), self.a_URD.device) if needed else None

    def _behind(self, number: int, block: nn.Module, arguments: tuple[Any, ...], out: Any) -> Any:
        if self._edit is None:
            return out
        h_BTD = out if isinstance(out, torch.Tensor) else out[0]
        h_BTD = self._edit(number, h_BTD.flatten(0, 1), None).view_as(h_BTD)
        return h_BTD if isinstance(out, torch.Tensor) else (h_BTD, *out[1:])


def _drawn(width: int, rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R (R, D) with orthonormal rows, W (R, D) and b (R,) as nn.Linear draws them: U(-1/sqrt(D), 1/sqrt(D))."""
    generator = torch.Generator().manual_seed(seed)
    r_RD = nn.init.orthogonal_(torch.empty(rank, width), generator=generator)
    w_RD, b_R = ((2 * torch.rand(shape, generator=generator) - 1) / width**0.5 for shape in ((rank, width), (rank,)))
    return r_RD, w_RD, b_R


def intervene(network: Any, reft: Reft, seed: int) -> None:
    """Freeze the backbone and edit what comes out of the blocks that `reft.layers` names; a task head stays trained.

    Raises:
        RecipeError: a block is not there, the rank is above the model's width, or nothing would be edited.
    """
    if reft.first is None and network.judges_all_tokens:
        reft = reft.model_copy(update={"first": "all"})
    n_blocks, width = len(blocks_of(network.backbone)), network.body.width
    chosen = list(range(n_blocks)) if reft.layers == "all" else sorted(set(reft.layers))
    problems = []
    if not chosen:
        problems.append(Problem("method.layers", "is empty; name at least one block, or leave it out for all."))
    if chosen and chosen[-1] >= n_blocks:
        found = f"there is no block {chosen[-1]}; this model has {n_blocks}, counted from 0 to {n_blocks - 1}."
        problems.append(Problem("method.layers", found))
    if reft.rank > width:
        found = f"{reft.rank} is more than the {width} numbers of a hidden vector of this model."
        problems.append(Problem("method.rank", found))
    if reft.first == reft.last == 0:
        problems.append(Problem("method.first", "and method.last are both 0, so no token would be edited; raise one."))
    if problems:
        raise RecipeError(problems)
    edits = Interventions(reft, chosen, width, seed, network.device)
    network.requires_grad_(True)
    network.backbone.requires_grad_(False)
    # Beside the backbone and not inside its blocks: nothing that walks over its layers or saves it meets the edits.
    network.edits = network.body.edits = edits
    edits.attach(network.backbone)


def _config(network: Any) -> dict[str, Any]:
    """What the tensors of a saved folder mean, and which models they fit."""
    edits = network.edits
    return {
        "hidden_size": network.body.width,
        "num_hidden_layers": len(blocks_of(network.backbone)),
        "form": edits.reft.form,
        "rank": edits.reft.rank,
        "layers": sorted({block for block, _ in edits.units}),
        "first": edits.first,
        "last": edits.last,
        "tied": edits.reft.tied,
    }


def _names(edits: Interventions) -> list[str]:
    return [f"layers.{block}.{place}" for block, place in edits.units]


@torch.no_grad()
def save_interventions(network: Any, reference: str, folder: Path) -> None:
    """`reft_model.safetensors` with R, W and b of each unit, and `reft_config.json`."""
    edits = network.edits
    parts = {"R": edits.rotations(), "W": edits.w_URD, "b": edits.b_UR}
    tensors = {
        f"{name}.{part}": tensor.detach().clone()
        for part, stacked in parts.items()
        for name, tensor in zip(_names(edits), stacked, strict=True)
    }
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    config = {"format": 1, "base_model": reference, **_config(network)}
    (folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def load_interventions(network: Any, folder: Path) -> None:
    """Fill the edits from a saved folder; every tensor must be there and fit.

    Raises:
        ModelError: the edits were made for a model of another width or number of blocks.
        DamagedError: the folder holds another kind of edits than the recipe, or a tensor is missing, left over, or of
            another shape.
    """
    stored, own = read_json(folder / _CONFIG), _config(network)
    for key in own:
        if stored.get(key) == own[key]:
            continue
        found = f"{folder / _CONFIG}: {key} is {stored.get(key)}"
        if key in ("hidden_size", "num_hidden_layers"):
            raise ModelError(
                f"{found}, but {own[key]} in this model, so the edits do not fit it. Load the model they were trained "
                f"on ({stored.get('base_model')})."
            )
        raise DamagedError(f"{found}, but the recipe beside it says {own[key]}.")
    edits = network.edits
    parts = {"R": edits.a_URD, "W": edits.w_URD, "b": edits.b_UR}
    own_tensors = {f"{name}.{part}": own_U[u] for part, own_U in parts.items() for u, name in enumerate(_names(edits))}
    fill(own_tensors, folder / _WEIGHTS, "edit")
