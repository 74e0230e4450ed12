"""Inner products in float64, held in vector registers: what second moments and whitening stand on.

The products are those of :mod:`tamis.native.simd.tile`, in twice the width: a tile is the products of `LINES` lines
with a panel of `LANES` columns. Each product is one chain of fused multiply-adds in order: its bits depend on the data
alone.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from llvmlite import ir
from numba import types

from tamis.native.compiled import piece
from tamis.native.simd.tile import fused, loaded, pointer, spread
from tamis.native.simd.words import intrinsic

LANES = 8
"""Columns of a panel: two vectors of 256 bits."""
LINES = 6
"""Lines of a tile: its 12 sums, 2 vectors of a panel and a coordinate fill the 16 registers that AVX2 has."""
DOUBLE_BYTES = 8

_HALF = LANES // 2
_I64 = ir.IntType(64)
_F64 = ir.DoubleType()
_DOUBLES = ir.VectorType(_F64, _HALF)


@intrinsic
def add_tile(typingctx, lines, stride, panel, length, out):
    """Add the inner products of `LINES` lines with a panel's columns to what is there.

    Parameters
    ----------
    lines : int64
        Address of float64: coordinate c of line i lies `stride` i + c numbers on.
    stride : int64
    panel : int64
        Address of float64 [length, LANES].
    length : int64
        One or more.
    out : int64
        Address of float64 [LINES, LANES]: where the sums start, and what they are written to.
    """

    def codegen(context, builder, signature, args):
        lines, stride, panel, length, out = args
        start = builder.block
        loop = builder.append_basic_block("coordinates")
        done = builder.append_basic_block("done")

        def place(line, half):
            return builder.add(out, ir.Constant(_I64, (line * LANES + half * _HALF) * DOUBLE_BYTES))

        held = [[loaded(builder, place(line, half), _DOUBLES) for half in range(2)] for line in range(LINES)]
        step = builder.mul(stride, ir.Constant(_I64, DOUBLE_BYTES))
        starts = [lines]
        for _ in range(LINES - 1):
            starts.append(builder.add(starts[-1], step))
        builder.branch(loop)
        builder.position_at_end(loop)
        at = builder.phi(_I64)
        at.add_incoming(ir.Constant(_I64, 0), start)
        sums = [[builder.phi(_DOUBLES) for _ in range(2)] for _ in range(LINES)]
        for line in range(LINES):
            for half in range(2):
                sums[line][half].add_incoming(held[line][half], start)
        row_at = builder.add(panel, builder.mul(at, ir.Constant(_I64, LANES * DOUBLE_BYTES)))
        row = [
            loaded(builder, builder.add(row_at, ir.Constant(_I64, half * _HALF * DOUBLE_BYTES)), _DOUBLES)
            for half in range(2)
        ]
        column = builder.mul(at, ir.Constant(_I64, DOUBLE_BYTES))
        totals = []
        for line in range(LINES):
            coordinate = spread(builder, loaded(builder, builder.add(starts[line], column), _F64), _DOUBLES)
            totals.append([fused(builder, _DOUBLES, coordinate, row[half], sums[line][half]) for half in range(2)])
            for half in range(2):
                sums[line][half].add_incoming(totals[line][half], loop)
        following = builder.add(at, ir.Constant(_I64, 1))
        at.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, length), loop, done)
        builder.position_at_end(done)
        for line in range(LINES):
            for half in range(2):
                builder.store(totals[line][half], pointer(builder, place(line, half), _DOUBLES), align=DOUBLE_BYTES)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), codegen


@piece
def whole_tiles(n, size):
    """Smallest multiple of ``size`` that is at least ``n``."""
    return (n + size - 1) // size * size
