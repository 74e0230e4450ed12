"""Uniform draws inside strata, in an order that is nested: the first rows of a draw are the smaller draw.

Every row has a random word of its own (`tamis.native.math.rng.shuffled`); of a stratum the rows with the smallest words
are drawn. That takes one pass: the strata of a sample of the rows tell about how large each stratum's last word is,
rows up to somewhat more than that are gathered while the strata are counted, and what is too much is dropped at the
end. The result is exact and does not depend on the sample; only the time does.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.math.rng import read_only_key, shuffled
from tamis.native.sampling.strata import (
    BLOCK_ROWS,
    TABLES,
    Chunks,
    CutOff,
    Sample,
    Strata,
    add_codes,
    allocate,
    codes_of,
    fill,
    parts,
)

Ints = NDArray[np.int64]
Codes = NDArray[np.uint16]
Words = NDArray[np.uint64]

DEVIATIONS = 5.0
"""Rows are gathered for a count so many standard deviations above the expected one: too few come once in 10**6."""

_WORDS = 2.0**64
_NO_WORD = np.uint64(0)
_LAST_WORD = np.uint64(0xFFFFFFFFFFFFFFFF)


class Drawn(NamedTuple):
    """Rows drawn, ascending."""

    rows: Ints  # [k]
    codes: Codes  # [k], strata
    words: Words  # [k], random; ascending words are the order inside a stratum


class Selected(NamedTuple):
    """The result of `draw`."""

    drawn: Drawn
    populations: Ints  # [strata]
    budgets: Ints  # [strata]


@piece
def _fill_words(key, first, out):
    for k in range(len(out)):
        out[k] = shuffled(key[0], key[1], np.uint64(first) + np.uint64(k))


@piece
def _fill_hits(codes, words, bounds, flags, hits):
    """Write which rows of a block are not above their stratum's bound; returns how many. Without a branch a row."""
    for k in range(len(codes)):
        flags[k] = words[k] <= bounds[codes[k]]
    count = np.uint64(0)
    for k in range(len(codes)):
        hits[count] = k
        count += np.uint64(flags[k])
    return np.int64(count)


@kernel
def _gather(start_row, columns, keeping, strata, words, counts, gathered, filled):
    """Count the strata, and append the rows whose word is not above their stratum's bound to ``gathered``.

    Parameters
    ----------
    start_row : int
    columns : (scores, cut-off values) float32 [n] both
    keeping, strata
        As for `tamis.native.sampling.strata.fill`.
    words : (key, bounds) uint64 [2], uint64 [strata + 1]
        Of the stream, and the largest word of each stratum; the last is of rows in no stratum, never gathered.
    counts : int64 [strata + 1, TABLES]
        Added to.
    gathered : (rows, codes, words)
    filled : int
        Rows gathered so far.

    Returns
    -------
    int
        Rows gathered; those that do not fit are counted, not written.
    """
    key, bounds = words
    scores, cut = columns
    rows, row_codes, row_words = gathered
    codes, words = np.empty(BLOCK_ROWS, np.uint16), np.empty(BLOCK_ROWS, np.uint64)
    flags, hits = np.empty(BLOCK_ROWS, np.uint8), np.empty(BLOCK_ROWS + 1, np.uint16)
    room, last = len(rows), len(bounds) - 1
    for start in range(0, len(scores), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(scores))
        part = codes[: stop - start]
        fill(scores[start:stop], cut[start:stop], keeping, strata, part)
        add_codes(part, counts)
        _fill_words(key, start_row + start, words[: stop - start])
        for hit in range(_fill_hits(part, words, bounds, flags, hits)):
            k = hits[hit]
            if codes[k] == last:
                continue
            if filled < room:
                rows[filled] = start_row + start + np.int64(k)
                row_codes[filled] = codes[k]
                row_words[filled] = words[k]
            filled += 1
    return filled


@kernel
def _between(codes, words, low, high, certain, out):
    """List the rows between their stratum's bounds, and count those below; returns how many are listed."""
    count = np.uint64(0)
    for k in range(len(codes)):
        code, word = codes[k], words[k]
        certain[code] += word < low[code]
        out[count] = k
        count += np.uint64((word >= low[code]) & (word <= high[code]))
    return np.int64(count)


@kernel
def _keep(rows, codes, words, last_words):
    """Move the rows whose word is not above their stratum's last one to the front; returns how many."""
    count = np.uint64(0)
    for k in range(len(rows)):
        row, code, word = rows[k], codes[k], words[k]
        rows[count], codes[count], words[count] = row, code, word
        count += np.uint64(word <= last_words[code])
    return np.int64(count)


def _words_for(share: NDArray[np.float64]) -> Words:
    """Return the word below which a share of all words lies."""
    whole = share >= 1
    return np.where(whole, _LAST_WORD, (np.where(whole, 0.0, share) * _WORDS).astype(np.uint64))


def _above(budgets: Ints, populations: Ints, deviations: float) -> NDArray[np.float64]:
    """Return the share of each stratum's words that holds the budget, within `deviations` standard deviations."""
    population = np.maximum(populations, 1).astype(np.float64)
    share = np.where(budgets == populations, 1.0, budgets / population)
    return np.minimum(1.0, share + _margin(share, population, deviations))


def _margin(share: NDArray[np.float64], population: NDArray[np.float64], deviations: float) -> NDArray[np.float64]:
    return deviations * np.sqrt(share * (1 - share) / population) + deviations**2 / population


def _sampled_shares(sample: Sample, cut_off: CutOff, strata: Strata, budget: int) -> tuple[NDArray[np.float64], int]:
    """Return the shares of the words to gather by, and room for the rows, as far as a sample tells the populations."""
    # Rows at the cut-off count as kept: the sample does not know its rows' numbers.
    codes = codes_of((cut_off.last_row + 1, sample.scores, sample.cut), cut_off, strata)
    populations = np.bincount(codes, minlength=len(strata.edges))[:-1]
    scale = sample.rows / max(1, len(codes))
    scaled = np.rint(populations * scale).astype(np.int64)
    budgets = allocate(scaled, min(budget, int(scaled.sum())))
    # A stratum may be smaller than it looks; where the sample has few of it, all of it is gathered.
    error = DEVIATIONS * np.sqrt(populations)
    fewest = np.maximum(populations - error, 0.0) * scale
    share = np.where(fewest > budgets, budgets / np.maximum(fewest, 1.0), 1.0)
    share = np.minimum(1.0, share + _margin(share, np.maximum(fewest, 1.0), DEVIATIONS))
    most = share @ ((populations + error / np.sqrt(len(error))) * scale)
    return share, min(sample.rows, int(most) + budget // 16 + BLOCK_ROWS)


def draw(
    chunks: Chunks, sample: Sample, cut_off: CutOff, strata: Strata, budget: int, key: NDArray[np.uint64]
) -> Selected:
    """Count the strata, share the budget out, and draw each stratum's part uniformly and without replacement.

    Parameters
    ----------
    chunks : Chunks
        As for `tamis.native.sampling.strata.populations`; read once, with bad luck once more.
    sample : Sample
        Of the same chunks; decides the time, never the result.
    cut_off, strata
        As for `tamis.native.sampling.strata.populations`.
    budget : int
        See `tamis.native.sampling.strata.allocate`.
    key : uint64 [2]
        Of `tamis.native.math.rng.stream_key`.

    Raises
    ------
    ValueError
        When the strata hold fewer rows than the budget.
    """
    key = read_only_key(key)
    shares, room = _sampled_shares(sample, cut_off, strata, budget)
    deviations = DEVIATIONS
    while True:
        gathered = Drawn(np.empty(room, np.int64), np.empty(room, np.uint16), np.empty(room, np.uint64))
        bounds = np.append(_words_for(shares), _NO_WORD)
        counts = np.zeros((len(bounds), TABLES), np.int64)
        filled = 0
        for first, scores, cut, limit in parts(chunks, cut_off):
            keeping = (cut_off.sign, limit)
            filled = _gather(first, (scores, cut), keeping, strata, (key, bounds), counts, gathered, filled)
        populations = counts.sum(axis=1)[:-1]
        budgets = allocate(populations, budget)
        if filled <= room:
            drawn = _settled(_first(gathered, filled), populations, budgets)
            if drawn is not None:
                return Selected(drawn, populations, budgets)
        shares = _above(budgets, populations, deviations)
        room = int(np.ceil(_above(budgets, populations, 2 * deviations) @ populations)) + 1
        deviations *= 2


def _settled(inside: Drawn, populations: Ints, budgets: Ints) -> Drawn | None:
    """Keep of every stratum the rows with the smallest words, as many as its budget; None when there are too few.

    Only rows whose words chance allows to be the last are sorted.
    """
    population = np.maximum(populations, 1).astype(np.float64)
    share = budgets / population
    margin = _margin(share, population, DEVIATIONS)
    low = np.where(budgets == populations, _LAST_WORD, _words_for(np.maximum(0.0, share - margin)))
    high = np.where(budgets == populations, _LAST_WORD, _words_for(np.minimum(1.0, share + margin)))
    certain, listed = _split(inside, low, high)
    counts = np.bincount(inside.codes[listed], minlength=len(budgets))
    if not ((certain <= budgets) & (budgets <= certain + counts)).all():  # bad luck: sort all
        low, high = np.full_like(low, _NO_WORD), np.full_like(high, _LAST_WORD)
        certain, listed = _split(inside, low, high)
        counts = np.bincount(inside.codes[listed], minlength=len(budgets))
        if (counts < budgets).any():
            return None
    codes, words = inside.codes[listed], inside.words[listed]
    words, ends = words[np.argsort(codes, kind="stable")], np.cumsum(counts)
    # Where the certain rows are the whole budget, the last word is the one before the bound.
    last_words = np.where(low > 0, low - np.uint64(1), _NO_WORD)
    left = budgets - certain
    for stratum in np.flatnonzero(left).tolist():
        own = words[ends[stratum] - counts[stratum] : ends[stratum]]
        last_words[stratum] = np.partition(own, left[stratum] - 1)[left[stratum] - 1]
    return _first(inside, _keep(*inside, last_words))


def _first(drawn: Drawn, count: int) -> Drawn:
    return Drawn(drawn.rows[:count], drawn.codes[:count], drawn.words[:count])


def _split(inside: Drawn, low: Words, high: Words) -> tuple[Ints, Ints]:
    """Return how many rows of each stratum are below the bounds, and which rows are between them."""
    certain, listed = np.zeros(len(low), np.int64), np.empty(len(inside.rows) + 1, np.int64)
    return certain, listed[: _between(inside.codes, inside.words, low, high, certain, listed)]


def places(codes: Codes, words: Words, strata: int) -> Ints:
    """Return the place of every row in its stratum's random order, int64 [n], from 0."""
    order = np.lexsort((words, codes))
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=strata))])
    out = np.empty(len(codes), np.int64)
    out[order] = np.arange(len(codes)) - starts[codes[order]]
    return out
