"""Eigenvectors, and inner products of gradients, against loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.native.learning import influence
from tamis.native.math import eigen

_DATA = np.random.default_rng(5)


def symmetric(kind: str, d: int) -> NDArray[np.float64]:
    """Matrices that are easy to get wrong: equal eigenvalues, zeros, many sizes of numbers."""
    if kind == "zero":
        return np.zeros((d, d))
    if kind == "diagonal":
        return np.diag(np.arange(float(d)))
    if kind == "equal":
        return np.eye(d) * 3.0
    rows = _DATA.normal(size=(2 * d, d))
    if kind == "singular":
        rows = np.repeat(_DATA.normal(size=(1, d)), 3, axis=0)
    if kind == "scaled":
        rows = rows @ np.diag(np.geomspace(1, 1e6, d))
    product: NDArray[np.float64] = rows.T @ rows
    return product


@pytest.mark.parametrize("kind", ["zero", "diagonal", "equal", "singular", "scaled", "plain"])
@pytest.mark.parametrize("d", [1, 2, 3, 8, 21])
def test_eigenvectors(kind: str, d: int) -> None:
    matrix = symmetric(kind, d)
    values, vectors = eigen.eigenvectors(matrix)
    scale = max(1.0, np.abs(matrix).max())
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=1e-11 * scale)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(d), atol=1e-12)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(matrix), atol=1e-11 * scale)
    assert np.array_equal(eigen.eigenvectors(matrix)[1], vectors)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 4), st.sampled_from([np.float16, np.float32, np.float64]))
def test_products_are_those_of_loops(n: int, out: int, inputs: int, kind: type) -> None:
    deltas: NDArray[Any] = _DATA.normal(size=(n, out)).astype(kind)
    x: NDArray[Any] = _DATA.normal(size=(n, inputs)).astype(kind)
    weights, vector = _DATA.normal(size=(out, inputs)), _DATA.normal(size=out)
    whole = [
        sum(float(deltas[row, i]) * weights[i, j] * float(x[row, j]) for i in range(out) for j in range(inputs))
        for row in range(n)
    ]
    np.testing.assert_allclose(influence.layer_products(deltas, x, weights), whole, rtol=1e-9, atol=1e-9)
    single = [sum(float(deltas[row, i]) * vector[i] for i in range(out)) for row in range(n)]
    np.testing.assert_allclose(influence.products(deltas, vector), single, rtol=1e-12, atol=1e-12)
    sums = np.ones(out)
    influence.add_columns(deltas, sums)
    np.testing.assert_allclose(sums, 1 + deltas.astype(np.float64).sum(axis=0), rtol=1e-12, atol=1e-12)


def test_a_matrix_that_can_not_be_inverted_is_refused() -> None:
    with pytest.raises(ValueError, match="positive definite"):
        influence.fisher_product(np.zeros((2, 2)), 0.0, np.ones(2))
