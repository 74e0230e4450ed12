"""Selection among 32 float32 in vector registers: columns' maxima, the k-th largest, and the lanes above a bound."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any

from llvmlite import ir
from numba import types

from tamis.native.simd.ir import (
    F32,
    I1,
    I32,
    I64,
    constant,
    counted_loop,
    element,
    intrinsic,
    load,
    mask_bits,
    offset,
    shuffle,
    splat,
    store,
)
from tamis.native.simd.tile import FLOAT_BYTES, LANES

FOLDED_PANELS = 2
"""Vectors of `LANES` that hold the columns' maxima, side by side."""
COLUMNS = FOLDED_PANELS * LANES
"""Columns that values are folded into."""

_FLOATS = ir.VectorType(F32, LANES)
_RUNS = [2, 4, 8, 16]
"""Lengths of the sorted runs of a network of `LANES`."""


def _larger(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", left, right), left, right)


def _smaller(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", left, right), left, right)


def _exchanged(builder: Any, values: Any, apart: int, falling: list[bool]) -> Any:
    """Order each lane and the one ``apart`` from it: the larger one first where it is ``falling``."""
    others = shuffle(builder, values, [lane ^ apart for lane in range(LANES)])
    first = [(lane & apart == 0) == falling[lane] for lane in range(LANES)]
    keeps = ir.Constant(ir.VectorType(I1, LANES), first)
    return builder.select(keeps, _larger(builder, values, others), _smaller(builder, values, others))


@intrinsic
def mask_at_least(typingctx, address, bound):
    """``values >= bound`` of the `LANES` float32 at an address, as bits of a uint64."""

    def codegen(context, builder, signature, args):
        values = load(builder, args[0], _FLOATS, FLOAT_BYTES)
        return mask_bits(builder, builder.fcmp_ordered(">=", values, splat(builder, args[1], _FLOATS)))

    return types.uint64(types.int64, types.float32), codegen


@intrinsic
def column_maxima(typingctx, address, panels, stride, out):
    """``out[:] = values.reshape(-1, COLUMNS).max(axis=0)``, float32 [COLUMNS].

    Parameters
    ----------
    address : int64
        Of the first panel's values, float32 [LANES].
    panels : int64
        A multiple of `FOLDED_PANELS`, and not 0.
    stride : int64
        Bytes from one panel's values to the next.
    out : int64
        Address of float32 [COLUMNS].
    """

    def codegen(context, builder, signature, args):
        address, panels, stride, out = args

        def step(at: Any, carried: list[Any]) -> list[Any]:
            place, maxima = carried[0], []
            for largest in carried[1:]:
                maxima.append(_larger(builder, load(builder, place, _FLOATS, FLOAT_BYTES), largest))
                place = builder.add(place, stride)
            return [place, *maxima]

        lowest = constant(_FLOATS, float("-inf"))
        carried = [address, *[lowest] * FOLDED_PANELS]
        for side, value in enumerate(counted_loop(builder, (0, panels, FOLDED_PANELS), carried, step)[1:]):
            store(builder, value, element(builder, out, constant(I64, side), LANES * FLOAT_BYTES), FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def kth_largest(typingctx, address, k):
    """``np.sort(values)[-k]`` of the `COLUMNS` float32 at an address; k is 1 to `COLUMNS`.

    Two halves are sorted by a bitonic network, one downwards and one upwards (Batcher: Sorting networks and their
    applications, AFIPS 1968). Lane by lane their larger values are then the larger half of all, and their smaller ones
    the rest; the half that holds the k-th largest is sorted once more.
    """

    def codegen(context, builder, signature, args):
        address, k = args
        halves = []
        for half, falls in enumerate((True, False)):
            values = load(builder, offset(builder, address, half * LANES * FLOAT_BYTES), _FLOATS, FLOAT_BYTES)
            for run in _RUNS:
                falling = [(lane & run == 0) == falls for lane in range(LANES)]
                for apart in reversed([power // 2 for power in _RUNS if power <= run]):
                    values = _exchanged(builder, values, apart, falling)
            halves.append(values)
        few = builder.icmp_signed("<=", k, constant(I64, LANES))
        values = builder.select(few, _larger(builder, *halves), _smaller(builder, *halves))
        for apart in reversed([power // 2 for power in _RUNS]):
            values = _exchanged(builder, values, apart, [True] * LANES)
        lane = builder.and_(offset(builder, k, -1), constant(I64, LANES - 1))
        return builder.extract_element(values, builder.trunc(lane, I32))

    return types.float32(types.int64, types.int64), codegen
