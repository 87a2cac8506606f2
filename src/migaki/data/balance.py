"""Rows with any number of labels, dealt out so that every label is spread over the parts by their shares."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from migaki.core.seeds import derive
from migaki.core.types import Row

__all__ = ["dealt"]


def dealt(
    groups: Mapping[str, Sequence[Row]], shares: Sequence[float], seed: int, name: str, keep_first: bool = False
) -> dict[str, int]:
    """The part to which each group of rows goes: iterative stratification.

    The label with the fewest rows left is dealt out first, each of its groups to the part that still wants most rows of
    it; of several such parts to the one that wants most rows of any kind. Rows without a label come last. Groups are
    taken by a hash of (seed, name, key), large ones first, so that the order of the rows in their file has no influence.

    Args:
        groups: rows that must not be divided, by their key; their contents are `Several`.
        shares: of all rows that each part is to get, adding up to 1.
        seed: of the draw.
        name: of the draw, which makes another one.
        keep_first: the first group of every label goes to part 0, so that no label is missing there.
    Source: Sechidis et al. 2011, "On the stratification of multi-label data", ECML PKDD, algorithm 1.
    """
    order = sorted(groups, key=lambda key: (-len(groups[key]), derive(seed, name, key)))
    labels_of = {key: Counter(label for row in groups[key] for label in row.content.names()) for key in order}
    left: Counter[str] = Counter()
    for counts in labels_of.values():
        left.update(counts)
    wanted = {label: [share * n for share in shares] for label, n in left.items()}
    wanted_rows = [share * sum(len(rows) for rows in groups.values()) for share in shares]
    holding: dict[str, list[str]] = defaultdict(list)
    for key in order:
        for label in labels_of[key]:
            holding[label].append(key)
    part_of: dict[str, int] = {}
    there: set[str] = set()

    def deal(key: str, need: Sequence[float]) -> None:
        first = keep_first and not labels_of[key].keys() <= there
        part = 0 if first else max(range(len(shares)), key=lambda p: (need[p], wanted_rows[p], -p))
        part_of[key] = part
        wanted_rows[part] -= len(groups[key])
        for label, n in labels_of[key].items():
            wanted[label][part] -= n
            left[label] -= n
        if part == 0:
            there.update(labels_of[key])

    while rarest := min(((n, label) for label, n in left.items() if n), default=None):
        for key in holding[rarest[1]]:
            if key not in part_of:
                deal(key, wanted[rarest[1]])
    for key in order:
        if key not in part_of:
            deal(key, wanted_rows)
    if keep_first and len(order) > 1 and set(part_of.values()) == {0}:
        # Few rows and a small share: one group goes over all the same, if none of its labels is only there.
        total = Counter(label for key in order for label in labels_of[key])
        spare = [key for key in order if all(total[label] > 1 for label in labels_of[key])]
        part_of |= dict.fromkeys(spare[-1:], 1)
    return part_of
