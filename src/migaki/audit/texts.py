"""Checks of texts of any task: almost equal ones, repeated passages, lengths, languages, personal data, broken letters."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from migaki.audit.languages import probable_language
from migaki.audit.light import EXAMPLES, Light, places, text_of
from migaki.core.types import Dataset, Row, shorten
from migaki.data.cleaning import Mojibake, texts_of
from migaki.data.duplicates import compared_form, copy_form, near_pairs
from migaki.data.privacy import find_personal
from migaki.evaluation.slices import script_of

__all__ = [
    "broken_letters",
    "languages",
    "lengths",
    "near_copies",
    "passages",
    "personal_data",
    "repeated_passages",
    "scripts",
    "wordless",
]

_NEAR = 0.8
_LONG = 10.0
_PASSAGE_CHARACTERS, _PASSAGE_ROWS, _PASSAGE_SHARE = 20, 5, 0.05
_PLACEHOLDERS = frozenset(
    [
        "n/a",
        "na",
        "nan",
        "nil",
        "none",
        "null",
        "tbd",
        "test",
        "undefined",
        "unknown",
        "-",
        "--",
        ".",
        "なし",
        "特になし",
        "未記入",
        "不明",
        "無し",
        "テスト",
    ]
)


def near_copies(parts: Sequence[Dataset]) -> Iterator[Light]:
    """Texts that are almost the same, inside a split and across splits; copies are told while reading."""
    rows = [(part.name, row) for part in parts for row in part.rows]
    texts = [text_of(row) for _, row in rows]
    forms = [copy_form(row.content.key()) for _, row in rows]
    pairs = [(a, b, share) for a, b, share in near_pairs(texts, _NEAR) if forms[a] != forms[b]]
    across = [(a, b, share) for a, b, share in pairs if rows[a][0] != rows[b][0]]
    inside = [(a, b, share) for a, b, share in pairs if rows[a][0] == rows[b][0]]

    def shown(found: Sequence[tuple[int, int, float]]) -> tuple[str, ...]:
        return tuple(
            f"{rows[b][1].place} ~ {rows[a][1].place} ({share:.2f}): {shorten(texts[b], 40)!r}"
            for a, b, share in found[:EXAMPLES]
        )

    if across:
        n_rows = len({b for _, b, _ in across})
        yield Light(
            "near leaks",
            "red" if n_rows > 0.01 * len(rows) else "yellow",
            f"{n_rows} valid or test rows are almost the same as a row of another split (Jaccard of 3-grams at least {_NEAR}), so the score would be too high",
            n_rows,
            shown(across),
            f"data.split: {{near: {_NEAR}}} where migaki divides the rows; else remove them from train",
        )
    if inside:
        text = f"{len(inside)} pairs of rows inside a split are almost the same"
        yield Light("near duplicates", "green", text, len(inside), shown(inside))
    if not pairs:
        yield Light("near duplicates", "green", "no two texts are almost the same")


def repeated_passages(rows: Sequence[Row]) -> Iterator[Light]:
    """Signatures, disclaimers, headers of exports: a line, a beginning or an end that many different texts share."""
    found = passages([text_of(row) for row in rows])
    if not found:
        return
    examples = []
    for passage, n in list(found.items())[:EXAMPLES]:
        first = next(row for row in rows if passage in text_of(row))
        examples.append(f"{first.place}: {shorten(passage)!r} in {n} different texts")
    texts = ", ".join(f'"{_yaml(passage)}"' for passage in list(found)[:2])
    yield Light(
        "repeated passages",
        "yellow",
        f"{len(found)} passages stand in many different texts: where they say nothing about the label, the model reads them for nothing",
        len(found),
        tuple(examples),
        f"data.clean: [{{kind: remove, texts: [{texts}]}}]",
    )


def passages(texts: Sequence[str]) -> dict[str, int]:
    """Passages of at least 20 characters in at least 5 texts and in one of 20, with in how many of the different texts they
    stand, the most frequent first.

    A passage is a line of a text of several lines, or what texts begin or end with. Copies of a text count once.
    """
    distinct = list({compared_form(text): text for text in texts}.values())
    often = max(_PASSAGE_ROWS, round(_PASSAGE_SHARE * len(distinct)))
    lines: Counter[str] = Counter()
    for text in distinct:
        here = {line.strip() for line in text.splitlines()} if "\n" in text.strip() else set()
        lines.update(line for line in here if len(line) >= _PASSAGE_CHARACTERS)
    found = {line for line, n in lines.items() if n >= often}
    found |= _beginnings(distinct, often) | {end[::-1] for end in _beginnings([t[::-1] for t in distinct], often)}
    # Of a passage and a part of it the longer one is told.
    longest = [a for a in found if not any(a != b and a in b for b in found)]
    counts = {passage: sum(passage in text for text in distinct) for passage in longest}
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _beginnings(texts: Sequence[str], often: int) -> set[str]:
    """What at least so many texts begin with, as long as can be: in sorted order such texts are neighbours."""
    ordered = sorted(texts)
    shared = (_shared(a, b) for a, b in zip(ordered, ordered[often - 1 :], strict=False))
    found = {start.strip() for start in shared}
    return {start for start in found if len(start) >= _PASSAGE_CHARACTERS}


def _shared(one: str, other: str) -> str:
    """What both begin with, without a part of a word."""
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    in_word = any(re.match(r"[A-Za-z0-9]{2}", text[max(n - 1, 0) : n + 1]) for text in (one, other))
    return re.sub(r"[A-Za-z0-9]+$", "", one[:n]) if in_word else one[:n]


def _yaml(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def lengths(rows: Sequence[Row]) -> Iterator[Light]:
    """Texts that are much longer than the others."""
    characters = [len(text_of(row)) for row in rows]
    median = sorted(characters)[len(characters) // 2]
    long = [row for row, n in zip(rows, characters, strict=True) if n > _LONG * max(median, 20)]
    if long:
        yield Light(
            "very long texts",
            "yellow",
            f"{len(long)} texts are more than {_LONG:.0f} times as long as the median of {median} characters",
            len(long),
            places(long),
            "look at them: joined rows, quoted threads, raw logs",
        )


def wordless(rows: Sequence[Row]) -> Iterator[Light]:
    """Texts that say nothing: no letter, or a word that stands for an empty cell."""
    found = [row for row in rows if any(_says_nothing(text) for text in texts_of(row))]
    if found:
        said = tuple(f"{row.place}: {shorten(next(filter(_says_nothing, texts_of(row))), 40)!r}" for row in found)
        yield Light(
            "texts without words",
            "yellow",
            f"{len(found)} texts hold no letter, or only what is written for an empty cell (N/A, null, なし)",
            len(found),
            said[:EXAMPLES],
            "remove the rows, unless this is what people really write",
        )


def _says_nothing(text: str) -> bool:
    return compared_form(text) in _PLACEHOLDERS or not any(ch.isalpha() for ch in text)


def scripts(parts: Sequence[Dataset]) -> Iterator[Light]:
    """Letters in test that train hardly has."""
    shares = [Counter(script_of(text_of(row)) for row in part.rows) for part in parts]
    for script in ("latin", "japanese", "other"):
        train, test = (shares[i][script] / max(len(parts[i]), 1) for i in (0, 2))
        if test > 0.05 and train < test / 4:
            strange = [row for row in parts[2].rows if script_of(text_of(row)) == script]
            yield Light(
                "scripts",
                "yellow",
                f"{test:.0%} of the test rows are written in {script} letters, but only {train:.0%} of the train rows",
                len(strange),
                places(strange),
                "collect train rows in that script",
            )


def languages(parts: Sequence[Dataset]) -> Iterator[Light]:
    """Which languages the texts are in, by a rule; a language in test that train hardly has."""
    of = [[probable_language(text_of(row)) for row in part.rows] for part in parts]
    counts = [Counter(found) for found in of]
    strange = [
        language
        for language in counts[2]
        if language not in ("none", "latin", "han")
        and counts[2][language] > 0.05 * len(parts[2])
        and counts[0][language] * len(parts[2]) < counts[2][language] * len(parts[0]) / 4
    ]
    if strange:
        rows = [row for row, language in zip(parts[2].rows, of[2], strict=True) if language in strange]
        yield Light(
            "languages",
            "yellow",
            f"{len(rows)} test rows are probably in {', '.join(sorted(strange))}, a language that hardly a train row is in (by a rule: letters and frequent words)",
            len(rows),
            places(rows),
            "collect train rows in that language",
        )
        return
    total = sum(counts, Counter[str]())
    shares = ", ".join(f"{name} {n / total.total():.0%}" for name, n in total.most_common(4))
    yield Light("languages", "green", f"by a rule (letters and frequent words): {shares}", len(total))


def personal_data(rows: Sequence[Row]) -> Iterator[Light]:
    """Addresses and numbers of persons."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for kind in {p.kind for text in texts_of(row) for p in find_personal(text)}:
            found[kind].append(row)
    if found:
        kinds = ", ".join(f"{kind} in {len(where)} rows" for kind, where in sorted(found.items()))
        yield Light(
            "personal data",
            "yellow",
            f"what looks personal: {kinds}. A model can repeat it",
            len({id(r) for w in found.values() for r in w}),
            tuple(f"{where[0].place} ({kind})" for kind, where in sorted(found.items())),
            f"data.clean: [{{kind: mask, kinds: [{', '.join(sorted(found))}]}}]",
        )
    else:
        yield Light("personal data", "green", "no e-mail address, phone, card or personal number was found")


def broken_letters(rows: Sequence[Row]) -> Iterator[Light]:
    """Texts that were read in a wrong encoding before they came here, and replacement characters of one that failed."""
    repair = Mojibake()
    broken = [row for row in rows if any(repair(text) != text for text in texts_of(row))]
    if broken:
        before = next(text for text in texts_of(broken[0]) if repair(text) != text)
        example = f"{broken[0].place}: {shorten(before, 30)!r} was {shorten(repair(before), 30)!r}"
        yield Light(
            "mojibake",
            "red",
            f"{len(broken)} texts were read in a wrong encoding before they came here",
            len(broken),
            (example, *places(broken[1:])),
            "data.clean: [mojibake]",
        )
    lost = [row for row in rows if any("\ufffd" in text for text in texts_of(row))]
    if lost:
        yield Light(
            "lost characters",
            "red",
            f"{len(lost)} texts hold \ufffd, which stands where a character was lost for good",
            len(lost),
            places(lost),
            "export the rows again in UTF-8",
        )
