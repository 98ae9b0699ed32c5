"""Times and sizes, read and shown."""

from __future__ import annotations

import pytest

from sfsc import SfscError
from sfsc.deploy.quantities import SIZES, TIMES, read_quantity, show_quantity


@pytest.mark.parametrize(
    ("text", "units", "value", "shown"),
    [
        ("10ms", TIMES, 0.01, "10.0 ms"),
        ("1.5 s", TIMES, 1.5, "1.50 s"),
        (".25ms", TIMES, 0.00025, "250 us"),
        ("999.9ms", TIMES, 0.9999, "1.00 s"),
        ("20MB", SIZES, 20e6, "20.0 MB"),
        ("512kB", SIZES, 512e3, "512 kB"),
        ("2GB", SIZES, 2e9, "2.00 GB"),
        ("12B", SIZES, 12, "12.0 B"),
    ],
)
def test_what_is_read_is_shown(text: str, units: dict[str, float], value: float, shown: str) -> None:
    assert read_quantity(text, units) == pytest.approx(value)
    assert show_quantity(value, units) == shown


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("10", TIMES),
        ("ms", TIMES),
        ("-1ms", TIMES),
        ("0ms", TIMES),
        ("1e3ms", TIMES),
        ("5MB", TIMES),
        ("1.ms.", TIMES),
    ],
)
def test_other_texts_are_refused(text: str, units: dict[str, float]) -> None:
    with pytest.raises(SfscError, match=rf"'{text}' is not a number with one of the units s, ms, us"):
        read_quantity(text, units)


@pytest.mark.parametrize("text", ["1" * 200_000, "1" * 200_000 + "ms", "." * 200_000, "1." + "0" * 200_000])
def test_long_texts_are_refused_in_short_lines(text: str) -> None:
    with pytest.raises(SfscError, match="is not a number with one of the units") as caught:
        read_quantity(text, TIMES)
    assert len(str(caught.value)) < 300
