"""Every odd and broken image and recording, read by a process of its own that tells what it said and how much memory it took.

    python -m odd_media                            from the folder `tests`

An odd file has to be read by its rule. A broken one has to be refused, with its reason and with what to do. Neither may end
the process, say anything else, or take more memory than is allowed here; each of the bombs, which would take gigabytes if
they were believed, is read by a process that does nothing else.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import odd_images
import odd_sounds
import processes

__all__ = ["Verdict", "verdicts"]

REMEDY = re.compile(r"\b(get|save|remove|make|export|record|convert|cut|copy|correct|compare|keep)\b", re.IGNORECASE)
GROWTH_BYTES = 96 << 20
"""What reading any of them may add to what the process takes anyway: a block of an hour's recording, and the readers."""
_READ = "import sys, odd_media; odd_media.read(sys.argv[1], sys.argv[2:])"


@dataclass(frozen=True)
class Verdict:
    """What became of one file."""

    name: str
    broken: bool
    said: str
    """Why it was refused; empty where it was read."""
    fault: str
    """What is wrong with that; empty where nothing is."""
    grown_bytes: int
    """What the process had taken more, at its highest, once it had read this file."""


def read(kind: str, paths: list[str]) -> None:
    """In a child: read each file, and print a line of JSON about it."""
    from migaki.data.audio import RECORDINGS, read_wave
    from migaki.data.images import IMAGES, decoded
    from migaki.data.media import refused_file
    from migaki.training.monitor import peak_bytes

    def whole(path: str) -> None:
        if kind == "image":
            IMAGES.look(Path(path))
            decoded(path)
        else:
            RECORDINGS.look(Path(path))
            read_wave(path, 16_000)

    # What every reader loads when it is first used is not the file's doing.
    whole(paths[0])
    before = peak_bytes()
    for path in paths[1:]:
        said, broke = refused_file(path) or "", ""
        if not said:
            try:
                whole(path)
            except ValueError as error:
                said = str(error)
            except Exception as error:
                broke = f"{type(error).__name__}: {error}"
        print(json.dumps([path, said, broke, peak_bytes() - before]), flush=True)


def verdicts(folder: Path) -> list[Verdict]:
    """Write all files into the folder, and have them read."""
    images, sounds = folder / "images", folder / "sounds"
    odd_images.write_all(images)
    sounds.mkdir()
    odd_sounds.write_all(sounds)
    (sounds / "empty.wav").write_bytes(b"")
    broken = {
        **{images / name: reason for name, (_, reason) in odd_images.BROKEN.items()},
        images / "pipe.png": "not an ordinary file",
        images / "nowhere.png": "does not exist",
        **{sounds / name: reason for name, (_, reason) in odd_sounds.BROKEN.items()},
        sounds / "empty.wav": "is empty",
    }
    found = []
    for kind, here, bombs, plain in (
        ("image", images, odd_images.BOMBS, "plain.png"),
        ("recording", sounds, odd_sounds.BOMBS, "plain.wav"),
    ):
        files = sorted(here.iterdir())
        for group in ([path for path in files if path.name not in bombs], *([here / name] for name in bombs)):
            found += _read_by_a_child(kind, here / plain, group, broken)
    return found


def _read_by_a_child(kind: str, plain: Path, paths: list[Path], broken: dict[Path, str]) -> list[Verdict]:
    child = processes.start(_READ, kind, plain, *paths)
    try:
        out, complaint = child.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        child.kill()
        out, complaint = child.communicate()
        complaint = f"hangs; {complaint}"
    told = [json.loads(line) for line in out.splitlines()]
    found = []
    for path, (_, said, broke, grown) in zip(paths, told, strict=False):
        fault = broke or _fault(said, broken.get(path), grown)
        found.append(Verdict(path.name, path in broken, said, fault, grown))
    if len(told) < len(paths):
        ended = f"the process ended with {child.returncode}: {complaint.strip()[-300:]}"
        found.append(Verdict(paths[len(told)].name, paths[len(told)] in broken, "", ended, 0))
    return found


def _fault(said: str, reason: str | None, grown: int) -> str:
    if grown > GROWTH_BYTES:
        return f"took {grown >> 20} MB"
    if reason is None:
        return f"is only odd, and was refused: {said}" if said else ""
    if not re.search(reason, said):
        return f"should have been refused with {reason!r}, but said {said!r}"
    return "" if REMEDY.search(said) else f"does not say what to do: {said!r}"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = verdicts(Path(folder))
    for verdict in found:
        what = verdict.said or "read"
        print(f"{verdict.name:28} {what}{'   <- ' + verdict.fault if verdict.fault else ''}")
    bombs = odd_images.BOMBS.keys() | odd_sounds.BOMBS.keys()
    facts = {
        "files": len(found),
        "odd": sum(not v.broken for v in found),
        "broken": sum(v.broken for v in found),
        "bombs": len(bombs),
        "faults": sum(bool(v.fault) for v in found),
        "most_grown_mb": round(max(v.grown_bytes for v in found if v.name not in bombs) / 2**20, 1),
        "most_grown_by_a_bomb_mb": round(max(v.grown_bytes for v in found if v.name in bombs) / 2**20, 1),
    }
    print(json.dumps(facts))
    return 1 if facts["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
