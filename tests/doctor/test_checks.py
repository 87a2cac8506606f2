"""A fault planted for every check: what was found, and the command that mends it."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from migaki.cli import main
from migaki.doctor import checks as module
from migaki.doctor.checks import examine
from migaki.environment import cpu_quota, memory_bytes


def looked_at(function, *arguments):
    """The checks that one function yields or returns."""
    found = function(*arguments)
    return [found] if isinstance(found, module.Check) else list(found)


def test_this_machine_is_examined_without_a_fault(tmp_path):
    found = examine(tmp_path, hub=False)
    assert {"python", "packages", "processor", "memory", "torch", "arithmetic", "locale"} <= {c.name for c in found}
    assert [c for c in found if c.level == "broken"] == []
    assert all(c.remedy for c in found if c.level in ("warning", "broken"))


def test_a_package_that_is_missing_or_too_old_is_named_with_the_command():
    missing, old, right = module._packages(["no-such-package>=2", "numpy>=99", "pydantic>=2; extra == 'x'", "torch"])
    assert (missing.level, missing.remedy) == ("broken", "pip install 'no-such-package>=2'")
    assert old.found.startswith("numpy ")
    assert old.remedy == "pip install 'numpy>=99'"
    assert right.found.startswith("1 packages")


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


def test_a_container_with_less_time_than_cores_gets_fewer_threads(monkeypatch):
    monkeypatch.setattr(module, "available_cores", lambda: 8)
    monkeypatch.setattr(module, "cpu_quota", lambda: 2.5)
    (found,) = looked_at(module._processor)
    assert (found.level, found.remedy) == ("warning", "export OMP_NUM_THREADS=2")


def test_the_memory_of_a_container_counts_and_not_the_machines(tmp_path):
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert memory_bytes(tmp_path) == (1 << 30, True)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_bytes(tmp_path)[1] is False


def test_little_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(module, "memory_bytes", lambda: (2 << 30, True))
    (found,) = looked_at(module._memory)
    assert found.level == "warning"
    assert "2.0 GiB of memory, the limit of the container" in found.found


@pytest.mark.parametrize(("text", "level"), [("64", "warning"), ("many", "warning"), ("1", "note")])
def test_odd_numbers_of_threads_are_found(monkeypatch, text, level):
    monkeypatch.setattr(module, "available_cores", lambda: 4)
    (found,) = module._threads({"OMP_NUM_THREADS": text})
    assert found.level == level


def test_a_full_disk_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    (found,) = looked_at(module._disk, "disk", tmp_path / "runs" / "not" / "there", True)
    assert (found.level, found.found[:12]) == ("warning", "1.0 GiB free")


def test_a_folder_that_cannot_be_written_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
    (found,) = looked_at(module._disk, "disk", tmp_path, True)
    assert found.level == "broken"
    assert "chmod u+w" in found.remedy


def test_without_torch_the_rest_is_still_examined(tmp_path):
    """In a process in which torch cannot be imported at all."""
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    script = "import sys; from migaki.cli import main; sys.exit(main(['doctor', '--json']))"
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    said = json.loads(done.stdout.splitlines()[-1])
    (torch,) = [check for check in said["checks"] if check["name"] == "torch"]
    assert (done.returncode, torch["level"], said["healthy"]) == (1, "broken", False)
    assert "cannot open shared object file" in torch["found"]
    assert {"python", "memory", "locale", "model hub"} <= {check["name"] for check in said["checks"]}


def test_a_torchvision_that_does_not_fit_is_found_before_it_breaks_transformers(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ops.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = looked_at(module._vision)
    assert (found.level, found.found.endswith("operator torchvision::nms does not exist")) == ("broken", True)
    (package / "ops.py").write_text("nms = 1")
    (found,) = looked_at(module._vision)
    assert found.level == "ok"


def fake_torch(cuda=None, available=False):
    version = SimpleNamespace(cuda=cuda, hip=None)
    return SimpleNamespace(
        version=version, backends=SimpleNamespace(), cuda=SimpleNamespace(is_available=lambda: available)
    )


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """A machine with a card, as its nvidia-smi tells."""

    def made(driver):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho 'NVIDIA T4, {driver}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return made


@pytest.mark.parametrize(
    ("driver", "cuda", "level", "words"),
    [
        ("470.82", "12.8", "broken", "driver 470.82, too old for torch built for CUDA 12.8 (needs 525 or newer)"),
        ("570.10", "12.8", "broken", "is there, but torch cannot use it"),
        ("570.10", None, "warning", "torch was built without CUDA"),
    ],
)
def test_a_card_that_torch_does_not_use_is_told_with_the_reason(nvidia, driver, cuda, level, words):
    nvidia(driver)
    (found,) = module._accelerators(fake_torch(cuda))
    assert found.level == level
    assert words in found.found


def test_a_card_that_fails_or_computes_wrongly_is_broken():
    import torch

    def on_card(factor):
        class Card:
            def __init__(self, tensor):
                self.tensor = tensor

            def __matmul__(self, other):
                return SimpleNamespace(cpu=lambda: factor * (self.tensor @ other.tensor))

        class Host(torch.Tensor):
            def to(self, device):
                return Card(torch.Tensor(self))

        cuda = SimpleNamespace(mem_get_info=lambda device: (3 << 30, 4 << 30))
        draw = SimpleNamespace(manual_seed=lambda seed: None)
        return SimpleNamespace(
            cuda=cuda,
            Generator=lambda: draw,
            allclose=torch.allclose,
            randn=lambda *shape, generator: torch.ones(*shape).as_subclass(Host),
        )

    assert module._device(on_card(1), "cuda:0", "T4").found == "cuda:0 is T4, 3.0 GiB of 4.0 GiB free"
    assert "computes wrong products" in module._device(on_card(2), "cuda:0", "T4").found
    failing = SimpleNamespace(
        randn=lambda *a, **k: (_ for _ in ()).throw(RuntimeError("CUDA error: ECC")), Generator=on_card(1).Generator
    )
    assert "ECC" in module._device(failing, "cuda:0", "T4").found


def test_a_text_encoding_that_cannot_show_japanese_is_told(monkeypatch):
    monkeypatch.setattr(module.locale, "getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    (found,) = looked_at(module._text_encoding)
    assert (found.level, found.remedy) == ("warning", "export LC_ALL=C.UTF-8 PYTHONUTF8=1")


@pytest.mark.parametrize(("said", "level"), [("Noto Sans CJK JP,Noto Sans\n", "ok"), ("", "note")])
def test_fonts_for_japanese_are_looked_for(tmp_path, monkeypatch, said, level):
    program = tmp_path / "fc-list"
    program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (found,) = looked_at(module._fonts)
    assert found.level == level


def test_few_open_files_are_a_warning(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    found = next(module._limits())
    assert (found.level, found.remedy) == ("warning", "ulimit -n 1024")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer"),
    ],
)
def test_a_hub_out_of_reach_is_no_fault_but_told(environment, words):
    found = module._hub(environment)
    assert found.level == "note"
    assert words in found.found


def test_doctor_ends_with_one_json_object(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["healthy"] is True
    assert {"name", "level", "found", "remedy"} == said["checks"][0].keys()
