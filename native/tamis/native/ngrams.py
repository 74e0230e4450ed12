"""The one pass over a column of texts or token ids: documents to tokens, to n-grams, to whatever is asked of them.

Documents are taken in groups that fit the processor's second-level cache; each group is tokenised, its tokens hashed or
joined by single spaces, its n-grams hashed, and the result handed to a sink. Everything is one kernel (`run`), so that
it compiles once whatever is asked. An n-gram belongs to the token it ends at; n-grams of a document are ordered by that
token, shorter ones first.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import inlined, kernel, piece
from tamis.native.memo import ENTRY_BYTES, MEMO_BYTES, find
from tamis.native.sha256 import (
    LANES,
    SHORT_BYTES,
    Lanes,
    Reduction,
    hash_blocks,
    hash_long,
    pad_block,
)
from tamis.native.spans import Tokens, scan_document
from tamis.native.vector import BLOCK, copy_16, fold_multiply, load_u64, store_u8, trailing_zeros

LENGTHS = 0
"""Number of tokens only."""
COUNT = 1
"""Add n-grams to their buckets."""
SCORE = 2
"""Sum a table's rows over the n-grams."""
IDS = 3
"""List the buckets."""
MINHASH = 4
"""One-permutation MinHash sketch of the set of n-grams."""
QUALITY = 5
"""Length, repetition, information and numbers of the tokens."""

GROUP_UNITS = 1 << 14
"""Bytes of text, or token ids, in a group of documents; a longer document is a group of its own."""
GROUP_DOCUMENTS = 1 << 12
"""Documents in a group, at most."""
ID_BYTES = 20
"""Decimal digits and sign of an int64, at most."""
BINS = 64
"""Bins of a sketch."""
BIN_BITS = 6
EMPTY_BIN = np.uint32(0xFFFFFFFF)

# Odd constants without structure: digits of the fractional parts of sqrt(2), sqrt(3), sqrt(5), sqrt(7), sqrt(11).
_KEY_A = np.uint64(0x6A09E667F3BCC909)
_KEY_B = np.uint64(0xBB67AE8584CAA73B)
_KEY_LENGTH = np.uint64(0x3C6EF372FE94F82B)
_KEY_PLACE = np.uint64(0xA54FF53A5F1D36F1)
_KEY_FINISH = np.uint64(0x510E527FADE682D1)
WORDS_BYTES = 16
"""The longest token that two words hold."""
# Masks of the bytes that a token of 0 to 16 bytes has in its first and its second word.
_FIRST_WORD = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(WORDS_BYTES + 1)], dtype=np.uint64)
_SECOND_WORD = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(WORDS_BYTES + 1)], dtype=np.uint64)
_HALF = np.uint64(32)
_LOWER_HALF = np.uint64(0xFFFFFFFF)
_BIN_SHIFT = np.uint64(64 - BIN_BITS)


class Source(NamedTuple):
    """Texts or token ids; the other array is empty."""

    offsets: NDArray[np.int64]  # [n + 1]
    data: NDArray[np.uint8]  # UTF-8
    values: NDArray[np.int64]  # token ids
    holds_ids: bool


class Hashing(NamedTuple):
    """N-grams to buckets."""

    ngrams: int
    buckets: int
    sha256: bool
    reduction: Reduction


class Scratch(NamedTuple):
    """Buffers of one call, sized for the longest group."""

    tail: NDArray[np.uint8]  # copy of a document that ends too near the end of its buffer
    tokens: Tokens
    joined: NDArray[np.uint8]  # tokens with one space after each (SHA-256 only)
    joined_starts: NDArray[np.int32]
    joined_ends: NDArray[np.int32]
    hashes: NDArray[np.uint64]  # of tokens
    grams: NDArray[np.uint64]  # hashes of n-grams
    ids: NDArray[np.uint32]  # buckets of n-grams
    first_token: NDArray[np.int64]  # [GROUP_DOCUMENTS + 1] of each document in the group
    lanes: Lanes  # n-grams of one block each
    long_lanes: Lanes  # for longer n-grams, one at a time
    memo: NDArray[np.uint8]  # see `tamis.native.memo`; SHA-256 only
    seen: NDArray[np.uint64]  # open-addressing table of token hashes (quality only)
    seen_times: NDArray[np.int64]


class Sink(NamedTuple):
    """Where results go; arrays a kind does not use are empty."""

    kind: int
    n_tokens: NDArray[np.int64]  # [n]
    counts: NDArray[np.int64]  # [buckets]
    table: NDArray[np.float64]  # [buckets * targets]
    sums: NDArray[np.float64]  # [n, targets], zeros
    ids: NDArray[np.int32]  # [n-grams of all documents]
    sketch: NDArray[np.uint32]  # [n, 64], all EMPTY_BIN
    stop_words: NDArray[np.uint64]  # sorted hashes
    quality: NDArray[np.float64]  # [n, 4], zeros


@kernel
def hash_bytes(address, length):
    """64-bit hash of a token's bytes; reads 16 bytes whatever the length (1 or more)."""
    if length <= WORDS_BYTES:
        first = load_u64(address) & _FIRST_WORD[np.uint64(length)]
        second = load_u64(address + 8) & _SECOND_WORD[np.uint64(length)]
        return fold_multiply(first ^ _KEY_A, second ^ _KEY_B + np.uint64(length) * _KEY_LENGTH)
    state = np.uint64(length) * _KEY_LENGTH
    at = 0
    while at + 16 < length:
        state = fold_multiply(load_u64(address + at) ^ _KEY_A ^ state, load_u64(address + at + 8) ^ _KEY_B)
        at += 16
    end = address + length
    return fold_multiply(load_u64(end - 16) ^ _KEY_A ^ state, load_u64(end - 8) ^ _KEY_B)


@piece
def hash_id(value):
    """64-bit hash of a token id."""
    return fold_multiply(np.uint64(value) ^ _KEY_A, _KEY_B)


@kernel
def finish(gram):
    """Last step of an n-gram's hash: spreads what the sum of products left in the lower bits over the upper ones."""
    return (gram ^ gram >> _HALF) * _KEY_FINISH


@piece
def _grams(hashes, begin, end, first, ngrams, grams):
    """Hash the n-grams that end at tokens ``begin`` to ``end`` of the document starting at token ``first``.

    An n-gram's hash is a polynomial of its tokens' hashes, h(last) + h(last - 1) P + ..., finished by a multiplication.
    Returns the number of n-grams.
    """
    count = 0
    for token in range(begin, end):
        gram = hashes[token]
        grams[count] = finish(gram)
        count += 1
        place = _KEY_PLACE
        for back in range(1, min(ngrams, token - first + 1)):
            gram += hashes[token - back] * place
            place *= _KEY_PLACE
            grams[count] = finish(gram)
            count += 1
    return count


@piece
def _bucket(gram, buckets):
    """Upper 64 bits of ``gram * buckets``, in 32-bit steps that compile to vector code (``buckets`` < 2**31)."""
    low = (gram & _LOWER_HALF) * buckets >> _HALF
    return np.uint32((gram >> _HALF) * buckets + low >> _HALF)


@piece
def _hashed_ids(scratch, hashing, tokens, first, ids):
    """Write the buckets of the n-grams that end at ``tokens`` = (begin, end) of one document; returns how many."""
    begin, end = tokens
    buckets = np.uint64(hashing.buckets)
    hashes = scratch.hashes
    if hashing.ngrams != 2:
        count = _grams(hashes, begin, end, first, hashing.ngrams, scratch.grams)
        for k in range(count):
            ids[k] = _bucket(scratch.grams[k], buckets)
        return count
    if end <= begin:
        return 0
    skipped = 0
    if begin == first:
        ids[0] = _bucket(finish(hashes[begin]), buckets)
        skipped = 1
    own = hashes[begin + skipped : end]
    before = hashes[begin + skipped - 1 : end - 1]
    pairs = ids[skipped : skipped + 2 * len(own)]
    for k in range(len(own)):
        pairs[2 * k] = _bucket(finish(own[k]), buckets)
        pairs[2 * k + 1] = _bucket(finish(own[k] + before[k] * _KEY_PLACE), buckets)
    return skipped + 2 * len(own)


@piece
def _write_decimal(address, value):
    """Decimal digits of an int64; returns how many bytes."""
    sign = 0
    magnitude = np.uint64(value)
    if value < 0:
        store_u8(address, np.uint8(ord("-")))
        sign = 1
        magnitude = np.uint64(0) - magnitude
    digits = 1
    bound = np.uint64(10)
    while digits < 19 and magnitude >= bound:
        digits += 1
        bound *= np.uint64(10)
    for k in range(digits - 1, -1, -1):
        quotient = magnitude // np.uint64(10)
        store_u8(address + sign + k, np.uint8(np.uint64(ord("0")) + magnitude - quotient * np.uint64(10)))
        magnitude = quotient
    return sign + digits


@piece
def _join_spans(scratch, n_tokens):
    """Copy the tokens next to each other, one space between, so that every n-gram is one range of bytes.

    Done for a group before any n-gram is read: a load soon after the stores it covers would stall.
    """
    lowered = np.int64(scratch.tokens.lowered.ctypes.data)
    joined = np.int64(scratch.joined.ctypes.data)
    at = np.int64(0)
    for token in range(n_tokens):
        start = np.int64(scratch.tokens.starts[token])
        length = np.int64(scratch.tokens.ends[token]) - start
        for k in range(0, length, 16):
            copy_16(joined + at + k, lowered + start + k)
        scratch.joined_starts[token] = at
        at += length
        scratch.joined_ends[token] = at
        store_u8(joined + at, np.uint8(ord(" ")))
        at += 1


@piece
def _join_ids(values, first, n_tokens, scratch):
    joined = np.int64(scratch.joined.ctypes.data)
    at = np.int64(0)
    for token in range(n_tokens):
        scratch.joined_starts[token] = at
        at += _write_decimal(joined + at, values[first + token])
        scratch.joined_ends[token] = at
        store_u8(joined + at, np.uint8(ord(" ")))
        at += 1


@inlined
def _digest_ids(scratch, hashing, begin, end, queued, slot):
    """Buckets by SHA-256 of the n-grams that end at tokens ``begin`` to ``end``, written from ``ids[slot]`` on.

    ``queued`` = (lanes waiting, first token of the document); returns (lanes waiting, next slot).
    """
    waiting, first = queued
    joined = np.int64(scratch.joined.ctypes.data)
    memo = np.int64(scratch.memo.ctypes.data)
    index_bits = trailing_zeros(np.uint64(len(scratch.memo) // ENTRY_BYTES))
    lanes = scratch.lanes
    blocks = np.int64(lanes.blocks.ctypes.data)
    keys = np.int64(lanes.keys.ctypes.data)
    for token in range(begin, end):
        stop = np.int64(scratch.joined_ends[np.uint64(token)])
        for back in range(min(hashing.ngrams, token - first + 1)):
            start = np.int64(scratch.joined_starts[np.uint64(token - back)])
            length = stop - start
            bucket = entry = np.int64(0)
            if length <= MEMO_BYTES:
                bucket, entry = find(memo, index_bits, joined + start, length, keys + waiting * ENTRY_BYTES)
                missing = bucket < 0
            elif length <= SHORT_BYTES:
                missing = True
            else:
                bucket = hash_long(joined + start, length, scratch.long_lanes, hashing.reduction)
                missing = False
            # Without a branch on what the memo knew: the lane is filled anyway, and kept only if it was missing.
            scratch.ids[np.uint64(slot)] = bucket
            lanes.entries[np.uint64(waiting)] = entry
            lanes.slots[np.uint64(waiting)] = slot
            kept = length if length <= SHORT_BYTES else SHORT_BYTES
            pad_block(blocks + waiting * BLOCK, joined + start, kept, kept, 8 * kept)
            waiting += missing
            slot += 1
            if waiting == LANES:
                hash_blocks(lanes, waiting, hashing.reduction, scratch.ids)
                waiting = 0
    return waiting, slot


@piece
def _densify(bins):
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
            lender = fold_multiply(np.uint64(k * BINS + 1) * _KEY_A, np.uint64(attempt) * _KEY_B) >> _BIN_SHIFT
        bins[k] = bins[np.int64(lender)]


@piece
def _sum_rows(table, ids, sums):
    """Add the table's rows of ``ids`` to ``sums``; four partial sums, n-gram by n-gram, hide the adder's latency."""
    width = np.uint64(len(sums))
    whole = len(ids) & ~3
    for column in range(len(sums)):
        a = b = c = d = 0.0
        at = np.uint64(column)
        for k in range(0, whole, 4):
            a += table[np.uint64(ids[k]) * width + at]
            b += table[np.uint64(ids[k + 1]) * width + at]
            c += table[np.uint64(ids[k + 2]) * width + at]
            d += table[np.uint64(ids[k + 3]) * width + at]
        for k in range(whole, len(ids)):
            a += table[np.uint64(ids[k]) * width + at]
        sums[column] += (a + b) + (c + d)


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
def _quality(scratch, begin, end, stop_words, stats):
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


@inlined
def _tokenize_group(source, scanner, scratch, document):
    """Tokenise documents from ``document`` on until the group is full; returns the document after the last one."""
    n_documents = len(source.offsets) - 1
    first = document
    base = source.offsets[first]
    data = np.int64(source.data.ctypes.data)
    out = n_tokens = 0
    scratch.first_token[0] = 0
    while document < n_documents and document - first < GROUP_DOCUMENTS:
        start, end = source.offsets[document], source.offsets[document + 1]
        if document > first and end - base > GROUP_UNITS:
            break
        if source.holds_ids:
            n_tokens += end - start
        else:
            address = data + start
            if end + BLOCK > len(source.data):
                for k in range(end - start):
                    scratch.tail[k] = source.data[start + k]
                address = np.int64(scratch.tail.ctypes.data)
            out, n_tokens = scan_document(address, end - start, scanner, scratch.tokens, out, n_tokens)
        document += 1
        scratch.first_token[document - first] = n_tokens
    return document


@piece
def _hash_tokens(source, scratch, first_value, n_tokens):
    if source.holds_ids:
        for token in range(n_tokens):
            scratch.hashes[token] = hash_id(source.values[first_value + token])
        return
    lowered = np.int64(scratch.tokens.lowered.ctypes.data)
    for token in range(n_tokens):
        start = np.int64(scratch.tokens.starts[token])
        scratch.hashes[token] = hash_bytes(lowered + start, np.int64(scratch.tokens.ends[token]) - start)


@piece
def ngrams_ending(begin, end, ngrams):
    """Number of n-grams, orders 1 to ``ngrams``, that end at tokens ``begin`` to ``end`` of a document."""
    if end <= begin:
        return 0
    short = min(max(ngrams - 1 - begin, 0), end - begin)  # tokens with fewer than ngrams - 1 before them
    return (end - begin) * ngrams - (short * (ngrams - 1 - begin) - short * (short - 1) // 2)


@piece
def _deliver(ids, sink, document, position):
    """Hand the buckets of n-grams of one document to the sink; ``position`` n-grams were handed over before."""
    if sink.kind == COUNT:
        for k in range(len(ids)):
            sink.counts[ids[k]] += 1
    elif sink.kind == SCORE:
        _sum_rows(sink.table, ids, sink.sums[document])
    else:
        for k in range(len(ids)):
            sink.ids[position + k] = ids[k]


@inlined
def _deliver_group(scratch, hashing, sink, documents, begin, position):
    """Hash and hand over the n-grams that end at tokens ``begin`` to ``begin + GROUP_UNITS`` of a group.

    ``documents`` = (first, end); ``position`` as for `_deliver`. Returns the number of n-grams.
    """
    first, last = documents
    waiting = slot = 0
    for current in range(first, last):
        start = scratch.first_token[current - first]
        low, high = max(start, begin), min(scratch.first_token[current - first + 1], begin + GROUP_UNITS)
        if hashing.sha256:
            waiting, slot = _digest_ids(scratch, hashing, low, high, (waiting, start), slot)
        else:
            slot += _hashed_ids(scratch, hashing, (low, high), start, scratch.ids[slot:])
    if waiting > 0:
        hash_blocks(scratch.lanes, waiting, hashing.reduction, scratch.ids)
    slot = 0
    for current in range(first, last):
        start = scratch.first_token[current - first]
        low, high = max(start, begin), min(scratch.first_token[current - first + 1], begin + GROUP_UNITS)
        count = ngrams_ending(low - start, high - start, hashing.ngrams)
        _deliver(scratch.ids[slot : slot + count], sink, current, position + slot)
        slot += count
    return slot


@inlined
def _sketch_document(scratch, hashing, begin, end, bins):
    """Fill the sketch of the document of tokens ``begin`` to ``end``."""
    for low in range(begin, end, GROUP_UNITS):
        high = min(low + GROUP_UNITS, end)
        count = _grams(scratch.hashes, low, high, begin, hashing.ngrams, scratch.grams)
        for k in range(count):
            gram = scratch.grams[k]
            at = gram >> _BIN_SHIFT
            bins[at] = min(bins[at], np.uint32((gram << np.uint64(BIN_BITS)) >> _HALF))
    _densify(bins)


@kernel
def run(source, scanner, hashing, scratch, sink):
    """Feed every document's n-grams to the sink.

    Parameters
    ----------
    source : Source
    scanner : Scanner
    hashing : Hashing
    scratch : Scratch
        Sized for this source, see `tamis.native.text`.
    sink : Sink

    Returns
    -------
    int
        N-grams counted, scored or listed.
    """
    n_documents = len(source.offsets) - 1
    total = 0
    document = 0
    while document < n_documents:
        first = document
        document = _tokenize_group(source, scanner, scratch, first)
        n_tokens = scratch.first_token[document - first]
        delivers = sink.kind in (COUNT, SCORE, IDS)
        if delivers and hashing.sha256:
            if source.holds_ids:
                _join_ids(source.values, source.offsets[first], n_tokens, scratch)
            else:
                _join_spans(scratch, n_tokens)
        elif sink.kind != LENGTHS:
            _hash_tokens(source, scratch, source.offsets[first], n_tokens)
        if delivers:
            # Several documents fit one round; a long one alone takes several, cut at the same tokens wherever it is.
            for begin in range(0, n_tokens, GROUP_UNITS):
                total += _deliver_group(scratch, hashing, sink, (first, document), begin, total)
        for current in range(first, document):
            start, stop = scratch.first_token[current - first], scratch.first_token[current - first + 1]
            sink.n_tokens[current] = stop - start
            if sink.kind == QUALITY:
                _quality(scratch, start, stop, sink.stop_words, sink.quality[current])
            elif sink.kind == MINHASH:
                _sketch_document(scratch, hashing, start, stop, sink.sketch[current])
    return total
