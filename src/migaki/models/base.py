"""Loading weights and tokenizer into a `Base`, and the one-time conversion of GGUF files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from migaki.core.errors import ModelError
from migaki.core.parts import Role
from migaki.models import efficientnet_lite  # noqa: F401 - from then on transformers can load it
from migaki.models.conversion import Weights, keep_conversion
from migaki.models.meanings import READS
from migaki.models.merges import mend_merges
from migaki.models.reference import Located, check_folder, has_tokenizer, hashed

__all__ = ["Base", "best_device", "load_base", "quiet_transformers", "unpacked"]

_UNLIMITED = 10**6
"""Tokenizers without a limit store 1e30; anything above this counts as none."""


@dataclass
class Base:
    """Pretrained weights with what makes numbers of rows."""

    model: PreTrainedModel
    tokenizer: Any
    """Of texts; None where rows are files and nothing is written."""
    reference: str
    fingerprint: str
    """sha256 over the weight files: two bases with the same fingerprint have the same weights."""
    licence: str
    pooling: str | None
    """How the publisher pools token vectors into one (sentence-transformers layout), None where nothing is said."""
    prompt: str = ""
    """What the publisher puts before every text that is neither a query nor a document (sentence-transformers layout)."""
    merge: dict[str, float | int] | None = None
    """Where an adapter was merged into the weights: how the merged model compares with it on how many rows."""
    processor: Any = None
    """Of files; None where rows are texts."""
    folder: Path | None = None
    """Where the weights were loaded from; None where they are no longer those of a folder (an adapter was merged)."""

    @property
    def length_limit(self) -> int:
        """The most tokens the model can take at once."""
        limits = [getattr(self.model.config, "max_position_embeddings", None), self.tokenizer.model_max_length]
        return int(min([limit for limit in limits if limit and limit < _UNLIMITED] or [_UNLIMITED]))

    def whole(self, role: Role) -> Base:
        """The model in the same folder as another role asks for it: with the half that this one was loaded without.

        Raises:
            ModelError: that half is not there.
        """
        assert self.folder is not None
        located = Located(self.reference, self.folder, None, self.licence)
        return load_base(located, role, Weights(self.folder, self.fingerprint))


def quiet_transformers() -> None:
    """No progress bars and no advice of transformers among migaki's own lines."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def unpacked(located: Located) -> Weights:
    """The weights in Hugging Face layout; a packed file is converted on first use and found in the cache afterwards.

    Raises:
        ModelError: a packed file cannot be read, or is not the known one.
    """
    weights = hashed(located)
    if weights is None:
        assert located.packed is not None
        weights = keep_conversion(located.packed, _converter(located))
    return weights


def load_base(located: Located, role: Role, weights: Weights | None = None) -> Base:
    """Float32 weights and tokenizer or processor; a packed file is converted on first use and loaded from the cache afterwards.

    Args:
        located: the files.
        role: which kind of network the task needs.
        weights: what `hashed` found of them, where it was asked already.
    Raises:
        ModelError: the architecture is unknown, the weights do not fit it, or it is not of the wanted role.
    """
    quiet_transformers()
    weights = weights or unpacked(located)
    folder = weights.folder
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        architecture, config, renamed = _architecture(role, config)
        loaded: Any = architecture.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named below, not only counted
            key_mapping=renamed,
        )
    except Exception as error:  # damaged files show as anything: SafetensorError, struct.error, plain Exception
        raise _unloadable(located.reference, folder, role, error) from error
    model, notes = loaded
    _check_complete(notes, located.reference, role)
    if renamed:
        # Else it would be saved under names that nobody can load.
        del model._weight_conversions
    tokenizer, processor = _readers(located.reference, folder, role)
    model.requires_grad_(False)
    model.train(False)
    model.to(best_device())
    return Base(
        model,
        tokenizer,
        located.reference,
        weights.fingerprint,
        located.licence,
        _pooling(folder),
        _prompt(folder),
        processor=processor,
        folder=folder,
    )


_READERS: dict[str, Any] = {
    "audio": (None, AutoFeatureExtractor),
    "image": (None, AutoImageProcessor),
    "speech": (AutoTokenizer, AutoFeatureExtractor),
}
"""What makes numbers of the texts and of the files of a role; of all others the tokenizer alone."""
_WRITES_LETTERS = ("wav2vec2", "hubert")
"""Families that were trained by CTC, to write a letter or none for each piece of sound."""


def _readers(reference: str, folder: Path, role: Role) -> tuple[Any, Any]:
    """Tokenizer and processor, each where the role has one."""
    if role == "speech" and not has_tokenizer(folder):
        raise ModelError(
            f"{reference} writes, but has no tokenizer (tokenizer.json, or vocab.json of letters) in {folder}. Copy the files "
            "of the model into it."
        )
    try:
        tokenizer, processor = (
            reader.from_pretrained(folder, local_files_only=True, trust_remote_code=False) if reader else None
            for reader in _READERS.get(role, (AutoTokenizer, None))
        )
    except Exception as error:  # as of weights
        raise _unloadable(reference, folder, role, error) from error
    # One of letters, as models trained by CTC have it, is never a fast one; of a few label names none has to be.
    if tokenizer is not None and not tokenizer.is_fast and role not in ("speech", "image_text"):
        raise ModelError(
            f"{folder} has no tokenizer.json. Convert the tokenizer to the fast format and save it into the folder."
        )
    if role == "speech" and tokenizer is not None and tokenizer.is_fast:
        mend_merges(tokenizer)
    return tokenizer, processor


def _unloadable(reference: str, folder: Path, role: Role, error: Exception) -> ModelError:
    return ModelError(
        f"{reference} cannot be loaded as a {_called(role)}: {_first_line(error)}. Check that {folder} is whole "
        f"(fetch it again), and that transformers {transformers.__version__} knows the architecture."
    )


def _called(role: str) -> str:
    return {"speech": "model of speech", "image_text": "model of images and texts"}.get(role, role)


def _architecture(role: Role, config: Any) -> tuple[Any, Any, dict[str, str] | None]:
    """The class of network for a role, its configuration, and how the names of the weights in a file differ from its own."""
    if role == "audio" and config.model_type == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        # The half that hears, whether the file holds all of Whisper, one with a head on it, or this half alone.
        return WhisperEncoder, config, {r"^(model\.)?encoder\.": ""}
    if role == "image" and config.model_type in READS:
        from transformers import CLIPVisionModel, SiglipVisionModel

        # The half that sees; transformers finds its weights among those of the whole.
        return CLIPVisionModel if config.model_type == "clip" else SiglipVisionModel, config.vision_config, None
    if role == "speech":
        return AutoModelForCTC if config.model_type in _WRITES_LETTERS else AutoModelForSpeechSeq2Seq, config, None
    return AutoModelForCausalLM if role == "decoder" else AutoModel, config, None


def best_device() -> torch.device:
    """The first CUDA device where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _check_complete(notes: Mapping[str, Any], reference: str, role: str) -> None:
    """Refuse weights that leave a part of the network at its random start, which transformers only warns about."""
    for key, stored, wanted in sorted(notes["mismatched_keys"]):
        raise ModelError(
            f"{reference}: {key} has shape {tuple(stored)} in the file, but config.json asks for {tuple(wanted)}. "
            "Weights and config.json belong to different models; fetch the model again."
        )
    unused = () if role == "decoder" else ("pooler.", "masked_spec_embed")
    missing = sorted(key for key in notes["missing_keys"] if not key.startswith(unused))
    if missing:
        raise ModelError(
            f"{reference}: the weights lack {len(missing)} tensors of a {_called(role)} (first: {missing[0]}), so a part of it would be "
            f"random. Choose a model that was trained as a {_called(role)}, or fetch it again where it should be one."
        )


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


def _prompt(folder: Path) -> str:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return ""
    settings = json.loads(path.read_text(encoding="utf-8"))
    return str((settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or "")


def _converter(located: Located) -> Callable[[Path, Path], None]:
    form = located.card.form if located.card is not None else "gguf"
    if form == "e5":
        from migaki.models.convert_e5 import convert_e5

        return convert_e5
    if form == "efficientnet":
        from migaki.models.convert_efficientnet import convert_efficientnet

        return convert_efficientnet
    if form == "ct2-whisper":
        from migaki.models.convert_whisper import convert_whisper

        return convert_whisper
    return _convert


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model in a GGUF file as a folder in Hugging Face layout."""
    with TemporaryDirectory() as alone:
        # Read through a link in a folder of its own: transformers would also take configuration, and ask to run code,
        # from whatever lies beside the file, and the cache knows the file alone.
        (Path(alone) / gguf.name).symlink_to(gguf.resolve())
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                alone,
                gguf_file=gguf.name,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                alone, gguf_file=gguf.name, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # as in load_base
            raise ModelError(
                f"{gguf} cannot be read as a GGUF model: {_first_line(error)}. Check that the file is whole (fetch it again), "
                f"and that transformers {transformers.__version__} knows the architecture."
            ) from error
    model, notes = loaded
    _check_complete(notes, str(gguf), "decoder")
    # A model that came from GGUF carries its quantizer along and refuses to be saved; the weights are plain float32 now.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_folder(folder)
