"""Vectors rounded to 8 bits, and bounds of their inner products: pairs that can't matter are told apart cheaply.

A vector is x = s x' + e, of a scale s, whole numbers x' of 8 bits, and what is left. For two of them

    q.x <= s_q s_x q'.x' + |s_q q'| |e_x| + |e_q| |x|

by Cauchy and Schwarz. Of vectors of length 1 at most, the sum that float32 makes of q.x is above that by less than
(d + `SPARE_ROUNDINGS`) 2^-24.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.simd.tile import LANES, fused, loaded, pointer, spread
from tamis.native.simd.tile import QUERIES as TILE_QUERIES
from tamis.native.simd.words import intrinsic

QUERIES = 2 * TILE_QUERIES
"""Queries of a tile of 8 bits."""
STEP = 4
"""Coordinates that one instruction multiplies and adds up in a lane."""
OFFSET = 128
"""Added to the rounded values of rows, since that instruction takes one side without a sign."""
SPARE_ROUNDINGS = 64
"""Roundings of the bound itself, in units of 2^-24, with room to spare."""
SHORTEST = 1e-20
"""A vector whose coordinates are all below this is rounded to nothing."""
UP = 1.0 + 1e-6
"""Takes a length, rounded to float32, to what it can't be above."""
WORD_QUERIES = 64 // LANES
"""Queries whose bits share a word of `tile_reaches`."""
WORDS = QUERIES // WORD_QUERIES

_LEVELS = 127
_PARTIAL = 8
_MAGNITUDE = np.int32(0x7FFFFFFF)
_FLOAT_BYTES = 4
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()
_INTS = ir.VectorType(_I32, LANES)
_FLOATS = ir.VectorType(_F32, LANES)


def available() -> bool:
    """Whether the processor multiplies numbers of 8 bits fast enough for this to pay: AVX-512 VNNI."""
    named = getattr(config, "CPU_NAME", None) is not None or getattr(config, "CPU_FEATURES", None) is not None
    return not named and bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni", False))


class Coarse(NamedTuple):
    """Vectors rounded to 8 bits."""

    values: NDArray[np.int8]  # [n, dimension to whole steps]
    scale: NDArray[np.float32]  # [n]
    residual: NDArray[np.float32]  # [n], length of what rounding leaves, rounded up; not finite where the vector is not


@kernel
def _round(rows, values, scale, residual):
    n, dimension = rows.shape
    for row in range(n):
        line = rows[row]
        bits = np.int32(0)
        for column in range(dimension):  # magnitudes order as the numbers of their bits do
            bits = max(bits, np.int32(np.float32(line[column]).view(np.int32) & _MAGNITUDE))
        largest = np.int32(bits).view(np.float32)
        step = largest / np.float32(_LEVELS) if largest >= SHORTEST else np.float32(1.0)
        inverse = np.float32(1.0) / step
        for column in range(dimension):
            value = np.rint(line[column] * inverse)
            values[row, column] = np.int8(max(np.float32(-_LEVELS), min(np.float32(_LEVELS), value)))
        left = np.zeros(_PARTIAL)
        for first in range(0, dimension, _PARTIAL):
            for part in range(min(_PARTIAL, dimension - first)):
                rest = np.float64(line[first + part]) - np.float64(step) * np.float64(values[row, first + part])
                left[part] += rest * rest
        scale[row] = step
        residual[row] = np.float32(np.sqrt(left.sum()) * UP)


def to_bytes(rows: NDArray[np.float32]) -> Coarse:
    """Round vectors, float32 [n, d], to 8 bits."""
    n, dimension = rows.shape
    values = np.zeros((n, -(-dimension // STEP) * STEP), np.int8)
    found = Coarse(values, np.empty(n, np.float32), np.empty(n, np.float32))
    _round(rows, *found)
    return found


def pack_bytes(found: Coarse) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pack rows for `tile_reaches`.

    Parameters
    ----------
    found : Coarse
        Of vectors of length 1 at most, up to rounding.

    Returns
    -------
    uint8 [panels, steps, LANES, STEP], float32 [panels, 2, LANES]
        The rounded values plus `OFFSET`; and the terms of each row: its scale, and what rounding and float32 may hide.
    """
    n, width = found.values.shape
    values = np.zeros((-(-n // LANES) * LANES, width), np.int8)
    values[:n] = found.values
    fours = (values.view(np.uint8) ^ np.uint8(OFFSET)).view(np.uint32).reshape(-1, LANES, width // STEP)
    terms = np.zeros((2, len(values)), np.float32)
    terms[0, :n] = found.scale
    terms[1, :n] = found.residual + np.float32((width + SPARE_ROUNDINGS) * 2.0**-24)
    packed = np.ascontiguousarray(fours.swapaxes(1, 2)).view(np.uint8).reshape(-1, width // STEP, LANES, STEP)
    return packed, np.ascontiguousarray(terms.reshape(2, -1, LANES).swapaxes(0, 1))


@intrinsic
def tile_reaches(typingctx, queries, panel, terms, steps, starts, factors, limits):
    """Which pairs of `QUERIES` queries with a panel of rows reach a limit.

    The sums of a pair's products, times the row's scale, plus the query's factor times the row's second term.

    Parameters
    ----------
    queries : int64
        Address of int8 [QUERIES, steps, STEP].
    panel : int64
        Address of uint8 [steps, LANES, STEP].
    terms : int64
        Address of float32 [2, LANES], of `pack_bytes`.
    steps : int64
        One or more.
    starts, factors, limits : int64
        Addresses of int32, float32 and float32 [QUERIES]: where sums start, factors of the second term, and limits.

    Returns
    -------
    tuple of uint64
        Bits 16 q + lane, four queries in a word.
    """

    def codegen(context, builder, signature, args):
        queries, panel, terms, steps, starts_at, factors, limits = args
        name = "llvm.x86.avx512.vpdpbusd.512"
        bytes_ = ir.VectorType(ir.IntType(8), LANES * STEP)
        dot = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INTS, [_INTS, bytes_, bytes_]), name)

        def on(address: Any, amount: int) -> Any:
            return builder.add(address, ir.Constant(_I64, amount))

        def every(address: Any, kind: ir.VectorType) -> Any:
            return spread(builder, loaded(builder, address, kind.element), kind)

        stride = builder.mul(steps, ir.Constant(_I64, STEP))
        lines = [queries]
        for _ in range(QUERIES - 1):
            lines.append(builder.add(lines[-1], stride))
        starts = [every(on(starts_at, query * _FLOAT_BYTES), _INTS) for query in range(QUERIES)]
        before, loop = builder.block, builder.append_basic_block("steps")
        done = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        at = builder.phi(_I64)
        at.add_incoming(ir.Constant(_I64, 0), before)
        sums = [builder.phi(_INTS) for _ in range(QUERIES)]
        row_at = builder.add(panel, builder.mul(at, ir.Constant(_I64, LANES * STEP)))
        row = builder.load(pointer(builder, row_at, bytes_), align=1)
        column = builder.mul(at, ir.Constant(_I64, STEP))
        totals = []
        for line, total, start in zip(lines, sums, starts, strict=True):
            total.add_incoming(start, before)
            four = builder.bitcast(every(builder.add(line, column), _INTS), bytes_)
            totals.append(builder.call(dot, [total, row, four]))
            total.add_incoming(totals[-1], loop)
        following = builder.add(at, ir.Constant(_I64, 1))
        at.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
        builder.position_at_end(done)
        scale, hidden = (loaded(builder, on(terms, part * LANES * _FLOAT_BYTES), _FLOATS) for part in range(2))
        words = [ir.Constant(_I64, 0)] * WORDS
        for query, total in enumerate(totals):
            factor, limit = (every(on(side, query * _FLOAT_BYTES), _FLOATS) for side in (factors, limits))
            product = builder.fmul(builder.sitofp(total, _FLOATS), scale)
            bound = fused(builder, _FLOATS, hidden, factor, product)
            bits = builder.zext(builder.bitcast(builder.fcmp_ordered(">=", bound, limit), ir.IntType(LANES)), _I64)
            moved = builder.shl(bits, ir.Constant(_I64, query % WORD_QUERIES * LANES))
            words[query // WORD_QUERIES] = builder.or_(words[query // WORD_QUERIES], moved)
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint64, WORDS)(*(types.int64,) * 7), codegen
