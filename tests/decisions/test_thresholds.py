"""The file of thresholds: what was saved is what is loaded; what is damaged or foreign is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfsc.decisions.fitting import fit_map
from sfsc.decisions.pair import Pair
from sfsc.decisions.thresholds import Thresholds
from sfsc.errors import SfscError
from tests.decisions.pairs import FINGERPRINT, example, gaussian


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    pair = Pair(0.25, 1.0, "int8", 128)
    thresholds = replace(example(), maps={**example().maps, pair: fit_map(gaussian(0), 500)})
    thresholds.save(tmp_path / "thresholds.json")
    assert Thresholds.load(tmp_path / "thresholds.json") == thresholds


def test_a_pair_without_a_map_is_named_with_the_remedy() -> None:
    with pytest.raises(SfscError, match=r"query at width 0.5 and a row at width 1, stored in float16, "):
        example().of(Pair(0.5, 1.0, "float16", 8))
    with pytest.raises(SfscError, match=r"with 16 dimensions: fit them with `sfsc thresholds RUN`"):
        example().of(Pair(0.5, 1.0, "int8", 16))


def test_thresholds_of_another_family_are_refused() -> None:
    example().check(FINGERPRINT)
    with pytest.raises(SfscError, match=rf"of the family {FINGERPRINT}, not of fedc: fit them with"):
        example().check("fedc")


def test_some_pairs_can_be_chosen() -> None:
    chosen = example().chosen(lambda pair: pair.query_width == 0.5)
    assert {pair.query_width for pair in chosen.maps} == {0.5}
    assert len(chosen.maps) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cosines", [0.5, 0.4, 0.3]),
        ("cosines", [0.5]),
        ("log_ratios", [1.0, 0.5, 0.0]),
        ("rates", [0.1, 0.1, 0.01]),
        ("rates", [1.0, 0.1, 0.0]),
        ("thresholds", [0.5, 0.4, 0.3]),
        ("thresholds", []),
        ("matches", 0),
        ("queries", 11),
        ("cosines", [0.0, 0.1, 1e308]),
        ("matches", "many"),
    ],
)
def test_impossible_maps_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    content = example().to_json()
    content["maps"][0]["map"][name] = value
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(SfscError, match=r"t.json are damaged \(.*\): fit them with `sfsc thresholds RUN`"):
        Thresholds.load(tmp_path / "t.json")


def test_newer_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(example().to_json() | {"format": 2}))
    with pytest.raises(SfscError, match="newer sfsc: upgrade"):
        Thresholds.load(tmp_path / "t.json")
    with pytest.raises(SfscError, match="cannot read"):
        Thresholds.load(tmp_path / "none.json")
