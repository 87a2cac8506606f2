"""EfficientNet-Lite0: the converted model computes what the file's own names say, and knows what is on two photographs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from migaki.core.errors import ModelError
from migaki.models import BUNDLED, Located, Model, locate
from migaki.models.base import load_base
from migaki.models.convert_efficientnet import convert_efficientnet

# kernel, stride, expansion, channels of the blocks one by one, as TensorFlow's reference code lists them
BLOCKS = [
    *[(3, 1, 1, 16)],
    *[(3, 2, 6, 24), (3, 1, 6, 24)],
    *[(5, 2, 6, 40), (5, 1, 6, 40)],
    *[(3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)],
    *[(5, 1, 6, 112)] * 3,
    *[(5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)],
    *[(3, 1, 6, 320)],
]
State = dict[str, torch.Tensor]


def weights(seed: int = 0) -> State:
    """Random tensors under the names of the file."""
    drawn, found = torch.Generator().manual_seed(seed), {}

    def convolution(name: str, n_out: int, n_in: int, kernel: int) -> None:
        found[f"{name}.weight"] = torch.randn(n_out, n_in, kernel, kernel, generator=drawn) / (n_in * kernel**2) ** 0.5

    def norm(name: str, n: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (torch.rand(n, generator=drawn) + 0.5 for _ in range(2))
        found[f"{name}.running_mean"] = torch.randn(n, generator=drawn) / 10
        found[f"{name}.running_var"] = torch.rand(n, generator=drawn) + 0.5
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    n_in = 32
    for i, (kernel, _, expansion, n_out) in enumerate(BLOCKS):
        inner = n_in * expansion
        if expansion > 1:
            convolution(f"_blocks.{i}._expand_conv", inner, n_in, 1)
            norm(f"_blocks.{i}._bn0", inner)
        convolution(f"_blocks.{i}._depthwise_conv", inner, 1, kernel)
        norm(f"_blocks.{i}._bn1", inner)
        convolution(f"_blocks.{i}._project_conv", n_out, inner, 1)
        norm(f"_blocks.{i}._bn2", n_out)
        n_in = n_out
    convolution("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    return {**found, "_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def computed(state: State, x: torch.Tensor) -> torch.Tensor:
    """Features (B, 1280), straight from the names; TensorFlow pads an even side that is halved below and to the right only."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        s = state
        mean, var, weight, bias = (s[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    def padded(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
        assert x.shape[-1] % 2 == 0 or stride == 1
        all_of_it = kernel - stride
        return F.pad(x, (all_of_it // 2, all_of_it - all_of_it // 2) * 2)

    x = F.relu6(norm("_bn0", F.conv2d(padded(x, 3, 2), state["_conv_stem.weight"], stride=2)))
    for i, (kernel, stride, expansion, _) in enumerate(BLOCKS):
        name, before = f"_blocks.{i}", x
        if expansion > 1:
            x = F.relu6(norm(f"{name}._bn0", F.conv2d(x, state[f"{name}._expand_conv.weight"])))
        filters = state[f"{name}._depthwise_conv.weight"]
        x = F.conv2d(padded(x, kernel, stride), filters, stride=stride, groups=len(filters))
        x = norm(f"{name}._bn2", F.conv2d(F.relu6(norm(f"{name}._bn1", x)), state[f"{name}._project_conv.weight"]))
        x = x + before if before.shape == x.shape and stride == 1 else x
    return F.relu6(norm("_bn1", F.conv2d(x, state["_conv_head.weight"]))).mean((2, 3))


def test_the_converted_model_computes_what_the_names_in_the_file_say(tmp_path):
    state = weights()
    torch.save(state, tmp_path / "lite.pth")
    (tmp_path / "model").mkdir()
    convert_efficientnet(tmp_path / "lite.pth", tmp_path / "model")
    base = load_base(Located("lite", tmp_path / "model", None, "unknown"), "image")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = base.model(pixel_values=pixels).pooler_output, computed(state, pixels)
    assert float(wanted.std()) > 0.01
    assert float((found - wanted).norm()) <= 1e-5 * float(wanted.norm())
    # All but the classifier's 1280 x 1000 + 1000.
    assert sum(p.numel() for p in base.model.parameters()) == 4_652_008 - 1_281_000


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(90)], ids=["empty", "cut off"])
def test_a_file_that_is_not_the_model_is_refused(content, tmp_path):
    (tmp_path / "lite.pth").write_bytes(content)
    with pytest.raises(ModelError, match="Get the model again"):
        convert_efficientnet(tmp_path / "lite.pth", tmp_path)


def test_a_dictionary_that_lacks_a_tensor_is_refused(tmp_path):
    state = weights()
    del state["_bn1.bias"]
    torch.save(state, tmp_path / "lite.pth")
    with pytest.raises(ModelError, match="EfficientNet-Lite0"):
        convert_efficientnet(tmp_path / "lite.pth", tmp_path)


def test_the_real_weights_know_a_palace_and_a_daisy():
    """Of ImageNet's classes 698 and 985, on two photographs that come with scikit-learn."""
    try:
        file = BUNDLED["efficientnet-lite0"].weight_file()
    except ModelError as error:
        pytest.skip(str(error))
    from PIL import Image
    from sklearn.datasets import load_sample_images

    base = load_base(locate(Model(reference="bundled:efficientnet-lite0")), "image")
    head: State = torch.load(file, weights_only=True)
    for image, wanted in zip(load_sample_images().images, (698, 985), strict=True):
        with torch.no_grad():
            out = base.model(**base.processor(Image.fromarray(image), return_tensors="pt"))
        logits = out.pooler_output[0] @ head["_fc.weight"].T + head["_fc.bias"]
        assert int(logits.argmax()) == wanted


def test_a_folder_without_preprocessing_is_no_image_model(tmp_path: Path, tiny_encoder: Path):
    with pytest.raises(ModelError, match="cannot be loaded as a"):
        load_base(Located("x", tiny_encoder, None, "unknown"), "image")
