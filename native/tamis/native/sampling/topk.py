"""Exact top-k over float64 keys that arrive in chunks, in memory that does not depend on the number of rows.

Rows are ordered by key, largest first, and by row number, lowest first, where keys are equal. A selection is a
*cut-off* a stratum: the last (key, row) taken. Cut-offs are found by radix selection over the 128-bit pair (key bits,
row): each pass over the chunks counts the rows by their next digit, and as soon as few rows are left undecided they are
gathered and sorted. A key of -inf means not eligible; NaN is refused.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece

# mypy: disable-error-code="no-untyped-def"

Chunk = tuple[int, NDArray[np.float64], NDArray[np.int32] | None, NDArray[np.int64] | None]
"""(first row number, keys, stratum of each row or None, size of each row or None)"""
Chunks = Callable[[], Iterator[Chunk]]
"""Called once a pass; every pass must give the same rows, in any order of chunks."""

WORD_BITS = 64
MAX_DIGIT_BITS = 16
MIN_DIGIT_BITS = 4
HISTOGRAM_CELLS = 1 << 20
"""Cells (strata times digits) of a histogram, at most, as long as a digit keeps `MIN_DIGIT_BITS`; 8 bytes each."""
GATHERED_ROWS = 1 << 19
"""Undecided rows, over all strata, that are gathered and sorted instead of counted again; 28 bytes each."""

_SIGN = np.uint64(1 << 63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOWEST_BITS = np.uint64(0x000FFFFFFFFFFFFF)
"""`ordered_bits` of -inf; those of every eligible key are larger."""
_NAN_FOUND = -1
_STRATUM_OUT_OF_RANGE = -2
_NEGATIVE_SIZE = -3


class CutOffs(NamedTuple):
    """Last row taken in each stratum: a row is selected if (key bits, -row) is not below (bits, -row) here."""

    bits: NDArray[np.uint64]  # [strata], `ordered_bits` of the last key
    rows: NDArray[np.int64]  # [strata], of the last row among those with exactly that key
    counts: NDArray[np.int64]  # [strata], rows selected
    sizes: NDArray[np.int64]  # [strata], their total size; equals counts where rows have no sizes
    eligible: NDArray[np.int64]  # [strata], rows that could have been selected


class Digit(NamedTuple):
    """The digit a pass counts."""

    by_row: bool  # of the complement of the row number (among rows with the key of `keys`), else of the key
    shift: int  # bits below the digit
    bits: int  # in the digit
    prefixes: NDArray[np.uint64]  # [strata], the bits above the digit that an undecided row has
    keys: NDArray[np.uint64]  # [strata], the key at the cut-off, once known
    open: NDArray[np.bool_]  # [strata], still undecided


@kernel
def ordered_bits(key):
    """Map a float64 to the uint64 of the same order; -0.0 and 0.0 to the same one."""
    bits = np.float64(key + 0.0).view(np.uint64)  # + 0.0 takes the sign off a zero
    if bits & _SIGN != 0:
        return ~bits
    return bits | _SIGN


@kernel
def count_nan(keys):
    """Number of NaN in float64 [n]."""
    count = 0
    for k in range(len(keys)):
        count += np.isnan(keys[k])
    return count


@piece
def _is_undecided(bits, row, stratum, digit):
    """Whether a row shares the prefix, with the value the digit is taken from."""
    value = bits
    if digit.by_row:
        if bits != digit.keys[stratum]:
            return False, value
        value = ~np.uint64(row)
    above = digit.shift + digit.bits
    return above >= WORD_BITS or value >> np.uint64(above) == digit.prefixes[stratum], value


@kernel
def histogram_level(start_row, keys, codes, sizes, digit, histogram, counts):
    """Add a chunk's undecided rows to the histogram of the next digit.

    Parameters
    ----------
    start_row : int
        Row number of the first key.
    keys : float64 [n]
    codes : int32 [n] or [0]
        Stratum of each row; negative for none. Empty: all rows are of stratum 0.
    sizes : int64 [n] or [0]
        Empty: every row has size 1.
    digit : Digit
    histogram : int64 [strata, 2**bits]
        Total sizes; added to.
    counts : int64 [strata, 2**bits]
        Numbers of rows; added to.

    Returns
    -------
    int
        0, or a negative code: NaN, stratum out of range, negative size.
    """
    mask = np.uint64((1 << digit.bits) - 1)
    shift = np.uint64(digit.shift)
    n_strata = len(digit.open)
    for k in range(len(keys)):
        key = keys[k]
        if np.isnan(key):
            return _NAN_FOUND
        stratum = np.int64(codes[k]) if len(codes) else 0
        if stratum >= n_strata:
            return _STRATUM_OUT_OF_RANGE
        bits = ordered_bits(key)
        if stratum < 0 or bits <= _LOWEST_BITS or not digit.open[stratum]:
            continue
        undecided, value = _is_undecided(bits, start_row + k, stratum, digit)
        if undecided:
            at = np.int64(value >> shift & mask)
            size = sizes[k] if len(sizes) else 1
            if size < 0:
                return _NEGATIVE_SIZE
            histogram[stratum, at] += size
            counts[stratum, at] += 1
    return 0


@kernel
def _gather(start_row, keys, codes, sizes, digit, gathered, filled):
    """Append a chunk's undecided rows to ``gathered`` = (bits, rows, strata, sizes); returns how many are there."""
    all_bits, all_rows, all_strata, all_sizes = gathered
    for k in range(len(keys)):
        stratum = np.int64(codes[k]) if len(codes) else 0
        bits = ordered_bits(keys[k])
        if stratum < 0 or bits <= _LOWEST_BITS or not digit.open[stratum]:
            continue
        undecided, _ = _is_undecided(bits, start_row + k, stratum, digit)
        if undecided and filled < len(all_bits):
            all_bits[filled] = bits
            all_rows[filled] = start_row + k
            all_strata[filled] = stratum
            all_sizes[filled] = sizes[k] if len(sizes) else 1
            filled += 1
    return filled


@kernel
def _mark(start_row, keys, codes, cut_bits, cut_rows, mask):
    for k in range(len(keys)):
        stratum = np.int64(codes[k]) if len(codes) else 0
        bits = ordered_bits(keys[k])
        selected = False
        if 0 <= stratum < len(cut_bits) and bits > _LOWEST_BITS:
            at_cut = bits == cut_bits[stratum] and start_row + k <= cut_rows[stratum]
            selected = bits > cut_bits[stratum] or at_cut
        mask[k] = selected


def _read_only(array: NDArray[np.generic] | None, dtype: type[np.generic]) -> NDArray[np.generic]:
    view = np.ascontiguousarray(() if array is None else array, dtype=dtype).view()
    view.setflags(write=False)
    return view


def _columns(chunk: Chunk) -> tuple[int, NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
    start_row, keys, codes, sizes = chunk
    for name, column in (("codes", codes), ("sizes", sizes)):
        if column is not None and len(column) != len(keys):
            raise ValueError(f"{name} must have one element a key")
    return start_row, _read_only(keys, np.float64), _read_only(codes, np.int32), _read_only(sizes, np.int64)


def mark_selected(
    start_row: int, keys: NDArray[np.float64], codes: NDArray[np.int32] | None, cut_offs: CutOffs
) -> NDArray[np.bool_]:
    """Mask bool [n] of a chunk's selected rows."""
    mask = np.empty(len(keys), np.bool_)
    start_row, read_keys, read_codes, _ = _columns((start_row, keys, codes, None))
    _mark(
        start_row,
        read_keys,
        read_codes,
        _read_only(cut_offs.bits, np.uint64),
        _read_only(cut_offs.rows, np.int64),
        mask,
    )
    return mask


class _Level(NamedTuple):
    """The counts of one pass."""

    sizes: NDArray[np.int64]  # [strata, digits]
    counts: NDArray[np.int64]  # [strata, digits]
    row_bits: int  # that the largest row number needs, 1 or more


def _count(chunks: Chunks, digit: Digit) -> _Level:
    shape = (len(digit.open), 1 << digit.bits)
    sizes, counts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    last_row = 1
    for chunk in chunks():
        columns = _columns(chunk)
        last_row = max(last_row, columns[0] + len(columns[1]) - 1)
        failure = histogram_level(*columns, digit, sizes, counts)
        if failure == _NAN_FOUND:
            raise ValueError("keys must not be NaN")
        if failure == _STRATUM_OUT_OF_RANGE:
            raise ValueError(f"stratum codes must be below {len(digit.open)}")
        if failure == _NEGATIVE_SIZE:
            raise ValueError("sizes must not be negative")
    return _Level(sizes, counts, last_row.bit_length())


class _Rows(NamedTuple):
    """Gathered rows, in the order they would be selected in."""

    bits: NDArray[np.uint64]
    rows: NDArray[np.int64]
    strata: NDArray[np.int64]
    sizes: NDArray[np.int64]


def _gather_rows(chunks: Chunks, digit: Digit, n_rows: int) -> _Rows:
    gathered = _Rows(
        np.empty(n_rows, np.uint64), np.empty(n_rows, np.int64), np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)
    )
    filled = 0
    for chunk in chunks():
        filled = _gather(*_columns(chunk), digit, gathered, filled)
    if filled != n_rows:
        raise RuntimeError(f"the chunks changed between two passes: {filled} rows where {n_rows} were counted")
    order = np.lexsort((gathered.rows, ~gathered.bits))
    return _Rows(gathered.bits[order], gathered.rows[order], gathered.strata[order], gathered.sizes[order])


def _digit_width(n_strata: int) -> int:
    return min(MAX_DIGIT_BITS, max(MIN_DIGIT_BITS, (HISTOGRAM_CELLS // n_strata).bit_length() - 1))


def _first_digit(n_strata: int) -> Digit:
    width = _digit_width(n_strata)
    zeros = np.zeros(n_strata, np.uint64)
    return Digit(False, WORD_BITS - width, width, zeros, zeros, np.ones(n_strata, np.bool_))


def _narrowed(digit: Digit, chosen: NDArray[np.int64]) -> Digit:
    """No digit at all under the one chosen in each stratum: what is undecided now."""
    prefixes = digit.prefixes << np.uint64(digit.bits) | chosen.astype(np.uint64)
    return digit._replace(bits=0, prefixes=prefixes)


def _next_digit(undecided: Digit, row_bits: int) -> Digit:
    """The digit to count next: the key's, then, among equal keys, the row's."""
    width = _digit_width(len(undecided.open))
    if undecided.shift > 0:
        width = min(width, undecided.shift)
        return undecided._replace(shift=undecided.shift - width, bits=width)
    # Rows count by their complement, lower rows first: the bits above the largest row are all ones.
    width = min(width, row_bits)
    ones = np.full(len(undecided.open), _ALL >> np.uint64(row_bits), np.uint64)
    return undecided._replace(by_row=True, shift=row_bits - width, bits=width, prefixes=ones, keys=undecided.prefixes)


def _few(n_rows: int, undecided: Digit) -> bool:
    """Whether to gather the undecided rows; there is nothing left to count once a row's digits are used up."""
    return n_rows <= GATHERED_ROWS or (undecided.by_row and undecided.shift == 0)


def _before(undecided: Digit, stratum: int) -> tuple[np.uint64, int]:
    """Cut-off (bits, row) that takes all decided rows of a stratum and no undecided one."""
    low = np.uint64(undecided.shift)
    highest = undecided.prefixes[stratum] << low | ((np.uint64(1) << low) - np.uint64(1))
    if undecided.by_row:
        return undecided.keys[stratum], int(~highest) - 1
    return highest, -1


def select_topk(chunks: Chunks, budgets: int | NDArray[np.int64], by_size: bool = False) -> CutOffs:
    """Find the cut-offs of the rows with the largest keys of each stratum.

    Parameters
    ----------
    chunks
        Called once a pass (two or three as a rule); gives (first row, keys float64 [n], codes int32 [n] or None, sizes
        int64 [n] or None). Row numbers are distinct and not negative. A row with a negative code belongs to no
        stratum; without codes all rows are of stratum 0.
    budgets
        One number for a single stratum, else int64 [strata]. Rows to select; a stratum with fewer eligible rows gives
        them all.
    by_size
        The budget is in units of ``sizes`` (tokens, bytes): the longest prefix, by key from the largest, then by row
        from the lowest, whose total size does not exceed it. It ends before the first row that does not fit.

    Returns
    -------
    CutOffs
        For `mark_selected`, with the number of rows selected.
    """
    limits = np.atleast_1d(np.asarray(budgets, dtype=np.int64))
    n_strata = len(limits)
    if n_strata == 0 or limits.min() < 0:
        raise ValueError("budgets must be 0 or more, for one stratum at least")
    source = chunks if by_size else _without_sizes(chunks)
    digit = _first_digit(n_strata)
    level = _count(source, digit)
    eligible, total = level.counts.sum(axis=1), level.sizes.sum(axis=1)
    whole = total <= limits
    cut_offs = CutOffs(
        bits=np.where(whole, _LOWEST_BITS, _ALL),
        rows=np.full(n_strata, -1, np.int64),
        counts=np.where(whole, eligible, 0),
        sizes=np.where(whole, total, 0),
        eligible=eligible,
    )
    digit = digit._replace(open=~whole & ((limits > 0) | by_size))
    strata = np.flatnonzero(digit.open)
    while len(strata):
        # From the largest digit down: the first one at which the budget is exceeded holds the cut-off.
        above = cut_offs.sizes[:, None] + np.cumsum(level.sizes[:, ::-1], axis=1)
        place = np.argmax(above > limits[:, None], axis=1)
        chosen = (1 << digit.bits) - 1 - place
        for stratum in strata:
            larger = slice(chosen[stratum] + 1, None)
            cut_offs.sizes[stratum] += level.sizes[stratum, larger].sum()
            cut_offs.counts[stratum] += level.counts[stratum, larger].sum()
        digit = _narrowed(digit, chosen)
        n_rows = int(level.counts[strata, chosen[strata]].sum())
        if _few(n_rows, digit):
            _settle(cut_offs, limits, digit, _gather_rows(source, digit, n_rows))
            break
        digit = _next_digit(digit, level.row_bits)
        level = _count(source, digit)
    return cut_offs


def _without_sizes(chunks: Chunks) -> Chunks:
    def stripped() -> Iterator[Chunk]:
        for start_row, keys, codes, _ in chunks():
            yield start_row, keys, codes, None

    return stripped


def _settle(cut_offs: CutOffs, limits: NDArray[np.int64], undecided: Digit, rows: _Rows) -> None:
    """Take the gathered rows of each open stratum as long as its budget lasts."""
    order = np.argsort(rows.strata, kind="stable")
    open_strata = np.flatnonzero(undecided.open)
    bounds = np.searchsorted(rows.strata[order], np.append(open_strata, len(undecided.open)))
    for stratum, begin, end in zip(open_strata.tolist(), bounds[:-1], bounds[1:], strict=True):
        own = order[begin:end]
        totals = cut_offs.sizes[stratum] + np.cumsum(rows.sizes[own])
        taken = int(np.searchsorted(totals, limits[stratum], side="right"))
        if taken == 0:
            cut_offs.bits[stratum], cut_offs.rows[stratum] = _before(undecided, stratum)
            continue
        cut_offs.bits[stratum], cut_offs.rows[stratum] = rows.bits[own[taken - 1]], rows.rows[own[taken - 1]]
        cut_offs.sizes[stratum] = totals[taken - 1]
        cut_offs.counts[stratum] += taken
