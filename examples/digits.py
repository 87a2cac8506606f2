"""scikit-learn's 1,797 handwritten digits as images, and a recipe for them, to see what it takes to tell them apart.

python examples/digits.py data/digits
migaki compare data/digits/digits.yaml --methods pixels,retrieve,probe,frozen,lora,full
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 64
RECIPE = """# Written by examples/digits.py.
task: {kind: classify_image, size: 64}
model: bundled:efficientnet-lite0
data: {train: images, valid: 0.1, test: 0.2}
method: full
training: {epochs: 5, batch_size: 32, schedule: cosine, warmup: 0.1, evaluations_per_epoch: 1}
seed: 0
"""


def main() -> None:
    """Write `images/DIGIT/NUMBER.png`, 8 x 8 pixels enlarged to 64 x 64, and `digits.yaml`."""
    folder, digits = Path(sys.argv[1]), load_digits()
    for number, (image_HW, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / "images" / str(digit) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((image_HW * 255 / 16).astype(np.uint8), "L")  # 17 shades, from 0 to 16
        grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    (folder / "digits.yaml").write_text(RECIPE, encoding="utf-8")
    print(f"{number + 1} images and a recipe: migaki compare {folder / 'digits.yaml'}")


if __name__ == "__main__":
    main()
