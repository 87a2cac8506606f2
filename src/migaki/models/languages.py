"""Which language is spoken: what Whisper says before it writes a word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, GenerationConfig
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from migaki.models.reference import has_tokenizer
from migaki.models.writing import language_ids

if TYPE_CHECKING:
    from migaki.models.base import Base

__all__ = ["cannot_tell", "code_of"]

_SHOWN = 5
_INSTEAD = "or use spectrum, retrieve or probe, which learn from rows"


def code_of(words: str) -> str:
    """The code by which Whisper calls a language, of that code or of its English name; of anything else itself.

    >>> code_of("Japanese"), code_of("JA"), code_of("door bell")
    ('ja', 'ja', 'door bell')
    """
    plain = words.strip().lower()
    return TO_LANGUAGE_CODE.get(plain, plain)


def cannot_tell(base: Base, words: Mapping[str, str]) -> str | None:
    """Why the model cannot tell labels apart as languages, and what to do; None where it can.

    Args:
        base: the half that hears.
        words: what stands for each label.
    """
    if base.model.config.model_type != "whisper":
        return (
            f"{base.reference} hears sounds and knows no words; only Whisper can be asked, which language is spoken. Use "
            f"bundled:whisper-base or another of many languages, {_INSTEAD}."
        )
    known = _languages(base)
    if not known:
        return (
            f"{base.reference} tells no languages apart: it knows English alone, or is only the half that hears. Use "
            f"bundled:whisper-base or another of many languages, {_INSTEAD}."
        )
    unknown = [label for label, text in words.items() if code_of(text) not in known]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (" ..." if len(unknown) > _SHOWN else "")
        return (
            f"{base.reference} tells by names alone which language is spoken, and {len(unknown)} of {len(words)} labels are none that "
            f"it knows ({shown}). Label by code (ja) or English name (japanese), say which they are with method.descriptions "
            f"({{deutsch: german}}), {_INSTEAD}."
        )
    return _twice(words)


def _languages(base: Base) -> Iterable[str]:
    folder = base.folder
    if folder is None or not has_tokenizer(folder):
        return ()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    there = (folder / "generation_config.json").is_file()
    settings = GenerationConfig.from_pretrained(folder, local_files_only=True) if there else None
    return language_ids(base.model.config, settings, tokenizer)


def _twice(words: Mapping[str, str]) -> str | None:
    """Labels that are one language are never told apart."""
    labels = defaultdict(list)
    for label, text in words.items():
        labels[code_of(text)].append(label)
    for code, same in labels.items():
        if len(same) > 1:
            return f"the labels {' and '.join(same)} are one language ({code}), so they cannot be told apart. Use one label for both."
    return None
