"""Products of small dense matrices in float32 or float64, every sum in a fixed order: no BLAS."""

# mypy: disable-error-code="no-untyped-def"

from tamis.native.compiled import kernel, piece
from tamis.native.simd.fma import multiply_add

_TILE = 4
"""Rows of the right matrix that a pass over a row of the product serves."""


@piece
def add_scaled(out, scale, row):
    """``out += scale * row``; of one length."""
    for c in range(len(out)):
        out[c] = multiply_add(scale, row[c], out[c])


@piece
def dot(left, right):
    """Sum of products in order of the index."""
    total = left[0] * right[0]
    for c in range(1, len(left)):
        total = multiply_add(left[c], right[c], total)
    return total


@piece
def add_product(row, w, out):
    """``out += row w``: [d] times [d, m] onto [m]."""
    d = len(row)
    whole = d - d % _TILE
    for c in range(0, whole, _TILE):
        x0, x1, x2, x3 = row[c], row[c + 1], row[c + 2], row[c + 3]
        w0, w1, w2, w3 = w[c], w[c + 1], w[c + 2], w[c + 3]
        for j in range(len(out)):
            total = multiply_add(x1, w1[j], multiply_add(x0, w0[j], out[j]))
            out[j] = multiply_add(x3, w3[j], multiply_add(x2, w2[j], total))
    for c in range(whole, d):
        add_scaled(out, row[c], w[c])


@kernel
def multiply(x, w, out):
    """``out = x w``: [n, d] times [d, m] into [n, m]; every sum in order of d."""
    for i in range(len(x)):
        out[i] = 0
        add_product(x[i], w, out[i])
