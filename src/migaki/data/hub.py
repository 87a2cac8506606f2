"""Data sets of the Hugging Face hub, by name. Only the Parquet files that the hub itself makes of every data set are asked
for, so no code of a data set ever runs or reaches the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from migaki.core.errors import DataError
from migaki.core.types import Place, Record, shorten
from migaki.data.parquet import parquet_rows

__all__ = ["hub_records"]

_REVISION = "refs/convert/parquet"
"""The branch where the hub keeps them, as CONFIG/SPLIT/0000.parquet."""
_FORM = "hf:OWNER/NAME, hf:OWNER/NAME/CONFIG or hf:OWNER/NAME/CONFIG/SPLIT"


def hub_records(source: str) -> list[Record]:
    """The records of `hf:OWNER/NAME[/CONFIG[/SPLIT]]`; CONFIG is `default` and SPLIT `train` where they are left out.

    Raises:
        DataError: it is no such name, huggingface_hub is not installed, or the files are neither in the local cache of the
            hub nor to be had.
    """
    parts = source.removeprefix("hf:").split("/")
    if not 2 <= len(parts) <= 4 or not all(part.strip() for part in parts):
        raise DataError(f"{source} is no name of a data set; write {_FORM}.")
    config, split = (*parts[2:], *("default", "train")[len(parts) - 2 :])
    name = "/".join(parts[:2])
    folder = _snapshot(source, name, config, split)
    files = sorted((folder / config / split).glob("*.parquet"))
    rows = (row for file in files for row in parquet_rows(file, source)[1])
    return [Record(Place(source, number), row) for number, row in enumerate(rows, 1)]


def _snapshot(source: str, name: str, config: str, split: str) -> Path:
    """The folder of the files: from the local cache of the hub where they are there, else fetched."""
    try:
        from huggingface_hub import list_repo_files, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise DataError(
            f"{source}: data sets of the hub need huggingface_hub. Get it with: pip install huggingface_hub"
        ) from None
    wanted = [f"{config}/{split}/*.parquet"]
    how: Any = {"repo_type": "dataset", "revision": _REVISION}
    try:
        folder = Path(snapshot_download(name, **how, local_files_only=True))
        if any((folder / config / split).glob("*.parquet")):
            return folder
    except LocalEntryNotFoundError:
        pass
    with _told(source, name):
        names = [file.rsplit("/", 1)[0] for file in list_repo_files(name, **how) if file.endswith(".parquet")]
    if f"{config}/{split}" not in names:
        known = ", ".join(f"hf:{name}/{there}" for there in dict.fromkeys(names))
        raise DataError(f"{source}: the data set has no such split. Name one of {known}.")
    with _told(source, name):
        return Path(snapshot_download(name, **how, allow_patterns=wanted, etag_timeout=5))


@contextmanager
def _told(source: str, name: str) -> Iterator[None]:
    """Whatever the hub refuses inside, as what the user can do about it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise DataError(f"{source} is gated: accept its terms on the hub, then log in with `hf auth login`.") from None
    except RepositoryNotFoundError:
        raise DataError(
            f"{source}: the hub has no such data set, or it is private. Check the name, or log in with `hf auth login`."
        ) from None
    except Exception as error:
        raise DataError(
            f"{source} is not in the local hub cache and the hub cannot be reached ({shorten(type(error).__name__)}). On a machine "
            f"with access run `hf download {name} --repo-type dataset --revision {_REVISION}`, copy the Parquet files here, and "
            "give their path."
        ) from error
