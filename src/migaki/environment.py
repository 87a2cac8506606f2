"""The machine and the libraries a run was made with, for `environment.json`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

__all__ = ["available_cores", "cpu_name", "cpu_quota", "describe_environment", "memory_bytes"]

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "pyarrow", "sacrebleu")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name, or only its architecture where the system does not tell more."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cpu_quota(groups: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of time that the container may use (cgroup v2, else v1), None where nothing limits it."""
    try:
        quota, period = (groups / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us, period_us = (int((groups / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError):
        return None


def memory_bytes(groups: Path = Path("/sys/fs/cgroup")) -> tuple[int, bool]:
    """Memory that this process may use, and whether that is a limit of the container below the machine's own."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in (groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):
            continue
        if limit < total:
            return limit, True
    return total, False


def describe_environment() -> dict[str, Any]:
    """Python, platform, processor, memory, threads and library versions."""
    import torch

    memory, _ = memory_bytes()
    return {
        "migaki": _version("migaki"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory,
        "device": f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if torch.cuda.is_available() else "cpu",
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "installed": _installed(),
    }


def _installed() -> dict[str, str]:
    """Name and version of every package of this environment, for `migaki lock`."""
    found = ((d.metadata["Name"], d.version) for d in distributions())
    return dict(sorted((name, number) for name, number in found if name))
