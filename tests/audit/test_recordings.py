"""What an audit tells of rows that are files: what was measured on them, and nothing about letters."""

from __future__ import annotations

from migaki.audit.look import look_at, subject_of
from migaki.report import write_audit
from tiny_speech import save_whisper, write_recordings


def test_recordings_are_told_by_their_length_and_loudness_not_by_the_letters_of_their_paths(tmp_path):
    rows = write_recordings(tmp_path / "sounds", 12)
    (tmp_path / "rows.csv").write_text("file,label\n" + "".join(f"{r['file']},{r['label']}\n" for r in rows))
    model = save_whisper(tmp_path / "model")
    (tmp_path / "r.yaml").write_text(
        f"task: classify_audio\nmodel: {model}\ndata: {{train: rows.csv}}\nmethod: probe\n"
    )
    found = look_at(subject_of(str(tmp_path / "r.yaml"), [], train=None, valid=None, test=None), tmp_path).as_json()
    facts = found["facts"]
    # Lengths go from 0.15 to 0.35 s by 0.05.
    assert facts["traits"]["seconds"] == {"least": 0.15, "median": 0.25, "p95": 0.35, "most": 0.35}
    assert not {"characters", "scripts", "languages", "tokens"} & facts.keys()
    assert sum(counts["train"] for counts in facts["labels"].values()) == facts["rows"]["train"]
    assert "truncation" not in {light["name"] for light in found["lights"]}
    for language, word in (("en", "Loudness in dB"), ("ja", "音量（dB）")):
        assert word in write_audit("rows.csv", found, language)
