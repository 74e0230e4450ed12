"""SHA-256 of sixteen messages at a time (FIPS 180-4, sections 4 to 6) and the reduction of a digest to a bucket.

Lane i of every vector belongs to message i. The constants are computed from their definition (fractional parts of the
roots of primes), not copied.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from tamis.native.compiled import inlined, piece
from tamis.native.simd.ir import I8, I32, I64, call, constant, intrinsic, load, offset, splat, store
from tamis.native.text.bucket_memo import ENTRY_BYTES, remember

MESSAGES = 16
"""Hashed at a time, one a lane."""
BLOCK_BYTES = 64
LENGTH_BYTES = 8
SHORT_BYTES = BLOCK_BYTES - LENGTH_BYTES - 1
"""The longest message that fits one block with its padding (55 bytes)."""
NO_MARK = 255
_HALF = 16

_LANE = ir.VectorType(I32, MESSAGES)
_ROW = ir.VectorType(I8, BLOCK_BYTES)
_WORDS = ir.VectorType(I64, BLOCK_BYTES // 8)
_ROW_ALIGNMENT = 4
_WORD_BYTES = 4


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _root_fraction(number: int, degree: int) -> int:
    """First 32 bits of the fractional part of a root, exactly, by bisection."""
    scaled = number << (32 * degree)
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**degree <= scaled else (low, middle)
    return low & 0xFFFFFFFF


ROUND_CONSTANTS = tuple(_root_fraction(prime, 3) for prime in _primes(64))
INITIAL_STATE = np.array([_root_fraction(prime, 2) for prime in _primes(8)], dtype=np.uint32)
INITIAL_STATE.setflags(write=False)


class Reduction(NamedTuple):
    """Constants that take a digest, a 256-bit big-endian number, modulo the number of buckets."""

    modulus: int  # 1 to 2**31 - 1
    inverse: float  # 1 / modulus
    powers: NDArray[np.int64]  # [8], 2**(32 (7 - t)) modulo the modulus, for word t


def reduction(buckets: int) -> Reduction:
    """Constants of the reduction modulo ``buckets``."""
    powers = np.array([pow(2, 32 * (7 - t), buckets) for t in range(8)], dtype=np.int64)
    return Reduction(buckets, 1.0 / buckets, powers)


class Lanes(NamedTuple):
    """Sixteen messages on their way: blocks, digests and where each result goes."""

    blocks: NDArray[np.uint8]  # [16, 64], row i is lane i's padded block
    state: NDArray[np.uint32]  # [8, 16]
    slots: NDArray[np.int64]  # [16], where in the results
    keys: NDArray[np.uint8]  # [16, 32], of the memo
    entries: NDArray[np.int64]  # [16], address of the memo's entry to fill, 0 for none
    buckets: NDArray[np.int64]  # [16], results


def new_lanes() -> Lanes:
    """Empty lanes."""
    return Lanes(
        blocks=np.zeros((MESSAGES, BLOCK_BYTES), np.uint8),
        state=np.zeros((8, MESSAGES), np.uint32),
        slots=np.zeros(MESSAGES, np.int64),
        keys=np.zeros((MESSAGES, ENTRY_BYTES), np.uint8),
        entries=np.zeros(MESSAGES, np.int64),
        buckets=np.zeros(MESSAGES, np.int64),
    )


@intrinsic
def pad_block(typingctx, target, source, keep, mark, bits):
    """``target[:64] = source[:keep] + zeros``, with 0x80 at ``mark`` and ``bits`` in the last eight bytes.

    Reads 64 bytes whatever ``keep`` is; all arguments int64; ``mark`` is `NO_MARK` and ``bits`` 0 where there is none.
    """

    def codegen(context, builder, signature, args):
        target_address, source_address, kept, mark_at, n_bits = args
        text = load(builder, source_address, _ROW)
        iota = ir.Constant(_ROW, list(range(BLOCK_BYTES)))
        is_kept = builder.icmp_unsigned("<", iota, splat(builder, builder.trunc(kept, I8), _ROW))
        is_mark = builder.icmp_unsigned("==", iota, splat(builder, builder.trunc(mark_at, I8), _ROW))
        row = builder.select(is_kept, text, constant(_ROW, 0))
        row = builder.select(is_mark, constant(_ROW, 0x80), row)
        words = builder.bitcast(row, _WORDS)
        last = constant(I32, BLOCK_BYTES // 8 - 1)
        tail = builder.or_(builder.extract_element(words, last), builder.bswap(n_bits))
        store(builder, builder.insert_element(words, tail, last), target_address, _ROW_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), codegen


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """16 by 16 transposition in four rounds of exchanges."""
    for distance in (1, 2, 4, 8):
        low = [lane if lane & distance == 0 else lane - distance + MESSAGES for lane in range(MESSAGES)]
        high = [lane + distance if lane & distance == 0 else lane + MESSAGES for lane in range(MESSAGES)]
        masks = [ir.Constant(ir.VectorType(I32, MESSAGES), indices) for indices in (low, high)]
        for row in range(MESSAGES):
            if row & distance == 0:
                pair = rows[row], rows[row + distance]
                rows[row], rows[row + distance] = (builder.shuffle_vector(*pair, mask) for mask in masks)
    return rows


@intrinsic
def compress(typingctx, state, blocks):
    """``state[:, i] = sha256_compress(state[:, i], blocks[i])`` for 16 messages; addresses of a `Lanes`' arrays."""

    def codegen(context, builder, signature, args):
        state, blocks = args
        places = [offset(builder, state, row * MESSAGES * _WORD_BYTES) for row in range(8)]

        def rotated(x: Any, *distances: int) -> Any:
            total = None
            for distance in distances:
                term = call(builder, "llvm.fshr.v16i32", _LANE, [x, x, constant(_LANE, distance)])
                total = term if total is None else builder.xor(total, term)
            return total

        def shifted(x: Any, distance: int) -> Any:
            return builder.lshr(x, constant(_LANE, distance))

        def plus(first: Any, *rest: Any) -> Any:
            for term in rest:
                first = builder.add(first, term)
            return first

        rows = [load(builder, offset(builder, blocks, k * BLOCK_BYTES), _LANE, _ROW_ALIGNMENT) for k in range(MESSAGES)]
        w = _transpose(builder, [call(builder, "llvm.bswap.v16i32", _LANE, [row]) for row in rows])
        initial = [load(builder, place, _LANE, _ROW_ALIGNMENT) for place in places]
        a, b, c, d, e, f, g, h = initial
        for t in range(64):
            if t >= 16:
                near, far = w[(t - 2) % 16], w[(t - 15) % 16]
                sigma_1 = builder.xor(rotated(near, 17, 19), shifted(near, 10))
                sigma_0 = builder.xor(rotated(far, 7, 18), shifted(far, 3))
                w[t % 16] = plus(w[t % 16], sigma_0, w[(t - 7) % 16], sigma_1)
            choose = builder.xor(g, builder.and_(e, builder.xor(f, g)))
            majority = builder.xor(builder.and_(a, b), builder.and_(c, builder.xor(a, b)))
            first = plus(h, constant(_LANE, ROUND_CONSTANTS[t]), w[t % 16], choose, rotated(e, 6, 11, 25))
            second = plus(rotated(a, 2, 13, 22), majority)
            a, b, c, d, e, f, g, h = plus(first, second), a, b, c, plus(d, first), e, f, g
        for place, before, after in zip(places, initial, (a, b, c, d, e, f, g, h), strict=True):
            store(builder, plus(before, after), place, _ROW_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@piece
def _remainder(value, modulus, inverse):
    """``value % modulus`` for 0 <= value < 2**52: the rounded quotient is off by one at most."""
    rest = value - np.int64(np.float64(value) * inverse) * modulus
    rest += modulus if rest < 0 else 0
    return rest - modulus if rest >= modulus else rest


@piece
def reset_state(state):
    """Initial hash value in every lane of ``state`` uint32 [8, 16]."""
    for t in range(8):
        for lane in range(MESSAGES):
            state[t, lane] = INITIAL_STATE[t]


@piece
def reduce_digests(state, mod, buckets):
    """``buckets[lane] = digest % modulus`` for the sixteen digests in ``state`` uint32 [8, 16].

    The digest's words times the powers of 2**32 are summed in 16-bit halves, so that every sum stays below 2**51.
    """
    for lane in range(MESSAGES):
        high = np.int64(0)
        low = np.int64(0)
        for t in range(8):
            word = np.int64(state[t, lane])
            high += (word >> _HALF) * mod.powers[t]
            low += (word & 0xFFFF) * mod.powers[t]
        folded = (_remainder(high, mod.modulus, mod.inverse) << _HALF) + low
        buckets[lane] = _remainder(folded, mod.modulus, mod.inverse)


@piece
def _compress_lanes(lanes):
    compress(lanes.state.ctypes.data, lanes.blocks.ctypes.data)


@inlined
def hash_blocks(lanes, count, mod, results):
    """Hash the first ``count`` lanes, one block each; write ``results[slot] = bucket`` and the memo's entries."""
    reset_state(lanes.state)
    _compress_lanes(lanes)
    reduce_digests(lanes.state, mod, lanes.buckets)
    slots, entries, buckets = lanes.slots, lanes.entries, lanes.buckets
    keys = np.int64(lanes.keys.ctypes.data)
    for lane in range(count):
        results[np.uint64(slots[lane])] = buckets[lane]
        if entries[lane] != 0:
            remember(entries[lane], keys + lane * ENTRY_BYTES, buckets[lane])


@inlined
def hash_long(address, length, lanes, mod):
    """Bucket of one message of any ``length`` at ``address`` (readable for 64 bytes more), on lane 0."""
    reset_state(lanes.state)
    n_blocks = (length + 1 + LENGTH_BYTES + BLOCK_BYTES - 1) // BLOCK_BYTES
    for block in range(n_blocks):
        done = block * BLOCK_BYTES
        keep = min(max(length - done, 0), BLOCK_BYTES)
        mark = length - done if 0 <= length - done < BLOCK_BYTES else NO_MARK
        bits = 8 * length if block == n_blocks - 1 else 0
        pad_block(np.int64(lanes.blocks.ctypes.data), address + min(done, length), keep, mark, bits)
        _compress_lanes(lanes)
    reduce_digests(lanes.state, mod, lanes.buckets)
    return lanes.buckets[0]
