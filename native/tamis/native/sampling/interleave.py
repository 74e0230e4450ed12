"""An order of rows in which every consecutive slice has the class mix of the whole, and quotas cut along it."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def stratified_order(codes: NDArray[np.int32], bits: NDArray[np.uint64]) -> Ints:
    """Order rows so that every class is spread evenly (ours; the abstract asks for batches that keep the distribution).

    Parameters
    ----------
    codes : int32 [n]
        Class of each row.
    bits : uint64 [n]
        Random words: they shuffle each class, and shift it against the others.

    Returns
    -------
    int64 [n]
        The rows in order: the r-th of a class with m rows lies at (r + u) / m of the way, u in [0, 1) its shift.
    """
    n = len(codes)
    shuffled = np.lexsort((bits, codes))
    ordered = codes[shuffled]
    starts = np.flatnonzero(np.concatenate([np.ones(min(n, 1), np.bool_), ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.append(starts, n))
    ranks = np.arange(n) - np.repeat(starts, counts)
    # The first of a class in shuffled order has its smallest word, nearly 0 of many rows: another is made of it.
    shifts = (bits[shuffled[starts]] * np.uint64(0x9E3779B97F4A7C15)).astype(np.float64) / 2.0**64
    places = (ranks + np.repeat(np.minimum(shifts, 1.0 - 2.0**-53), counts)) / np.repeat(counts, counts)
    return shuffled[np.argsort(places, kind="stable")]


def slices(n: int, rows: int) -> Ints:
    """Bounds of equal slices of n rows, of about ``rows`` each: int64 [slices + 1]."""
    count = max(1, (n + rows // 2) // rows)
    return np.arange(count + 1, dtype=np.int64) * n // count


def cumulative_quotas(quotas: Ints, totals: Ints, seen: Ints) -> Ints:
    """The part of each class's quota for its first ``seen`` rows: rounded down, all of it once all rows are seen.

    Differences along any cut of the rows are quotas of the parts that add up to the whole.

    Parameters
    ----------
    quotas, totals : int64 [classes]
        Rows to take, and rows there are.
    seen : int64 [..., classes]
        At most ``totals``.
    """
    scaled = quotas * seen  # exact: both are below 2**31 wherever a product could reach 2**63
    result: Ints = np.where(totals > 0, scaled // np.maximum(totals, 1), 0)
    return result
