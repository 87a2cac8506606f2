"""What a browser makes of the page: no scrolling aside on a phone, and colours that can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files

import pytest

from migaki.report import write_report

CSS = files("migaki.report").joinpath("page.css").read_text(encoding="utf-8")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def colours(block: str) -> dict[str, tuple[float, float, float]]:
    found = {}
    for name, value in re.findall(r"--(\w+): (#[0-9a-f]{3,6}|[\d, ]+);", block):
        if value.startswith("#"):
            digits = value[1:] if len(value) == 7 else "".join(2 * digit for digit in value[1:])
            found[name] = tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))
        else:
            found[name] = tuple(map(int, value.split(",")))
    return found


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other) -> float:
    """Source: WCAG 2.2, contrast ratio."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("block", re.findall(r":root \{(.*?)\}", CSS, re.DOTALL), ids=["light", "dark", "print"])
def test_every_text_colour_can_be_read(block):
    c = colours(block)
    assert len(c) == 10
    for text in ("ink", "soft", "before", "after", "red"):
        assert contrast(c[text], c["paper"]) >= 4.5, text
    assert contrast(c["ink"], c["shade"]) >= 4.5
    for shade in ("hit", "miss"):
        # 0.6 is the darkest cell of the confusion matrix.
        cell = [0.6 * a + 0.4 * b for a, b in zip(c[shade], c["paper"], strict=True)]
        assert contrast(c["ink"], cell) >= 4.5, shade


def test_before_and_after_differ_for_the_colour_blind_too():
    """Blue and orange differ along blue against yellow, which red-green blindness leaves; and no meaning is colour alone."""
    for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL):
        c = colours(block)
        assert abs((c["before"][0] - c["before"][2]) - (c["after"][0] - c["after"][2])) > 150


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("run", ["classified", "generated"])
def test_a_phone_of_390_pixels_does_not_scroll_aside(request, tmp_path, run, language):
    """Headless windows are never that narrow, so the page is shown in a frame, which reports its width."""
    page = write_report(request.getfixturevalue(run), language)
    # The measuring script may run only where the page's own policy is out of the way.
    measured = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace(
        "</body>", "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script></body>"
    )
    (tmp_path / "page.html").write_text(measured, encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<body><iframe src='page.html' width='390' height='800' style='border:0'></iframe>"
        "<script>addEventListener('message', e => document.title = 'width ' + e.data)</script>",
        encoding="utf-8",
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--virtual-time-budget=5000",
    ]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>width 390</title>" in found
