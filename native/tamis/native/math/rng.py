"""Counter-based random numbers: a function of (seed, stream, row) and nothing else.

The noise of a row is the same whatever the shards, the order they are read in, the number of workers and the machine.
Philox4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011, section 4.3): row r is
word r % 4 of the block with counter r // 4. Logarithms are those of :mod:`tamis.native.math.elementary`, the same bits
on every machine.
"""

# mypy: disable-error-code="no-untyped-def"

import hashlib

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.math.elementary import natural_log
from tamis.native.simd.words import multiply_high

MAX_SEED = 2**64 - 1
ROUNDS = 10
WORDS = 4

# Multipliers and Weyl increments of Philox4x64, as published.
_MULTIPLIER_0 = np.uint64(0xD2E7470EE14C6C93)
_MULTIPLIER_1 = np.uint64(0xCA5A826395121157)
_WEYL_0 = np.uint64(0x9E3779B97F4A7C15)
_WEYL_1 = np.uint64(0xBB67AE8584CAA73B)

# Increment and multipliers of SplitMix64, as published; the increment is that of Philox's first key word.
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_FRACTION_BITS = 52
_DROPPED_BITS = np.uint64(64 - _FRACTION_BITS)
_HALF_STEP = 0.5
_STEP = 2.0**-_FRACTION_BITS


def stream_key(seed: int, stream: str) -> NDArray[np.uint64]:
    """Key of a stream of random numbers: uint64 [2], read-only.

    Parameters
    ----------
    seed
        0 to 2**64 - 1.
    stream
        Name of what the numbers are for; two names give independent numbers under one seed.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be 0 to {MAX_SEED}, not {seed}")
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + stream.encode(), digest_size=16, person=b"tamis.rng").digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64, copy=False)


@kernel
def philox_block(key_0, key_1, counter):
    """Four random words of a counter (its other three words are 0) under a key."""
    a, b, c, d = np.uint64(counter), np.uint64(0), np.uint64(0), np.uint64(0)
    for _ in range(ROUNDS):
        high_0, low_0 = multiply_high(_MULTIPLIER_0, a), _MULTIPLIER_0 * a
        high_1, low_1 = multiply_high(_MULTIPLIER_1, c), _MULTIPLIER_1 * c
        a, b, c, d = high_1 ^ b ^ key_0, low_1, high_0 ^ d ^ key_1, low_0
        key_0 += _WEYL_0
        key_1 += _WEYL_1
    return a, b, c, d


@kernel
def _fill_bits(key, start_row, out):
    n = len(out)
    row = 0
    while row < n:
        number = start_row + row
        words = philox_block(key[0], key[1], number // WORDS)
        for word in range(number % WORDS, min(WORDS, number % WORDS + n - row)):
            out[row] = words[word]
            row += 1


@kernel
def _fill_bits_at(key, rows, out):
    for k in range(len(rows)):
        words = philox_block(key[0], key[1], rows[k] // WORDS)
        out[k] = words[rows[k] % WORDS]


@piece
def shuffled(key_0, key_1, row):
    """Word of a row in a random order of all rows: SplitMix64 (Steele, Lea, Flood; OOPSLA 2014) at place ``row``.

    Several rows at a time on vector registers, which Philox is not. No two rows have the same word. The first word of
    the key is where the sequence starts; the second is mixed in between the two multiplications.
    """
    z = key_0 + np.uint64(row) * _WEYL_0
    z = (z ^ (z >> np.uint64(30))) * _MIX_1 ^ key_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@kernel
def _fill_shuffled_at(key, rows, out):
    for k in range(len(rows)):
        out[k] = shuffled(key[0], key[1], rows[k])


@kernel
def _fill_uniform(bits, out):
    for k in range(len(bits)):
        out[k] = (np.float64(bits[k] >> _DROPPED_BITS) + _HALF_STEP) * _STEP


@kernel
def _fill_gumbel(bits, out):
    for k in range(len(bits)):
        u = (np.float64(bits[k] >> _DROPPED_BITS) + _HALF_STEP) * _STEP
        out[k] = -natural_log(-natural_log(u))


def read_only_key(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a key as kernels take it."""
    view = np.ascontiguousarray(key, dtype=np.uint64).view()
    view.setflags(write=False)
    return view


def _rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    view = np.ascontiguousarray(rows, dtype=np.int64).view()
    view.setflags(write=False)
    if len(view) and view.min() < 0:
        raise ValueError("row numbers must not be negative")
    return view


def random_bits(key: NDArray[np.uint64], start_row: int, out: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Fill ``out`` uint64 [n] with the random words of rows ``start_row`` to ``start_row + n``; returns it."""
    if start_row < 0:
        raise ValueError("row numbers must not be negative")
    _fill_bits(read_only_key(key), start_row, out)
    return out


def random_bits_at(key: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Random words, uint64 [n], of any row numbers int64 [n]."""
    out = np.empty(len(rows), np.uint64)
    _fill_bits_at(read_only_key(key), _rows(rows), out)
    return out


def _uniform_of(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    out = np.empty(len(bits))
    _fill_uniform(bits, out)
    return out


def _gumbel_of(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    out = np.empty(len(bits))
    _fill_gumbel(bits, out)
    return out


def uniform(key: NDArray[np.uint64], start_row: int, n: int) -> NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1) of rows ``start_row`` to ``start_row + n``: float64 [n].

    Multiples of 2**-52 plus 2**-53, so that neither end is ever reached.
    """
    return _uniform_of(random_bits(key, start_row, np.empty(n, np.uint64)))


def uniform_at(key: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """`uniform` of any row numbers int64 [n]."""
    return _uniform_of(random_bits_at(key, rows))


def gumbel(key: NDArray[np.uint64], start_row: int, n: int) -> NDArray[np.float64]:
    """Standard Gumbel noise, -ln(-ln(u)) of `uniform`, of rows ``start_row`` to ``start_row + n``: float64 [n]."""
    return _gumbel_of(random_bits(key, start_row, np.empty(n, np.uint64)))


def gumbel_at(key: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """`gumbel` of any row numbers int64 [n]."""
    return _gumbel_of(random_bits_at(key, rows))


def shuffled_at(key: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Words, uint64 [n], of any row numbers int64 [n]: ascending words are a random order of the rows.

    Cheaper than `random_bits_at`; good for an order or a draw without replacement, where rows are compared alone.
    """
    out = np.empty(len(rows), np.uint64)
    _fill_shuffled_at(read_only_key(key), _rows(rows), out)
    return out
