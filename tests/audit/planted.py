"""Faults put into real rows, and how many of them the checks find: recall and precision of each.

cd tests && python -m audit.planted --train A.csv --test B.csv [--model bundled:minilm]
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from migaki.audit.labels import variants
from migaki.audit.look import Subject, suspicious_rows
from migaki.core.errors import DataError
from migaki.core.types import Dataset, Splits
from migaki.data import Data
from migaki.data.duplicates import near_pairs
from migaki.data.encodings import decode
from migaki.data.privacy import find_personal
from migaki.data.splits import repeats_between
from migaki.models import Model

SHARE = 0.05
PERSONAL = (
    "write to hanako.suzuki@example.jp",
    "call 03-1234-5678",
    "card 4111 1111 1111 1111",
    "〒150-0001",
    "番号 1234 5678 9018",
)
ENCODINGS = ("cp932", "utf-16", "euc_jp")

Rows = list[dict[str, str]]


@dataclass
class Planted:
    """Rows with faults, and where each fault stands (row numbers of the train rows)."""

    train: Rows
    test: Rows
    exact: set[int] = field(default_factory=set)
    near: set[int] = field(default_factory=set)
    flipped: set[int] = field(default_factory=set)
    personal: set[int] = field(default_factory=set)
    spelt: dict[str, str] = field(default_factory=dict)
    """The other spelling of a label -> the label."""


def plant(train: Rows, test: Rows, seed: int = 0) -> Planted:
    """5 % of the test rows again in train, 5 % more with one change, 5 % of the labels flipped, two labels spelt in two
    ways, something personal in 5 %."""
    dice = random.Random(seed)
    found = Planted([dict(row) for row in train], [dict(row) for row in test])
    clean = list(range(len(train)))
    dice.shuffle(clean)
    n_copies = max(2, round(SHARE * len(test)))
    copied = dice.sample(range(len(test)), n_copies)
    long_enough = [row for i, row in enumerate(test) if len(row["text"]) >= 24 and i not in copied]
    for i in copied:
        found.exact.add(len(found.train))
        found.train.append(dict(test[i]))
    for row in dice.sample(long_enough, min(n_copies, len(long_enough))):
        found.near.add(len(found.train))
        found.train.append({**row, "text": changed(row["text"], dice)})
    labels = sorted({row["label"] for row in train})
    n_rows = round(SHARE * len(train))
    for i in clean[:n_rows]:
        found.flipped.add(i)
        found.train[i]["label"] = dice.choice([label for label in labels if label != train[i]["label"]])
    for i in clean[n_rows : 2 * n_rows]:
        found.personal.add(i)
        found.train[i]["text"] += f" {PERSONAL[i % len(PERSONAL)]}"
    for label, spell in zip(dice.sample(labels, 2), (str.upper, lambda text: f"{text[:2]} {text[2:]}"), strict=True):
        found.spelt[spell(label)] = label
        for i in [i for i in clean[2 * n_rows :] if train[i]["label"] == label][:2]:
            found.train[i]["label"] = spell(label)
    return found


def changed(text: str, dice: random.Random) -> str:
    """One character more somewhere in the middle, a full stop less or more."""
    at = dice.randrange(len(text) // 3, 2 * len(text) // 3)
    return f"{text[:at]}{dice.choice('aeikんの')}{text[at:]}".rstrip(".。")


def score(found: set, wanted: set) -> tuple[float, float]:
    """Recall and precision."""
    right = len(found & wanted)
    return right / max(len(wanted), 1), right / max(len(found), 1)


def measured(planted: Planted, model: str | None) -> dict[str, tuple[float, float]]:
    """Recall and precision of each check. What stood in the rows before counts as found wrongly."""
    data = Data(train=planted.train, test=planted.test)
    train, test = (data.read(rows, "labelled", True)[0] for rows in (planted.train, planted.test))
    number = {row.place.line: i for i, row in enumerate(train.rows)}
    first_copy = {row.content.key(): row for row in reversed(train.rows)}
    repeats = {number[first_copy[row.content.key()].place.line] for row, _ in repeats_between(train, test)}
    # A copy of a row of train that was copied to test before is found at its first place; so places are told by text.
    by_text = {planted.train[i]["text"] for i in planted.exact}
    exact = {planted.train[i]["text"] for i in repeats}
    texts = [row["text"] for row in planted.train] + [row["text"] for row in planted.test]
    n = len(planted.train)
    near = {a for a, b, share in near_pairs(texts, 0.8) if a < n <= b and texts[a] != texts[b]}
    personal = {i for i, row in enumerate(planted.train) if find_personal(row["text"])}
    groups = variants(Counter(row["label"] for row in planted.train))
    spelt = {(other, group[0]) for group in groups for other in group[1:]}
    found = {
        "exact copies in train and test": score(exact, by_text),
        "near copies in train and test": score(near, planted.near),
        "personal data": score(personal, planted.personal),
        "labels spelt in two ways": score(spelt, set(planted.spelt.items())),
        "encodings": encodings(planted.train),
    }
    if model:
        subject = Subject(data, "labelled", None, Model(reference=model))
        right = Dataset("train", tuple(r for r in train.rows if r.content.label not in planted.spelt))
        splits = Splits(right, Dataset("valid", ()), Dataset("test", ()))
        suspects = suspicious_rows(subject, splits, Path("runs"))
        found["flipped labels"] = score({number[row.place.line] for row, _, _ in suspects}, planted.flipped)
    return found


def encodings(rows: Rows) -> tuple[float, float]:
    """Files in three encodings: how many are read, or refused with theirs among those that are possible; and how many of
    those that are read are right."""
    text = "\n".join(row["text"] for row in rows)
    named, right = [], []
    for name in ENCODINGS:
        content = text.encode(name, "ignore")
        try:
            right.append(decode(content, name)[0] == content.decode(name))
        except DataError as error:
            named.append(f"' as {name}" in str(error))
    return (len(right) + sum(named)) / len(ENCODINGS), sum(right) / max(len(right), 1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--label", default="label")
    parser.add_argument("--model")
    arguments = parser.parse_args(argv)
    parts = []
    for path in (arguments.train, arguments.test):
        dataset, _ = Data(train=path, label=arguments.label).read(path, "labelled", True)
        parts.append([row.content.as_json() for row in dataset.rows])
    for name, (recall, precision) in measured(plant(*parts), arguments.model).items():
        print(f"{name:35} recall {recall:.3f}  precision {precision:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
