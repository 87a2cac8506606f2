"""All checks of this machine, and the command."""

from __future__ import annotations

import json

from migaki.cli import main
from migaki.doctor import Check, checks, examine


def test_this_machine_is_examined_without_a_fault(tmp_path):
    found = examine(tmp_path, hub=False)
    assert {"python", "packages", "processor", "memory", "clock", "torch", "open files", "arithmetic", "locale"} <= {
        c.name for c in found
    }
    assert [c for c in found if c.level == "broken"] == []
    assert all(c.remedy for c in found if c.level in ("warning", "broken"))


def test_doctor_ends_with_one_json_object(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["healthy"] is True
    assert {"name", "level", "found", "remedy"} == said["checks"][0].keys()


def test_doctor_exits_with_one_where_something_is_broken_and_says_the_remedy(capsys, monkeypatch):
    made = [
        Check("disk", "broken", "/data is not writable", "chmod u+w /data"),
        Check("locale", "warning", "latin", "x"),
    ]
    monkeypatch.setattr(checks, "_all", lambda *_: iter(made))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        "broken   disk: /data is not writable",
        "         -> chmod u+w /data",
    ]
    made.pop(0)
    assert main(["doctor"]) == 0
