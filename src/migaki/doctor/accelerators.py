"""Cards and other devices: are they there, does torch use them, do they compute what the processor computes?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from migaki.core.units import bytes_text
from migaki.doctor.check import IMPORT_S, TORCH_INDEX, Check, ask, first_line, last_line

__all__ = ["accelerators", "multiplications", "nvidia_cards", "tpu"]

_DRIVER_FOR = {12: 525, 13: 580}
"""The oldest Linux driver of each CUDA major version. Source: NVIDIA, CUDA compatibility, minor version compatibility."""
_BUILD_FOR = {13: "cu130", 12: "cu128"}
"""Builds of a torch that migaki works with, the newest first."""
_XLA = "import torch, torch_xla; a = torch.eye(64, device=torch_xla.device()); assert (a @ a).trace().item() == 64"


def accelerators(torch: Any, kfd: Path = Path("/dev/kfd")) -> Iterator[Check]:
    """Every device that torch uses, or why it does not use the card that is there."""
    cards = nvidia_cards()
    mps = getattr(torch.backends, "mps", None)
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield _device(torch, f"cuda:{number}", torch.cuda.get_device_name(number))
    elif cards:
        yield _unused_card(*cards[0], torch.version.cuda)
    elif kfd.exists():
        yield _unused_amd(kfd, torch.version.hip)
    elif mps is not None and mps.is_available():
        found = _device(torch, "mps", "Apple's graphics processor")
        idle = f"{found.found}; migaki computes on the processor, where results can be repeated"
        yield Check("accelerator", "note", idle)
    else:
        yield Check("accelerator", "ok", "none; the processor is used")


def _unused_card(name: str, driver: str, cuda: str | None) -> Check:
    """Why torch does not use an NVIDIA card, and what helps."""
    major = int(driver.split(".")[0]) if driver.split(".")[0].isdecimal() else 0
    build = next((index for cuda_major, index in _BUILD_FOR.items() if major >= _DRIVER_FOR[cuda_major]), None)
    newer = f"update the NVIDIA driver to {_DRIVER_FOR[12]} or newer: apt-get install nvidia-driver-{_DRIVER_FOR[13]}"
    remedy = f"pip install --force-reinstall torch --index-url {TORCH_INDEX}/{build}" if build else newer
    if not cuda:
        return Check("accelerator", "warning", f"{name} is there, but torch was built without CUDA", remedy)
    oldest = _DRIVER_FOR.get(int(cuda.split(".")[0]), 0)
    if major < oldest:
        said = f"{name} has driver {driver}, too old for torch built for CUDA {cuda} (needs {oldest} or newer)"
        return Check("accelerator", "broken", said, remedy)
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Check("accelerator", "note", f"{name} is hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    remedy = "nvidia-smi (in a container: docker run --gpus all)"
    return Check("accelerator", "broken", f"{name} is there, but torch cannot use it", remedy)


def _unused_amd(kfd: Path, hip: str | None) -> Check:
    if not hip:
        remedy = f"pip install --force-reinstall torch --index-url {TORCH_INDEX}/rocm7.1"
        return Check(
            "accelerator", "warning", f"an AMD card is there ({kfd}), but torch was built without ROCm", remedy
        )
    if not os.access(kfd, os.R_OK | os.W_OK):
        remedy = "sudo usermod -aG render,video $USER, then log in again (in a container: --device /dev/kfd --device /dev/dri)"
        return Check("accelerator", "broken", f"an AMD card is there, but {kfd} may not be opened", remedy)
    remedy = "rocminfo; echo $HIP_VISIBLE_DEVICES"
    return Check("accelerator", "broken", f"an AMD card is there ({kfd}), but torch cannot use it", remedy)


def nvidia_cards() -> list[tuple[str, str]]:
    """Name and driver version of each card that nvidia-smi lists; empty where there is no nvidia-smi or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    failed, said = ask([program, "--query-gpu=name,driver_version", "--format=csv,noheader"], 20)
    lines = [line.split(",") for line in said.splitlines() if line.count(",") == 1 and not failed]
    return [(name.strip(), driver.strip()) for name, driver in lines]


def _device(torch: Any, device: str, name: str) -> Check:
    """Whether a product on the device is the one of the processor."""
    try:
        a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
        wanted, got = a @ a.T, (a.to(device) @ a.T.to(device)).cpu()
        free, total = torch.cuda.mem_get_info(device) if device.startswith("cuda") else (0, 0)
    except Exception as error:
        said = f"{device} ({name}) fails: {first_line(error)}"
        return Check("accelerator", "broken", said, "nvidia-smi; restart the machine")
    if not torch.allclose(wanted, got, rtol=1e-2, atol=1e-1):
        said = f"{device} ({name}) computes wrong products"
        return Check("accelerator", "broken", said, "nvidia-smi -q; replace the card")
    if not total:
        return Check("accelerator", "ok", f"{device} is {name}")
    found = f"{device} is {name}, {bytes_text(free)} of {bytes_text(total)} free"
    if free < total / 2:
        return Check("accelerator", "warning", f"{found}: another process uses it", "nvidia-smi")
    return Check("accelerator", "ok", found)


def multiplications(torch: Any, device: str) -> Check:
    """Speed in each number format, measured."""
    from migaki.training.precision import probe

    gflops = probe([(1024, 1024)], torch.device(device), 0.3)
    shown = ", ".join(f"{name} {value:.0f}" for name, value in gflops.items())
    fastest = max(gflops, key=lambda name: gflops[name])
    where = "the processor" if device == "cpu" else device
    return Check("arithmetic", "ok", f"GFLOP/s of {where}: {shown}; fastest in {fastest}")


def tpu() -> Iterator[Check]:
    """In a process of its own: a torch_xla of another build than torch takes the process with it."""
    if importlib.util.find_spec("torch_xla") is None:
        return
    failed, said = ask([sys.executable, "-c", _XLA], IMPORT_S)
    idle = "migaki does not train on TPUs yet and uses the processor"
    if failed:
        found = f"torch_xla is installed, but a product on its device fails ({last_line(said)}); {idle}"
        yield Check("TPU", "note", found, "pip uninstall -y torch_xla (migaki does not need it)")
    else:
        yield Check("TPU", "note", f"torch_xla computes on its device; {idle}")
