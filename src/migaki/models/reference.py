"""What `model:` in a recipe may say, and the folder it stands for. No torch here: a wrong reference fails at once."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo, field_validator, model_validator

from migaki.core.codec import nearest
from migaki.core.errors import ModelError
from migaki.core.parts import Part
from migaki.core.store import file_sha256
from migaki.models.catalogue import BUNDLED, Card
from migaki.models.conversion import Weights, find_conversion, weights_fingerprint

__all__ = ["Located", "Model", "check_folder", "has_tokenizer", "hashed", "locate"]

_SCHEMES = ("bundled:", "hf:", "run:")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json", "spiece.model")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files that say how numbers are made of an image or a recording."""


class Model(Part):
    """Which pretrained weights to start from. `model: bundled:minilm` is short for `model: {reference: bundled:minilm}`."""

    reference: str
    """`bundled:NAME`, a folder in Hugging Face layout, a `.gguf` file, `hf:ORG/NAME`, or `run:ID` of an earlier run."""
    revision: str | None = None
    """Branch, tag or commit on the hub; only for `hf:`. A commit makes the run repeatable."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"reference": value} if isinstance(value, str) else value

    @field_validator("reference")
    @classmethod
    def _known(cls, reference: str, info: ValidationInfo) -> str:
        scheme, colon, name = reference.partition(":")
        if reference.startswith(_SCHEMES):
            if not name:
                raise ValueError(f"{reference!r} names no model after the colon.")
            if scheme == "bundled" and name not in BUNDLED:
                raise ValueError(f"there is no bundled model {name!r}; {nearest(name, list(BUNDLED))}")
            if scheme == "hf" and name.count("/") != 1:
                raise ValueError(f"{reference!r} is not of the form hf:ORG/NAME.")
            return reference
        if "\x00" in reference:
            raise ValueError("the path holds a NUL character, which no file name can; write it again.")
        if colon and "/" not in scheme and not os.path.exists(reference):  # noqa: PTH110 - pathlib raises on long names
            raise ValueError(
                f"there is no kind of model reference {scheme + ':'!r}; valid: {', '.join(_SCHEMES)} a folder, or a .gguf file."
            )
        folder = (info.context or {}).get("folder")
        try:
            path = Path(reference).expanduser()
        except RuntimeError:
            raise ValueError(f"there is no home folder for {reference!r}; write the path out.") from None
        return str((Path(folder or ".") / path).resolve())

    @model_validator(mode="after")
    def _revision_only_from_hub(self) -> Model:
        if self.revision is not None and not self.reference.startswith("hf:"):
            raise ValueError("revision is only for hf: references; leave it out.")
        return self


@dataclass(frozen=True, slots=True)
class Located:
    """Files on this machine behind a reference."""

    reference: str
    folder: Path
    """A folder in Hugging Face layout, or the one in which the packed file lies."""
    packed: Path | None
    """A file in another format, which has to be converted first."""
    licence: str
    """As the model's card says it; 'unknown' where there is none."""
    card: Card | None = None
    """What is known about a bundled model."""


def locate(model: Model) -> Located:
    """The files behind a reference, fetched where it is a hub name. `run:` is resolved by `migaki.run.base_of`.

    Raises:
        ModelError: not installed, not found, asks for remote code, or holds only pickled weights.
    """
    reference = model.reference
    scheme, _, name = reference.partition(":")
    if scheme == "bundled":
        card = BUNDLED[name]
        file = card.weight_file()
        found = Located(reference, file.parent, None if card.form == "safetensors" else file, card.licence, card)
    elif scheme == "hf":
        folder = _from_hub(name, model.revision)
        found = Located(reference, folder, None, _licence(folder))
    elif reference.endswith(".gguf"):
        file = Path(reference)
        if not os.path.isfile(file):  # noqa: PTH113 - pathlib raises on long names
            raise ModelError(
                f"There is no GGUF file {file}. Check `model` in the recipe; paths are relative to the recipe."
            )
        found = Located(reference, file.parent, file, _licence(file.parent))
    else:
        folder = Path(reference)
        if not os.path.isdir(folder):  # noqa: PTH112 - pathlib raises on long names
            raise ModelError(
                f"There is no model folder {folder}. Check `model` in the recipe: a path relative to the recipe, bundled:NAME, hf:ORG/NAME or run:ID."
            )
        found = Located(reference, folder, None, _licence(folder))
    if found.packed is None:
        check_folder(found.folder)
    return found


def hashed(located: Located) -> Weights | None:
    """The weights, every file read; None where a packed file is still to be converted.

    Raises:
        ModelError: the file of a bundled model is not the known one.
    """
    sha256, card = None, located.card
    if card is not None:
        file = card.weight_file()
        sha256 = file_sha256(file)
        if sha256 != card.sha256:
            raise ModelError(
                f"{located.reference}: {file} is not the file known as {card.title} (sha256 differs). Remove it and get it again: migaki models get {card.name}"
            )
    if located.packed is not None:
        return find_conversion(located.packed, sha256)
    return Weights(located.folder, weights_fingerprint(located.folder))


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot or must not be loaded.

    Raises:
        ModelError: no config, no safetensors weights (pickled ones are never opened), neither tokenizer nor processor,
            remote code, or a model of timm.
    """
    config = _json(folder / "config.json")
    if config is None:
        raise ModelError(f"{folder} has no config.json, so it is not a model folder in Hugging Face layout.")
    if config.get("model_type") == "timm_wrapper" or "pretrained_cfg" in config:
        raise ModelError(
            f"{folder} holds a model of timm ({config.get('architecture', 'of a name that it does not say')}), which migaki does not "
            "load. Use a model of the same family that transformers itself computes (ResNet, ViT, DeiT, ConvNeXt, Swin), or "
            "bundled:efficientnet-lite0."
        )
    for name in ("config.json", "tokenizer_config.json", *_PROCESSORS):
        wanted = (_json(folder / name) or {}).get("auto_map")
        if wanted:
            raise ModelError(
                f"{folder / name} asks for code of its own (auto_map: {', '.join(map(str, wanted))}). migaki never runs code that comes with a model; use a model whose architecture transformers knows."
            )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        what = (
            f"only pickled weights ({', '.join(pickled[:3])}), which can run code when opened"
            if pickled
            else "no weights"
        )
        raise ModelError(
            f"{folder} holds {what}. migaki reads safetensors: get the model in that format, or convert it where you trust the file."
        )
    if not any((folder / name).exists() for name in (*_TOKENIZERS, *_PROCESSORS)):
        raise ModelError(
            f"{folder} has no tokenizer (tokenizer.json), nor what a model of images or sounds has instead ({_PROCESSORS[0]}). "
            "Copy these files of the model into it."
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether one of the files lies in it that a tokenizer is made of."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}). Get the model again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object. Get the model again.")
    return value


def _licence(folder: Path) -> str:
    """The `license:` line of the model card, which hub folders carry as README.md front matter."""
    card = folder / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
            if line.lower().startswith("license:"):
                return line.split(":", 1)[1].strip() or "unknown"
    return "unknown"


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has configuration, tokenizer or processor, and every weight file: who once looked at a model's configuration
    alone has a part of it in the cache."""
    index = _json(folder / "model.safetensors.index.json")
    shards = set(index.get("weight_map", {}).values()) if index else set()
    return (
        (folder / "config.json").is_file()
        and any((folder / name).is_file() for name in (*_TOKENIZERS, *_PROCESSORS))
        and (all((folder / shard).is_file() for shard in shards) if shards else any(folder.glob("*.safetensors")))
    )


def _from_hub(name: str, revision: str | None) -> Path:
    """The snapshot folder: from the local hub cache where it is complete, else fetched.

    Only configuration, tokenizer and safetensors files are asked for: pickles and code never reach the disk.
    """
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]
    with_revision = f"{name} at revision {revision}" if revision else name
    try:
        cached = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
        if _is_whole(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        # Asked first, because where the hub does not answer, snapshot_download may hand back a part of the model.
        model_info(name, revision=revision, timeout=5)
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, etag_timeout=5))
    except RevisionNotFoundError:
        raise ModelError(f"hf:{name}: the hub has no revision {revision!r}. Check model.revision.") from None
    except GatedRepoError:
        raise ModelError(
            f"hf:{name} is gated: accept its terms on the hub, then log in with `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"hf:{name}: the hub has no such model, or it is private. Check the name, or log in with `hf auth login`."
        ) from None
    except Exception as error:
        raise ModelError(
            f"hf:{with_revision} is not whole in the local hub cache and the hub cannot be reached ({type(error).__name__}). "
            "On a machine with access run `hf download "
            + name
            + "`, copy the folder here, and set `model` to its path; "
            "or use a bundled model (" + ", ".join(f"bundled:{known}" for known in BUNDLED) + ")."
        ) from error
