"""The names of sub-models: with the image size where sizes differ."""

from __future__ import annotations

from sfsc.deploy.profile import Measured, Profile
from sfsc.report.names import names_of


def test_names_of_an_evaluation() -> None:
    assert names_of({"widths": [0.25, 1.0]}) == ["0.25", "1"]
    sizes = [[48, 24], [96, 40], [128, 64]]
    assert names_of({"widths": [0.25, 0.5, 1.0], "image_sizes": sizes}) == ["0.25@48", "0.5@96x40", "1"]


def test_names_in_a_profile() -> None:
    def row(width: float, size: tuple[int, int] | None) -> Measured:
        return Measured(width, "onnx", "int8", None, None, None, None, None, 1, 1.0, 1.0, 1.0, None, size)

    profile = Profile("", None, 1, (row(0.25, (48, 48)), row(0.5, (64, 64)), row(1.0, (64, 64))))
    assert [profile.name_of(width) for width in (0.25, 0.5, 1.0)] == ["0.25@48", "0.5", "1"]
    older = Profile("", None, 1, (row(0.25, None), row(1.0, None)))
    assert older.name_of(0.25) == "0.25"
