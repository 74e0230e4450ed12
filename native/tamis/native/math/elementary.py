"""Logarithms and exponentials that are the same bits on every machine.

They are computed from the four IEEE operations: NumPy has its own for processors with AVX-512, which differ in the last
bit from those it calls elsewhere, and C libraries differ among each other.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel

_BITS_OF_SQRT_HALF = np.float64(0.5**0.5).view(np.uint64)
# ln 2 in two parts: the first has 21 trailing zero bits, so that its product with an exponent is exact.
LN2_HIGH = float.fromhex("0x1.62e42feep-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_MANTISSA = np.uint64((1 << 52) - 1)
_INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")
_LOWEST_EXPONENT = -1022
_BIAS = 1023
_MANTISSA_BITS = 52


@kernel
def natural_log(x):
    """Natural logarithm of a normal, positive, finite float64, within 2 units in the last place.

    x = m 2**e with m in [sqrt 1/2, sqrt 2); ln m = 2 artanh(s) with s = (m - 1) / (m + 1), by its Taylor series: the
    first term left out is below 2**-58 of the first.
    """
    above = np.float64(x).view(np.uint64) - _BITS_OF_SQRT_HALF
    exponent = np.float64(np.int64(above) >> 52)
    mantissa = np.uint64((above & _MANTISSA) + _BITS_OF_SQRT_HALF).view(np.float64)
    f = mantissa - 1.0
    s = f / (2.0 + f)
    z = s * s
    series = 1.0 / 23.0
    series = series * z + 1.0 / 21.0
    series = series * z + 1.0 / 19.0
    series = series * z + 1.0 / 17.0
    series = series * z + 1.0 / 15.0
    series = series * z + 1.0 / 13.0
    series = series * z + 1.0 / 11.0
    series = series * z + 1.0 / 9.0
    series = series * z + 1.0 / 7.0
    series = series * z + 1.0 / 5.0
    series = series * z + 1.0 / 3.0
    # ln(1 + f) = f - s (f - 2 z series): the large term is exact, so that rounding touches small ones only.
    tail = s * (f - 2.0 * z * series)
    return exponent * LN2_HIGH - ((tail - exponent * LN2_LOW) - f)


@kernel
def natural_exp(x):
    """Exponential of a float64 of at most 709, within 2 units in the last place; 0 where it is below 2**-1022.

    x = k ln 2 + r with |r| below ln 2 / 2; exp r by its Taylor series: the first term left out is below 2**-63.
    """
    exponent = np.floor(x * _INVERSE_LN2 + 0.5)
    if not exponent >= _LOWEST_EXPONENT:
        return 0.0
    r = (x - exponent * LN2_HIGH) - exponent * LN2_LOW
    series = 1.0
    for n in range(14, 0, -1):
        series = 1.0 + r / n * series
    return series * np.uint64((np.int64(exponent) + _BIAS) << _MANTISSA_BITS).view(np.float64)


@kernel
def _fill_logs(x, out):
    for k in range(len(x)):
        out[k] = natural_log(x[k])


@kernel
def _fill_exps(x, out):
    for k in range(len(x)):
        out[k] = natural_exp(x[k])


def _flat(x: NDArray[np.float64]) -> NDArray[np.float64]:
    view = np.ascontiguousarray(x, dtype=np.float64).reshape(-1).view()
    view.setflags(write=False)
    return view


def logarithms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithms of normal, positive, finite numbers: float64, of the shape of ``x``."""
    out = np.empty(x.shape)
    _fill_logs(_flat(x), out.reshape(-1))
    return out


def exponentials(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponentials of numbers of at most 709: float64, of the shape of ``x``."""
    out = np.empty(x.shape)
    _fill_exps(_flat(x), out.reshape(-1))
    return out
