"""The one pass over a column of texts or token ids: documents to tokens, to n-grams, to whatever is asked of them.

Documents are taken in groups that fit the processor's second-level cache; each group is tokenised, its tokens hashed or
joined by single spaces, its n-grams hashed, and the result handed to a sink. Everything is one kernel (`run`), so that
it compiles once whatever is asked.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import inlined, kernel, piece
from tamis.native.simd.words import BLOCK
from tamis.native.text.documents import densify, quality, sketch_grams, sum_rows
from tamis.native.text.ngrams import (
    digest_ids,
    hash_bytes,
    hash_grams,
    hash_id,
    hashed_ids,
    join_ids,
    join_spans,
    ngrams_ending,
)
from tamis.native.text.sha256 import Lanes, Reduction, hash_blocks
from tamis.native.text.tokens import Tokens, scan_document

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
    memo: NDArray[np.uint8]  # see `tamis.native.text.bucket_memo`; SHA-256 only
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


@inlined
def _tokenize_group(source, scanner, scratch, document):
    """Tokenise documents from ``document`` on until the group is full; returns the document after the last one."""
    offsets, first_token = source.offsets, scratch.first_token
    n_documents = len(offsets) - 1
    first = document
    base = offsets[first]
    data = np.int64(source.data.ctypes.data)
    out = n_tokens = 0
    first_token[0] = 0
    while document < n_documents and document - first < GROUP_DOCUMENTS:
        start, end = offsets[document], offsets[document + 1]
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
        first_token[document - first] = n_tokens
    return document


@piece
def _hash_tokens(source, scratch, first_value, n_tokens):
    hashes = scratch.hashes
    if source.holds_ids:
        values = source.values
        for token in range(n_tokens):
            hashes[token] = hash_id(values[first_value + token])
        return
    starts, ends = scratch.tokens.starts, scratch.tokens.ends
    lowered = np.int64(scratch.tokens.lowered.ctypes.data)
    for token in range(n_tokens):
        start = np.int64(starts[token])
        hashes[token] = hash_bytes(lowered + start, np.int64(ends[token]) - start)


@inlined
def _deliver_group(scratch, hashing, sink, documents, begin, position):
    """Hash and hand over the n-grams that end at tokens ``begin`` to ``begin + GROUP_UNITS`` of a group.

    ``documents`` = (first, end); ``position`` n-grams were handed over before. Returns the number of n-grams.
    """
    first, last = documents
    first_token, ids, hashes, grams = scratch.first_token, scratch.ids, scratch.hashes, scratch.grams
    shape = (hashing.ngrams, hashing.buckets)
    waiting = slot = 0
    for current in range(first, last):
        start = first_token[current - first]
        low, high = max(start, begin), min(first_token[current - first + 1], begin + GROUP_UNITS)
        if hashing.sha256:
            waiting, slot = digest_ids(scratch, hashing, low, high, (waiting, start), slot)
        else:
            slot += hashed_ids(hashes, (low, high), start, shape, grams, ids[slot:])
    if waiting > 0:
        hash_blocks(scratch.lanes, waiting, hashing.reduction, ids)
    n_grams = slot
    if sink.kind == COUNT:
        counts = sink.counts
        for k in range(n_grams):
            counts[ids[k]] += 1
    elif sink.kind == IDS:
        listed = sink.ids
        for k in range(n_grams):
            listed[position + k] = ids[k]
    else:
        table, sums = sink.table, sink.sums
        slot = 0
        for current in range(first, last):
            start = first_token[current - first]
            low, high = max(start, begin), min(first_token[current - first + 1], begin + GROUP_UNITS)
            count = ngrams_ending(low - start, high - start, hashing.ngrams)
            sum_rows(table, ids[slot : slot + count], sums, current)
            slot += count
    return n_grams


@inlined
def _sketch_document(scratch, hashing, begin, end, bins):
    """Fill the sketch of the document of tokens ``begin`` to ``end``."""
    for low in range(begin, end, GROUP_UNITS):
        high = min(low + GROUP_UNITS, end)
        count = hash_grams(scratch.hashes, low, high, begin, hashing.ngrams, scratch.grams)
        sketch_grams(scratch.grams, count, bins)
    densify(bins)


@kernel
def run(source, scanner, hashing, scratch, sink):
    """Feed every document's n-grams to the sink.

    Parameters
    ----------
    source : Source
    scanner : Scanner
    hashing : Hashing
    scratch : Scratch
        Sized for this source, see `tamis.native.text.columns`.
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
                join_ids(source.values, source.offsets[first], n_tokens, scratch)
            else:
                join_spans(scratch, n_tokens)
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
                quality(scratch, start, stop, sink.stop_words, sink.quality[current])
            elif sink.kind == MINHASH:
                _sketch_document(scratch, hashing, start, stop, sink.sketch[current])
    return total
