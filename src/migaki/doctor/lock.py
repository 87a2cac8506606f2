"""Files by which the environment of a run can be made again: requirements with every version, and a Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migaki.core.errors import UsageError

__all__ = ["write_lock"]

_TORCH_INDEX = "https://download.pytorch.org/whl"
_TOOLS = {"pip", "setuptools", "wheel"}
"""They install packages and are no part of what ran."""


def write_lock(run: str, environment: Mapping[str, Any], recipe: str, folder: Path) -> list[Path]:
    """Write `requirements.txt`, `recipe.yaml`, `environment.json`'s Python as a Dockerfile, and how to use them.

    Args:
        run: its id, for the comments.
        environment: of the run.
        recipe: the resolved recipe.
        folder: is made; files in it of the same names are replaced.
    Raises:
        UsageError: the run was made before all packages were noted.
    """
    installed = environment.get("installed")
    if not installed:
        raise UsageError(
            f"Run {run} does not hold the versions of all its packages. Train it again, then lock that run."
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "requirements.txt": requirements(run, installed),
        "recipe.yaml": recipe,
        "Dockerfile": dockerfile(run, environment),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def requirements(run: str, installed: Mapping[str, str]) -> str:
    """Every package with its version, one a line; a torch of another build than the usual names its index.

    >>> print(requirements("0001", {"torch": "2.13.0+cpu", "numpy": "2.4.1", "pip": "26.0"}).splitlines()[-2:])
    ['numpy==2.4.1', 'torch==2.13.0+cpu']
    """
    lines = [f"# What run {run} was made with. migaki itself stands in the Dockerfile."]
    build = re.search(r"\+(\w+)$", installed.get("torch", ""))
    if build:
        lines.append(f"--extra-index-url {_TORCH_INDEX}/{build[1]}")
    for name in sorted(installed, key=str.lower):
        if name.lower() not in _TOOLS | {"migaki"}:
            lines.append(f"{name}=={installed[name]}")
    return "\n".join(lines) + "\n"


def dockerfile(run: str, environment: Mapping[str, Any]) -> str:
    """An image in which `migaki train` repeats the run."""
    python = ".".join(str(environment["python"]).split(".")[:2])
    gpu = f" (the run used {environment['device']}: docker run --gpus all)" if environment["device"] != "cpu" else ""
    return f"""# Repeats run {run}{gpu}.
#   pip wheel --no-deps --wheel-dir . PATH-OF-MIGAKI     migaki {environment["migaki"]}, as a wheel beside this file
#   docker build -t migaki-{run.split("-")[0]} .
#   docker run --rm -v "$PWD/data:/data:ro" -v "$PWD/runs:/runs" migaki-{run.split("-")[0]} --set data.train=/data/train.csv
FROM python:{python}-slim
ENV PYTHONUTF8=1 OMP_NUM_THREADS={environment["threads"]}
WORKDIR /work
COPY requirements.txt migaki-{environment["migaki"]}-*.whl ./
RUN pip install --no-cache-dir -r requirements.txt && pip install --no-cache-dir --no-deps migaki-*.whl
COPY recipe.yaml ./
ENTRYPOINT ["migaki", "train", "recipe.yaml", "--runs", "/runs"]
"""
