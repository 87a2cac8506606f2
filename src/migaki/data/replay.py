"""General rows that are trained on between those of the task, so that less is lost of what the base could do."""

from __future__ import annotations

from dataclasses import replace

from migaki.core.errors import DataError
from migaki.core.seeds import generator
from migaki.core.types import Dataset, Finding, Splits
from migaki.data.settings import Data, Source
from migaki.data.splits import labels_of, repeats_between

__all__ = ["replay_rows"]


def replay_rows(
    data: Data, source: Source, share: float, splits: Splits, content_kind: str, seed: int
) -> tuple[Dataset, tuple[Finding, ...]]:
    """As many rows of the source as make up `share` of all that is trained on, drawn by the seed, and what was noticed.

    The same rows come in every epoch. Those that also stand in valid or test are left out.

    Args:
        data: says which columns are what, in the source as in the rows of the task.
        share: of the rows of an epoch, above 0 and below 1.
    Raises:
        DataError: rows that cannot be used, or that carry a label which the task does not have.
    Source: Scialom et al. 2022, arXiv:2205.12393, where one row in a hundred was enough for a model to go on doing what
        it had been instructed to do before.
    """
    try:
        dataset, _ = data.read(source, content_kind, need_target=True)
    except DataError as error:
        raise DataError(f"training.replay.rows: {error}") from None
    known = frozenset().union(*map(labels_of, splits.train.rows))
    strange = [row for row in dataset.rows if labels_of(row) - known]
    if strange:
        raise DataError(
            f"training.replay.rows: {len(strange)} of {len(dataset)} rows carry a label that no train row has (first: "
            f"{strange[0].place}: {min(map(str, labels_of(strange[0]) - known))!r}). A classifier can only learn from rows with its own labels: "
            "leave training.replay out, or give such rows. To stay close to the base without any: training.l2_sp."
        )
    judged = Dataset("judged", (*splits.valid.rows, *splits.test.rows))
    leaked = {row.content.key() for row, _ in repeats_between(judged, dataset)}
    rows = [row for row in dataset.rows if row.content.key() not in leaked]
    if not rows:
        raise DataError(
            f"training.replay.rows: all {len(dataset)} rows also stand in valid or test, so none can be trained on. Give others."
        )
    findings = []
    if len(rows) < len(dataset):
        found = f"{len(dataset) - len(rows)} rows of training.replay also stand in valid or test and are left out"
        findings.append(Finding("note", found, len(dataset) - len(rows)))
    n = max(1, round(share / (1 - share) * len(splits.train)))
    if n > len(rows):
        real = len(rows) / (len(rows) + len(splits.train))
        found = f"training.replay has {len(rows)} rows, a share of {real:.3f} and not {share:g} of what is trained on"
        findings.append(Finding("note", found, n - len(rows), (), f"Give {n} rows, or lower training.replay.share"))
    chosen = sorted(generator(seed, "replay").permutation(len(rows))[:n])
    return replace(dataset, name="replay", rows=tuple(rows[int(i)] for i in chosen)), tuple(findings)
