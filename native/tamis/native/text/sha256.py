"""SHA-256 of sixteen messages at a time (FIPS 180-4, sections 4 to 6) and the reduction of a digest to a bucket.

Lane i of every vector belongs to message i. The constants are computed from their definition (fractional parts of the
roots of primes), not copied.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from tamis.native.compiled import inlined, piece
from tamis.native.simd.words import intrinsic
from tamis.native.text.bucket_memo import ENTRY_BYTES, remember

LANES = 16
BLOCK_BYTES = 64
LENGTH_BYTES = 8
SHORT_BYTES = BLOCK_BYTES - LENGTH_BYTES - 1
"""The longest message that fits one block with its padding (55 bytes)."""
NO_MARK = 255
_HALF = 16

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANE = ir.VectorType(_I32, LANES)
_ROW = ir.VectorType(_I8, BLOCK_BYTES)
_WORDS = ir.VectorType(_I64, BLOCK_BYTES // 8)
_ROW_ALIGNMENT = 4


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
    """What takes a digest, a 256-bit big-endian number, modulo the number of buckets."""

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
        blocks=np.zeros((LANES, BLOCK_BYTES), np.uint8),
        state=np.zeros((8, LANES), np.uint32),
        slots=np.zeros(LANES, np.int64),
        keys=np.zeros((LANES, ENTRY_BYTES), np.uint8),
        entries=np.zeros(LANES, np.int64),
        buckets=np.zeros(LANES, np.int64),
    )


def _splat(value: int, kind: ir.VectorType) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _broadcast(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    empty = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, empty, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


@intrinsic
def pad_block(typingctx, target, source, keep, mark, bits):
    """Write one padded block: ``keep`` bytes of the source, 0x80 at ``mark``, ``bits`` in the last eight bytes.

    Reads 64 bytes whatever ``keep`` is; all arguments int64; ``mark`` is `NO_MARK` and ``bits`` 0 where there is none.
    """

    def codegen(context, builder, signature, args):
        target_address, source_address, kept, mark_at, n_bits = args
        text = builder.load(builder.inttoptr(source_address, _ROW.as_pointer()), align=1)
        iota = ir.Constant(_ROW, list(range(BLOCK_BYTES)))
        is_kept = builder.icmp_unsigned("<", iota, _broadcast(builder, builder.trunc(kept, _I8), _ROW))
        is_mark = builder.icmp_unsigned("==", iota, _broadcast(builder, builder.trunc(mark_at, _I8), _ROW))
        row = builder.select(is_kept, text, _splat(0, _ROW))
        row = builder.select(is_mark, _splat(0x80, _ROW), row)
        words = builder.bitcast(row, _WORDS)
        last = ir.Constant(_I32, BLOCK_BYTES // 8 - 1)
        tail = builder.or_(builder.extract_element(words, last), builder.bswap(n_bits))
        words = builder.insert_element(words, tail, last)
        builder.store(words, builder.inttoptr(target_address, _WORDS.as_pointer()), align=_ROW_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), codegen


def _vector_function(builder: Any, name: str, arity: int) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(_LANE, [_LANE] * arity), name)


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """16 by 16 transposition in four rounds of exchanges."""
    for distance in (1, 2, 4, 8):
        low = [lane if lane & distance == 0 else lane - distance + LANES for lane in range(LANES)]
        high = [lane + distance if lane & distance == 0 else lane + LANES for lane in range(LANES)]
        masks = [ir.Constant(ir.VectorType(_I32, LANES), indices) for indices in (low, high)]
        for row in range(LANES):
            if row & distance == 0:
                pair = rows[row], rows[row + distance]
                rows[row], rows[row + distance] = (builder.shuffle_vector(*pair, mask) for mask in masks)
    return rows


@intrinsic
def compress(typingctx, state, blocks):
    """Sixteen compression functions at once; ``state`` and ``blocks`` are addresses of a `Lanes`' arrays."""

    def codegen(context, builder, signature, args):
        state_rows = builder.inttoptr(args[0], _LANE.as_pointer())
        block_rows = builder.inttoptr(args[1], _LANE.as_pointer())
        rotate = _vector_function(builder, "llvm.fshr.v16i32", 3)
        swap = _vector_function(builder, "llvm.bswap.v16i32", 1)

        def at(base: Any, index: int) -> Any:
            return builder.gep(base, [ir.Constant(_I32, index)])

        def rotated(x: Any, *distances: int) -> Any:
            total = None
            for distance in distances:
                term = builder.call(rotate, [x, x, _splat(distance, _LANE)])
                total = term if total is None else builder.xor(total, term)
            return total

        def shifted(x: Any, distance: int) -> Any:
            return builder.lshr(x, _splat(distance, _LANE))

        def plus(first: Any, *rest: Any) -> Any:
            for term in rest:
                first = builder.add(first, term)
            return first

        rows = [builder.load(at(block_rows, i), align=_ROW_ALIGNMENT) for i in range(LANES)]
        w = _transpose(builder, [builder.call(swap, [row]) for row in rows])
        initial = [builder.load(at(state_rows, i), align=_ROW_ALIGNMENT) for i in range(8)]
        a, b, c, d, e, f, g, h = initial
        for t in range(64):
            if t >= 16:
                near, far = w[(t - 2) % 16], w[(t - 15) % 16]
                sigma_1 = builder.xor(rotated(near, 17, 19), shifted(near, 10))
                sigma_0 = builder.xor(rotated(far, 7, 18), shifted(far, 3))
                w[t % 16] = plus(w[t % 16], sigma_0, w[(t - 7) % 16], sigma_1)
            choose = builder.xor(g, builder.and_(e, builder.xor(f, g)))
            majority = builder.xor(builder.and_(a, b), builder.and_(c, builder.xor(a, b)))
            first = plus(h, _splat(ROUND_CONSTANTS[t], _LANE), w[t % 16], choose, rotated(e, 6, 11, 25))
            second = plus(rotated(a, 2, 13, 22), majority)
            a, b, c, d, e, f, g, h = plus(first, second), a, b, c, plus(d, first), e, f, g
        for i, (before, after) in enumerate(zip(initial, (a, b, c, d, e, f, g, h), strict=True)):
            builder.store(plus(before, after), at(state_rows, i), align=_ROW_ALIGNMENT)
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
        for lane in range(LANES):
            state[t, lane] = INITIAL_STATE[t]


@piece
def reduce_digests(state, mod, buckets):
    """``buckets[lane] = digest % modulus`` for the sixteen digests in ``state`` uint32 [8, 16].

    The digest's words times the powers of 2**32 are summed in 16-bit halves, so that every sum stays below 2**51.
    """
    for lane in range(LANES):
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
