"""Cards that torch cannot use, or that compute wrongly."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from migaki.doctor import accelerators as module
from migaki.doctor.accelerators import accelerators, tpu


def fake_torch(cuda=None, hip=None, available=False):
    version = SimpleNamespace(cuda=cuda, hip=hip)
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
    ("driver", "cuda", "level", "words", "remedy"),
    [
        (
            "470.82",
            "12.8",
            "broken",
            "driver 470.82, too old for torch built for CUDA 12.8 (needs 525 or newer)",
            "update",
        ),
        (
            "570.10",
            "13.0",
            "broken",
            "driver 570.10, too old for torch built for CUDA 13.0 (needs 580 or newer)",
            "/cu128",
        ),
        ("570.10", "12.8", "broken", "is there, but torch cannot use it", "nvidia-smi"),
        ("570.10", None, "warning", "torch was built without CUDA", "/cu128"),
        ("580.65", None, "warning", "torch was built without CUDA", "/cu130"),
        ("[N/A]", None, "warning", "torch was built without CUDA", "update"),
    ],
)
def test_a_card_that_torch_does_not_use_is_told_with_the_reason(
    nvidia, monkeypatch, driver, cuda, level, words, remedy
):
    nvidia(driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = accelerators(fake_torch(cuda))
    assert found.level == level
    assert words in found.found
    assert remedy in found.remedy


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


def test_a_card_that_is_hidden_on_purpose_is_only_noted(nvidia, monkeypatch):
    nvidia("570.10")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (found,) = accelerators(fake_torch("12.8"))
    assert (found.level, found.remedy) == ("note", "unset CUDA_VISIBLE_DEVICES")


def test_an_nvidia_smi_that_fails_lists_no_card(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed, it could not talk to the driver'\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert module.nvidia_cards() == []


@pytest.mark.parametrize(
    ("hip", "opens", "level", "remedy"),
    [
        (None, True, "warning", "/rocm"),
        ("7.1", False, "broken", "usermod -aG render,video"),
        ("7.1", True, "broken", "rocminfo"),
    ],
)
def test_an_amd_card_that_torch_does_not_use_is_told_with_the_reason(tmp_path, monkeypatch, hip, opens, level, remedy):
    monkeypatch.setattr(module, "nvidia_cards", list)
    monkeypatch.setattr(module.os, "access", lambda path, mode: opens)
    (tmp_path / "kfd").touch()
    (found,) = accelerators(fake_torch(hip=hip), tmp_path / "kfd")
    assert (found.level, remedy in found.remedy) == (level, True)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("def device():\n    return 'cpu'\n", "torch_xla computes on its device"),
        ("raise ImportError('undefined symbol: _ZN5torch4lazy')\n", "fails (ImportError: undefined symbol: _ZN5torch4lazy)"),
    ],
)  # fmt: skip
def test_a_tpu_is_tried_in_a_process_of_its_own(tmp_path, monkeypatch, script, words):
    (tmp_path / "torch_xla.py").write_text(script)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = tpu()
    assert (found.level, words in found.found) == ("note", True)


def test_without_torch_xla_nothing_is_said_of_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(tpu()) == []


def test_a_device_that_migaki_does_not_use_is_tried_and_noted(monkeypatch):
    import torch

    monkeypatch.setattr(module, "nvidia_cards", list)
    real = module._device
    monkeypatch.setattr(module, "_device", lambda fake, device, name: real(torch, "cpu", name))
    mps = SimpleNamespace(backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True)))
    mps.cuda, mps.version = SimpleNamespace(is_available=lambda: False), SimpleNamespace(cuda=None, hip=None)
    (found,) = accelerators(mps)
    assert found.level == "note"
    assert found.found.startswith("cpu is Apple's graphics processor; migaki computes on the processor")
