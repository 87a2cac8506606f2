"""The work that is compared: real sentences of chatterbot-corpus, made into chats and texts of stated lengths.

Every side gets the same files, so that only the training differs. Source: PyPI chatterbot-corpus (BSD).
"""

from __future__ import annotations

import json
import random
from importlib.metadata import files
from pathlib import Path

import yaml

CHAT_ROWS, TEXT_ROWS, TEST_ROWS = 500, 3000, 200
IMAGES, TEST_IMAGES, IMAGE_SIDE = 512, 96, 128
CLASSES = 16


def conversations() -> dict[str, list[list[str]]]:
    """Topic -> conversations, each a list of sentences."""
    found: dict[str, list[list[str]]] = {}
    for file in files("chatterbot-corpus") or []:
        if file.match("chatterbot_corpus/data/english/*.yml"):
            content = yaml.safe_load(Path(str(file.locate())).read_text(encoding="utf-8"))
            said = [[str(s).strip() for s in talk if s] for talk in content["conversations"] if isinstance(talk, list)]
            found[file.stem] = [talk for talk in said if len(talk) > 1]
    return dict(sorted(found.items()))


def write(folder: Path) -> None:
    """`chats.jsonl`, `chats-test.jsonl`, `texts.jsonl`, `texts-test.jsonl`."""
    dice = random.Random(0)
    topics = conversations()
    chats = [
        {"messages": [{"role": "user", "content": talk[0]}, {"role": "assistant", "content": answer}]}
        for talks in topics.values()
        for talk in talks
        for answer in talk[1:]
        if 20 <= len(answer) <= 300
    ]
    dice.shuffle(chats)
    _write(folder / "chats.jsonl", chats[:CHAT_ROWS])
    _write(folder / "chats-test.jsonl", chats[CHAT_ROWS : CHAT_ROWS + TEST_ROWS // 4])
    largest = sorted(topics, key=lambda topic: -len(topics[topic]))[:CLASSES]
    texts = []
    for number in range(TEXT_ROWS + TEST_ROWS):
        topic = largest[number % CLASSES]
        # Sentences of one topic, until the text has the length that was drawn for it (median about 84 tokens).
        length, words = dice.lognormvariate(4.15, 0.5), []
        while len(words) < length:
            words += " ".join(dice.choice(topics[topic])).split()
        texts.append({"text": " ".join(words[: int(length) + 1]), "label": topic})
    dice.shuffle(texts)
    _write(folder / "texts.jsonl", texts[:TEXT_ROWS])
    _write(folder / "texts-test.jsonl", texts[TEXT_ROWS:])


def write_images(folder: Path) -> dict[str, str]:
    """`images/LABEL/*.png` and `images-test/LABEL/*.png`: scikit-learn's digits, enlarged; and models of real size with random
    weights, by name, with the folder of each."""
    import numpy as np
    import torch
    from PIL import Image
    from sklearn.datasets import load_digits
    from transformers import AutoModel, ConvNextImageProcessor, ResNetConfig, ViTConfig, ViTImageProcessor

    from migaki.models import Model, locate
    from migaki.models.base import unpacked

    digits = load_digits()
    for number in range(IMAGES + TEST_IMAGES):
        part = "images" if number < IMAGES else "images-test"
        path = folder / part / str(digits.target[number]) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[number] * 255 / 16).astype(np.uint8), "L")
        image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC).save(path)
    torch.manual_seed(0)
    small = ViTConfig(hidden_size=384, intermediate_size=1536, num_attention_heads=6)
    sized = {"size": {"height": 224, "width": 224}}
    for name, config, processor in (
        ("resnet50", ResNetConfig(), ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=1.0)),
        ("vit", small, ViTImageProcessor(**sized)),
    ):
        model = AutoModel.from_config(config)
        _settle(model)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    lite = unpacked(locate(Model(reference="bundled:efficientnet-lite0")))
    return {"resnet50": str(folder / "resnet50"), "vit": str(folder / "vit"), "lite0": str(lite.folder)}


def _settle(model: object) -> None:
    """Give batch norms the statistics of noise, as a training would: with those of no picture at all, mean 0 and variance 1,
    a network of many layers overflows or fades."""
    import torch

    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over what is seen
    with torch.no_grad():
        model(pixel_values=torch.randn(8, 3, 224, 224))
    model.eval()


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
