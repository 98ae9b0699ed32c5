"""Dimensions that stand alone: which there may be, and how embeddings are shortened to them."""

import numpy as np
import pytest

from sfsc.dimensions import all_dimensions, check_dimension, shorten
from sfsc.errors import SfscError


def test_the_whole_embedding_comes_last() -> None:
    assert all_dimensions((), 64) == (64,)
    assert all_dimensions((), 1) == (1,)
    assert all_dimensions([16, 32], 64) == (16, 32, 64)


@pytest.mark.parametrize("wrong", [[1], [0, 16], [-2], [32, 16], [16, 16], [64], [16, 100]])
def test_wrong_dimensions_are_refused(wrong: list[int]) -> None:
    with pytest.raises(SfscError, match=f"below the embedding dimension 64, got {wrong[0]}"):
        all_dimensions(wrong, 64)


def test_an_unknown_dimension_is_named_with_those_there_are() -> None:
    check_dimension(16, (16, 32, 64))
    with pytest.raises(SfscError, match="dimension 17 is not one of this family's dimensions: 16, 32, 64"):
        check_dimension(17, (16, 32, 64))


def test_shortened_embeddings_have_length_1_and_the_old_direction() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    short = shorten(rows, 3)
    assert (short.shape, short.dtype) == ((5, 3), np.float32)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    lengths = np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(short * lengths, rows[:, :3], atol=1e-6)


def test_what_has_no_direction_stays_without() -> None:
    assert shorten(np.array([[0.0, 0.0, 1.0]], np.float32), 2).tolist() == [[0.0, 0.0]]
