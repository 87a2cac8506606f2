"""The low-rank module, where it is attached, and its files in peft's format."""

# Shapes: N tokens of all rows, I in, O out, R rank

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from migaki.core.errors import DamagedError, Problem, RecipeError
from migaki.core.seeds import derive

if TYPE_CHECKING:
    from migaki.methods.lora import Lora

__all__ = ["LoraLinear", "adapt", "adapted_layers", "load_adapter", "merge_adapters", "save_adapter"]

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class _FusedLora(torch.autograd.Function):
    """The adapted layer as one node: it remembers x and A x, and neither the base's output nor the scaled update."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_OI: torch.Tensor,
        b_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        low_NR = x_NI @ a_RI.T
        y_NO = nn.functional.linear(x_NI, w_OI, b_O)
        y_NO.addmm_(low_NR, b_OR.T, alpha=scale)
        ctx.save_for_backward(x_NI, w_OI, a_RI, b_OR, low_NR)
        ctx.scale, ctx.shape = scale, x.shape
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x_NI, w_OI, a_RI, b_OR, low_NR = ctx.saved_tensors
        dy_NO = grads[0].reshape(-1, grads[0].shape[-1])
        dlow_NR = (dy_NO @ b_OR).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy_NO @ w_OI).addmm_(dlow_NR, a_RI).view(ctx.shape)
        da_RI = dlow_NR.T @ x_NI if ctx.needs_input_grad[3] else None
        db_OR = (dy_NO.T @ low_NR).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        return dx, None, None, da_RI, db_OR, None


class LoraLinear(nn.Module):
    """y = base(x) + scale * B A x, with A (R, I) and B (O, R); B starts at zero, so the first output is the base's."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        dropping = self.training and self.adapter_dropout.p > 0
        fused = not (
            dropping or self.transposed or torch.is_autocast_enabled(x.device.type) or self.base.weight.requires_grad
        )
        if fused and x.dtype == self.base.weight.dtype == self.lora_A.dtype:
            return _FusedLora.apply(  # type: ignore[no-untyped-call, no-any-return]
                x, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.scale
            )
        low = nn.functional.linear(self.adapter_dropout(x), self.lora_A)
        return self.base(x) + nn.functional.linear(low, self.lora_B) * self.scale  # type: ignore[no-any-return]

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the update added to its weight in float32."""
        update_OI = self.scale * (self.lora_B.float() @ self.lora_A.float())
        base: nn.Module = self.base
        weight = self.base.weight
        weight.copy_((weight.float() + (update_OI.T if self.transposed else update_OI)).to(weight.dtype))
        return base


def _linear_layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer by name, the output head left out: it would dwarf all the other factors."""
    find_head: Any = getattr(backbone, "get_output_embeddings", None)
    head = find_head() if find_head else None
    return {name: m for name, m in backbone.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names this layer: the whole name or its last parts; `*` stands for anything.

    >>> _matches("model.layers.3.self_attn.q_proj", "q_proj"), _matches("layers.13.q_proj", "3.q_proj")
    (True, False)
    """
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")


def adapt(network: Any, lora: Lora, seed: int) -> None:
    """Freeze the backbone and put an adapter beside every layer that `lora.targets` names; a task head stays trained.

    Raises:
        RecipeError: a pattern matches no linear layer.
    """
    backbone = network.backbone
    layers = _linear_layers(backbone)
    chosen = list(layers)
    if lora.targets != "all-linear":
        for pattern in lora.targets:
            if not any(_matches(name, pattern) for name in layers):
                kinds = sorted({name.rsplit(".", 1)[-1] for name in layers})
                raise RecipeError(
                    [
                        Problem(
                            "method.targets",
                            f"{pattern!r} matches no linear layer of this model; its layers are called {', '.join(kinds)}.",
                        )
                    ]
                )
        chosen = [name for name in layers if any(_matches(name, pattern) for pattern in lora.targets)]
        if not chosen:
            raise RecipeError(
                [Problem("method.targets", "is empty; name at least one layer, or leave it out for all-linear.")]
            )
    network.requires_grad_(True)
    backbone.requires_grad_(False)
    for name in chosen:
        # A generator of its own for each layer: what one layer draws does not depend on which others are adapted.
        generator = torch.Generator().manual_seed(derive(seed, "lora", name))
        parent, _, child = name.rpartition(".")
        setattr(
            backbone.get_submodule(parent),
            child,
            LoraLinear(layers[name], lora.rank, lora.scale, lora.dropout, generator),
        )


def adapted_layers(backbone: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Adapters with the name of the layer they stand beside."""
    return ((name, m) for name, m in backbone.named_modules() if isinstance(m, LoraLinear))


def merge_adapters(backbone: nn.Module) -> None:
    """Add every adapter into its layer, in float32, and take the adapters away."""
    for name, adapter in list(adapted_layers(backbone)):
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, adapter.merged())


def save_adapter(network: Any, lora: Lora, reference: str, folder: Path) -> None:
    """`adapter_model.safetensors` and `adapter_config.json` as peft 0.21 reads them."""
    tensors = {}
    names = []
    for name, adapter in adapted_layers(network.backbone):
        names.append(name)
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = adapter.lora_A.detach().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = adapter.lora_B.detach().contiguous()
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    decoder = network.backbone.get_output_embeddings() is not None
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if decoder else "FEATURE_EXTRACTION",
        "base_model_name_or_path": reference.removeprefix("hf:"),
        "r": lora.rank,
        "lora_alpha": lora.alpha if lora.alpha is not None else 2 * lora.rank,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": names,
        "fan_in_fan_out": any(adapter.transposed for _, adapter in adapted_layers(network.backbone)),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def load_adapter(network: Any, folder: Path) -> None:
    """Fill the adapters from a saved folder; every tensor must be there and fit.

    Raises:
        DamagedError: names the tensor that is missing, left over, or of another shape.
    """
    tensors = load_file(folder / _WEIGHTS)
    for name, adapter in adapted_layers(network.backbone):
        for part in ("lora_A", "lora_B"):
            key = f"{_PREFIX}{name}.{part}.weight"
            own: torch.Tensor = getattr(adapter, part)
            stored = tensors.pop(key, None)
            if stored is None or stored.shape != own.shape:
                raise DamagedError(
                    f"{folder / _WEIGHTS}: {key} is {'missing' if stored is None else f'of shape {tuple(stored.shape)}, not {tuple(own.shape)}'}."
                )
            own.copy_(stored)
    if tensors:
        raise DamagedError(f"{folder / _WEIGHTS}: {len(tensors)} tensors fit no layer (first: {next(iter(tensors))}).")
