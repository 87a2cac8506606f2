"""Loading weights and tokenizer into a `Base`, and the one-time conversion of GGUF files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from migaki.core.errors import DamagedError, ModelError
from migaki.core.store import MANIFEST, commit, file_sha256, read_json, sweep, verify
from migaki.models.reference import Located, cache_folder, check_folder

__all__ = ["Base", "load_base", "quiet_transformers", "weights_fingerprint"]

_UNLIMITED = 10**6
"""Tokenizers without a limit store 1e30; anything above this counts as none."""


@dataclass
class Base:
    """Pretrained weights with their tokenizer."""

    model: PreTrainedModel
    tokenizer: Any
    reference: str
    fingerprint: str
    """sha256 over the weight files: two bases with the same fingerprint have the same weights."""
    licence: str
    pooling: str | None
    """How the publisher pools token vectors into one (sentence-transformers layout), None where nothing is said."""

    @property
    def length_limit(self) -> int:
        """The most tokens the model can take at once."""
        limits = [getattr(self.model.config, "max_position_embeddings", None), self.tokenizer.model_max_length]
        return int(min([limit for limit in limits if limit and limit < _UNLIMITED] or [_UNLIMITED]))


def quiet_transformers() -> None:
    """No progress bars and no advice of transformers among migaki's own lines."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def weights_fingerprint(folder: Path) -> str:
    """sha256 over name and content of every safetensors file in a folder."""
    known: dict[str, str] = {}
    if (folder / MANIFEST).is_file():  # a folder that migaki committed: its hashes were just verified
        known = {entry["path"]: entry["sha256"] for entry in read_json(folder / MANIFEST)["files"]}
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {known.get(path.name) or file_sha256(path)}\n".encode())
    return digest.hexdigest()


def load_base(located: Located, role: Literal["encoder", "decoder"]) -> Base:
    """Float32 weights and tokenizer; a GGUF file is converted on first use and loaded from the cache afterwards.

    Raises:
        ModelError: the architecture is unknown, the weights do not fit it, or it is not of the wanted role.
    """
    quiet_transformers()
    folder = _converted(located.gguf) if located.gguf else located.folder
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if role == "decoder":
            model = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        else:
            model, notes = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
            missing = [key for key in notes["missing_keys"] if not key.startswith("pooler.")]
            if missing:
                raise ModelError(
                    f"{folder}: the weights lack {len(missing)} tensors (first: {missing[0]}), so it is not a usable encoder."
                )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{located.reference} cannot be loaded as a {role}: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{folder} has no tokenizer.json. Convert the tokenizer to the fast format and save it into the folder."
        )
    model.requires_grad_(False)
    model.train(False)
    return Base(model, tokenizer, located.reference, weights_fingerprint(folder), located.licence, _pooling(folder))


def _pooling(folder: Path) -> str | None:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key, name in (
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_lasttoken", "last"),
    ):
        if settings.get(key):
            return name
    return None


def _converted(gguf: Path) -> Path:
    """The cached folder of a GGUF file, made on first use. The key is the file's sha256, so an edit is a new entry."""
    cache = cache_folder() / "gguf"
    folder = cache / file_sha256(gguf)[:32]
    if folder.is_dir():
        try:
            verify(folder)
            return folder
        except DamagedError as error:
            aside = folder.with_name(f".corrupt-{folder.name}-{len(list(cache.glob('.corrupt-*')))}")
            folder.rename(aside)
            print(f"The converted model was damaged ({error}) and is set aside as {aside.name}; converting again.")
    sweep(cache)
    print(f"Converting {gguf.name} once (about a minute); later runs read the result from {folder}.", flush=True)
    try:
        with commit(folder, {"source": gguf.name}) as temporary:
            _convert(gguf, temporary)
            check_folder(temporary)
    except FileExistsError:
        verify(folder)  # another process converted the same file in the meantime
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{gguf} cannot be read as a GGUF model: {str(error).splitlines()[0]}") from error
    # A model that came from GGUF carries its quantizer along and refuses to be saved; the weights are plain float32 now.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
