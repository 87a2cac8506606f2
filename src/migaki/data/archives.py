"""A zip archive to a folder, once, and never to anywhere else: no links, no paths that lead out, no bombs."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from migaki.core.cache import Cache
from migaki.core.errors import DataError
from migaki.core.store import file_sha256
from migaki.core.units import bytes_text

__all__ = ["unpacked_archive"]

_CACHE_BYTES = 64 << 30
_MOST_FILES, _MOST_BYTES = 1_000_000, 32 << 30
_MOST_TIMES, _SMALL = 200, 64 << 20
"""Images and sounds do not shrink: what grows to more than so many times its size, and is not small, is no data set."""
_LONGEST_NAME = 255


def unpacked_archive(path: Path) -> Path:
    """The folder with the content of a zip archive, in the cache under the hash of the archive.

    Raises:
        DataError: it is damaged, encrypted or too large, or holds links or paths that lead out of it; says which.
        StorageError: the disk is full or not writable.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}. Paths in a recipe are relative to the recipe.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked(path, archive)

            def make(folder: Path) -> None:
                for member in members:
                    _take(archive, member, folder)

            return Cache("unpacked", _CACHE_BYTES).get(file_sha256(path)[:32], make)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{path} is damaged or no zip archive ({error}). Get it again, or unpack it yourself."
        ) from None


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an archive, none of them taken out yet. Raises DataError where one of them must not be."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    total = sum(member.file_size for member in members)
    if len(members) > _MOST_FILES or total > _MOST_BYTES:
        raise DataError(
            f"{path} holds {len(members)} files of {bytes_text(total)} in all; up to {_MOST_FILES} files of "
            f"{bytes_text(_MOST_BYTES)} are unpacked. Unpack it yourself and name the folder."
        )
    if total > max(_SMALL, _MOST_TIMES * path.stat().st_size):
        raise DataError(
            f"{path} would grow from {bytes_text(path.stat().st_size)} to {bytes_text(total)}, which no data set of files does. "
            "Check where it comes from; if it is right, unpack it yourself and name the folder."
        )
    files: set[str] = set()
    folders: set[str] = set()
    for member in members:
        if reason := _fault(member, files, folders):
            raise DataError(
                f"{path}: the entry {member.filename!r} {reason}, so nothing of it was unpacked. Check where it comes from; "
                "if it is right, unpack it yourself and name the folder."
            )
        files.add(member.filename)
        folders |= {str(parent) for parent in PurePosixPath(member.filename).parents}
    return members


def _fault(member: zipfile.ZipInfo, files: set[str], folders: set[str]) -> str | None:
    name = PurePosixPath(member.filename)
    if not name.parts:
        return "has no name"
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in name.parts[0]:
        return "leads out of the archive's own folder"
    if max(len(part.encode(errors="replace")) for part in name.parts) > _LONGEST_NAME:
        return f"has a name of more than {_LONGEST_NAME} bytes, which no disk takes"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or a device, not a file"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.filename in files or member.filename in folders or files.intersection(map(str, name.parents)):
        return "stands in it twice"
    return None


def _take(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("xb") as file:
        # zipfile itself ends where the size that the archive states is reached, and compares the checksum.
        shutil.copyfileobj(source, file, 1 << 20)
