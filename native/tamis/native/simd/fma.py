"""Multiply-add and exponentials that are the same bits on every machine, in float32 and float64, made to be vectorised.

A fused multiply-add is rounded once, whether the processor has it or a library computes it; LLVM vectorises it over the
lanes of a loop, whose sums stay in the order they are written in.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any

import numpy as np
from numba import extending, types

from tamis.native.compiled import piece
from tamis.native.simd.ir import fma, intrinsic

overload: Any = extending.overload

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_TO_INTEGER = np.float32(1.5 * 2.0**23)
"""Adding it to a small float32 rounds that to a whole number; taking it off again leaves the number."""
_LOWEST = np.float32(-87.0)
"""Below it the exponential is taken for 0: about 1.6e-38."""
_BIAS = 127
_MANTISSA_BITS = 23
_TERMS = (
    np.float32(1.0 / 5040.0),
    np.float32(1.0 / 720.0),
    np.float32(1.0 / 120.0),
    np.float32(1.0 / 24.0),
    np.float32(1.0 / 6.0),
    np.float32(0.5),
)

_LOG2_E_DOUBLE = 1.4426950408889634
_LN2_HIGH_DOUBLE = float.fromhex("0x1.62e42feep-1")
_LN2_LOW_DOUBLE = float.fromhex("0x1.a39ef35793c76p-33")
_TO_INTEGER_DOUBLE = 1.5 * 2.0**52
_LOWEST_DOUBLE = -708.0
_BIAS_DOUBLE = 1023
_MANTISSA_BITS_DOUBLE = 52


@intrinsic
def multiply_add(typingctx, left, right, addend):
    """``left * right + addend``, rounded once; three numbers of one float type."""
    if not (left == right == addend and isinstance(left, types.Float)):
        return None

    def codegen(context, builder, signature, args):
        return fma(builder, *args)

    return left(left, right, addend), codegen


@piece
def _exponential_single(x):
    """Exponential of a float32 of at most 88: within 2 units in the last place; 0 from -87 down.

    x = k ln 2 + r with |r| below ln 2 / 2; exp r by its Taylor series: the first term left out is below 2**-27.
    """
    inside = max(x, _LOWEST)
    exponent = multiply_add(inside, _LOG2_E, _TO_INTEGER) - _TO_INTEGER
    r = multiply_add(-exponent, _LN2_LOW, multiply_add(-exponent, _LN2_HIGH, inside))
    series = multiply_add(_TERMS[0], r, _TERMS[1])
    series = multiply_add(series, r, _TERMS[2])
    series = multiply_add(series, r, _TERMS[3])
    series = multiply_add(series, r, _TERMS[4])
    series = multiply_add(series, r, _TERMS[5])
    series = multiply_add(series, r, np.float32(1.0))
    series = multiply_add(series, r, np.float32(1.0))
    scale = np.int32((np.int32(exponent) + np.int32(_BIAS)) << np.int32(_MANTISSA_BITS)).view(np.float32)
    return series * scale if x > _LOWEST else np.float32(0.0)


@piece
def _exponential_double(x):
    """Exponential of a float64 of at most 709, within 2 units in the last place; 0 from -708 down."""
    inside = max(x, _LOWEST_DOUBLE)
    exponent = multiply_add(inside, _LOG2_E_DOUBLE, _TO_INTEGER_DOUBLE) - _TO_INTEGER_DOUBLE
    r = multiply_add(-exponent, _LN2_LOW_DOUBLE, multiply_add(-exponent, _LN2_HIGH_DOUBLE, inside))
    series = 1.0
    for n in range(14, 0, -1):
        series = multiply_add(series, r / n, 1.0)
    scale = np.int64((np.int64(exponent) + _BIAS_DOUBLE) << _MANTISSA_BITS_DOUBLE).view(np.float64)
    return series * scale if x > _LOWEST_DOUBLE else 0.0


def exponential(x: Any) -> Any:
    """Exponential of a number in its own float type; only in kernels."""
    raise TypeError("`exponential` is for compiled code")


@overload(exponential, inline="always")
def _exponential(x):
    if x == types.float32:
        return lambda x: _exponential_single(x)  # noqa: PLW0108 - an overload must be plain Python
    if x == types.float64:
        return lambda x: _exponential_double(x)  # noqa: PLW0108
    return None
