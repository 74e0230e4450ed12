"""Inner products in float64, held in vector registers: the base of second moments and whitening.

The products are those of :mod:`tamis.native.simd.tile`, in twice the width: a tile is the products of `LINES` lines
with a panel of `PANEL_COLUMNS` columns. Each product is one chain of fused multiply-adds in order: its bits depend on
the data alone.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from llvmlite import ir
from numba import types

from tamis.native.simd.ir import F64, I64, constant, intrinsic, load, offset, store
from tamis.native.simd.tile import lines_of, tile

PANEL_COLUMNS = 8
"""Columns of a panel: two vectors of 256 bits, or one of 512."""
LINES = 6
"""Lines of a tile: its 12 sums, 2 vectors of a panel and a coordinate fill the 16 registers that AVX2 has."""
DOUBLE_BYTES = 8

_PANEL = ir.VectorType(F64, PANEL_COLUMNS)


@intrinsic
def add_tile(typingctx, lines, stride, panel, length, out):
    """``out[i, l] += sum(lines[i, c] * panel[c, l] for c)``, in order, by fused multiply-adds.

    Parameters
    ----------
    lines : int64
        Address of float64: coordinate c of line i lies `stride` i + c numbers on.
    stride : int64
    panel : int64
        Address of float64 [length, PANEL_COLUMNS].
    length : int64
        One or more.
    out : int64
        Address of float64 [LINES, PANEL_COLUMNS]: where the sums start, and what they are written to.
    """

    def codegen(context, builder, signature, args):
        lines, stride, panel, length, out = args
        places = [offset(builder, out, line * PANEL_COLUMNS * DOUBLE_BYTES) for line in range(LINES)]
        starts = [load(builder, place, _PANEL, DOUBLE_BYTES) for place in places]
        addresses = lines_of(builder, lines, builder.mul(stride, constant(I64, DOUBLE_BYTES)), LINES)
        for place, total in zip(places, tile(builder, addresses, panel, length, starts), strict=True):
            store(builder, total, place, DOUBLE_BYTES)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), codegen
