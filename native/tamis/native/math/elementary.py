"""Logarithms and exponentials that are the same bits on every machine.

NumPy has its own for processors with AVX-512, which differ in the last bit from those it calls elsewhere.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.math.rng import LN2_HIGH, LN2_LOW, natural_log

_INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")
_LOWEST_EXPONENT = -1022
_BIAS = 1023
_MANTISSA_BITS = 52


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
