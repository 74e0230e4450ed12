"""Second moments and whitening, against loops."""

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.native.naive import transport as naive

from tamis.native.math import second_moments, whitening

Floats = NDArray[np.float64]

_DATA = np.random.default_rng(11)


def rows_of(n: int, d: int, far: float = 0.0) -> NDArray[np.float32]:
    values: NDArray[np.float32] = (_DATA.normal(size=(n, d)) @ _DATA.normal(size=(d, d)) + far).astype(np.float32)
    return values


@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 3), (63, 7), (64, 8), (65, 9), (150, 13)])
def test_covariance_is_that_of_a_loop_however_rows_arrive(n: int, d: int) -> None:
    rows = rows_of(n, d, far=1000.0)
    mean, expected = naive.covariance(rows.tolist())
    shift = rows[0].astype(np.float64)
    whole = second_moments.second_moments([rows], shift)
    found_mean, found = second_moments.mean_and_covariance(whole)
    size = np.abs(expected).max() + 1e-9
    np.testing.assert_allclose(found_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found, expected, atol=1e-9 * size)
    assert np.array_equal(found, found.T)
    parts = second_moments.add_moments(
        second_moments.second_moments([rows[: n // 2]], shift), second_moments.second_moments([rows[n // 2 :]], shift)
    )
    np.testing.assert_allclose(second_moments.mean_and_covariance(parts)[1], expected, atol=1e-9 * size)
    fisher = np.array(expected) + np.outer(mean, mean)
    np.testing.assert_allclose(second_moments.uncentred(whole), fisher, rtol=1e-9, atol=1e-9 * np.abs(fisher).max())


def test_types_and_layouts_of_rows() -> None:
    rows = _DATA.integers(-3, 4, (40, 5)).astype(np.float64)
    shift = np.zeros(5)
    expected = second_moments.second_moments([rows], shift)
    for kind in (np.float16, np.float32, np.float64):
        same = second_moments.second_moments([np.asfortranarray(rows.astype(kind))], shift)
        assert np.array_equal(same.products, expected.products) and np.array_equal(same.sums, expected.sums)
    assert second_moments.second_moments([rows[:0]], shift).rows == 0


def test_moments_that_do_not_go_together_are_refused() -> None:
    rows = rows_of(4, 2)
    zero, one = (second_moments.second_moments([rows], np.full(2, value)) for value in (0.0, 1.0))
    with pytest.raises(ValueError, match="different points"):
        second_moments.add_moments(zero, one)
    with pytest.raises(ValueError, match="as many columns"):
        second_moments.second_moments([rows], np.zeros(3))
    with pytest.raises(ValueError, match="no rows"):
        second_moments.mean_and_covariance(second_moments.second_moments([], np.zeros(2)))


@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (5, 3, 2), (6, 8, 8), (7, 9, 17)])
def test_transform_is_that_of_a_loop(n: int, d: int, k: int) -> None:
    rows, matrix, centre = rows_of(n, d), _DATA.normal(size=(d, k)), _DATA.normal(size=d)
    expected = naive.product((rows - centre).tolist(), matrix.tolist())
    np.testing.assert_allclose(second_moments.transform(rows, centre, matrix), expected, rtol=1e-12, atol=1e-12)
    matrix[d // 2 :] = 0.0  # zeros at the end of a column are skipped
    matrix[:, k // 2 :] = 0.0
    expected = naive.product((rows - centre).tolist(), matrix.tolist())
    np.testing.assert_allclose(second_moments.transform(rows, centre, matrix), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 7, 30])
def test_factor_inverse_and_root(d: int) -> None:
    _, covariance = second_moments.mean_and_covariance(
        second_moments.second_moments([rows_of(4 * d + 2, d)], np.zeros(d))
    )
    covariance += 0.01 * np.trace(covariance) / d * np.eye(d)
    lower = whitening.cholesky(covariance)
    np.testing.assert_allclose(lower, naive.cholesky(covariance.tolist()), atol=1e-9 * np.abs(lower).max())
    inverse = whitening.inverse_lower(lower)
    np.testing.assert_allclose(np.array(naive.product(lower.tolist(), inverse.tolist())), np.eye(d), atol=1e-9)
    root = whitening.symmetric_root(lower, inverse)
    np.testing.assert_allclose(root @ covariance @ root, np.eye(d), atol=1e-8)
    assert np.array_equal(root, root.T)


@pytest.mark.parametrize("matrix", [[[0.0]], [[1.0, 1.0], [1.0, 1.0 - 1e-9]], [[np.nan]], [[1.0, 0.0], [0.0, -1.0]]])
def test_what_is_not_positive_definite_is_refused(matrix: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        whitening.cholesky(np.array(matrix))
