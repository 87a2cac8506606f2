"""A convolution, the batch norm behind it and the limits of its output, computed as one and differentiated as one.

The statistics of a batch norm stand still here, so that it is a factor and a shift for each channel: both go into the
filters, and no picture is read or written for them. What is remembered for the backward pass is what comes in and what goes
out. Filters that see one channel each have a backward pass of their own on a processor, because torch's takes up to a hundred
times as long as it has to (5 x 5 filters, and strides of two in bfloat16).
"""

# Shapes: B batch, I channels in, O channels out, H height, W width, K sides of a filter

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["Limits", "mean_of_places", "normed"]

Limits = tuple[float, float] | None
"""Between which what goes out is held: (0, inf) is ReLU, (0, 6) is ReLU6; None: not at all."""

_WIDEST = 3
"""Columns of a filter up to which torch has a fast gradient for filters that see one channel; of rows it takes any number."""


def normed(convolution: Any, norm: Any, x_BIHW: torch.Tensor, limits: Limits = None) -> torch.Tensor:
    """(B, O, H', W'): limits(norm(convolution(x))), in the number format of the products.

    Args:
        convolution: an nn.Conv2d, or a module around one that tells its filters by a method `filters`.
        norm: the batch norm behind it; one that takes its statistics from the batch is computed as it is.
        x_BIHW: what comes in.
        limits: of what goes out.
    """
    filters_OIKK, still = _filters(convolution), _still(norm)
    inner = getattr(convolution, "base", convolution)
    if filters_OIKK is None or still is None or inner.padding_mode != "zeros":
        out = norm(convolution(x_BIHW))
        return out if limits is None else F.hardtanh(out, *limits)
    factor_O, shift_O = still
    if inner.bias is not None:
        shift_O = shift_O + inner.bias * factor_O
    narrow = torch.is_autocast_enabled(x_BIHW.device.type)
    return _Normed.apply(  # type: ignore[no-untyped-call, no-any-return]
        x_BIHW,
        filters_OIKK * factor_O[:, None, None, None],
        shift_O,
        _Shape.of(inner, x_BIHW),
        limits,
        torch.get_autocast_dtype(x_BIHW.device.type) if narrow else x_BIHW.dtype,
    )


def mean_of_places(h_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, C). Neither way needs a copy of the picture in another format or layout, as `mean` does in bfloat16."""
    return h_BCHW.sum((2, 3)) / (h_BCHW.shape[2] * h_BCHW.shape[3])


def _still(norm: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Factor and shift of each channel, (O,) each; None where they depend on the batch, or where there is no such norm."""
    if type(norm) is not nn.BatchNorm2d or norm.training or norm.running_var is None or norm.running_mean is None:
        return None
    factor_O = torch.rsqrt(norm.running_var + norm.eps)
    if not norm.affine:
        return factor_O, -norm.running_mean * factor_O
    factor_O = norm.weight * factor_O
    return factor_O, norm.bias - norm.running_mean * factor_O


@dataclass(frozen=True)
class _Shape:
    """How filters go over a picture."""

    stride: tuple[int, int]
    sides: tuple[int, int, int, int]
    """Zeros to the left and to the right, above and below."""
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, convolution: Any, x_BIHW: torch.Tensor) -> _Shape:
        down, across = convolution.padding
        own = getattr(convolution, "sides", None)
        sides = own(x_BIHW) if own else (across, across, down, down)
        return cls(convolution.stride, tuple(sides), convolution.dilation, convolution.groups)

    @property
    def even(self) -> bool:
        """Whether both sides have as many zeros."""
        left, right, above, below = self.sides
        return left == right and above == below

    @property
    def zeros(self) -> tuple[int, int]:
        """Rows and columns, on each of both sides."""
        return self.sides[2], self.sides[0]

    def around(self, x_BIHW: torch.Tensor) -> torch.Tensor:
        """The picture with its zeros."""
        return F.pad(x_BIHW, self.sides) if any(self.sides) else x_BIHW

    def without_sides(self) -> _Shape:
        return replace(self, sides=(0, 0, 0, 0))


def _filters(convolution: Any) -> torch.Tensor | None:
    """(O, I, K, K); None where they cannot be told."""
    if isinstance(convolution, nn.Conv2d):
        return convolution.weight
    tell = getattr(convolution, "filters", None)
    found: torch.Tensor | None = tell() if tell else None
    return found


class _Normed(torch.autograd.Function):
    """limits(x * w + b) for filters w."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BIHW: torch.Tensor,
        w_OIKK: torch.Tensor,
        b_O: torch.Tensor,
        shape: _Shape,
        limits: Limits,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        with torch.autocast(x_BIHW.device.type, enabled=False):
            x, w = x_BIHW.to(dtype), w_OIKK.to(dtype)
            seen, zeros = (x, shape.zeros) if shape.even else (shape.around(x), (0, 0))
            b = b_O.to(dtype)
            if dtype == torch.bfloat16 and _is_product(x, w, shape):
                # In float32 the convolution is the faster one.
                y = F.linear(x.permute(0, 2, 3, 1), w.flatten(1), b).permute(0, 3, 1, 2)
            else:
                y = F.conv2d(seen, w, b, shape.stride, zeros, shape.dilation, shape.groups)
            if limits is not None:
                y.clamp_(*limits)
        ctx.save_for_backward(x, w, y if limits is not None else None)
        ctx.shape, ctx.limits, ctx.formats = shape, limits, (x_BIHW.dtype, w_OIKK.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, w, y = ctx.saved_tensors
        of_x, of_w, of_b = ctx.needs_input_grad[:3]
        with torch.autocast(x.device.type, enabled=False):
            dy = grads[0].to(x.dtype)
            if ctx.limits is not None:
                if dy.stride(1) != y.stride(1):
                    # Where two tensors lie differently, torch goes over them one number at a time.
                    dy = torch.empty_like(y).copy_(dy)
                dy = torch.ops.aten.hardtanh_backward(dy, y, *ctx.limits)
            dx, dw = _gradients(dy, x, w, ctx.shape, of_x, of_w)
            # Asked for another format, a sum would first copy all it adds up; it adds in float32 as it is.
            db = dy.sum((0, 2, 3)).to(ctx.formats[1]) if of_b else None
        dx = None if dx is None else dx.to(ctx.formats[0])
        dw = None if dw is None else dw.to(ctx.formats[1])
        return dx, dw, db, None, None, None


Pair = tuple[torch.Tensor | None, torch.Tensor | None]
"""Gradients of what came in and of the filters, each None where it is not asked for."""


def _gradients(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, shape: _Shape, of_x: bool, of_w: bool) -> Pair:
    if _is_product(x, w, shape):
        return _of_products(dy, x, w, of_x, of_w)
    n_out, per_group = w.shape[:2]
    plain = x.device.type == "cpu" and tuple(shape.dilation) == (1, 1)
    if plain and per_group == 1 and shape.groups == n_out == x.shape[1]:
        return _of_single_input(dy, x, w, shape) if of_x else None, _of_single_filters(
            dy, x, w, shape
        ) if of_w else None
    if not shape.even:
        dx, dw = _gradients(dy, shape.around(x), w, shape.without_sides(), of_x, of_w)
        left, _, above, _ = shape.sides
        return None if dx is None else dx[:, :, above : above + x.shape[2], left : left + x.shape[3]], dw
    found = torch.ops.aten.convolution_backward(
        dy, x, w, None, shape.stride, shape.zeros, shape.dilation, False, [0, 0], shape.groups, [of_x, of_w, False]
    )
    return found[0], found[1]


def _is_product(x: torch.Tensor, w: torch.Tensor, shape: _Shape) -> bool:
    """Whether the filters are one pixel in size and look at every pixel, on a processor."""
    alone = shape.groups == 1 and tuple(shape.stride) == (1, 1) and not any(shape.sides)
    return x.device.type == "cpu" and tuple(w.shape[2:]) == (1, 1) and alone


def _of_products(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, of_x: bool, of_w: bool) -> Pair:
    """A filter of one pixel is a product with each pixel's channels."""
    n_out, n_in = w.shape[:2]
    dy_NO = dy.permute(0, 2, 3, 1).reshape(-1, n_out)
    dx = dw = None
    if of_x:
        dx = (dy_NO @ w.view(n_out, n_in)).view(x.shape[0], *x.shape[2:], n_in).permute(0, 3, 1, 2)
    if of_w:
        dw = (dy_NO.T @ x.permute(0, 2, 3, 1).reshape(-1, n_in)).view(w.shape)
    return dx, dw


# Where each channel has one filter of its own, (O, 1, K, K)


def _of_single_input(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, shape: _Shape) -> torch.Tensor:
    """Pixels whose places leave the same rest by the stride were seen by the same elements of the filter: each such set is
    the gradient at the places that saw it, filtered by these elements turned round."""
    channels, tall, wide = len(w), *w.shape[2:]
    (down, across), (left, _, above, _) = shape.stride, shape.sides
    if (down, across) == (1, 1) and shape.even and above < tall and left < wide:
        return F.conv2d(dy, w.flip(2, 3), None, 1, (tall - 1 - above, wide - 1 - left), 1, channels)
    # What no filter saw has no gradient.
    seen = [(n - 1) * step + side for n, step, side in zip(dy.shape[2:], shape.stride, (tall, wide), strict=True)]
    all_seen = seen[0] >= above + x.shape[2] and seen[1] >= left + x.shape[3] and tall >= down and wide >= across
    new = dy.new_empty if all_seen else dy.new_zeros
    dx = new(x.shape[0], *x.shape[2:], channels).permute(0, 3, 1, 2)
    for i in range(min(down, tall)):
        for j in range(min(across, wide)):
            part = w[:, :, i::down, j::across].flip(2, 3)
            found = F.conv2d(dy, part, None, 1, (part.shape[2] - 1, part.shape[3] - 1), 1, channels)
            _place(found, dx, (i - above, j - left), shape.stride)
    return dx


def _place(found: torch.Tensor, into: torch.Tensor, start: tuple[int, int], stride: tuple[int, int]) -> None:
    """Write rows and columns from `start` on, one in every stride; what begins before the first pixel or ends behind the last
    one was a zero beside the picture."""
    taken, places = [], []
    for first, step, n, size in zip(start, stride, found.shape[2:], into.shape[2:], strict=True):
        skipped = max(0, -(first // step))
        n_inside = min(n - skipped, -(-(size - first - skipped * step) // step))
        taken.append(slice(skipped, skipped + n_inside))
        places.append(slice(first + skipped * step, first + (skipped + n_inside - 1) * step + 1, step))
    into[:, :, places[0], places[1]] = found[:, :, taken[0], taken[1]]


def _of_single_filters(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, shape: _Shape) -> torch.Tensor:
    """Wide filters in parts of a few columns."""
    wide = w.shape[3]
    # Pictures smaller than their filters are as slow as wide filters where zeros are not laid around them.
    if wide > _WIDEST or not shape.even or min(x.shape[2:]) < wide:
        x, shape = shape.around(x), shape.without_sides()
    if wide <= _WIDEST:
        return _of_few_columns(dy, x, w, shape)
    seen, parts = (dy.shape[3] - 1) * shape.stride[1], []
    for first in range(0, wide, _WIDEST):
        part = w[..., first : first + _WIDEST]
        parts.append(_of_few_columns(dy, x[..., first : first + seen + part.shape[3]], part, shape))
    return torch.cat(parts, 3)


def _of_few_columns(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, shape: _Shape) -> torch.Tensor:
    dw: torch.Tensor = torch.ops.aten.convolution_backward(
        dy, x, w, None, shape.stride, shape.zeros, [1, 1], False, [0, 0], len(w), [False, True, False]
    )[1]
    return dw
