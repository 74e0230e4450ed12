"""Vectors rounded to 8 bits, and bounds of their inner products, by which pairs that can't matter are left out.

A vector is x = s x' + e, of a scale s, whole numbers x' of 8 bits, and what is left. For two of them

    q.x <= s_q s_x q'.x' + |s_q q'| |e_x| + |e_q| |x|

by Cauchy and Schwarz. Of vectors of length 1 at most, the sum that float32 makes of q.x is above that by less than
(d + `SPARE_ROUNDINGS`) 2^-24.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.simd.tile import LANES
from tamis.native.simd.tile8 import STEP

OFFSET = 128
"""Added to the rounded values of rows, since that instruction takes one side without a sign."""
SPARE_ROUNDINGS = 64
"""Roundings of the bound itself, in units of 2^-24, with room to spare."""
SHORTEST = 1e-20
"""A vector whose coordinates are all below this is rounded to nothing."""
UP = 1.0 + 1e-6
"""Takes a length, rounded to float32, to what it can't be above."""
_LEVELS = 127
_PARTIAL = 8
_MAGNITUDE = np.int32(0x7FFFFFFF)


class Coarse(NamedTuple):
    """Vectors rounded to 8 bits."""

    values: NDArray[np.int8]  # [n, dimension to whole steps]
    scale: NDArray[np.float32]  # [n]
    residual: NDArray[np.float32]  # [n], length of what rounding leaves, rounded up; not finite where the vector is not


@kernel
def _round(rows, values, scale, residual):
    n, dimension = rows.shape
    for row in range(n):
        line = rows[row]
        bits = np.int32(0)
        for column in range(dimension):  # magnitudes order as the numbers of their bits do
            bits = max(bits, np.int32(np.float32(line[column]).view(np.int32) & _MAGNITUDE))
        largest = np.int32(bits).view(np.float32)
        step = largest / np.float32(_LEVELS) if largest >= SHORTEST else np.float32(1.0)
        inverse = np.float32(1.0) / step
        for column in range(dimension):
            value = np.rint(line[column] * inverse)
            values[row, column] = np.int8(max(np.float32(-_LEVELS), min(np.float32(_LEVELS), value)))
        left = np.zeros(_PARTIAL)
        for first in range(0, dimension, _PARTIAL):
            for part in range(min(_PARTIAL, dimension - first)):
                rest = np.float64(line[first + part]) - np.float64(step) * np.float64(values[row, first + part])
                left[part] += rest * rest
        scale[row] = step
        residual[row] = np.float32(np.sqrt(left.sum()) * UP)


def to_bytes(rows: NDArray[np.float32]) -> Coarse:
    """Round vectors, float32 [n, d], to 8 bits."""
    n, dimension = rows.shape
    values = np.zeros((n, -(-dimension // STEP) * STEP), np.int8)
    found = Coarse(values, np.empty(n, np.float32), np.empty(n, np.float32))
    _round(rows, *found)
    return found


def pack_bytes(found: Coarse) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pack rows for `tile_reaches`.

    Parameters
    ----------
    found : Coarse
        Of vectors of length 1 at most, up to rounding.

    Returns
    -------
    uint8 [panels, steps, LANES, STEP], float32 [panels, 2, LANES]
        The rounded values plus `OFFSET`; and the terms of each row: its scale, and what rounding and float32 may hide.
    """
    n, width = found.values.shape
    values = np.zeros((-(-n // LANES) * LANES, width), np.int8)
    values[:n] = found.values
    fours = (values.view(np.uint8) ^ np.uint8(OFFSET)).view(np.uint32).reshape(-1, LANES, width // STEP)
    terms = np.zeros((2, len(values)), np.float32)
    terms[0, :n] = found.scale
    terms[1, :n] = found.residual + np.float32((width + SPARE_ROUNDINGS) * 2.0**-24)
    packed = np.ascontiguousarray(fours.swapaxes(1, 2)).view(np.uint8).reshape(-1, width // STEP, LANES, STEP)
    return packed, np.ascontiguousarray(terms.reshape(2, -1, LANES).swapaxes(0, 1))
