"""Processor, memory, disks and what surrounds them: what does not depend on a library."""

from __future__ import annotations

import contextlib
import locale
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

from migaki.core.units import bytes_text, seconds_text
from migaki.doctor.check import Check, ask, first_line
from migaki.environment import available_cores, cpu_name, cpu_quota, memory_bytes

__all__ = ["clock", "disk", "fonts", "hub", "limits", "memory", "processor", "text_encoding", "threads"]

_ROOM_BYTES, _TIGHT_BYTES = 10 << 30, 2 << 30
_MEMORY_BYTES = 4 << 30
_SLOW_DISK = 50 << 20
"""Bytes a second; below it a checkpoint of half a gigabyte holds the training up for ten seconds."""
_WRITTEN = 64 << 20
_OPEN_FILES = 1024
_SHARED_BYTES = 256 << 20
_THREAD_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_HUB = "https://huggingface.co"
_HUB_S = 4.0
_SKEW_S = 300


def processor() -> Check:
    """Its name, cores, and a limit on their time."""
    cores, quota = available_cores(), cpu_quota()
    limit = f", of which {quota:g} may be used" if quota is not None and quota < cores else ""
    return Check("processor", "ok", f"{cpu_name()}, {cores} core{'s' if cores > 1 else ''}{limit}")


def threads(environment: Mapping[str, str]) -> Iterator[Check]:
    """Threads above what may be used wait for one another; threads below leave cores idle."""
    cores, quota = available_cores(), cpu_quota()
    usable = cores if quota is None else min(cores, max(int(quota), 1))
    limit = f"the {cores} cores" if usable == cores else f"the {usable} of {cores} cores that a limit leaves"
    fit = "unset {}" if usable == cores else f"export {{}}={usable}"
    found = [(name, text) for name in _THREAD_NUMBERS if (text := environment.get(name, ""))]
    for name, text in found:
        if not text.isdecimal() or int(text) < 1:
            yield Check("threads", "warning", f"{name} is {text!r}, which is no number above 0", fit.format(name))
        elif int(text) > usable:
            yield Check("threads", "warning", f"{name} is {text}, more than {limit}", fit.format(name))
        elif int(text) < usable:
            yield Check(
                "threads",
                "note",
                f"{name} is {text}, so {usable - int(text)} of {usable} cores stay idle",
                fit.format(name),
            )
    if usable < cores and "OMP_NUM_THREADS" not in dict(found):
        said = f"torch takes a thread a core, more than {limit}: they will wait for one another"
        yield Check("threads", "warning", said, fit.format("OMP_NUM_THREADS"))


def memory() -> Check:
    """Whether a usual model fits."""
    total, limited = memory_bytes()
    found = f"{bytes_text(total)} of memory" + (", a limit below the machine's own" if limited else "")
    if total < _MEMORY_BYTES:
        remedy = "use a small model (bundled:minilm), method: probe or frozen, and a smaller training.batch_size"
        return Check("memory", "warning", f"{found}: full fine-tuning of a chat model will not fit", remedy)
    return Check("memory", "ok", found)


def clock(now: float, installed: float) -> Check:
    """A clock that was reset stands in the past: certificates of the hub are then not valid yet."""
    today = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
    if now < installed - 86400:
        said = f"{today} UTC is before migaki was installed: certificates are refused, and runs bear wrong dates"
        return Check("clock", "warning", said, "timedatectl set-ntp true")
    return Check("clock", "ok", f"{today} UTC")


def disk(name: str, folder: Path, speed: bool) -> Check:
    """Whether a folder can be written, how much fits into it and how fast."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    if not os.access(there, os.W_OK):
        return Check(name, "broken", f"{there} is not writable", f"chmod u+w {there}, or name another folder")
    free = shutil.disk_usage(there).free
    found = f"{bytes_text(free)} free at {there}"
    if free < _TIGHT_BYTES:
        return Check(
            name,
            "warning",
            f"{found}: a run of a chat model keeps about two",
            f"remove old runs, or use --runs elsewhere: du -sh {there}/*",
        )
    if not speed or free < 2 * _WRITTEN:
        return Check(name, "ok", found)
    try:
        written, read = _bytes_per_second(there)
    except OSError as error:
        return Check(name, "broken", f"writing to {there} fails ({error.strerror})", "use another folder")
    found = f"{found}; {bytes_text(written)}/s written for sure, {bytes_text(read)}/s read"
    if written < _SLOW_DISK:
        remedy = "training.checkpoint_minutes: 30, or a faster disk"
        return Check(name, "note", f"{found}: saving will hold a training up", remedy)
    return Check(name, "ok" if free > _ROOM_BYTES else "note", found)


def _bytes_per_second(folder: Path) -> tuple[float, float]:
    """Of writing until it is on the disk, and of reading it back, from the disk where the system lets it be forgotten."""
    piece = os.urandom(1 << 20)
    with NamedTemporaryFile(dir=folder, prefix=".migaki-doctor-") as file:
        began = time.perf_counter()
        for _ in range(_WRITTEN >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        written = _WRITTEN / (time.perf_counter() - began)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.read(1 << 20):
            pass
        return written, _WRITTEN / (time.perf_counter() - began)


def limits(shared: Path = Path("/dev/shm")) -> Iterator[Check]:  # noqa: S108
    """Open files and shared memory."""
    try:
        import resource
    except ImportError:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    if not unlimited and soft < _OPEN_FILES:
        yield Check("open files", "warning", f"at most {soft} files may be open at once", f"ulimit -n {_OPEN_FILES}")
    else:
        yield Check("open files", "ok", "any number" if unlimited else f"{soft} at once")
    if not shared.is_dir():
        return
    size = shutil.disk_usage(shared).total
    found = f"{shared} holds {bytes_text(size)}"
    if size < _SHARED_BYTES:
        said = f"{found}: workers that share tensors will stop"
        yield Check("shared memory", "note", said, "docker run --shm-size=1g")
    else:
        yield Check("shared memory", "ok", found)


def text_encoding() -> Check:
    """Whether Japanese can be written to the screen and into names of files."""
    found = locale.getpreferredencoding(False)
    if found.lower().replace("-", "") != "utf8" or sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        return Check(
            "locale",
            "warning",
            f"texts are written as {found}, so Japanese may not be shown",
            "export LC_ALL=C.UTF-8 PYTHONUTF8=1",
        )
    return Check("locale", "ok", found)


def fonts() -> Check:
    """Whether a page opened on this machine shows Japanese; the reports bring no font."""
    program = shutil.which("fc-list")
    if program is None:
        return Check("fonts", "ok", "not looked at (no fc-list); reports use the fonts of whoever reads them")
    failed, said = ask([program, ":lang=ja", "family"], 20)
    if failed:
        return Check("fonts", "ok", f"not looked at ({said})")
    if not said:
        remedy = "apt-get install fonts-noto-cjk"
        return Check("fonts", "note", "no font for Japanese here: a report opened on this machine shows boxes", remedy)
    return Check("fonts", "ok", f"for Japanese: {said.splitlines()[0].split(',')[0].strip()}")


def hub(environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether the hub answers, and whether its clock and this one agree."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if environment.get(name, "").lower() in ("1", "true", "yes", "on"):
            said = f"{name} is set: hf: references use what is in the local cache"
            yield Check("model hub", "note", said, f"unset {name}")
            return
    address = environment.get("HF_ENDPOINT", _HUB)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_HUB_S) as answer:  # noqa: S310
            its_time = answer.headers.get("Date")
    except Exception as error:
        said = (
            f"{address} does not answer ({first_line(error)}), so hf: references only find what is in the local cache"
        )
        remedy = (
            "use bundled: models or folders; behind a proxy: export HTTPS_PROXY=..., a mirror: export HF_ENDPOINT=..."
        )
        yield Check("model hub", "note", said, remedy)
        return
    yield Check("model hub", "ok", f"{address} answers")
    with contextlib.suppress(TypeError, ValueError):  # no date, or none that can be read
        ahead_s = time.time() - parsedate_to_datetime(its_time).timestamp()
        if abs(ahead_s) > _SKEW_S:
            said = f"{seconds_text(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} the clock of {address}"
            yield Check("clock", "warning", said, "timedatectl set-ntp true")
