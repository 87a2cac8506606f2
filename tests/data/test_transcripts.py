"""Recordings as rows: by folder, by table, with labels and with transcripts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from migaki.core.errors import DataError
from migaki.data import Data
from odd_sounds import BROKEN, ODD, RATE_HZ, tone, write_all


def recordings(folder: Path, n: int = 10) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02d}.wav" for number in range(n)]
    for number, path in enumerate(paths):
        soundfile.write(path, tone(0.1, hertz=200 + 10 * number), RATE_HZ)
    return paths


def table(folder: Path, rows: list[dict[str, object]]) -> str:
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_table_names_files_and_what_is_said_in_them(tmp_path):
    paths = recordings(tmp_path / "wav")
    rows = [{"path": f"wav/{path.name}", "sentence": f"番号 {i}"} for i, path in enumerate(paths)]
    splits = Data(train=table(tmp_path, rows), valid=0.2, test=0.2).load("transcribed", 0)
    found = [row.content for split in (splits.train, splits.valid, splits.test) for row in split.rows]
    assert {(Path(c.text).name, c.transcript) for c in found} == {
        (path.name, f"番号 {i}") for i, path in enumerate(paths)
    }
    assert dict(found[0].media.traits)["seconds"] == 0.1
    assert splits.columns == {"file": "path", "text": "sentence"}


def test_a_folder_with_metadata_is_a_table(tmp_path):
    paths = recordings(tmp_path)
    (tmp_path / "metadata.csv").write_text(
        "file_name,transcription\n" + "".join(f"{path.name},word {i}\n" for i, path in enumerate(paths))
    )
    splits = Data(train=str(tmp_path)).load("transcribed", 0)
    assert len(splits.train) + len(splits.valid) + len(splits.test) == 10


def test_a_folder_of_recordings_has_a_label_for_each_folder_in_it(tmp_path):
    for label in ("yes", "no"):
        recordings(tmp_path / label)
        # Equal files under two labels would be told; these differ by their loudness.
        for path in (tmp_path / label).iterdir():
            samples, rate_hz = soundfile.read(path)
            soundfile.write(path, samples * (1.0 if label == "yes" else 0.5), rate_hz)
    splits = Data(train=str(tmp_path)).load("labelled_recording", 0)
    labels = [row.content.label for split in (splits.train, splits.valid, splits.test) for row in split.rows]
    assert sorted(labels) == ["no"] * 10 + ["yes"] * 10


def test_a_row_without_a_transcript_is_named_and_can_still_be_predicted(tmp_path):
    paths = recordings(tmp_path)
    rows = [{"audio": path.name, "text": "" if i == 3 else "yes"} for i, path in enumerate(paths)]
    data = Data(train=table(tmp_path, rows))
    with pytest.raises(DataError, match=r"calls\.jsonl:4: the transcript in column 'text' is empty"):
        data.load("transcribed", 0)
    dataset, _ = data.read(data.train, "transcribed", need_target=False)
    assert dataset.rows[3].content.transcript is None


def test_the_same_recording_twice_stays_on_one_side_wherever_it_lies(tmp_path):
    paths = recordings(tmp_path)
    (tmp_path / "copy.wav").write_bytes(paths[0].read_bytes())
    rows = [{"file": path.name, "text": "a b"} for path in [*paths, tmp_path / "copy.wav"]]
    for seed in range(5):
        splits = Data(train=table(tmp_path, rows), valid=0.2, test=0.3).load("transcribed", seed)
        sides = {
            name
            for name, split in (("train", splits.train), ("valid", splits.valid), ("test", splits.test))
            for row in split.rows
            if Path(row.content.text).name in ("00.wav", "copy.wav")
        }
        assert len(sides) == 1


def test_the_rules_that_were_applied_are_told_with_their_files(tmp_path):
    paths = recordings(tmp_path)
    soundfile.write(paths[0], np.stack([tone(), tone(hertz=300)], 1), RATE_HZ)
    soundfile.write(paths[1], np.zeros(RATE_HZ, np.float32), RATE_HZ)
    rows = [{"file": path.name, "label": "ab"[i % 2]} for i, path in enumerate(paths)]
    findings = Data(train=table(tmp_path, rows)).load("labelled_recording", 0).findings
    told = {f.message: f.examples for f in findings if f.message.startswith("1 recording")}
    assert told["1 recordings have several channels, which are averaged"] == (str(paths[0]),)
    assert told["1 recordings hold nothing louder than -60 dB below full scale"] == (str(paths[1]),)


def test_all_odd_and_broken_files_at_once_are_named_and_the_rest_is_read(tmp_path):
    write_all(tmp_path)
    rows = [{"file": str(tmp_path / name), "text": "words"} for name in (*ODD, *BROKEN)]
    with pytest.raises(DataError, match=f"{len(BROKEN)} of {len(rows)} rows cannot be used") as error:
        Data(train=rows).load("transcribed", 0)
    assert "data.broken_files: leave_out" in str(error.value)
    splits = Data(train=rows, broken_files="leave_out").load("transcribed", 0)
    kept = {Path(row.content.text).name for split in (splits.train, splits.valid, splits.test) for row in split.rows}
    assert kept == set(ODD)
    (finding,) = [f for f in splits.findings if "left out" in f.message]
    assert finding.count == len(BROKEN)


def test_cleaning_is_for_texts(tmp_path):
    rows = [{"file": path.name, "text": "a"} for path in recordings(tmp_path)]
    with pytest.raises(DataError, match=r"data\.clean is for texts"):
        Data(train=table(tmp_path, rows), clean=["spaces"]).load("transcribed", 0)
