"""The machine and the libraries a run was made with, for `environment.json`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

__all__ = ["available_cores", "cpu_name", "cpu_quota", "describe_environment", "memory_bytes", "torch_build"]

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "pyarrow", "sacrebleu")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name(proc: Path = _PROC) -> str:
    """The processor's name, or only its architecture where the system does not tell more."""
    try:
        with (proc / "cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cpu_quota(groups: Path = _GROUPS, proc: Path = _PROC) -> float | None:
    """Cores' worth of time that this process may use, the least that any of its control groups allows; None for no limit.

    Source: Linux, admin-guide/cgroup-v2, cpu.max; scheduler/sched-bwc, cpu.cfs_quota_us of version 1.
    """
    found = []
    for folder in _own_groups("cpu", groups, proc):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                found += [int(quota) / int(period)] if quota != "max" and int(quota) > 0 else []
            except (OSError, ValueError):
                continue
    return min(found, default=None)


def memory_bytes(groups: Path = _GROUPS, proc: Path = _PROC) -> tuple[int, bool]:
    """Memory that this process may use, and whether that is a limit of a control group below the machine's own."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for folder in _own_groups("memory", groups, proc):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((folder / name).read_text()))
            except (OSError, ValueError):
                continue
    return min(limits), min(limits) < total


def _own_groups(controller: str, groups: Path, proc: Path) -> Iterator[Path]:
    """Folders in which a limit of this process may stand: its groups of either version, and those that they lie in."""
    roots = {groups: "/", groups / controller: "/"}
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, names, own = line.split(":", 2)
        # A container often shows the path as the machine sees it, which is not there inside; its root is looked at anyway.
        if ".." in own:
            continue
        if not names:
            roots[groups] = own
        elif controller in names.split(","):
            roots[groups / controller] = own
    for root, own in roots.items():
        folder = root / own.lstrip("/")
        yield from (folder, *(above for above in folder.parents if above.is_relative_to(root)))


def torch_build(torch: Any) -> str:
    """What the torch that is installed computes on beside the processor: CPU, CUDA 12.8, ROCm 7.1."""
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "CPU"


def describe_environment() -> dict[str, Any]:
    """Python, platform, processor, memory, threads and library versions; takes a tenth of a second."""
    import torch

    memory, _ = memory_bytes()
    build = torch_build(torch)
    return {
        "migaki": _version("migaki"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "cpu_quota": cpu_quota(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory,
        "torch_build": build,
        "device": f"{torch.cuda.get_device_name()}, {build}" if torch.cuda.is_available() else "cpu",
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "installed": _installed(),
    }


def _installed() -> dict[str, str]:
    """Name and version of every package of this environment, for `migaki lock`."""
    found = ((d.metadata["Name"], d.version) for d in distributions())
    return dict(sorted((name, number) for name, number in found if name))
