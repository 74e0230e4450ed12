"""The cut-off of the hardest share of the rows: an exact order statistic of float32 values that arrive in chunks.

A sample of the rows brackets the value at the cut-off; one pass counts the rows before the bracket and gathers those
inside. Where that fails (many rows of one value, values that lie in an unlucky order), the value is found by radix
selection, in two passes that count its upper and its lower half. Both give the same.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.sampling.strata import (
    BLOCK_ROWS,
    LARGEST,
    ONE,
    Chunks,
    CutOff,
    Sample,
    no_cut_off,
    parts,
    share_dropped,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

DEVIATIONS = 5.0
"""Half the width of the bracket, in standard deviations of a sampled rank."""

GATHERED_SHARE = 1 / 16
GATHERED_ROWS = 1 << 16
"""Rows that may be gathered: this share of all and these."""

_DIGIT_BITS = 16
_DIGITS = 1 << _DIGIT_BITS
_SIGN = np.uint32(1 << 31)
_EXPONENT = np.uint32(0x7F800000)
_LAST_ROW = np.iinfo(np.int64).max - 1
"""Of a cut-off that drops all rows of its value."""


@kernel
def _gather_bracket(start_row, columns, sign, bracket, gathered, state):
    """Count the usable rows below a bracket, and gather (signed values, row numbers) of those inside.

    ``columns`` = (scores, cut-off values); ``bracket`` = (lowest, highest) signed value; ``state`` = (rows usable,
    below, inside) so far, returned with the chunk's added. Rows inside that do not fit are counted, not written.
    """
    scores, cut = columns
    lowest, highest = bracket
    values, rows = gathered
    usable, below, filled = state
    flags, hits = np.empty(BLOCK_ROWS, np.uint8), np.empty(BLOCK_ROWS + 1, np.uint16)
    for start in range(0, len(cut), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(cut))
        part_scores, part_cut, part = scores[start:stop], cut[start:stop], flags[: stop - start]
        for k in range(len(part)):
            signed = sign * part_cut[k]
            fit = (np.abs(part_scores[k]) <= LARGEST) & (np.abs(signed) <= LARGEST)
            usable += fit
            below += fit & (signed < lowest)
            part[k] = fit & (signed >= lowest) & (signed <= highest)
        count = np.uint64(0)
        for k in range(len(part)):  # without a branch a row
            hits[count] = k
            count += np.uint64(part[k])
        for hit in range(np.int64(count)):
            if filled < len(rows):
                values[filled] = sign * part_cut[hits[hit]]
                rows[filled] = start_row + start + np.int64(hits[hit])
            filled += 1
    return usable, below, filled


@kernel
def _digits(scores, cut, flip, out):
    """Write the upper half of the ordered cut-off bits to ``out`` uint16 [n]; 0, which no number has, if unusable.

    ``scores`` and ``cut`` are uint32 views; -0.0 and 0.0 get the same digit.
    """
    for k in range(len(out)):
        bits = np.uint32(0) if cut[k] == _SIGN else cut[k]
        key = np.uint32(~bits if bits & _SIGN else bits | _SIGN) ^ flip
        usable = (cut[k] & _EXPONENT != _EXPONENT) & (scores[k] & _EXPONENT != _EXPONENT)
        out[k] = np.uint16(key >> np.uint32(_DIGIT_BITS)) if usable else np.uint16(0)


@kernel
def _count_high(scores, cut, flip, histogram):
    """Count rows by the upper half of their cut-off bits: ``histogram`` int64 [65536]."""
    digits = np.empty(BLOCK_ROWS, np.uint16)
    even, odd = np.zeros(len(histogram), np.uint32), np.zeros(len(histogram), np.uint32)
    for start in range(0, len(cut), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(cut))
        part = digits[: stop - start]
        _digits(scores[start:stop], cut[start:stop], flip, part)
        for k in range(0, len(part) - 1, 2):  # two tables: the same digit twice in a row does not wait for itself
            even[part[k]] += np.uint32(1)
            odd[part[k + 1]] += np.uint32(1)
        if len(part) % 2:
            even[part[len(part) - 1]] += np.uint32(1)
    for k in range(len(histogram)):
        histogram[k] += np.int64(even[k]) + np.int64(odd[k])


@kernel
def _count_low(scores, cut, flip, high, histogram):
    """Count the rows whose upper half is ``high`` by the lower half of their cut-off bits."""
    digits = np.empty(BLOCK_ROWS, np.uint16)
    for start in range(0, len(cut), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(cut))
        part = digits[: stop - start]
        _digits(scores[start:stop], cut[start:stop], flip, part)
        for k in range(len(part)):
            if part[k] == high:
                bits = np.uint32(0) if cut[start + k] == _SIGN else cut[start + k]
                key = np.uint32(~bits if bits & _SIGN else bits | _SIGN) ^ flip
                histogram[key & np.uint32(_DIGITS - 1)] += 1


@kernel
def _find_tie(scores, cut, value, wanted):
    """Return where the ``wanted``-th usable row (from 1) with exactly the cut-off value is, or minus the rest."""
    for start in range(0, len(cut), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(cut))
        found = 0
        for k in range(start, stop):
            found += (cut[k] == value) & (np.abs(scores[k]) <= LARGEST)
        if found < wanted:
            wanted -= found
            continue
        for k in range(start, stop):
            wanted -= (cut[k] == value) & (np.abs(scores[k]) <= LARGEST)
            if wanted == 0:
                return k
    return -wanted


def cut_hardest(chunks: Chunks, sample: Sample, beta: float, hard_end: str) -> CutOff:
    """Find the cut-off of the hardest share of the usable rows.

    Parameters
    ----------
    chunks
        Read once as a rule; three times, and in part once more, where the sample did not help.
    sample : Sample
        Of the same chunks; decides the time, never the result.
    beta
        0 to below 1. Dropped are beta times the usable rows, the product in float64 and truncated.
    hard_end : {'low', 'high'}
        Which end of the cut-off values is dropped. Of equal values the rows with the lower numbers are.
    """
    if hard_end not in ("low", "high"):
        raise ValueError(f"hard_end must be 'low' or 'high', not {hard_end!r}")
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be 0 or more and below 1, not {beta}")
    found = _cut_bracketed(chunks, sample, beta, _sign(hard_end))
    return cut_by_radix(chunks, beta, hard_end) if found is None else found


def _sign(hard_end: str) -> np.float32:
    return ONE if hard_end == "low" else -ONE


def _bracket(sample: Sample, beta: float, sign: np.float32) -> tuple[np.float32, np.float32, int]:
    """Return the lowest and highest signed value that the cut-off may have, and how many rows to expect there."""
    usable = (np.abs(sample.scores) <= LARGEST) & (np.abs(sample.cut) <= LARGEST)
    values = sign * sample.cut[usable]
    if not len(values):
        return -LARGEST, LARGEST, sample.rows
    margin = DEVIATIONS * (np.sqrt(len(values) * beta * (1 - beta)) + 1)
    ranks = np.array([beta * len(values) - margin, beta * len(values) + margin])
    first, last = np.clip(ranks, 0, len(values) - 1).astype(np.int64).tolist()
    values = np.partition(values, [first, last])
    lowest = values[first] if ranks[0] >= 0 else -LARGEST
    highest = values[last] if ranks[1] < len(values) else LARGEST
    inside = np.count_nonzero((values >= lowest) & (values <= highest))
    return lowest, highest, int(inside * (sample.rows / len(sample.cut)))


def _cut_bracketed(chunks: Chunks, sample: Sample, beta: float, sign: np.float32) -> CutOff | None:
    """Find the cut-off inside the sample's bracket; None when it is not there, or too many rows are."""
    lowest, highest, expected = _bracket(sample, beta, sign)
    room = min(sample.rows, int(sample.rows * GATHERED_SHARE) + GATHERED_ROWS)
    if expected > room:
        return None
    values, rows = np.empty(room, np.float32), np.empty(room, np.int64)
    state = (0, 0, 0)
    for start, scores, cut, _ in parts(chunks, no_cut_off()):
        state = _gather_bracket(start, (scores, cut), sign, (lowest, highest), (values, rows), state)
    usable, below, inside = state
    dropped = share_dropped(beta, usable)
    if dropped == 0:
        return no_cut_off(usable)
    if inside > room or not below < dropped <= below + inside:
        return None
    values, rows = values[:inside], rows[:inside]
    value = np.partition(values, dropped - below - 1)[dropped - below - 1]
    tied = rows[values == value]
    wanted = dropped - below - np.count_nonzero(values < value)
    return CutOff(sign, value, int(tied[wanted - 1]), dropped, usable)


def cut_by_radix(chunks: Chunks, beta: float, hard_end: str) -> CutOff:
    """Find the cut-off by counting all rows by the upper half of their bits, then some by the lower half.

    What `cut_hardest` does where its sample did not help; parameters are as there.
    """
    sign = _sign(hard_end)
    flip = np.uint32(0) if sign > 0 else np.uint32(0xFFFFFFFF)
    whole = no_cut_off()
    histogram = np.zeros(_DIGITS, np.int64)
    for _, scores, cut, _ in parts(chunks, whole):
        _count_high(scores.view(np.uint32), cut.view(np.uint32), flip, histogram)
    histogram[0] = 0  # unusable
    usable = int(histogram.sum())
    dropped = share_dropped(beta, usable)
    if dropped == 0:
        return no_cut_off(usable)
    reached = np.cumsum(histogram)
    high = int(np.searchsorted(reached, dropped))  # the first digit up to which as many rows lie
    before = int(reached[high] - histogram[high])
    histogram[:] = 0
    for _, scores, cut, _ in parts(chunks, whole):
        _count_low(scores.view(np.uint32), cut.view(np.uint32), flip, high, histogram)
    reached = before + np.cumsum(histogram)
    low = int(np.searchsorted(reached, dropped))
    tied, wanted = int(histogram[low]), dropped - int(reached[low] - histogram[low])
    value = sign * _value_of(np.uint32(high << _DIGIT_BITS | low) ^ flip)
    if wanted == tied:
        return CutOff(sign, value, _LAST_ROW, dropped, usable)
    for start, scores, cut, _ in parts(chunks, whole):
        found = _find_tie(scores, cut, sign * value, wanted)
        if found >= 0:
            return CutOff(sign, value, start + found, dropped, usable)
        wanted = -found
    raise RuntimeError("the chunks changed between two passes")


def _value_of(ordered: np.uint32) -> np.float32:
    """Return the float32 of ordered bits."""
    bits = ordered & ~_SIGN if ordered & _SIGN else ~ordered
    value: np.float32 = np.array([bits], np.uint32).view(np.float32)[0]
    return value
