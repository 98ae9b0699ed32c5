import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfsc.errors import SfscError
from sfsc.widths import Widths, cut


@pytest.mark.parametrize("wrong", ["", "0.5", "1.0,0.5", "0,1", "0.5,0.5,1", "0.5,1.2", "a,1.0", [0.25, 0.9]])
def test_wrong_widths_are_refused(wrong: object) -> None:
    with pytest.raises(SfscError, match="width"):
        Widths.of(wrong)


def test_text_and_sequence_give_the_same_widths() -> None:
    assert Widths.of("0.25, 0.5,1") == Widths.of([0.25, 0.5, 1.0])


def test_an_unknown_width_is_named_with_those_there_are() -> None:
    with pytest.raises(SfscError, match=r"0\.3 is not .* 0\.25, 0\.5, 0\.75, 1"):
        Widths().index(0.3)


@given(st.integers(1, 5000), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_cuts_are_nested_and_never_empty(channels: int, a: float, b: float) -> None:
    assert 1 <= cut(channels, min(a, b)) <= cut(channels, max(a, b)) <= cut(channels, 1.0) == channels


def test_float_noise_adds_no_channel() -> None:
    assert cut(30, 0.1) == 3  # 0.1 * 30 = 3.0000000000000004
