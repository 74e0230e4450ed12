"""Lengths of vectors."""

import numpy as np
import pytest

from tamis.native.math.norms import squared_lengths


@pytest.mark.parametrize("dimension", [0, 1, 3, 4, 5, 64, 67])
def test_sums_of_squares(dimension: int) -> None:
    matrix = np.random.default_rng(dimension).normal(size=(7, dimension)).astype(np.float32)
    matrix.setflags(write=False)
    np.testing.assert_allclose(squared_lengths(matrix), (matrix.astype(np.float64) ** 2).sum(axis=1), rtol=1e-14)


def test_no_overflow() -> None:
    assert squared_lengths(np.full((1, 2), 1e30, np.float32))[0] == pytest.approx(2e60)
    assert squared_lengths(np.zeros((0, 3), np.float32)).shape == (0,)
