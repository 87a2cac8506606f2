"""The data section of a recipe, from settings to splits."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from migaki.core.errors import DataError
from migaki.core.types import Labelled
from migaki.data import Data, write_records

ROWS = [{"text": f"{label} {i}", "label": label} for label in ("a", "b") for i in range(50)]


def write(folder: Path, name: str, rows) -> str:
    write_records(str(folder / name), rows, list(rows[0]))
    return str(folder / name)


def validated(values, folder=None):
    return Data.model_validate(values, context={"folder": folder})


def messages(splits):
    return [finding.message for finding in splits.findings]


def test_shares_are_of_all_train_rows_for_both_splits():
    splits = Data(train=ROWS, valid=0.1, test=0.2).load("labelled", 0)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (70, 10, 20)


def test_the_same_seed_gives_the_same_rows_and_another_one_does_not():
    def test_rows(seed):
        return Data(train=ROWS).load("labelled", seed).test.fingerprint()

    assert test_rows(0) == test_rows(0) != test_rows(1)


def test_changing_the_validation_share_leaves_the_test_split_alone():
    few, many = (Data(train=ROWS, valid=share).load("labelled", 0).test for share in (0.1, 0.5))
    assert few.fingerprint() == many.fingerprint()


def test_given_files_are_used_whole(tmp_path):
    train, valid, test = (
        write(tmp_path, f"{name}.csv", [{"text": f"{name} {i}", "label": "ab"[i % 2]} for i in range(n)])
        for name, n in (("train", 10), ("valid", 4), ("test", 6))
    )
    splits = Data(train=train, valid=valid, test=test).load("labelled", 0)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (10, 4, 6)
    assert splits.test.rows[0].place.source == test
    assert splits.findings == ()


def test_paths_are_relative_to_the_recipe_and_become_absolute(tmp_path):
    data = validated({"train": "rows/../train.csv", "test": "demo:helpdesk-topics"}, folder=tmp_path)
    assert data.train == str(tmp_path / "train.csv")
    assert data.test == "demo:helpdesk-topics"
    assert Data(train="train.csv").train == str(Path.cwd() / "train.csv")


def test_resolved_settings_read_back_equal(tmp_path):
    data = validated({"train": "train.csv", "text": "body", "valid": 0.3}, folder=tmp_path)
    assert Data.model_validate(data.model_dump(mode="json")) == data


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"valid": 0.0}, "0 is not a share above 0 and up to 0.9"),
        ({"test": 0}, "0 is not a share above 0 and up to 0.9"),
        ({"test": 1.5}, "1.5 is not a share"),
        ({"valid": "0.2"}, "write the share without quotes: valid: 0.2"),
        ({"valid": 0.5, "test": 0.5}, "valid and test together take 1 of the rows"),
        ({"train": " "}, "the path is empty"),
        ({"min_rows_per_label": 0}, "greater than 0"),
        ({"txet": "body"}, "Extra inputs are not permitted"),
        ({"test": True}, "valid"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(values, words):
    with pytest.raises(ValidationError, match=words):
        Data(**{"train": "train.csv", **values})


def test_every_setting_is_described_for_the_schema():
    assert all(field.description for field in Data.model_fields.values())


def test_what_was_read_as_what_is_kept_and_said_where_it_was_guessed():
    rows = [{"utterance": row["text"], "intent": row["label"]} for row in ROWS]
    splits = Data(train=rows).load("labelled", 0)
    assert splits.columns == {"text": "utterance", "label": "intent"}
    assert messages(splits) == ["train: guessed text from column 'utterance', label from column 'intent'"]
    assert Data(train=rows, text="utterance", label="intent").load("labelled", 0).findings == ()


def test_an_encoding_and_a_separator_that_were_found_out_are_said(tmp_path):
    path = tmp_path / "train.csv"
    rows = "".join(f"返品したいのですが {i};{'はい' if i % 2 else 'いいえ'}\n" for i in range(20))
    path.write_bytes(("text;label\n" + rows).encode("cp932"))
    assert messages(Data(train=str(path)).load("labelled", 0)) == [
        f"{path} was read as cp932",
        f"{path} is separated by ';'",
    ]


def test_rows_that_stand_in_train_and_test_are_a_warning_and_can_be_dropped(tmp_path):
    test = write(tmp_path, "test.csv", [*ROWS[:2], {"text": "new", "label": "b"}])
    data = {"train": write(tmp_path, "train.csv", ROWS), "test": test}
    kept = Data(**data).load("labelled", 0)
    (warning,) = kept.findings
    assert (warning.level, warning.count) == ("warning", 2)
    assert warning.message == "2 of 3 test rows are also in train, so the score would be too high"
    assert warning.examples[0] == f"{test}:2 = {data['train']}:2"
    dropped = Data(**data, drop_repeats=True).load("labelled", 0)
    assert [finding.level for finding in dropped.findings] == ["note"]
    assert len(dropped.train) + len(dropped.valid) == len(ROWS) - 2
    texts = {row.content.text for row in (*dropped.train.rows, *dropped.valid.rows)}
    assert not texts & {row.content.text for row in dropped.test.rows}


def test_rows_that_stand_in_valid_and_test_are_a_warning():
    splits = Data(train=ROWS, valid=[{"text": "new", "label": "a"}], test=[{"text": "new", "label": "a"}])
    assert messages(splits.load("labelled", 0)) == ["1 of 1 test rows are also in valid, by which the model is chosen"]


def test_repeats_and_conflicting_labels_in_one_file_are_found():
    rows = [*ROWS, ROWS[0], {"text": ROWS[1]["text"], "label": "b"}]
    found = messages(Data(train=rows).load("labelled", 0))
    assert found == ["2 of 102 rows repeat an earlier one", "1 texts stand under more than one label"]


def test_rare_labels_leave_every_split_and_are_counted():
    rare = [{"text": "rare", "label": "c"}]
    splits = Data(train=[*ROWS, *rare], test=[*ROWS[:5], {"text": "also rare", "label": "c"}], min_rows_per_label=2)
    loaded = splits.load("labelled", 0)
    assert messages(loaded)[0] == "2 rows are left out: 1 labels have fewer than 2 train rows (c)"
    assert len(loaded.test) == 5


def test_a_label_unknown_to_train_is_an_error_that_names_the_row():
    with pytest.raises(DataError, match=r"1 test rows have labels that no train row has: 'c' \(at test:1\)"):
        Data(train=ROWS, test=[{"text": "x", "label": "c"}]).load("labelled", 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train": ROWS[:50]}, "All 35 train rows have the label 'a'.*at least two labels"),
        ({"train": [ROWS[0], ROWS[50]]}, "The valid split is empty.*Give more rows"),
        ({"train": ROWS[:1] * 9}, "The valid split is empty"),
        ({"train": ROWS, "test": ROWS, "drop_repeats": True}, "All 100 train rows are also in valid or test.*Give"),
        ({"train": ROWS, "min_rows_per_label": 51}, "No label of train has 51 rows. Lower data.min"),
    ],
)
def test_too_little_to_learn_from_is_an_error_before_any_work(values, words):
    with pytest.raises(DataError, match=words):
        Data(**values).load("labelled", 0)


def test_every_bad_row_is_told_with_its_place():
    rows = [*ROWS, {"text": "", "label": "a"}, {"text": "x", "label": None}]
    with pytest.raises(DataError) as caught:
        Data(train=rows).load("labelled", 0)
    assert "2 of 102 rows cannot be used" in str(caught.value)
    assert "train:101: the text" in str(caught.value)
    assert "train:102: the label" in str(caught.value)


def test_conversations_are_split_by_their_question():
    rows = [{"prompt": f"q{i // 2}", "completion": f"a{i}"} for i in range(40)]
    splits = Data(train=rows).load("conversation", 0)
    questions = [{row.content.turns[0].content for row in s.rows} for s in (splits.train, splits.valid, splits.test)]
    assert sum(map(len, questions)) == 20
    assert len(splits.test) == 8


def test_rows_read_for_prediction_stay_beside_their_records(tmp_path):
    path = write(tmp_path, "new.csv", [{"id": "7", "text": "hello"}, {"id": "8", "text": "bye"}])
    dataset, records = Data(train=ROWS, label="label").read(path, "labelled", need_target=False)
    assert [row.content for row in dataset.rows] == [Labelled("hello", None), Labelled("bye", None)]
    assert [record.values["id"] for record in records] == ["7", "8"]


def test_a_list_to_be_predicted_may_use_the_usual_names_instead_of_the_recipe_s():
    dataset, _ = Data(train=ROWS, text="body").read([{"text": "hello"}], "labelled", need_target=False)
    assert dataset.rows[0].content.text == "hello"


def test_a_file_to_be_judged_needs_its_targets(tmp_path):
    path = write(tmp_path, "new.csv", [{"text": "hello"}])
    with pytest.raises(DataError, match=r"new\.csv: no column looks like the label.*data\.label: COLUMN"):
        Data(train=ROWS).read(path, "labelled", need_target=True)
