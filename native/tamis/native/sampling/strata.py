"""Coverage-centric strata over float32 scores that arrive in chunks: cut-off, equal-width strata, budgets.

Coverage-centric Coreset Selection (Zheng, Liu, Lai, Prakash; ICLR 2023, arXiv 2210.15809, algorithm 1): the hardest
share beta of the rows is cut off, the range of the other scores is cut into strata of equal width, and a budget is
filled into the strata like water: small strata are taken whole, the others get the same number of rows.

Everything is exact and reads the chunks a few times, in memory that does not depend on the number of rows. A row whose
score or cut-off value is not a finite number is *unusable*: it belongs to no stratum and counts for no share.
"""

# mypy: disable-error-code="no-untyped-def"

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

Chunk = tuple[int, Floats, Floats | None]
"""(first row number, scores, what the cut-off ranks; None: the scores)"""
Chunks = Callable[[], Iterator[Chunk]]
"""Called once a pass; every pass must give the same rows, in ascending order."""

MAX_STRATA = 10_000
"""Strata, at most: codes are uint16, and float32 does not tell many more values of one magnitude apart."""

SCALE_OF_MAXIMUM = np.float32(1.0001)
"""The largest score is multiplied by it for the last edge, so that the row with that score lies below (reference)."""

BLOCK_ROWS = 2048
"""Rows whose codes (and random numbers) a kernel holds at a time, in the processor's first cache."""

TABLES = 4
"""Tables that rows are counted in, in turn."""

SAMPLED_ROWS = 1 << 18
SAMPLED_SHARE = 1 / 32
LEAST_SAMPLED = 1 << 12
"""Rows of a sample: a share of all, within these bounds; all rows when there are no more."""

SAMPLED_RUN = 1 << 6
"""Consecutive rows of a sample: cache lines and pages are read whole anyway."""

ONE = np.float32(1)
ZERO = np.float32(0)
_LOWEST = np.int32(-(2**31))
_HIGHEST = np.int32(2**31 - 1)
LARGEST = np.finfo(np.float32).max
_RESOLVED = np.float32(2.0**22)
"""Edges are at most one stratum from where division puts a score while the scores' magnitude is below so many steps."""


class CutOff(NamedTuple):
    """Which rows are cut off: those whose signed cut-off value lies below a limit, a row's limit being one of two."""

    sign: np.float32  # 1: the low end is hard; -1: the high end
    value: np.float32  # signed cut-off value of the last row dropped; the lowest number when none is
    last_row: int  # rows of exactly that value are dropped up to this one
    dropped: int
    usable: int  # rows, dropped ones included

    def limit(self, row: int) -> np.float32:
        """Return the least signed value that is kept at `row`; the same for all rows up to, or after, `last_row`."""
        return np.nextafter(self.value, np.float32(np.inf)) if row <= self.last_row else self.value


class Strata(NamedTuple):
    """Strata of equal width: k holds the scores from edge k to below edge k + 1, the last one all from its edge up."""

    edges: Floats  # [strata + 1]: lowest score + k * step, each operation rounded to float32
    highest: np.float32  # score
    step: np.float32
    resolved: bool  # whether float32 tells the edges well apart, so that division finds a stratum


def no_cut_off(usable: int = 0) -> CutOff:
    """Cut nothing off."""
    return CutOff(ONE, -LARGEST, -1, 0, usable)


@piece
def _kept_bits(scores, bits, cut, keeping, lows, highs):
    """Write the ordered bits of each score as int32 [n], the highest or lowest number where it is not kept."""
    sign, limit = keeping
    for k in range(len(lows)):
        score, signed = scores[k], sign * cut[k]
        kept = (np.abs(score) <= LARGEST) & (signed >= limit) & (signed <= LARGEST)
        ordered = np.int32(bits[k] ^ _HIGHEST) if bits[k] < 0 else bits[k]
        lows[k] = ordered if kept else _HIGHEST
        highs[k] = ordered if kept else _LOWEST


@kernel
def _extremes(scores, bits, cut, keeping, lowest, highest):
    """Return the lowest and the highest score of the rows kept, and of ``lowest`` and ``highest``, as ordered bits.

    Ordered as whole numbers: those a processor reduces many at a time. ``bits`` is an int32 view of the scores.
    """
    lows, highs = np.empty(BLOCK_ROWS, np.int32), np.empty(BLOCK_ROWS, np.int32)
    for start in range(0, len(scores), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(scores))
        part_lows, part_highs = lows[: stop - start], highs[: stop - start]
        _kept_bits(scores[start:stop], bits[start:stop], cut[start:stop], keeping, part_lows, part_highs)
        for k in range(len(part_lows)):
            lowest = part_lows[k] if part_lows[k] < lowest else lowest
        for k in range(len(part_highs)):
            highest = part_highs[k] if part_highs[k] > highest else highest
    return lowest, highest


@piece
def fill_codes(scores, cut, keeping, grid, strata, out):
    """Write the stratum of each row to ``out`` uint16 [n]; ``strata`` for rows unusable or cut off.

    A score's place is found by division and then compared with the edges beside it, which are computed as the strata's
    own: the code is exact where the strata are `resolved`. ``keeping`` = (sign, limit) of the cut-off; ``grid`` =
    (lowest, highest, step, 1 / step).
    """
    sign, limit = keeping
    lowest, highest, step, inverse = grid
    last = np.float32(strata - 1)
    for k in range(len(out)):
        score, signed = scores[k], sign * cut[k]
        kept = (score >= lowest) & (score <= highest) & (signed >= limit) & (signed <= LARGEST)
        place = np.floor((score - lowest) * inverse)
        up = score >= lowest + (place + ONE) * step
        down = score < lowest + place * step
        place = place + (ONE if up else ZERO) - (ONE if down else ZERO)
        place = place if place < last else last
        out[k] = np.uint16(np.int32(place)) if kept else np.uint16(strata)


@piece
def search_codes(scores, cut, keeping, edges, out):
    """Do what `fill_codes` does by bisection: for edges that float32 hardly tells apart."""
    sign, limit = keeping
    strata = len(edges) - 1
    for k in range(len(out)):
        score, signed = scores[k], sign * cut[k]
        out[k] = strata
        if (np.abs(score) <= LARGEST) & (signed >= limit) & (signed <= LARGEST):
            low, high = 0, strata - 1
            while low < high:  # the last stratum whose lower edge is not above the score
                middle = (low + high + 1) // 2
                if edges[middle] <= score:
                    low = middle
                else:
                    high = middle - 1
            out[k] = low


@kernel
def fill(scores, cut, keeping, strata, out):
    """Write the stratum of each row to ``out`` uint16 [n]; the number of strata for rows unusable or cut off."""
    if strata.resolved:
        grid = (strata.edges[0], strata.highest, strata.step, ONE / strata.step)
        fill_codes(scores, cut, keeping, grid, len(strata.edges) - 1, out)
    else:
        search_codes(scores, cut, keeping, strata.edges, out)


@piece
def add_codes(codes, counts):
    """Count codes in ``counts`` int64 [strata + 1, TABLES].

    There is a table for every place modulo TABLES: so the same stratum twice in a row does not wait for itself.
    """
    whole = len(codes) // TABLES * TABLES
    for k in range(0, whole, TABLES):
        for lane in range(TABLES):
            counts[codes[k + lane], lane] += 1
    for k in range(whole, len(codes)):
        counts[codes[k], 0] += 1


@kernel
def _populations(scores, cut, keeping, strata, counts):
    """Add a chunk's rows to ``counts`` int64 [strata + 1, TABLES]; the last stratum is of rows unusable or cut off."""
    codes = np.empty(BLOCK_ROWS, np.uint16)
    for start in range(0, len(scores), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(scores))
        part = codes[: stop - start]
        fill(scores[start:stop], cut[start:stop], keeping, strata, part)
        add_codes(part, counts)


def _read_only(array: NDArray[np.float32]) -> Floats:
    view = np.ascontiguousarray(array, dtype=np.float32).view()
    view.setflags(write=False)
    return view


def parts(chunks: Chunks, cut_off: CutOff) -> Iterator[tuple[int, Floats, Floats, np.float32]]:
    """Yield (first row, scores, cut-off values, limit) of every chunk, in two where the limit changes inside."""
    for start, scores, cut in chunks():
        values = _read_only(scores)
        ranked = values if cut is None else _read_only(cut)
        if len(ranked) != len(values):
            raise ValueError("there must be one cut-off value a score")
        border = min(max(cut_off.last_row + 1 - start, 0), len(values))
        for piece_ in (slice(0, border), slice(border, len(values))):
            if piece_.start < piece_.stop:
                first = start + piece_.start
                yield first, values[piece_], ranked[piece_], cut_off.limit(first)


def share_dropped(beta: float, usable: int) -> int:
    """Return how many of the usable rows are cut off: the product in float64, truncated (reference)."""
    return int(np.float64(beta) * np.float64(usable))


class Sample(NamedTuple):
    """Some rows of all, evenly spread."""

    scores: Floats  # [m]
    cut: Floats  # [m]
    rows: int  # of which they are taken


def sample(chunks: Chunks, rows: int) -> Sample:
    """Take runs of `SAMPLED_RUN` rows, evenly spread over the ``rows`` there are in all."""
    wanted = min(SAMPLED_ROWS, max(LEAST_SAMPLED, int(SAMPLED_SHARE * rows)))
    apart = SAMPLED_RUN * max(1, rows // wanted)
    scores, cuts = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for start, column, cut in chunks():
        at = (np.arange(-start % apart, len(column), apart)[:, None] + np.arange(SAMPLED_RUN)).ravel()
        at = at[at < len(column)]
        scores.append(column[at])
        cuts.append(scores[-1] if cut is None else cut[at])
    return Sample(np.concatenate(scores), np.concatenate(cuts), rows)


def extremes(chunks: Chunks, cut_off: CutOff) -> tuple[np.float32, np.float32]:
    """Return the lowest and the highest score of the rows that are kept; inf and -inf when there are none."""
    low, high = _HIGHEST, _LOWEST
    for _, scores, cut, limit in parts(chunks, cut_off):
        low, high = _extremes(scores, scores.view(np.int32), cut, (cut_off.sign, limit), np.int32(low), np.int32(high))
    if high == _LOWEST:
        return np.float32(np.inf), np.float32(-np.inf)
    bits = np.array([bits if bits >= 0 else bits ^ _HIGHEST for bits in (low, high)], np.int32)
    return tuple(bits.view(np.float32) + ZERO)


def equal_width(lowest: np.float32, highest: np.float32, strata: int) -> Strata:
    """Cut a range of scores into strata of equal width, as the reference does, in float32.

    The step is (1.0001 highest - lowest) / strata. Where the highest score is not positive the factor would move the
    last edge below it: then it is left out, and the last stratum, which is closed here, holds that score.

    Raises
    ------
    ValueError
        When the range is too wide for float32, or the number of strata is not 1 to `MAX_STRATA`.
    """
    if not 1 <= strata <= MAX_STRATA:
        raise ValueError(f"strata must be 1 to {MAX_STRATA}, not {strata}")
    lowest, highest = np.float32(lowest) + ZERO, np.float32(highest) + ZERO
    with np.errstate(over="ignore"):
        top = highest * SCALE_OF_MAXIMUM if highest > 0 else highest
        step = (top - lowest) / np.float32(strata)
    if not np.isfinite(step):
        raise ValueError(f"scores from {lowest} to {highest} span more than float32 holds")
    edges = lowest + np.arange(strata + 1, dtype=np.float32) * step
    magnitude = max(abs(lowest), abs(top))
    normal = step >= np.finfo(np.float32).tiny * _RESOLVED  # its inverse is finite, its products are not subnormal
    return Strata(edges, highest, np.float32(step), bool(normal and magnitude / _RESOLVED < step))


def populations(chunks: Chunks, cut_off: CutOff, strata: Strata) -> Ints:
    """Count the rows of every stratum, int64 [strata]."""
    counts = np.zeros((len(strata.edges), TABLES), np.int64)
    for _, scores, cut, limit in parts(chunks, cut_off):
        _populations(scores, cut, (cut_off.sign, limit), strata, counts)
    total: Ints = counts.sum(axis=1)[:-1]
    return total


def codes_of(chunk: Chunk, cut_off: CutOff, strata: Strata) -> NDArray[np.uint16]:
    """Return the stratum of every row of a chunk, uint16 [n]; the number of strata for rows unusable or cut off."""
    out = np.empty(len(chunk[1]), np.uint16)
    for first, scores, cut, limit in parts(lambda: iter([chunk]), cut_off):
        at = first - chunk[0]
        fill(scores, cut, (cut_off.sign, limit), strata, out[at : at + len(scores)])
    return out


def visiting_order(populations: Ints) -> Ints:
    """Return the strata in the order the budget visits them: by population, ties by stratum, both ascending."""
    return np.argsort(populations, kind="stable")


def allocate(populations: Ints, budget: int) -> Ints:
    """Fill a budget into strata like water: int64 [strata], summing to the budget.

    Strata are visited by ascending population, ties by ascending number; with r of them left each gets its population
    or, when that is less, the r-th part of what is left of the budget, rounded down. So all but the smallest strata get
    the same number of rows, and what that leaves over goes one each to the largest.

    Raises
    ------
    ValueError
        When there are fewer rows than the budget.
    """
    if not 0 <= budget <= populations.sum():
        raise ValueError(f"the budget is {budget}, but the strata hold {populations.sum()} rows")
    budgets = np.zeros(len(populations), np.int64)
    rest = budget
    for place, stratum in enumerate(visiting_order(populations).tolist()):
        budgets[stratum] = min(int(populations[stratum]), rest // (len(populations) - place))
        rest -= int(budgets[stratum])
    return budgets


def apportion(populations: Ints, budget: int) -> Ints:
    """Share a budget out in proportion to the populations, by largest remainder: int64 [strata], summing to the budget.

    Every stratum gets its exact share rounded down; what is left goes one each to the largest remainders, ties to the
    earlier stratum. Whole numbers throughout, so that nothing is rounded but the shares.

    Raises
    ------
    ValueError
        When there are fewer rows than the budget.
    """
    total = int(populations.sum())
    if not 0 <= budget <= total:
        raise ValueError(f"the budget is {budget}, but the strata hold {total} rows")
    exact = [divmod(budget * int(population), max(1, total)) for population in populations.tolist()]
    shares = np.array([share for share, _ in exact], np.int64)
    order = sorted(range(len(exact)), key=lambda stratum: -exact[stratum][1])
    shares[order[: budget - int(shares.sum())]] += 1
    return shares


def turns(populations: Ints) -> Ints:
    """Return, for every stratum, its turn among the strata, int64 [strata]: the largest is first, ties the later one.

    The allocation is nested in the budget. When the strata give one row each in turn, round after round, and one that
    is empty is passed over, then the first B rows are those of the budget B: the last round, which is cut short, is
    what `allocate` leaves over for the largest.
    """
    order = np.empty(len(populations), np.int64)
    order[visiting_order(populations)[::-1]] = np.arange(len(populations))
    return order
