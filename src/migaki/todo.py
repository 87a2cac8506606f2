"""What to do before the next training: labels to check, rows to collect, copies to remove."""

# Shapes: N rows, C labels, D features

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from migaki.core.errors import UsageError
from migaki.core.types import Evaluation, Prediction, Row, Splits
from migaki.data import check_output, write_records
from migaki.data.corrections import COLUMNS, read_corrections
from migaki.data.splits import labels_of
from migaki.evaluation import out_of_fold, suspects, temperature_scaling
from migaki.exhibits import exhibits_of
from migaki.run import Run, base_features

__all__ = ["FACTS_FILE", "ToDo", "check_to_do_file", "to_do", "write_to_do"]

FACTS_FILE = "errors.json"
"""What the report shows of it. It lies in the run beside its sealed files, which stay as they are."""
_SHOWN = 50


@dataclass(frozen=True)
class ToDo:
    """A list to work through, and what the report tells about it."""

    rows: tuple[dict[str, Any], ...]
    """With the columns of `data.corrections.COLUMNS`. Kinds: `relabel` (a label that is probably wrong, with the
    suggested one), `collect_more` (where the model is worse than elsewhere beyond chance), `duplicate` (a copy)."""
    facts: dict[str, Any]
    """JSON-able: `temperature`, the first `suspicious` rows, and the `counts` of each kind, without what is answered."""


def check_to_do_file(path: str) -> None:
    """Refuse a name under which the list cannot or must not be written, before minutes of work are spent on it.

    Raises:
        UsageError: another extension than .csv, .tsv or .jsonl, a folder, or a file that is there already.
    """
    check_output(path, "--errors")
    if Path(path).exists():
        raise UsageError(f"{path} is there already, and answers in it would be lost. Choose another name for --errors.")


def write_to_do(run: Run, evaluation: Evaluation, path: str) -> ToDo:
    """`to_do`, written to the file and, for the report, to `errors.json` of the run.

    Raises:
        UsageError: as `check_to_do_file`.
    """
    check_to_do_file(path)
    found = to_do(run, evaluation)
    write_records(path, found.rows, COLUMNS)
    run.folder.write(FACTS_FILE, json.dumps(found.facts, ensure_ascii=False, indent=1) + "\n")
    return found


def to_do(run: Run, evaluation: Evaluation) -> ToDo:
    """What the errors of a run ask for.

    Labels of train and valid rows are judged by logistic regressions on the features of the untrained base, each fitted
    without the rows it judges: the tuned model has learned the wrong labels too. Labels of test rows are judged by the
    tuned model, which never saw them. What was answered in the corrections of the run's recipe stands first with its yes
    or no, so that the new list can take the place of the old one and nothing is asked twice.

    Args:
        evaluation: of the run's own test rows, with their predictions.
    Raises:
        DataError: the data cannot be read any more.
        ModelError: the base model cannot be found.
    """
    recipe = run.recipe
    splits = recipe.data.load(recipe.task.content_kind, recipe.seed)
    labels = run.learner.labels
    answered = _answered(recipe.data.corrections)
    suspicious: list[dict[str, Any]] = []
    temperature = None
    if labels and recipe.task.one_label:
        suspicious = [*_suspicious_learned(run, splits, labels), *_suspicious_test(splits, evaluation, labels)]
        suspicious = [row for row in suspicious if _key(row) not in answered]
        suspicious.sort(key=lambda row: row["confidence"])
        valid = run.predict_rows(splits.valid.rows)
        temperature = temperature_scaling(valid, evaluation.predictions, labels, recipe.seed)
    found = [*suspicious, *_collect_more(evaluation, splits), *_duplicates(splits)]
    counts = Counter(row["kind"] for row in found)
    shown = [{name: value for name, value in row.items() if name != "reason"} for row in suspicious[:_SHOWN]]
    facts = {
        "temperature": temperature,
        "suspicious": shown,
        "exhibits": exhibits_of((row["text"] for row in shown), recipe.task.content_kind),
        "counts": {kind: counts[kind] for kind in ("relabel", "collect_more", "duplicate")},
    }
    rows = [*answered.values(), *found]
    return ToDo(tuple({name: row.get(name, "") for name in COLUMNS} for row in rows), facts)


def _answered(path: str | None) -> dict[tuple[str, ...], dict[str, Any]]:
    """The rows of a list of corrections that have a yes or a no, by what tells which row they are about."""
    if path is None:
        return {}
    answers = read_corrections(path)
    both = [*((c.record, "yes") for c in answers.accepted), *((record, "no") for record in answers.refused)]
    return {_key(record.values): {**record.values, "accept": answer} for record, answer in both}


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    # As corrections are found: the folder of a file does not count.
    return Path(str(row["source"])).name, str(row["line"]).strip(), str(row["text"])


def _suspicious_learned(run: Run, splits: Splits, labels: Sequence[str]) -> list[dict[str, Any]]:
    rows = [*splits.train.rows, *splits.valid.rows]
    features_ND = base_features(run.recipe, run.path.parent, splits.train, rows)
    if features_ND is None:
        return []
    label_N = _label_numbers(rows, labels)
    probabilities_NC = out_of_fold(features_ND, label_N, [row.content.key() for row in rows], run.recipe.seed)
    names = ["train"] * len(splits.train) + ["valid"] * len(splits.valid)
    return _described(
        rows, names, probabilities_NC, label_N, labels, "a classifier on the base's features, without this row"
    )


def _suspicious_test(splits: Splits, evaluation: Evaluation, labels: Sequence[str]) -> list[dict[str, Any]]:
    predictions: Sequence[Prediction] = evaluation.predictions
    if not all(p.scores for p in predictions):
        return []
    rows = splits.test.rows
    probabilities_NC = np.array([p.scores for p in predictions])
    names = ["test"] * len(rows)
    return _described(rows, names, probabilities_NC, _label_numbers(rows, labels), labels, "the tuned model")


def _label_numbers(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[row.content.label] for row in rows])


def _described(
    rows: Sequence[Row],
    names: Sequence[str],
    probabilities_NC: np.ndarray,
    label_N: np.ndarray,
    labels: Sequence[str],
    judge: str,
) -> list[dict[str, Any]]:
    found = []
    for suspect in suspects(probabilities_NC, label_N):
        label, suggested = labels[suspect.label], labels[suspect.suggested]
        found.append(
            {
                **_place(rows[suspect.row], names[suspect.row], "relabel"),
                "label": label,
                "suggested_label": suggested,
                "confidence": suspect.confidence,
                "suggested_confidence": suspect.suggested_confidence,
                "reason": f"{judge} gives {label} {suspect.confidence:.2f} and {suggested} {suspect.suggested_confidence:.2f}",
            }
        )
    return found


def _place(row: Row, name: str, kind: str) -> dict[str, Any]:
    # A task from a plug-in may have contents of another kind; their key says what they are about.
    text = getattr(row.content, "text", None) or row.content.key()
    return {"kind": kind, "split": name, "source": row.place.source, "line": row.place.line, "text": text}


def _collect_more(evaluation: Evaluation, splits: Splits) -> Iterator[dict[str, Any]]:
    """Parts that are worse than the rest beyond chance, the surest first, then labels that were never predicted."""
    details = evaluation.details
    trained = Counter(label for row in splits.train.rows for label in labels_of(row))
    metric = "accuracy" if "per_class" in details else "loss per token"
    worse = [part for part in details.get("slices", ()) if part["worse"]]
    for part in worse:
        figure, rest = part["figure"], part["rest"]
        by, value = part["by"], part["value"]
        reason = (
            f"{metric} {figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f}) on {figure['n']} test rows of "
            f"{by} {value}, {rest['value']:.3f} on the other {rest['n']} (p {part['p']:.2g})"
        )
        if by == "label":
            reason += _about_label(value, trained, details)
        row = {"kind": "collect_more", "reason": reason}
        yield {**row, by: value} if by in ("label", "source") else row
    named = {part["value"] for part in worse if part["by"] == "label"}
    for label in details.get("never_predicted", ()):
        if label not in named:
            reason = f"never predicted{_about_label(label, trained, details)}"
            yield {"kind": "collect_more", "label": label, "reason": reason}


def _about_label(label: str, trained: Mapping[str | None, int], details: Mapping[str, Any]) -> str:
    taken = next((pair for pair in details["confused_pairs"] if pair["target"] == label), None)
    taken_for = f"; most often taken for {taken['output']} ({taken['n']})" if taken else ""
    return f"; {trained[label]} train rows{taken_for}"


def _duplicates(splits: Splits) -> Iterator[dict[str, Any]]:
    """Rows with the text of another one, case, width, spaces and punctuation aside; of a test and a train row the train
    row is the copy."""
    first: dict[str, tuple[str, Row]] = {}
    for split in (splits.test, splits.valid, splits.train):
        for row in split.rows:
            name, earlier = first.setdefault(_plain(row.content.key()), (split.name, row))
            if earlier is row:
                continue
            alike = "the text" if earlier.content.key() == row.content.key() else "nearly the text"
            reason = f"{alike} of {earlier.place} ({name})"
            label, other = row.content.stratum(), earlier.content.stratum()
            if label != other:
                reason += f", which has the label {other}"
            yield {**_place(row, split.name, "duplicate"), "label": label or "", "reason": reason}


def _plain(text: str) -> str:
    """What is left of a text without its form; of a text of signs alone all is left.

    >>> _plain("Reset  my ＰＡＳＳＷＯＲＤ!"), _plain(":-)")
    ('reset my password', ':-)')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(letter if letter.isalnum() or unicodedata.combining(letter) else " " for letter in folded)
    return " ".join(kept.split()) or text
