"""Python in a process of its own: what a reload, another hash seed or a second rank needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import migaki

_TESTS = Path(__file__).resolve().parent


def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Run `code` with `sys.argv[1:]` as given, on the same migaki that this process has imported."""
    places = [str(Path(migaki.__file__).resolve().parents[1]), str(_TESTS)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen[str], timeout_s: float = 300) -> list[str]:
    """Their standard output, in order; a process that failed fails the test with what it said."""
    ended = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout_s)
            assert process.returncode == 0, err
            ended.append(out)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return ended


def run(code: str, *arguments: object, **environment: str) -> str:
    """Standard output of one process."""
    return finish(start(code, *arguments, **environment))[0]


def lines(text: str) -> Sequence[str]:
    """What was printed, line by line."""
    return text.strip().splitlines()
