"""Who speaks: read from the table beside the files, kept with what was measured."""

from __future__ import annotations

import pytest

from migaki.core.errors import DataError
from migaki.data import Data
from tiny_speech import write_recordings


@pytest.fixture
def table(tmp_path):
    def write(column: str, names: list[str]) -> str:
        rows = write_recordings(tmp_path / "sounds", len(names))
        lines = [f"{r['file']},{r['label']},{name}" for r, name in zip(rows, names, strict=True)]
        (tmp_path / "rows.csv").write_text("\n".join([f"file,label,{column}", *lines]) + "\n", encoding="utf-8")
        return str(tmp_path / "rows.csv")

    return write


NAMES = ["ann", "ben", "1", "1.0", "", "ann", "ben", "ann", "花子", "花子", "ben", "ann"]


@pytest.mark.parametrize(("column", "named"), [("speaker_id", None), ("話者", None), ("voice", "voice")])
def test_the_speaker_of_a_row_stands_before_what_was_measured(table, column, named):
    splits = Data(train=table(column, NAMES), speaker=named).load("labelled_recording", 0)
    rows = [*splits.train.rows, *splits.valid.rows, *splits.test.rows]
    told = {row.place.line: dict(row.content.media.traits).get("speaker") for row in rows}
    assert [told[i + 2] for i in range(len(NAMES))] == [name or None for name in NAMES]
    assert all("seconds" in dict(row.content.media.traits) for row in rows)


def test_rows_that_are_only_to_be_predicted_may_lack_the_column(table, tmp_path):
    data = Data(train=table("voice", NAMES), speaker="voice")
    (tmp_path / "asked.csv").write_text(
        (tmp_path / "rows.csv").read_text(encoding="utf-8").replace("voice", "x"), "utf-8"
    )
    read, _ = data.read(str(tmp_path / "asked.csv"), "labelled_recording", need_target=False)
    assert "speaker" not in dict(read.rows[0].content.media.traits)


def test_images_have_no_speaker(tmp_path):
    with pytest.raises(DataError, match=r"data\.speaker has no meaning for this task"):
        Data(train=[{"file": "a.png", "label": "a", "who": "x"}], speaker="who").load("labelled_image", 0)
