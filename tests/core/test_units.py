"""Numbers as people read them, at the borders between units."""

import pytest

from migaki.core.units import bytes_text, count_text, percent_text, seconds_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**2, "1.0 MiB"),
        (1.5 * 1024**3, "1.5 GiB"),
        (5000 * 1024**3, "5000.0 GiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes_are_told_in_powers_of_1024(n_bytes, text):
    assert bytes_text(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.97, "10 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (60, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_seconds_are_never_told_as_sixty_of_anything(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0 k"),
        (999_949, "999.9 k"),
        (999_960, "1.0 M"),
        (999_960_000, "1.0 G"),
        (1_500_000_000, "1.5 G"),
    ],
)
def test_counts_are_never_told_as_a_thousand_of_a_unit(n, text):
    assert count_text(n) == text


def test_ratios_become_percent_only_here():
    assert [percent_text(ratio) for ratio in (0, 0.0005, 0.12345, 1)] == ["0.0 %", "0.1 %", "12.3 %", "100.0 %"]
