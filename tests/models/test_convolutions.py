"""A convolution with its norm and limits as one: what it gives and its gradients are those of the modules one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from migaki.models.convolutions import normed
from migaki.models.efficientnet_lite import _SamePadded

# kernel, stride, groups (0: one filter a channel), padding ("same": as TensorFlow pads), height and width of the picture
SHAPES = [
    (1, 1, 1, 0, (5, 6)),
    (1, 2, 1, 0, (7, 7)),
    (3, 1, 1, 1, (6, 5)),
    (7, 2, 1, 3, (11, 9)),
    (3, 2, 1, "same", (8, 7)),
    (3, 1, 2, 1, (5, 5)),
    *[(k, s, 0, k // 2, size) for k in (3, 5) for s in (1, 2) for size in ((9, 8), (2, 2), (1, 3))],
    *[(k, s, 0, "same", size) for k in (3, 5) for s in (1, 2) for size in ((9, 8), (4, 4), (1, 1))],
    (3, 3, 0, 0, (11, 10)),
    (2, 3, 0, 1, (9, 9)),
    (3, 1, 0, 4, (5, 5)),
    (7, 1, 0, 3, (9, 9)),
]


def pair(kernel: int, stride: int, groups: int, padding: Any, channels: int = 6) -> tuple[Any, Any]:
    torch.manual_seed(0)
    n_groups = groups or channels
    if padding == "same":
        convolution: Any = _SamePadded(channels, channels, kernel, stride, groups=n_groups, bias=False)
    else:
        convolution = nn.Conv2d(channels, channels, kernel, stride, padding, groups=n_groups, bias=groups == 1)
    norm = nn.BatchNorm2d(channels, eps=1e-3).eval()
    for tensor, low in ((norm.weight, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5), (norm.running_var, 0.5)):
        nn.init.uniform_(tensor, low, low + 1)
    return convolution, norm


def outcome(compute: Any, convolution: Any, norm: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """What comes out, and the gradients of what came in and of all parameters."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_(True)
    wanted = [x, *convolution.parameters(), *norm.parameters()]
    out = compute(x)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad((out * weights).float().sum(), wanted)]


@pytest.mark.parametrize("limits", [None, (0.0, float("inf")), (0.0, 0.8)], ids=["none", "relu", "both"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_modules_one_by_one(shape, limits):
    *settings, size = shape
    convolution, norm = pair(*settings)
    x = torch.randn(3, 6, *size).contiguous(memory_format=torch.channels_last)

    def apart(x: torch.Tensor) -> torch.Tensor:
        out = norm(convolution(x))
        return out if limits is None else F.hardtanh(out, *limits)

    found = outcome(lambda x: normed(convolution, norm, x, limits), convolution, norm, x)
    for a, b in zip(found, outcome(apart, convolution, norm, x), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 2, 0, "same", (12, 12)), (3, 1, 0, 1, (9, 9)), (1, 1, 1, 0, (6, 6))], ids=str)
def test_in_bfloat16_gradients_are_as_near_as_its_digits(shape):
    """8 binary digits: 0.4 % of each number; of sums of many less."""
    *settings, size = shape
    convolution, norm = pair(*settings, channels=32)
    x = torch.randn(4, 32, *size).contiguous(memory_format=torch.channels_last)

    def narrow(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return normed(convolution, norm, x)

    found, wanted = outcome(narrow, convolution, norm, x), outcome(lambda x: norm(convolution(x)), convolution, norm, x)
    assert found[0].dtype == torch.bfloat16
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm()) <= 0.01 * float(b.norm())


def test_nothing_is_differentiated_that_is_not_trained():
    convolution, norm = pair(3, 1, 0, 1)
    norm.requires_grad_(False)
    convolution.requires_grad_(False)
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    normed(convolution, norm, x).sum().backward()
    assert x.grad is not None
    assert convolution.weight.grad is None
    assert not normed(convolution, norm, x.detach()).requires_grad


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}, {}], ids=str)
def test_a_norm_of_another_make_gives_the_same(settings):
    """Without factors of its own, and without statistics, which then are those of the batch."""
    convolution, _ = pair(3, 1, 1, 1)
    norm = nn.BatchNorm2d(6, **settings).eval()
    if norm.running_mean is not None:
        norm.running_mean += 0.3
    x = torch.randn(4, 6, 5, 5)
    assert torch.allclose(normed(convolution, norm, x), norm(convolution(x)), rtol=1e-4, atol=1e-5)


def test_a_norm_that_looks_at_the_batch_is_computed_as_it_is():
    convolution, norm = pair(3, 1, 1, 1)
    norm.train()
    before = norm.running_mean.clone()
    out = normed(convolution, norm, torch.randn(8, 6, 5, 5))
    assert not torch.equal(before, norm.running_mean)
    standard = ((out - norm.bias[:, None, None]) / norm.weight[:, None, None]).detach()
    assert float(standard.mean()) == pytest.approx(0, abs=1e-5)
