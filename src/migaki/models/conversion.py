"""Weight files and their hashes; those in a foreign format are converted once and kept. No torch here: hashing goes on
while torch is imported."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migaki.core.cache import cache_folder, set_aside
from migaki.core.errors import DamagedError
from migaki.core.store import commit, file_sha256, sweep, verify

__all__ = ["Weights", "find_conversion", "keep_conversion", "weights_fingerprint"]


@dataclass(frozen=True, slots=True)
class Weights:
    """Files that were read and hashed, ready to be loaded."""

    folder: Path
    """In Hugging Face layout."""
    fingerprint: str
    """See `weights_fingerprint`."""


def weights_fingerprint(folder: Path, manifest: Mapping[str, Any] | None = None) -> str:
    """sha256 over name and content of every safetensors file in a folder.

    Args:
        folder: where the files lie.
        manifest: what `verify` just returned for it, whose hashes are taken over; None: every file is read.
    """
    known = {entry["path"]: entry["sha256"] for entry in manifest["files"]} if manifest else {}
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {known.get(path.name) or file_sha256(path)}\n".encode())
    return digest.hexdigest()


def find_conversion(file: Path, sha256: str | None = None) -> Weights | None:
    """What was made of this very file before, checked; None where there is none, or a damaged one that was set aside now.

    Args:
        file: in the foreign format.
        sha256: of its content, where it is known already.
    """
    folder = _folder(sha256 or file_sha256(file))
    if not folder.is_dir():
        return None
    try:
        return Weights(folder, weights_fingerprint(folder, verify(folder)))
    except DamagedError as error:
        aside = set_aside(folder)
        print(
            f"The converted model was damaged ({error}) and is set aside as {aside.name}; converting again.",
            file=sys.stderr,
        )
        return None


def keep_conversion(file: Path, convert: Callable[[Path, Path], None]) -> Weights:
    """Convert a file into a folder of the cache. The key is the file's sha256, so an edit is a new entry.

    Args:
        file: in the foreign format.
        convert: writes what the file holds into an empty folder.
    """
    folder = _folder(file_sha256(file))
    sweep(folder.parent)
    # Not on stdout, which belongs to results: `migaki train --json` must stay readable by programs.
    print(f"Converting {file.name} once (about a minute); later runs read the result from {folder}.", file=sys.stderr)
    try:
        with commit(folder, {"source": file.name}) as temporary:
            convert(file, temporary)
    except FileExistsError:
        pass  # another process converted the same file in the meantime
    return Weights(folder, weights_fingerprint(folder, verify(folder)))


def _folder(sha256: str) -> Path:
    return cache_folder() / "converted" / sha256[:32]
