"""The low-rank module, where it is attached, and its files in peft's format."""

# Shapes: N tokens of all rows, I in, O out, R rank, K sides of a filter, P compared rows or tokens, V labels or vocabulary

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from migaki.core.errors import ModelError, Problem, RecipeError
from migaki.core.parts import Example
from migaki.core.seeds import derive
from migaki.core.types import Row
from migaki.methods.patterns import check_patterns, matches
from migaki.methods.stored import fill

if TYPE_CHECKING:
    from migaki.methods.lora import Lora

__all__ = [
    "LoraConv",
    "LoraLinear",
    "Merge",
    "adapt",
    "adapted_layers",
    "load_adapter",
    "merge_adapters",
    "merge_and_compare",
    "save_adapter",
]

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_COMPARED_ROWS, _COMPARED_TARGETS = 32, 8
_LARGEST_DIFFERENCE = 5e-3
"""Of a log-probability, in nats: one half would become 0.4975. Adding in another order changes it by 3e-6 (MiniLM) to 8e-5
(SmolLM2), measured."""


class _FusedLora(torch.autograd.Function):
    """The adapted layer as one node, computed in one format: it remembers x and A x, and neither the base's output nor the
    scaled update."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_OI: torch.Tensor,
        b_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x_NI = x.reshape(-1, x.shape[-1]).to(dtype)
            narrow_RI, narrow_OR = a_RI.to(dtype), b_OR.to(dtype)
            low_NR = x_NI @ narrow_RI.T
            y_NO = nn.functional.linear(x_NI, w_OI.to(dtype), b_O if b_O is None else b_O.to(dtype))
            y_NO.addmm_(low_NR, narrow_OR.T, alpha=scale)
        ctx.save_for_backward(x_NI, w_OI, narrow_RI, narrow_OR, low_NR)
        ctx.scale, ctx.shape, ctx.formats = scale, x.shape, (x.dtype, a_RI.dtype)
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x_NI, w_OI, a_RI, b_OR, low_NR = ctx.saved_tensors
        x_format, trained_format = ctx.formats
        dy_NO = grads[0].reshape(-1, grads[0].shape[-1]).to(x_NI.dtype)
        dlow_NR = (dy_NO @ b_OR).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy_NO @ w_OI.to(x_NI.dtype)).addmm_(dlow_NR, a_RI).view(ctx.shape).to(x_format)
        da_RI = (dlow_NR.T @ x_NI).to(trained_format) if ctx.needs_input_grad[3] else None
        db_OR = (dy_NO.T @ low_NR).to(trained_format).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        return dx, None, None, da_RI, db_OR, None, None


class LoraLinear(nn.Module):
    """y = base(x) + scale * B A x, with A (R, I) and B (O, R); B starts at zero, so the first output is the base's.

    As DoRA the weights of each output, W + scale * B A, are brought to a trained length m (O,), which starts as W's. Their
    own length is taken for a constant in the gradient. Source: Liu et al. 2024, arXiv:2402.09353, eq. 5 and 11.
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        scale: float,
        dropout: float,
        generator: torch.Generator,
        dora: bool = False,
    ) -> None:
        super().__init__()
        self.base: Any
        self.base = base
        weight = base.weight
        assert isinstance(weight, torch.Tensor)
        # GPT-2's Conv1D is a linear layer that stores its weight the other way round.
        self.transposed = isinstance(base, Conv1D)
        n_out, n_in = tuple(weight.shape)[::-1] if self.transposed else tuple(weight.shape)
        self.scale = scale
        self.adapter_dropout = nn.Dropout(dropout)
        # Kaiming-uniform with a = sqrt(5), as nn.Linear and peft draw it: U(-1/sqrt(I), 1/sqrt(I)).
        bound = 1 / math.sqrt(n_in)
        a_RI = (torch.rand(rank, n_in, generator=generator) * 2 - 1) * bound
        self.lora_A = nn.Parameter(a_RI.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(n_out, rank, device=weight.device))
        self.lora_magnitude: nn.Parameter | None = None
        self._known_lengths: tuple[Any, torch.Tensor] | None = None
        if dora:
            self.lora_magnitude = nn.Parameter(self._lengths().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        if self.lora_magnitude is not None:
            return self._at_length(x, self.lora_magnitude)
        dropping = self.training and self.adapter_dropout.p > 0
        narrow = torch.is_autocast_enabled(x.device.type)
        if not (dropping or self.transposed or self.base.weight.requires_grad):
            dtype = torch.get_autocast_dtype(x.device.type) if narrow else x.dtype
            return _FusedLora.apply(  # type: ignore[no-untyped-call, no-any-return]
                x, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.scale, dtype
            )
        low = nn.functional.linear(self.adapter_dropout(x), self.lora_A)
        return self.base(x) + nn.functional.linear(low, self.lora_B) * self.scale  # type: ignore[no-any-return]

    def _at_length(self, x: torch.Tensor, magnitude_O: torch.Tensor) -> torch.Tensor:
        w_OI = self.base.weight.T if self.transposed else self.base.weight
        low = nn.functional.linear(self.adapter_dropout(x), self.lora_A)
        y = nn.functional.linear(x, w_OI) + nn.functional.linear(low, self.lora_B) * self.scale
        y = y * (magnitude_O / self._lengths()).to(y.dtype)
        return y if self.base.bias is None else y + self.base.bias

    def train(self, mode: bool = True) -> LoraLinear:
        # The fused optimizer changes weights without their version telling.
        self._known_lengths = None
        super().train(mode)
        return self

    @torch.no_grad()
    def _lengths(self) -> torch.Tensor:
        """Length of each output's weights, (O,); in evaluation it is kept until a weight changes, for an answer is written
        one token at a time."""
        at = [(p.data_ptr(), p._version) for p in (self.base.weight, self.lora_A, self.lora_B)]
        if self._known_lengths is not None and self._known_lengths[0] == at:
            return self._known_lengths[1]
        lengths_O: torch.Tensor = torch.linalg.vector_norm(self._updated(), dim=1)
        if not self.training:
            self._known_lengths = at, lengths_O
        return lengths_O

    def _updated(self) -> torch.Tensor:
        """W + scale * B A, (O, I) in float32."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            w_OI = self.base.weight.T if self.transposed else self.base.weight
            updated: torch.Tensor = w_OI.float() + self.scale * (self.lora_B.float() @ self.lora_A.float())
        return updated

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the update added to its weight in float32."""
        updated_OI = self._updated()
        if self.lora_magnitude is not None:
            updated_OI *= (self.lora_magnitude.float() / self._lengths())[:, None]
        base: nn.Module = self.base
        weight = self.base.weight
        weight.copy_((updated_OI.T if self.transposed else updated_OI).to(weight.dtype))
        return base


class LoraConv(nn.Module):
    """y = base(x) + scale * B A x beside a convolution that is not grouped: A (R, I, K, K) has its filters' size and strides,
    B (O, R, 1, 1) mixes what A found. B starts at zero. The same as peft's, and as Hu et al. write it for W (O, I K K)."""

    lora_magnitude = None

    def __init__(
        self, base: nn.Conv2d, rank: int, scale: float, dropout: float, generator: torch.Generator, dora: bool = False
    ) -> None:
        super().__init__()
        self.base, self.scale, self.transposed = base, scale, False
        self.adapter_dropout = nn.Dropout(dropout)
        n_out, n_in, *kernel = base.weight.shape
        bound = 1 / math.sqrt(n_in * math.prod(kernel))
        a_RIKK = (torch.rand(rank, n_in, *kernel, generator=generator) * 2 - 1) * bound
        self.lora_A = nn.Parameter(a_RIKK.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(n_out, rank, 1, 1, device=base.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, I, H, W) to (B, O, H', W'), as written; `filters` gives the same in one convolution."""
        base, dropped = self.base, self.adapter_dropout(x)
        low = nn.functional.conv2d(dropped, self.lora_A, None, base.stride, base.padding, base.dilation)
        out: torch.Tensor = base(x) + nn.functional.conv2d(low, self.lora_B) * self.scale
        return out

    def filters(self) -> torch.Tensor | None:
        """W + scale * B A, (O, I, K, K) float32; None where what comes in is dropped for A and not for W."""
        if self.training and self.adapter_dropout.p > 0:
            return None
        with torch.autocast(self.lora_A.device.type, enabled=False):
            update_OIKK = torch.einsum("or,rikl->oikl", self.lora_B[..., 0, 0].float(), self.lora_A.float())
            updated_OIKK: torch.Tensor = torch.add(self.base.weight, update_OIKK, alpha=self.scale)
        return updated_OIKK

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The convolution with the update added to its weight in float32."""
        update_OIKK = torch.einsum("or,rikl->oikl", self.lora_B[..., 0, 0].float(), self.lora_A.float())
        self.base.weight.add_((self.scale * update_OIKK).to(self.base.weight.dtype))
        return self.base


def _linear_layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer by name, the output head left out: it would dwarf all the other factors."""
    find_head: Any = getattr(backbone, "get_output_embeddings", None)
    head = find_head() if find_head else None
    return {
        name: m
        for name, m in backbone.named_modules()
        # The layer inside torch's own attention (SigLIP's head) is never called: its weight is read.
        if isinstance(m, nn.Linear | Conv1D) and not isinstance(m, NonDynamicallyQuantizableLinear) and m is not head
    }


def _convolutions(backbone: nn.Module) -> dict[str, nn.Module]:
    """Every convolution over pictures by name that is not grouped and pads with zeros, as torch's own class does."""
    return {
        name: m
        for name, m in backbone.named_modules()
        if type(m) is nn.Conv2d and m.groups == 1 and m.padding_mode == "zeros"
    }


def adapt(network: Any, lora: Lora, seed: int) -> None:
    """Freeze the backbone and put an adapter beside every layer that `lora.targets` names; a task head stays trained.

    Raises:
        RecipeError: a pattern matches no linear layer and no convolution, or one for rank or alpha no adapted one; or there
            is nothing that could be adapted.
    """
    backbone = network.backbone
    linears, convolutions = _linear_layers(backbone), _convolutions(backbone)
    layers = {**linears, **convolutions}
    chosen = list(linears or convolutions)
    if not chosen:
        found = "stands beside linear layers and convolutions that are not grouped, and this model has none; use full."
        raise RecipeError([Problem("method.kind", f"lora {found}")])
    if lora.targets != "all-linear":
        check_patterns("method.targets", lora.targets, list(layers))
        chosen = [name for name in layers if any(matches(name, pattern) for pattern in lora.targets)]
        if not chosen:
            raise RecipeError(
                [Problem("method.targets", "is empty; name at least one layer, or leave it out for all-linear.")]
            )
    if lora.dora and (name := next((name for name in chosen if name in convolutions), None)):
        found = (
            f"DoRA is for linear layers, and {name} is a convolution; leave dora out, or name linear layers in targets."
        )
        raise RecipeError([Problem("method.dora", found)])
    check_patterns("method.rank_pattern", lora.rank_pattern, chosen)
    check_patterns("method.alpha_pattern", lora.alpha_pattern, chosen)
    network.requires_grad_(True)
    backbone.requires_grad_(False)
    for name in chosen:
        # A generator of its own for each layer: what one layer draws does not depend on which others are adapted.
        generator = torch.Generator().manual_seed(derive(seed, "lora", name))
        parent, _, child = name.rpartition(".")
        kind: Any = LoraConv if name in convolutions else LoraLinear
        setattr(
            backbone.get_submodule(parent),
            child,
            kind(layers[name], lora.rank_of(name), lora.scale_of(name), lora.dropout, generator, dora=lora.dora),
        )


def adapted_layers(backbone: nn.Module) -> Iterator[tuple[str, LoraLinear | LoraConv]]:
    """Adapters with the name of the layer they stand beside."""
    return ((name, m) for name, m in backbone.named_modules() if isinstance(m, LoraLinear | LoraConv))


def merge_adapters(backbone: nn.Module) -> None:
    """Add every adapter into its layer, in float32, and take the adapters away."""
    for name, adapter in list(adapted_layers(backbone)):
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, adapter.merged())


@dataclass(frozen=True)
class Merge:
    """How the merged model answers beside the adapter it was made of."""

    rows: int
    """Rows on which both were asked."""
    largest_difference: float
    """Of a log-probability, in nats."""
    equal: float
    """Share of rows, or of target tokens, for which the likeliest answer is the same (0..1)."""

    def as_json(self) -> dict[str, float | int]:
        return asdict(self)


def merge_and_compare(network: Any, rows: Sequence[Row]) -> Merge:
    """Merge all adapters, and prove on the first of these rows that the merged model says what the adapter said.

    Compared are the log-probabilities of all labels, or of all tokens at the last targets of each row.

    Raises:
        ModelError: a log-probability changes by more than 0.005, so what was measured with the adapter would not hold.
    """
    examples = [example for example in network.inputs(rows[:_COMPARED_ROWS]) if example.targets]
    network.eval()
    before_PV = _said(network, examples)
    merge_adapters(network.backbone)
    after_PV = _said(network, examples)
    largest = float((after_PV - before_PV).abs().max())
    equal = float((after_PV.argmax(1) == before_PV.argmax(1)).float().mean())
    # Written so that NaN is refused.
    if not largest <= _LARGEST_DIFFERENCE:
        raise ModelError(
            f"Merging the adapter into its base changes what the model says: on {len(examples)} rows a log-probability "
            f"differs by up to {largest:.1e} nats ({_LARGEST_DIFFERENCE:g} may), and the likeliest answer stays the same for "
            f"{equal:.1%}. Use the adapter beside its base, or train it again with a smaller method.alpha."
        )
    return Merge(len(examples), largest, equal)


@torch.no_grad()
def _said(network: Any, examples: Sequence[Example]) -> torch.Tensor:
    """Log-probabilities (P, V)."""
    return torch.cat([network([e])[-_COMPARED_TARGETS:].float().log_softmax(-1).cpu() for e in examples])


def save_adapter(network: Any, lora: Lora, reference: str, folder: Path) -> None:
    """`adapter_model.safetensors` and `adapter_config.json` as peft 0.21 reads them."""
    layers = dict(adapted_layers(network.backbone))
    tensors = {
        f"{_PREFIX}{name}.{key}": own.detach().contiguous()
        for name, adapter in layers.items()
        for key, own in _stored(adapter).items()
    }
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    # Of a model of speech none of peft's kinds of task takes the inputs, but its plain one does.
    speech = network.backbone.main_input_name in ("input_features", "input_values")
    decoder = network.backbone.get_output_embeddings() is not None
    patterned = bool(lora.rank_pattern or lora.alpha_pattern)
    # peft takes the first key that is the end of a name, so whole names have to stand before shorter ones.
    longest_first = sorted(layers, key=len, reverse=True) if patterned else []
    config = {
        "peft_type": "LORA",
        "task_type": None if speech else "CAUSAL_LM" if decoder else "FEATURE_EXTRACTION",
        "base_model_name_or_path": reference.removeprefix("hf:"),
        "r": lora.rank,
        "lora_alpha": lora.alpha if lora.alpha is not None else 2 * lora.rank,
        "rank_pattern": {name: lora.rank_of(name) for name in longest_first},
        "alpha_pattern": {name: lora.alpha_of(name) for name in longest_first},
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "target_modules": list(layers),
        "fan_in_fan_out": any(adapter.transposed for adapter in layers.values()),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _stored(adapter: LoraLinear | LoraConv) -> dict[str, torch.Tensor]:
    """What is trained of an adapter, under peft's names."""
    tensors: dict[str, torch.Tensor] = {"lora_A.weight": adapter.lora_A, "lora_B.weight": adapter.lora_B}
    if adapter.lora_magnitude is not None:
        tensors["lora_magnitude_vector"] = adapter.lora_magnitude
    return tensors


def load_adapter(network: Any, folder: Path) -> None:
    """Fill the adapters from a saved folder; every tensor must be there and fit.

    Raises:
        DamagedError: names the tensor that is missing, left over, or of another shape.
    """
    layers = adapted_layers(network.backbone)
    own = {f"{_PREFIX}{name}.{part}": p for name, adapter in layers for part, p in _stored(adapter).items()}
    fill(own, folder / _WEIGHTS, "layer")
