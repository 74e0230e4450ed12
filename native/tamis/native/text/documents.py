"""Values of one document, from its tokens and n-grams: sums, sketches and the quality statistics."""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from tamis.native.compiled import inlined, piece
from tamis.native.simd.words import fold_multiply

BINS = 64
"""Bins of a sketch."""
BIN_BITS = 6
EMPTY_BIN = np.uint32(0xFFFFFFFF)
_BIN_SHIFT = np.uint64(64 - BIN_BITS)
_VALUE_SHIFT = np.uint64(32)
# To choose the bin an empty one borrows from.
_KEY_BIN = np.uint64(0x6A09E667F3BCC909)
_KEY_ATTEMPT = np.uint64(0xBB67AE8584CAA73B)


@piece
def sketch_grams(grams, count, bins):
    """Take hashes of n-grams into a document's sketch, uint32 [64], all `EMPTY_BIN` at first."""
    for k in range(count):
        gram = grams[k]
        at = gram >> _BIN_SHIFT
        bins[at] = min(bins[at], np.uint32((gram << np.uint64(BIN_BITS)) >> _VALUE_SHIFT))


@piece
def densify(bins):
    """Fill empty bins from full ones chosen by hash: optimal densification (Shrivastava, ICML 2017, section 4)."""
    full = np.uint64(0)
    for k in range(BINS):
        if bins[k] != EMPTY_BIN:
            full |= np.uint64(1) << np.uint64(k)
    if full == 0:
        return
    for k in range(BINS):
        attempt = 0
        lender = np.uint64(k)
        while full >> lender & np.uint64(1) == 0:
            attempt += 1
            lender = fold_multiply(np.uint64(k * BINS + 1) * _KEY_BIN, np.uint64(attempt) * _KEY_ATTEMPT) >> _BIN_SHIFT
        bins[k] = bins[np.int64(lender)]


@piece
def sum_rows(table, ids, sums, document):
    """Add the table's rows of ``ids`` to row ``document`` of ``sums`` float64 [n, targets].

    Four partial sums, n-gram by n-gram, hide the adder's latency.
    """
    width = np.uint64(sums.shape[1])
    whole = len(ids) & ~3
    for column in range(sums.shape[1]):
        a = b = c = d = 0.0
        at = np.uint64(column)
        for k in range(0, whole, 4):
            a += table[np.uint64(ids[k]) * width + at]
            b += table[np.uint64(ids[k + 1]) * width + at]
            c += table[np.uint64(ids[k + 2]) * width + at]
            d += table[np.uint64(ids[k + 3]) * width + at]
        for k in range(whole, len(ids)):
            a += table[np.uint64(ids[k]) * width + at]
        sums[document, column] += (a + b) + (c + d)


@piece
def _is_ascii_punctuation(lowered, start, end):
    for k in range(start, end):
        byte = lowered[k]
        graphic = 0x21 <= byte <= 0x7E
        alphanumeric = 0x30 <= byte <= 0x39 or 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A
        if not graphic or alphanumeric:
            return False
    return True


@piece
def _is_among(ascending, value):
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(ascending) and ascending[low] == value


@inlined
def quality(scratch, begin, end, stop_words, stats):
    """Fill (length, repeating, informative, numeric) of the document of tokens ``begin`` to ``end``."""
    n_tokens = end - begin
    if n_tokens == 0:
        return
    size = 1
    while size < 2 * n_tokens:
        size *= 2
    seen, times = scratch.seen, scratch.seen_times
    for k in range(size):
        times[k] = 0
    most = informative = no_digit = 0
    lowered = scratch.tokens.lowered
    for token in range(begin, end):
        code = scratch.hashes[token]
        at = np.int64(code & np.uint64(size - 1))
        while times[at] != 0 and seen[at] != code:
            at = (at + 1) & (size - 1)
        seen[at] = code
        times[at] += 1
        most = max(most, times[at])
        start = np.int64(scratch.tokens.starts[token])
        stop = np.int64(scratch.tokens.ends[token])
        no_digit += not (stop - start == 1 and 0x30 <= lowered[start] <= 0x39)
        informative += not (_is_among(stop_words, code) or _is_ascii_punctuation(lowered, start, stop))
    stats[0] = n_tokens
    stats[1] = most / n_tokens
    stats[2] = informative / n_tokens
    stats[3] = no_digit / n_tokens
