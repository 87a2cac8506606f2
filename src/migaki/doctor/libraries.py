"""Python, the packages that migaki needs, and whether those that are often broken can be imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from migaki.doctor.accelerators import accelerators, multiplications
from migaki.doctor.check import IMPORT_S, TORCH_INDEX, Check, ask, first_line, last_line
from migaki.environment import torch_build

__all__ = ["packages", "python", "sounds", "torch_and_devices", "vision"]


def python() -> Check:
    """Which one, and whether it has an environment of its own."""
    found = f"{sys.implementation.name} {'.'.join(map(str, sys.version_info[:3]))} at {sys.prefix}"
    if sys.prefix == sys.base_prefix:
        remedy = "python3.11 -m venv .venv && source .venv/bin/activate"
        return Check(
            "python", "note", f"{found}, no environment of its own: packages of other work may collide", remedy
        )
    return Check("python", "ok", found)


def packages(wanted: Iterable[str] | None = None) -> Iterator[Check]:
    """Whether what migaki declares, or else `wanted`, is installed in a version that is allowed."""
    try:
        wanted = requires("migaki") or () if wanted is None else wanted
    except PackageNotFoundError:
        yield Check(
            "packages", "broken", "migaki is here as source, but not installed", "make demo, or pip install -e ."
        )
        return
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Check("packages", "broken", "packaging is not installed; migaki needs it", "pip install packaging")
        return
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


def torch_and_devices(speed: bool) -> Iterator[Check]:
    """Whether torch can be imported, what it was built for, its devices and their speed."""
    try:
        import torch
    except Exception as error:  # a broken build raises anything: ImportError, OSError of a missing library
        remedy = f"pip install --force-reinstall torch --index-url {TORCH_INDEX}/cpu"
        yield Check("torch", "broken", f"torch cannot be imported ({first_line(error)})", remedy)
        return
    said = f"torch {torch.__version__}, built for {torch_build(torch)}, {torch.get_num_threads()} threads"
    yield Check("torch", "ok", said)
    yield from accelerators(torch)
    if speed:
        yield multiplications(torch, "cpu")
        if torch.cuda.is_available():
            yield multiplications(torch, "cuda")


def vision() -> Iterator[Check]:
    """torchvision of another build than torch breaks at its import, and takes transformers with it."""
    if importlib.util.find_spec("torchvision") is None:
        return
    failed, said = ask([sys.executable, "-c", "import torchvision.ops as o; o.nms"], IMPORT_S)
    if failed:
        remedy = "pip uninstall -y torchvision (migaki does not need it)"
        yield Check("torchvision", "broken", f"torchvision does not fit this torch: {last_line(said)}", remedy)
    else:
        yield Check("torchvision", "ok", "torchvision fits this torch")


def sounds() -> Check:
    """Whether recordings can be read: two packages that only their tasks need, and the library behind one of them."""
    missing = [name for name in ("soundfile", "soxr") if importlib.util.find_spec(name) is None]
    if missing:
        found = f"without {' and '.join(missing)}: classify_audio and transcribe cannot read recordings"
        return Check("recordings", "note", found, "pip install 'migaki[audio]', where you need them")
    try:
        import soundfile
    except Exception as error:  # its library is missing or broken: OSError, in cffi's words
        remedy = "pip install --force-reinstall soundfile, or apt-get install libsndfile1"
        return Check("recordings", "broken", f"soundfile cannot be imported ({first_line(error)})", remedy)
    return Check("recordings", "ok", f"read by soundfile {soundfile.__version__}")
