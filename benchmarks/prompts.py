"""Telephone prompts with their text, for speech recognition: Debian's asterisk-core-sounds-en as a folder for migaki.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav
    python benchmarks/prompts.py data/prompts
    migaki train recipes/transcribe-lora.yaml --set data.train=$PWD/data/prompts --set data.split.by=group \\
        --set data.valid=0.15 --set data.test=0.35
    python benchmarks/prompts.py --result runs/0001-transcribe-lora > benchmarks/results/MACHINE/transcribe-lora.json

The recordings (8 kHz, one voice: Allison Smith, Digium) and their texts are CC-BY-SA-3.0, see the package's copyright file;
nothing of them is part of migaki. They stay where the package put them, and `metadata.csv` names their paths.

Left out by rule, not by ear: single and pairs of words, prompts whose line tells of a sound or of how something is said
([beep], (simple tone)), those with signs that are read out in another way (#, *, www.), silence, and recordings over 30
seconds, which stand in `long.csv`. Prompts with nearly the same words are one group, so that none of them is in train and
test.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from pathlib import Path

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
LISTING = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
FEWEST_WORDS, LONGEST_S = 3, 30.0
ALIKE = 0.6
"""Share of their words that two prompts of one group have in common."""


def listed() -> dict[str, str]:
    """The text of each recording that is there, by its name."""
    if not LISTING.is_file() or not SOUNDS.is_dir():
        sys.exit(f"{LISTING} or {SOUNDS} is missing. Install asterisk-core-sounds-en and asterisk-core-sounds-en-wav.")
    found = {}
    for line in gzip.decompress(LISTING.read_bytes()).decode("utf-8").splitlines():
        name, colon, text = line.strip().partition(":")
        if colon and not line.startswith(";") and (SOUNDS / f"{name}.wav").is_file():
            found[name] = " ".join(text.split())
    return found


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def usable(name: str, text: str) -> bool:
    odd = re.search(r"[\[\](<>#*]|www\.", text)
    return len(words(text)) >= FEWEST_WORDS and not odd and not name.startswith("silence/")


def groups(texts: list[str]) -> list[int]:
    """A number for each text, equal for those that are linked by having most words in common."""
    bags = [set(words(text)) for text in texts]
    group = list(range(len(texts)))
    for i, bag in enumerate(bags):
        for j in range(i):
            if group[i] != group[j] and len(bag & bags[j]) >= ALIKE * len(bag | bags[j]):
                old, new = group[i], group[j]
                group = [new if number == old else number for number in group]
    return group


def write_folder(folder: Path) -> None:
    import soundfile

    chosen = {name: text for name, text in listed().items() if usable(name, text)}
    seconds = {name: soundfile.info(SOUNDS / f"{name}.wav").duration for name in chosen}
    group_of = dict(zip(chosen, groups(list(chosen.values())), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    for file, long in (("metadata.csv", False), ("long.csv", True)):
        with (folder / file).open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out)
            table.writerow(["file_name", "transcription", "group"])
            rows = [n for n in chosen if (seconds[n] > LONGEST_S) == long]
            table.writerows([SOUNDS / f"{name}.wav", chosen[name], group_of[name]] for name in rows)
        print(f"{folder / file}: {len(rows)} prompts, {sum(seconds[n] for n in rows):.0f} s")


def paired(run: Path) -> dict[str, float]:
    """Errors per word after minus before on the same recordings, its 95 % interval, and the p-value that nothing changed."""
    from migaki.evaluation.comparison import Outcomes, difference
    from migaki.evaluation.transcription import aligned, plain_speech

    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    targets = [plain_speech(row["target"]) for row in rows]
    judged = [
        aligned(targets, [plain_speech(text) for text in texts])
        for texts in ([row["output"] for row in rows], [row["baseline"]["output"] for row in rows])
    ]
    after, before = (Outcomes.of([[one.errors for one in side]], [one.units for one in side]) for side in judged)
    change, p = difference(after, before, 0)
    fewer, more = (sum(sign * (b.errors - a.errors) > 0 for a, b in zip(*judged, strict=True)) for sign in (1, -1))
    return {**change.as_json(), "p": p, "prompts_with_fewer_errors": fewer, "prompts_with_more_errors": more}


def result(run: Path) -> dict[str, object]:
    """What a run measured, without the single answers."""
    evaluation, environment = (json.loads((run / f"{n}.json").read_text()) for n in ("evaluation", "environment"))
    data = json.loads((run / "data.json").read_text())
    return {
        "work": "transcribe: prompts of Debian's asterisk-core-sounds-en, see benchmarks/prompts.py",
        "recipe": re.sub(r"(?m)^  train: .*$", "  train: data/prompts", (run / "recipe.yaml").read_text()),
        "rows": {name: split["rows"] for name, split in data["splits"].items()},
        "model": environment["model"],
        "environment": {name: value for name, value in environment.items() if name != "model"},
        "before": evaluation["baseline"]["metrics"],
        "after": evaluation["metrics"],
        "gain": {"metric": evaluation["primary"], "better": evaluation["better"], **evaluation["gain"]},
        "paired": paired(run),
        "looped": {
            when: len(of["details"]["looped"])
            for when, of in (("before", evaluation["baseline"]), ("after", evaluation))
        },
        "cost": evaluation["cost"],
    }


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--result":
        print(json.dumps(result(Path(sys.argv[2])), ensure_ascii=False, indent=1))
    elif len(sys.argv) == 2:
        write_folder(Path(sys.argv[1]))
    else:
        sys.exit(__doc__)
