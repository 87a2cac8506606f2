"""A fault planted for every check of the machine: what was found, and the command that mends it."""

from __future__ import annotations

import http.server
import threading
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from migaki.doctor import machine
from migaki.doctor.machine import clock, disk, fonts, hub, limits, memory, processor, text_encoding, threads
from migaki.environment import cpu_name, cpu_quota, memory_bytes


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_time_a_container_may_use_is_read_from_either_kind_of_group(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_the_memory_of_a_container_counts_and_not_the_machines(tmp_path):
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert memory_bytes(tmp_path) == (1 << 30, True)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_bytes(tmp_path)[1] is False


def test_little_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: (2 << 30, True))
    (found,) = [memory()]
    assert found.level == "warning"
    assert "2.0 GiB of memory, a limit below the machine's own" in found.found


@pytest.mark.parametrize(("text", "level"), [("64", "warning"), ("many", "warning"), ("1", "note")])
def test_odd_numbers_of_threads_are_found(monkeypatch, text, level):
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    (found,) = threads({"OMP_NUM_THREADS": text})
    assert found.level == level


def test_a_full_disk_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    (found,) = [disk("disk", tmp_path / "runs" / "not" / "there", True)]
    assert (found.level, found.found[:12]) == ("warning", "1.0 GiB free")


def test_a_folder_that_cannot_be_written_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    (found,) = [disk("disk", tmp_path, True)]
    assert found.level == "broken"
    assert "chmod u+w" in found.remedy


def test_a_text_encoding_that_cannot_show_japanese_is_told(monkeypatch):
    monkeypatch.setattr(machine.locale, "getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    (found,) = [text_encoding()]
    assert (found.level, found.remedy) == ("warning", "export LC_ALL=C.UTF-8 PYTHONUTF8=1")


@pytest.mark.parametrize(("said", "level"), [("Noto Sans CJK JP,Noto Sans\n", "ok"), ("", "note")])
def test_fonts_for_japanese_are_looked_for(tmp_path, monkeypatch, said, level):
    program = tmp_path / "fc-list"
    program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (found,) = [fonts()]
    assert found.level == level


def test_few_open_files_are_a_warning(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    found = next(limits())
    assert (found.level, found.remedy) == ("warning", "ulimit -n 1024")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer"),
    ],
)
def test_a_hub_out_of_reach_is_no_fault_but_told(environment, words):
    (found,) = hub(environment)
    assert found.level == "note"
    assert words in found.found


@pytest.mark.parametrize(
    ("listed", "files", "quota"),
    [
        # Version 2: the group of a service inside that of the user, which allows less.
        ("0::/user.slice/job.service\n", {"user.slice/cpu.max": "100000 100000", "user.slice/job.service/cpu.max": "300000 100000"}, 1.0),
        ("4:cpu,cpuacct:/jobs/7\n0::/\n", {"cpu/jobs/7/cpu.cfs_quota_us": "250000", "cpu/jobs/7/cpu.cfs_period_us": "100000"}, 2.5),
        # The path as the machine outside sees it, which is not there inside.
        ("0::/docker/0123abcd\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/../outside\n", {"cpu.max": "50000 100000"}, 0.5),
    ],
)  # fmt: skip
def test_the_tightest_of_the_groups_around_a_process_counts(tmp_path, listed, files, quota):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(listed)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    assert cpu_quota(tmp_path / "groups", tmp_path / "proc") == quota


def test_the_memory_of_the_own_group_counts(tmp_path):
    group = tmp_path / "groups" / "memory" / "jobs"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("2147483648\n")
    (group.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("4:memory:/jobs\n")
    assert memory_bytes(tmp_path / "groups", tmp_path) == (2 << 30, True)


def test_the_processor_is_named_as_the_system_names_it(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Made-up 3000: turbo\n")
    assert cpu_name(tmp_path) == "Made-up 3000: turbo"
    assert cpu_name(tmp_path / "none")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, [("warning", "export OMP_NUM_THREADS=2")]),
        ({"OMP_NUM_THREADS": "2"}, []),
        ({"OMP_NUM_THREADS": "8"}, [("warning", "export OMP_NUM_THREADS=2")]),
        ({"OMP_NUM_THREADS": "1"}, [("note", "export OMP_NUM_THREADS=2")]),
    ],
)
def test_a_container_with_less_time_than_cores_gets_fewer_threads(monkeypatch, environment, found):
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.5)
    assert [(c.level, c.remedy) for c in threads(environment)] == found
    assert processor().found.endswith("8 cores, of which 2.5 may be used")


@pytest.mark.parametrize(
    ("written", "free", "level", "words"),
    [
        (300 << 20, 100 << 30, "ok", "300.0 MiB/s written for sure, 1.0 GiB/s read"),
        (10 << 20, 100 << 30, "note", "saving will hold a training up"),
        (300 << 20, 5 << 30, "note", "5.0 GiB free"),
    ],
)
def test_a_slow_or_nearly_full_disk_is_noted(monkeypatch, tmp_path, written, free, level, words):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(machine, "_bytes_per_second", lambda folder: (written, 1 << 30))
    found = disk("disk", tmp_path, True)
    assert (found.level, words in found.found) == (level, True)


def test_a_disk_is_measured_and_left_as_it_was(tmp_path):
    written, read = machine._bytes_per_second(tmp_path)
    assert written > 0
    assert read > 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_while_it_is_written_is_broken(monkeypatch, tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "_bytes_per_second", full)
    found = disk("disk", tmp_path, True)
    assert (found.level, "No space left on device" in found.found) == ("broken", True)


def test_a_clock_before_the_installation_is_wrong():
    now = 1_800_000_000.0
    assert clock(now, now - 1e6).level == "ok"
    found = clock(now, now + 2 * 86400)
    assert (found.level, found.found[:20]) == ("warning", "2027-01-15 08:00 UTC")


@pytest.fixture
def mirror():
    """Address of a hub whose clock can be set."""
    date = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response_only(200)
            if date:
                self.send_header("Date", date[0])
            self.end_headers()

        def log_message(self, *said):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}", date=date)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("date", "found"),
    [
        (formatdate(1.0, usegmt=True), ["ok", "warning"]),
        ("now", ["ok"]),
        ("yesterday", ["ok"]),
        (None, ["ok"]),
    ],
    ids=["long ago", "now", "no date", "none"],
)
def test_a_hub_in_reach_tells_whether_the_clock_is_right(mirror, date, found):
    date = formatdate(usegmt=True) if date == "now" else date  # not of the time when the tests were collected
    mirror.date += [date] if date else []
    checks = list(hub({"HF_ENDPOINT": mirror.address}))
    assert [c.level for c in checks] == found
    assert checks[0].found == f"{mirror.address} answers"
    assert all("ahead of the clock of" in c.found for c in checks[1:])


def test_little_shared_memory_is_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20))
    *_, found = limits(tmp_path)
    assert (found.name, found.level, found.remedy) == ("shared memory", "note", "docker run --shm-size=1g")
    assert all(c.name != "shared memory" for c in limits(tmp_path / "none"))
