"""Every check of an audit, by rows that have the fault and rows that have it not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.planted import measured, plant
from migaki.audit import audit
from migaki.audit.labels import variants
from migaki.audit.look import look_at, subject_of
from migaki.audit.power import smallest_difference
from migaki.audit.tokens import token_facts
from migaki.cli import main
from migaki.data import Data
from migaki.data.unpacking import unpacked
from tiny import labelled_rows, write_rows

SUBJECTS = ["printer", "screen", "parcel", "invoice", "router", "keyboard", "account", "ticket", "window", "camera"]
TROUBLES = [
    "does not start",
    "makes a noise",
    "came too late",
    "is of the wrong colour",
    "was lost on the way",
    "is very slow",
]


def clean_rows():
    """Sixty texts that differ in more than a word, two labels."""
    return [
        {
            "text": f"Since {hour} o'clock the {subject} of our office number {hour * 7} {trouble}, said {subject[::-1]}.",
            "label": label,
        }
        for hour, (subject, trouble, label) in enumerate(
            (subject, trouble, "ab"[i % 2]) for subject in SUBJECTS for i, trouble in enumerate(TROUBLES)
        )
    ]


def lights(rows, kind="labelled", **settings):
    data = Data(train=rows, **settings)
    return {light.name: light for light in audit(data.load(kind, 0), kind).lights}


def chat(question, answer, system=None):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": [{"role": "system", "content": system}, *turns] if system else turns}


def test_rows_without_a_fault_have_no_red_light():
    found = lights(clean_rows())
    assert [light.name for light in found.values() if light.level == "red"] == []


def test_planted_faults_are_found_with_the_recall_and_precision_that_is_promised():
    rows = clean_rows()
    more = [{"text": f"{row['text'][::-1]} {i}", "label": row["label"]} for i, row in enumerate(rows)]
    found = measured(plant([*rows[20:], *more], rows[:20]), None)
    assert found["exact copies in train and test"][0] == 1.0
    assert found["near copies in train and test"][0] == 1.0
    assert found["personal data"] == (1.0, 1.0)
    assert found["labels spelt in two ways"] == (1.0, 1.0)
    assert found["encodings"] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({"billing": 40, "Billing ": 3, "delivery": 40}, [["billing", "Billing "]]),
        (
            {"credit_card": 20, "credit card": 2, "ｃｒｅｄｉｔ－ｃａｒｄ": 1},
            [["credit_card", "credit card", "ｃｒｅｄｉｔ－ｃａｒｄ"]],
        ),
        ({"billing": 40, "biling": 2}, [["billing", "biling"]]),
        ({"キャンセル": 30, "キヤンセル": 1}, [["キャンセル", "キヤンセル"]]),
        ({"group_1": 40, "group_2": 2}, []),
        ({"send": 40, "sent": 30}, []),
        ({"a": 40, "b": 1}, []),
        ({"+": 5, "-": 5}, []),
    ],
)
def test_one_label_in_two_spellings_is_told_from_two_labels(counts, wanted):
    assert variants(counts) == wanted


def test_a_test_split_shows_what_the_formula_says():
    # Connor 1987 with d = 0.1 and a difference of 0.05: ((1.96 sqrt 0.1 + 0.8416 sqrt 0.0975) / 0.05)^2 = 311.8 rows.
    assert smallest_difference(312) == pytest.approx(0.05, abs=2e-4)
    assert smallest_difference(312) > smallest_difference(1000)
    assert smallest_difference(20) == float("inf")


def test_uneven_and_rare_labels_are_told_with_the_setting_that_helps():
    rows = [*clean_rows(), {"text": "the only one of its kind stands here", "label": "rare"}]
    found = lights(rows, valid=clean_rows()[:4], test=clean_rows()[4:8])
    assert found["rare labels"].examples[0].startswith("rare (1, first train:61")
    assert "data.min_rows_per_label" in found["rare labels"].remedy
    assert "class_weights: balanced" in found["imbalance"].remedy


def test_a_copy_in_test_is_red_and_a_near_copy_too():
    rows = clean_rows()
    test = [dict(row) for row in rows[:6]]
    for row in test[3:]:
        row["text"] = row["text"].replace("said", "says")
    found = lights(
        rows, valid=[{"text": f"quite another matter {i} x{i * i}", "label": "a"} for i in range(4)], test=test
    )
    assert found["reading"].level == "red"
    assert found["near leaks"].count == 3
    assert found["near leaks"].level == "red"
    assert "(0.9" in found["near leaks"].examples[0]


def test_personal_data_is_named_by_kind_with_the_step_that_masks_it():
    rows = clean_rows()
    rows[7]["text"] += " My mail is taro@example.jp"
    found = lights(rows)["personal data"]
    assert (found.level, found.count, found.examples) == ("yellow", 1, ("train:8 (email)",))
    assert found.remedy == "data.clean: [{kind: mask, kinds: [email]}]"
    data = Data(train=rows, clean=[{"kind": "mask", "kinds": ["email"]}])
    assert audit(data.load("labelled", 0), "labelled").facts["rows"]["train"] > 0
    assert lights(rows, clean=[{"kind": "mask", "kinds": ["email"]}])["personal data"].level == "green"


def test_texts_read_in_a_wrong_encoding_are_red_and_shown_as_they_were():
    rows = clean_rows()
    rows[3]["text"] = "プリンターが動かない".encode().decode("latin-1")
    found = lights(rows)["mojibake"]
    assert found.examples[0].startswith("train:4: ")
    assert "was 'プリンターが動かない'" in found.examples[0]


def test_a_script_that_only_the_test_rows_have_is_told():
    test = [{"text": f"{i}号機のプリンターが動かない、{'至急' * (i + 1)}", "label": "a"} for i in range(5)]
    found = lights(clean_rows(), test=test, valid=clean_rows()[:3])
    assert (
        "100% of the test rows are written in japanese letters, but only 0% of the train rows"
        in found["scripts"].message
    )


def test_conversations_are_looked_at_for_what_they_teach():
    rows = [
        chat(f"What about {s} and {t}?", f"{s} {t} is {i}.")
        for i, (s, t) in enumerate((s, t) for s in SUBJECTS for t in TROUBLES)
    ]
    assert lights(rows, "conversation")["conversations"].level == "green"
    rows += [chat(f"{s} again, and then {s[::-1]}?", "I cannot help.") for s in SUBJECTS]
    rows += [
        chat("Say it back", "say it  back"),
        chat("???", "What do you mean by that?"),
        chat("Hello there", "Good day", "You are polite."),
    ]
    found = lights(rows, "conversation")
    assert found["repeated answers"].count == 10
    assert (found["echoes"].count, found["instructions without words"].count) == (1, 1)
    assert found["system prompts"].message.startswith("1 of 73 rows have a system prompt")


def test_what_a_tokenizer_loses_is_found_by_asking_it(tmp_path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "が": 1, "か": 2, "a": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    kept = token_facts(tmp_path, ["がa", "x"])
    assert (kept.lengths, kept.unknown, kept.unvoiced) == ((2, 1), (0, 1), ())
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=True)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert token_facts(tmp_path, ["かa", "がa", "パ"]).unvoiced == (1, 2)


def test_the_command_lists_what_was_found_and_ends_with_json(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in clean_rows())]
    path.write_text("\n".join([*lines, "call 03-1234-5678 please,A"]), encoding="utf-8")
    assert main(["data", "check", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert {"label spelling", "personal data"} <= {
        light["name"] for light in said["lights"] if light["level"] != "green"
    }
    assert f"{path}:62 (phone)" in out
    assert said["facts"]["rows"] == {"train": 44, "valid": 6, "test": 12} or sum(said["facts"]["rows"].values()) == 61


def test_a_file_is_read_once_for_its_format_and_for_its_rows(tmp_path, monkeypatch):
    path, read = write_rows(tmp_path / "mine.jsonl", clean_rows()), []
    monkeypatch.setattr("migaki.data.sources.unpacked", lambda file: read.append(file) or unpacked(file))
    found = look_at(subject_of(str(path)), tmp_path / "runs")
    assert sum(found.facts["rows"].values()) == 60
    assert read == [path]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "is in no known format"),
        ("text,label\n,x\n", r":2: "),
        ("text,label\nhello\n", ":2: this row has 1 cells"),
    ],
)
def test_data_that_cannot_be_used_end_with_code_2_and_the_place(tmp_path, capsys, text, words):
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    assert main(["data", "check", str(path)]) == 2
    assert words in capsys.readouterr().err.replace(str(path), "")


@pytest.mark.parametrize("arguments", [[], ["a.csv", "--train", "b.csv"], ["a.csv", "--task", "summarise"]])
def test_a_command_that_names_nothing_or_two_things_is_refused(arguments, capsys):
    assert main(["data", "check", *arguments]) == 2


def test_the_page_holds_every_light_and_which_labels_are_probably_wrong(tmp_path, tiny_encoder, capsys):
    recipe = tmp_path / "mine.yaml"
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows(80)), encoding="utf-8")
    recipe.write_text(f"task: classify_text\nmodel: {tiny_encoder}\nmethod: full\ndata: {{train: mine.jsonl}}\n")
    assert main(["data", "report", str(recipe), "--output", str(tmp_path / "out"), "--lang", "ja"]) == 0
    page = Path(tmp_path / "out" / "data-report.html").read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "out" / "data-report.json").read_text(encoding="utf-8"))
    assert "データレポート" in page
    names = [light["name"] for light in facts["lights"]]
    assert "suspicious labels" in names
    assert "tokens" in names or "unknown tokens" in names
    assert all(name in page for name in names)
    assert facts["facts"]["tokens"]["most"] >= facts["facts"]["tokens"]["median"]
    assert "outliers" in names
    assert sum(facts["facts"]["languages"].values()) == sum(facts["facts"]["rows"].values())
    assert not (tmp_path / "out" / "data-changes.jsonl").exists()


def test_the_report_keeps_every_change_that_cleaning_made(tmp_path, capsys):
    rows = clean_rows()
    rows[4]["text"] += "\u200b!"
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "task: classify_text\nmethod: tfidf\ndata: {train: mine.jsonl, clean: [invisible_characters, spaces]}\n"
    )
    assert main(["data", "report", str(recipe), "--output", str(tmp_path / "out")]) == 0
    (line,) = (tmp_path / "out" / "data-changes.jsonl").read_text(encoding="utf-8").splitlines()
    told = json.loads(line)
    assert (told["line"], told["step"], told["text"]) == (5, "invisible_characters", 0)
    assert (told["before"], told["after"]) == (rows[4]["text"], rows[4]["text"].replace("\u200b", ""))
    assert "data-changes.jsonl (1)" in capsys.readouterr().out
