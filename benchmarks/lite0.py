"""EfficientNet-Lite0 as its publisher's code writes it, module by module, for training by a peer: with a classifier on it, and
with the weights under the names that migaki's own form of it has, so that both sides start from the same."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

# Of each stage: kernel, stride of its first block, expansion, channels, blocks.
STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


class SamePadded(nn.Conv2d):
    def forward(self, x):
        sides = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, sides))


class Block(nn.Module):
    def __init__(self, n_in, n_out, kernel, stride, expansion):
        super().__init__()
        inner = n_in * expansion
        if expansion > 1:
            self.expand, self.expand_norm = nn.Conv2d(n_in, inner, 1, bias=False), nn.BatchNorm2d(inner, 1e-3)
        self.depthwise = SamePadded(inner, inner, kernel, stride, groups=inner, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(inner, 1e-3)
        self.project, self.project_norm = nn.Conv2d(inner, n_out, 1, bias=False), nn.BatchNorm2d(n_out, 1e-3)
        self.adds, self.expands = stride == 1 and n_in == n_out, expansion > 1

    def forward(self, x):
        h = F.relu6(self.expand_norm(self.expand(x))) if self.expands else x
        h = F.relu6(self.depthwise_norm(self.depthwise(h)))
        h = self.project_norm(self.project(h))
        return x + h if self.adds else h


class Lite0(nn.Module):
    """Pixels and labels to loss and logits, as Trainer wants them."""

    def __init__(self, n_labels):
        super().__init__()
        self.stem, self.stem_norm = SamePadded(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, 1e-3)
        blocks, n_in = [], 32
        for kernel, stride, expansion, n_out, depth in STAGES:
            for number in range(depth):
                blocks.append(Block(n_in, n_out, kernel, 1 if number else stride, expansion))
                n_in = n_out
        self.blocks = nn.ModuleList(blocks)
        self.top, self.top_norm = nn.Conv2d(n_in, 1280, 1, bias=False), nn.BatchNorm2d(1280, 1e-3)
        self.classifier = nn.Linear(1280, n_labels)

    def forward(self, pixel_values, labels=None):
        h = F.relu6(self.stem_norm(self.stem(pixel_values)))
        for block in self.blocks:
            h = block(h)
        logits = self.classifier(F.relu6(self.top_norm(self.top(h))).mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def pretrained(folder, n_labels):
    """With the weights of a folder that migaki has written."""
    from safetensors.torch import load_file

    model = Lite0(n_labels)
    missing, unexpected = model.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=False)
    if unexpected or [name for name in missing if not name.startswith("classifier.")]:
        raise ValueError(f"the weights of {folder} are not those of EfficientNet-Lite0: {missing} {unexpected}")
    return model
