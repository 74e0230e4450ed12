"""Logarithms and exponentials: near the C library's, and the same bits whatever the processor."""

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.native.math.elementary import exponentials, logarithms, natural_exp

SAMPLE = "np.random.default_rng(3).random(20_000)"


@settings(deadline=None)
@given(st.floats(-708, 709))
def test_exponentials_are_within_two_units(x: float) -> None:
    assert abs(natural_exp(x) - math.exp(x)) <= 2 * math.ulp(math.exp(x))


def test_exponentials_of_very_small_numbers_are_zero() -> None:
    assert exponentials(np.array([-709.0, -1e300, -np.inf])).tolist() == [0, 0, 0]
    assert exponentials(np.zeros((2, 2))).tolist() == [[1, 1], [1, 1]]


def test_logarithms_are_near_numpys() -> None:
    x = np.concatenate([np.random.default_rng(0).random(10_000), [1e-8, 1.0, 1 + 1e-8]])
    np.testing.assert_allclose(logarithms(x), np.log(x), rtol=1e-15, atol=1e-16)
    assert logarithms(x.reshape(1, -1)).shape == (1, len(x))


def test_they_are_the_same_bits_without_wide_vectors() -> None:
    code = (
        "import hashlib, numpy as np; from tamis.native.math.elementary import exponentials, logarithms; "
        f"x = {SAMPLE}; print(hashlib.sha256(logarithms(x).tobytes() + exponentials(-x).tobytes()).hexdigest())"
    )
    narrow = os.environ | {
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512_SKX",
        "NUMBA_CPU_NAME": "generic",
    }
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=narrow, capture_output=True, text=True, check=True
    )
    x = np.random.default_rng(3).random(20_000)
    assert other.stdout.strip() == hashlib.sha256(logarithms(x).tobytes() + exponentials(-x).tobytes()).hexdigest()
