"""N-grams to buckets: the fast hash, and SHA-256 of the tokens joined by single spaces.

An n-gram belongs to the token it ends at; n-grams of a document are ordered by that token, shorter ones first.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from tamis.native.compiled import inlined, kernel, piece
from tamis.native.simd.words import BLOCK, copy_16, fold_multiply, load_u64, store_u8, trailing_zeros
from tamis.native.text.bucket_memo import ENTRY_BYTES, MEMO_BYTES, find
from tamis.native.text.sha256 import MESSAGES, SHORT_BYTES, hash_blocks, hash_long, pad_block

ID_BYTES = 20
"""Decimal digits and sign of an int64, at most."""

# Odd constants without structure: fractional parts of sqrt(2) (last bit set), sqrt(3), sqrt(5), sqrt(7) and sqrt(11).
# They, and every step of the fast hash, are part of fitted models: another value makes other buckets.
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
def hash_grams(hashes, begin, end, first, ngrams, grams):
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
def _bucket_pairs(own, before, buckets, ids):
    """Write the buckets of each token and of its pair with the one before; a loop of its own, to become vector code."""
    for k in range(len(own)):
        ids[2 * k] = _bucket(finish(own[k]), buckets)
        ids[2 * k + 1] = _bucket(finish(own[k] + before[k] * _KEY_PLACE), buckets)


@piece
def hashed_ids(hashes, tokens, first, shape, grams, ids):
    """Write the buckets of the n-grams that end at ``tokens`` = (begin, end) of one document; returns how many.

    ``first`` is the document's first token; ``shape`` = (longest n-gram, buckets). Takes arrays one by one, as every
    document pays for the reference counts of what is passed.
    """
    begin, end = tokens
    ngrams, n_buckets = shape
    buckets = np.uint64(n_buckets)
    if ngrams != 2:
        count = hash_grams(hashes, begin, end, first, ngrams, grams)
        for k in range(count):
            ids[k] = _bucket(grams[k], buckets)
        return count
    if end <= begin:
        return 0
    skipped = 0
    if begin == first:
        ids[0] = _bucket(finish(hashes[begin]), buckets)
        skipped = 1
    own = hashes[begin + skipped : end]
    _bucket_pairs(own, hashes[begin + skipped - 1 : end - 1], buckets, ids[skipped:])
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
def join_spans(scratch, n_tokens):
    """Copy the tokens next to each other, one space between, so that every n-gram is one range of bytes.

    Done for a group before any n-gram is read: a load soon after the stores it covers would stall.
    """
    lowered = np.int64(scratch.tokens.lowered.ctypes.data)
    joined = np.int64(scratch.joined.ctypes.data)
    starts, ends = scratch.tokens.starts, scratch.tokens.ends
    joined_starts, joined_ends = scratch.joined_starts, scratch.joined_ends
    at = np.int64(0)
    for token in range(n_tokens):
        start = np.int64(starts[token])
        length = np.int64(ends[token]) - start
        for k in range(0, length, 16):
            copy_16(joined + at + k, lowered + start + k)
        joined_starts[token] = at
        at += length
        joined_ends[token] = at
        store_u8(joined + at, np.uint8(ord(" ")))
        at += 1


@piece
def join_ids(values, first, n_tokens, scratch):
    joined = np.int64(scratch.joined.ctypes.data)
    joined_starts, joined_ends = scratch.joined_starts, scratch.joined_ends
    at = np.int64(0)
    for token in range(n_tokens):
        joined_starts[token] = at
        at += _write_decimal(joined + at, values[first + token])
        joined_ends[token] = at
        store_u8(joined + at, np.uint8(ord(" ")))
        at += 1


@inlined
def digest_ids(scratch, hashing, begin, end, queued, slot):
    """Buckets by SHA-256 of the n-grams that end at tokens ``begin`` to ``end``, written from ``ids[slot]`` on.

    ``queued`` = (lanes waiting, first token of the document); returns (lanes waiting, next slot).
    """
    waiting, first = queued
    joined = np.int64(scratch.joined.ctypes.data)
    memo = np.int64(scratch.memo.ctypes.data)
    index_bits = trailing_zeros(np.uint64(len(scratch.memo) // ENTRY_BYTES))
    lanes = scratch.lanes
    slots, entries, ids = lanes.slots, lanes.entries, scratch.ids
    joined_starts, joined_ends = scratch.joined_starts, scratch.joined_ends
    blocks = np.int64(lanes.blocks.ctypes.data)
    keys = np.int64(lanes.keys.ctypes.data)
    for token in range(begin, end):
        stop = np.int64(joined_ends[np.uint64(token)])
        for back in range(min(hashing.ngrams, token - first + 1)):
            start = np.int64(joined_starts[np.uint64(token - back)])
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
            ids[np.uint64(slot)] = bucket
            entries[np.uint64(waiting)] = entry
            slots[np.uint64(waiting)] = slot
            kept = length if length <= SHORT_BYTES else SHORT_BYTES
            pad_block(blocks + waiting * BLOCK, joined + start, kept, kept, 8 * kept)
            waiting += missing
            slot += 1
            if waiting == MESSAGES:
                hash_blocks(lanes, waiting, hashing.reduction, ids)
                waiting = 0
    return waiting, slot


@piece
def ngrams_ending(begin, end, ngrams):
    """Number of n-grams, orders 1 to ``ngrams``, that end at tokens ``begin`` to ``end`` of a document."""
    if end <= begin:
        return 0
    short = min(max(ngrams - 1 - begin, 0), end - begin)  # tokens with fewer than ngrams - 1 before them
    return (end - begin) * ngrams - (short * (ngrams - 1 - begin) - short * (short - 1) // 2)
