"""A fault planted for every check of Python and the packages."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import migaki
from migaki.doctor import libraries
from migaki.doctor.libraries import packages, python, sounds, torch_and_devices, vision


def test_a_package_that_is_missing_or_too_old_is_named_with_the_command():
    missing, old, right = packages(["no-such-package>=2", "numpy>=99", "pydantic>=2; extra == 'x'", "torch"])
    assert (missing.level, missing.remedy) == ("broken", "pip install 'no-such-package>=2'")
    assert old.found.startswith("numpy ")
    assert old.remedy == "pip install 'numpy>=99'"
    assert right.found.startswith("1 packages")


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
    (found,) = vision()
    assert (found.level, found.found.endswith("operator torchvision::nms does not exist")) == ("broken", True)
    (package / "ops.py").write_text("nms = 1")
    (found,) = vision()
    assert found.level == "ok"


def test_python_without_an_environment_of_its_own_is_noted(monkeypatch):
    assert python().level == "ok"
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    found = python()
    assert (found.level, found.remedy) == ("note", "python3.11 -m venv .venv && source .venv/bin/activate")


def test_without_torchvision_nothing_is_said_of_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(vision()) == []


def test_a_torchvision_that_hangs_is_broken(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(libraries, "IMPORT_S", 0.5)
    (found,) = vision()
    assert (found.level, "it took more than 0 s" in found.found) == ("broken", True)


def test_torch_is_told_with_its_build_and_threads():
    import torch

    found = next(iter(torch_and_devices(speed=False)))
    assert found.found.startswith(f"torch {torch.__version__}, built for ")
    assert found.found.endswith(f"{torch.get_num_threads()} threads")


def test_the_doctor_answers_where_nothing_is_installed_at_all(tmp_path):
    """The source with nothing but Python's own library."""
    source = str(Path(migaki.__file__).parents[1])
    script = (
        f"import sys; sys.path.insert(0, {source!r}); from migaki.cli import main; sys.exit(main(['doctor', '--json']))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(done.stdout.splitlines()[-1])["checks"]}
    assert (done.returncode, checks["torch"]["level"]) == (1, "broken")
    assert checks["packages"]["found"] == "migaki is here as source, but not installed"


def test_recordings_can_be_read_or_it_is_said_what_is_missing(monkeypatch, tmp_path):
    assert sounds().level == "ok"
    # A package whose library is not there, before one that is.
    (tmp_path / "soundfile.py").write_text("raise OSError('sndfile library not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "soundfile", raising=False)
    found = sounds()
    assert (found.level, "sndfile library not found" in found.found) == ("broken", True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = sounds()
    assert (found.level, found.remedy) == ("note", "pip install 'migaki[audio]', where you need them")
