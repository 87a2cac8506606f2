"""One function a check, each of which says what it found. None of them raises: a check that cannot look says so."""

from __future__ import annotations

import importlib.util
import locale
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from migaki.core.cache import cache_folder
from migaki.core.units import bytes_text
from migaki.environment import available_cores, cpu_name, cpu_quota, memory_bytes

__all__ = ["Check", "examine"]

_ROOM_BYTES, _TIGHT_BYTES = 10 << 30, 2 << 30
_MEMORY_BYTES = 4 << 30
_SLOW_DISK = 50 << 20
"""Bytes a second; below it a checkpoint of half a gigabyte holds the training up for ten seconds."""
_WRITTEN = 64 << 20
_OPEN_FILES = 1024
_HUB = "https://huggingface.co"
_HUB_S = 4.0
_IMPORT_S = 90.0
_TORCH_INDEX = "https://download.pytorch.org/whl"
_DRIVER_FOR = {11: 450, 12: 525, 13: 580}
"""The oldest Linux driver of each CUDA major version. Source: NVIDIA, CUDA compatibility, minor version compatibility."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Literal["ok", "note", "warning", "broken"]
    """`note`: could be better; `warning`: will cost time or go wrong under load; `broken`: migaki cannot work."""
    found: str
    remedy: str = ""
    """One command or one sentence that mends it."""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def examine(runs: Path = Path("runs"), hub: bool = True, speed: bool = True) -> list[Check]:
    """Every check in order.

    Args:
        runs: where runs will lie, to look at its disk.
        hub: whether to ask the model hub, which takes up to four seconds where there is no way out.
        speed: whether to measure disk and processor, about two seconds.
    """
    return list(_all(runs, hub, speed))


def _all(runs: Path, hub: bool, speed: bool) -> Iterator[Check]:
    yield _python()
    yield from _packages(requires("migaki") or ())
    yield _processor()
    yield from _threads(os.environ)
    yield _memory()
    for name, folder in (("disk of the runs", runs), ("disk of the cache", cache_folder())):
        yield _disk(name, folder, speed)
    yield from _torch(speed)
    yield from _vision()
    yield _text_encoding()
    yield _fonts()
    yield from _limits()
    if hub:
        yield _hub(os.environ)


def _python() -> Check:
    found = f"{sys.implementation.name} {'.'.join(map(str, sys.version_info[:3]))} at {sys.prefix}"
    if sys.prefix == sys.base_prefix:
        remedy = "python3.11 -m venv .venv && source .venv/bin/activate"
        return Check(
            "python", "note", f"{found}, no environment of its own: packages of other work may collide", remedy
        )
    return Check("python", "ok", found)


def _packages(wanted: Iterable[str]) -> Iterator[Check]:
    """Whether what migaki declares is installed in a version that it allows."""
    from packaging.requirements import Requirement

    n_right = 0
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            there = None
        if there is not None and requirement.specifier.contains(there, prereleases=True):
            n_right += 1
            continue
        found = f"{requirement.name} {there} is installed" if there else f"{requirement.name} is not installed"
        bounds = f"{requirement.name}{requirement.specifier}"
        yield Check("packages", "broken", f"{found}; migaki needs {bounds}", f"pip install '{bounds}'")
    yield Check("packages", "ok", f"{n_right} packages in the versions that migaki asks for")


def _processor() -> Check:
    cores, quota = available_cores(), cpu_quota()
    found = f"{cpu_name()}, {cores} core{'s' if cores > 1 else ''}"
    if quota is not None and quota < cores:
        return Check(
            "processor",
            "warning",
            f"{found}, but the container may use {quota:g} of them: threads above that wait for one another",
            f"export OMP_NUM_THREADS={max(int(quota), 1)}",
        )
    return Check("processor", "ok", found)


def _threads(environment: Any) -> Iterator[Check]:
    cores = available_cores()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        text = environment.get(name, "")
        if not text:
            continue
        if not text.isdecimal() or int(text) < 1:
            yield Check("threads", "warning", f"{name} is {text!r}, which is no number above 0", f"unset {name}")
        elif int(text) > cores:
            yield Check("threads", "warning", f"{name} is {text}, more than the {cores} cores", f"unset {name}")
        elif int(text) < cores:
            yield Check("threads", "note", f"{name} is {text}, so {cores - int(text)} of {cores} cores stay idle")


def _memory() -> Check:
    total, limited = memory_bytes()
    found = f"{bytes_text(total)} of memory" + (", the limit of the container" if limited else "")
    if total < _MEMORY_BYTES:
        remedy = "use a small model (bundled:minilm), method: probe or frozen, and a smaller training.batch_size"
        return Check("memory", "warning", f"{found}: full fine-tuning of a chat model will not fit", remedy)
    return Check("memory", "ok", found)


def _disk(name: str, folder: Path, speed: bool) -> Check:
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
        rate = _written_per_second(there)
    except OSError as error:
        return Check(name, "broken", f"writing to {there} fails ({error.strerror})", "use another folder")
    found = f"{found}, {bytes_text(rate)}/s written for sure"
    if rate < _SLOW_DISK:
        return Check(
            name,
            "note",
            f"{found}: saving will hold a training up",
            "training.checkpoint_minutes: 30, or a faster disk",
        )
    return Check(name, "ok" if free > _ROOM_BYTES else "note", found)


def _written_per_second(folder: Path) -> float:
    piece = os.urandom(1 << 20)
    with NamedTemporaryFile(dir=folder, prefix=".migaki-doctor-") as file:
        began = time.perf_counter()
        for _ in range(_WRITTEN >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN / (time.perf_counter() - began)


def _torch(speed: bool) -> Iterator[Check]:
    try:
        import torch
    except Exception as error:  # a broken build raises anything: ImportError, OSError of a missing library
        remedy = f"pip install --force-reinstall torch --index-url {_TORCH_INDEX}/cpu"
        yield Check("torch", "broken", f"torch cannot be imported ({_first_line(error)})", remedy)
        return
    build = (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else "CPU"
    )
    yield Check("torch", "ok", f"torch {torch.__version__}, built for {build}, {torch.get_num_threads()} threads")
    yield from _accelerators(torch)
    if speed:
        yield _multiplications(torch)


def _accelerators(torch: Any) -> Iterator[Check]:
    cards = nvidia_cards()
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield _device(torch, f"cuda:{number}", torch.cuda.get_device_name(number))
    elif cards and torch.version.cuda:
        driver = cards[0][1]
        oldest = _DRIVER_FOR.get(int(torch.version.cuda.split(".")[0]), 0)
        if int(driver.split(".")[0] or 0) < oldest:
            yield Check(
                "accelerator",
                "broken",
                f"{cards[0][0]} has driver {driver}, too old for torch built for CUDA {torch.version.cuda} (needs {oldest} or newer)",
                f"update the NVIDIA driver, or pip install --force-reinstall torch --index-url {_TORCH_INDEX}/cu118",
            )
        else:
            remedy = "nvidia-smi; echo $CUDA_VISIBLE_DEVICES (in a container: docker run --gpus all)"
            yield Check("accelerator", "broken", f"{cards[0][0]} is there, but torch cannot use it", remedy)
    elif cards:
        remedy = f"pip install --force-reinstall torch --index-url {_TORCH_INDEX}/cu128"
        yield Check("accelerator", "warning", f"{cards[0][0]} is there, but torch was built without CUDA", remedy)
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        yield Check(
            "accelerator", "note", "Apple MPS is there; migaki computes on the processor, where results can be repeated"
        )
    elif importlib.util.find_spec("torch_xla") is not None:
        yield Check(
            "accelerator", "note", "torch_xla is installed; migaki does not train on TPUs yet and uses the processor"
        )
    else:
        yield Check("accelerator", "ok", "none; the processor is used")


def nvidia_cards() -> list[tuple[str, str]]:
    """Name and driver version of each card that nvidia-smi lists; empty where there is no nvidia-smi or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    failed, said = _said([program, "--query-gpu=name,driver_version", "--format=csv,noheader"], 20)
    lines = [line.split(",") for line in said.splitlines() if line.count(",") == 1 and not failed]
    return [(name.strip(), driver.strip()) for name, driver in lines]


def _device(torch: Any, device: str, name: str) -> Check:
    """Whether a product on the device is the one of the processor."""
    try:
        a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
        wanted, got = a @ a.T, (a.to(device) @ a.T.to(device)).cpu()
        free, total = torch.cuda.mem_get_info(device)
    except Exception as error:
        return Check(
            "accelerator", "broken", f"{device} ({name}) fails: {_first_line(error)}", "nvidia-smi; restart the machine"
        )
    if not torch.allclose(wanted, got, rtol=1e-2, atol=1e-1):
        return Check(
            "accelerator", "broken", f"{device} ({name}) computes wrong products", "nvidia-smi -q; replace the card"
        )
    found = f"{device} is {name}, {bytes_text(free)} of {bytes_text(total)} free"
    if free < total / 2:
        return Check("accelerator", "warning", f"{found}: another process uses it", "nvidia-smi")
    return Check("accelerator", "ok", found)


def _multiplications(torch: Any) -> Check:
    from migaki.training.precision import probe

    gflops = probe([(1024, 1024)], torch.device("cpu"), 0.3)
    shown = ", ".join(f"{name} {value:.0f}" for name, value in gflops.items())
    fastest = max(gflops, key=lambda name: gflops[name])
    return Check("arithmetic", "ok", f"GFLOP/s of the processor: {shown}; fastest in {fastest}")


def _vision() -> Iterator[Check]:
    """torchvision of another build than torch breaks at its import, and takes transformers with it."""
    if importlib.util.find_spec("torchvision") is None:
        return
    failed, said = _said([sys.executable, "-c", "import torchvision.ops as o; o.nms"], _IMPORT_S)
    if failed:
        remedy = "pip uninstall -y torchvision (migaki does not need it)"
        yield Check(
            "torchvision", "broken", f"torchvision does not fit this torch: {(said.splitlines() or [said])[-1]}", remedy
        )
    else:
        yield Check("torchvision", "ok", "torchvision fits this torch")


def _text_encoding() -> Check:
    found = locale.getpreferredencoding(False)
    if found.lower().replace("-", "") != "utf8" or sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        return Check(
            "locale",
            "warning",
            f"texts are written as {found}, so Japanese may not be shown",
            "export LC_ALL=C.UTF-8 PYTHONUTF8=1",
        )
    return Check("locale", "ok", found)


def _fonts() -> Check:
    program = shutil.which("fc-list")
    if program is None:
        return Check("fonts", "ok", "not looked at (no fc-list); reports use the fonts of whoever reads them")
    failed, said = _said([program, ":lang=ja", "family"], 20)
    if failed:
        return Check("fonts", "ok", f"not looked at ({said})")
    if not said:
        remedy = "apt-get install fonts-noto-cjk"
        return Check("fonts", "note", "no font for Japanese here: a report opened on this machine shows boxes", remedy)
    return Check("fonts", "ok", f"for Japanese: {said.splitlines()[0].split(',')[0].strip()}")


def _limits() -> Iterator[Check]:
    try:
        import resource
    except ImportError:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        yield Check("open files", "warning", f"at most {soft} files may be open at once", f"ulimit -n {_OPEN_FILES}")
    shared = Path("/dev", "shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < 256 << 20:
        found = f"{shared} holds {bytes_text(size)}: workers that share tensors will stop"
        yield Check("shared memory", "note", found, "docker run --shm-size=1g")


def _hub(environment: Any) -> Check:
    if environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Check(
            "model hub",
            "note",
            "HF_HUB_OFFLINE is set: hf: references use what is in the local cache",
            "unset HF_HUB_OFFLINE",
        )
    address = environment.get("HF_ENDPOINT", _HUB)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_HUB_S):  # noqa: S310
            return Check("model hub", "ok", f"{address} answers")
    except Exception as error:
        remedy = (
            "use bundled: models or folders; behind a proxy: export HTTPS_PROXY=..., a mirror: export HF_ENDPOINT=..."
        )
        return Check(
            "model hub",
            "note",
            f"{address} does not answer ({_first_line(error)}), so hf: references only find what is in the local cache",
            remedy,
        )


def _said(command: Sequence[str], seconds: float) -> tuple[bool, str]:
    """Whether a program failed, and what it said: on stdout, or why it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return True, f"it took more than {seconds:.0f} s"
    except OSError as error:
        return True, _first_line(error)
    return done.returncode != 0, (done.stderr if done.returncode else done.stdout).strip()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
