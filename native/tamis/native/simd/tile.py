"""Inner products of a few queries with a panel of rows, held in vector registers: the base of all distance kernels.

A *panel* is `LANES` rows stored dimension by dimension, so that one load gives a coordinate of all of them; a *tile* is
the products of `QUERIES` queries with a panel. Each product is one chain of fused multiply-adds over the dimensions, in
order: its bits depend on neither the tile's shape, nor the block, nor the number of threads, nor the processor.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from tamis.native.simd.ir import (
    F32,
    F64,
    I64,
    constant,
    counted_loop,
    element,
    fma,
    intrinsic,
    load,
    load_splat,
    mask_bits,
    offset,
    pack_masks,
    store,
    tree_sum,
)

LANES = 16
"""Rows of a panel: two vectors of 256 bits, or one of 512."""
CHAINS = 8
"""Pairs of `pair_products`: what one chain's latency leaves idle, the others fill."""
QUERIES = 6
"""Queries of a tile: its 12 sums, 2 vectors of rows and a coordinate fill the 16 registers that AVX2 has."""
WORD_QUERIES = 64 // LANES
"""Queries whose bits share a word of `tile_products`."""
FLOAT_BYTES = 4
QUERY_BYTES = 1 << 17
"""Queries that take their turns at one panel, in bytes: they stay in the processor's second-level cache."""

_PANEL = ir.VectorType(F32, LANES)  # LLVM makes two of it where vectors have 256 bits
_HALF = LANES // 2
_ADDRESS_BYTES = 8


def lines_of(builder: Any, first: Any, stride: Any, count: int) -> list[Any]:
    """Addresses of ``count`` lines of a matrix that are ``stride`` bytes apart."""
    lines = [first]
    for _ in range(count - 1):
        lines.append(builder.add(lines[-1], stride))
    return lines


def tile(
    builder: Any,
    lines: Sequence[Any],
    panel: Any,
    length: Any,
    sums: Sequence[Any],
    multiply_add: Callable[[Any, Any, Any, Any], Any] = fma,
) -> list[Any]:
    """Append a tile's loop: ``sums[q][l] += lines[q][c] * panel[c][l]`` for c in order; returns the sums.

    Parameters
    ----------
    builder
    lines : sequence of int64
        Addresses of the queries' coordinates, which have the type of a lane of ``sums``.
    panel : int64
        Address of [length, lanes].
    length : int64
    sums : sequence of vectors
        One a query: where each sum starts. Their type is that of the tile: float32, float64, or four bytes a lane.
    multiply_add : callable
        Of the builder, a splatted coordinate, a panel's line and a sum: the next sum.
    """
    kind = sums[0].type
    width = (32 if kind.element != F64 else 64) // 8

    def step(at: Any, totals: list[Any]) -> list[Any]:
        row = load(builder, element(builder, panel, at, kind.count * width), kind, FLOAT_BYTES)
        coordinates = (load_splat(builder, element(builder, line, at, width), kind, FLOAT_BYTES) for line in lines)
        return [multiply_add(builder, each, row, total) for each, total in zip(coordinates, totals, strict=True)]

    return counted_loop(builder, (0, length, 1), sums, step)


@intrinsic
def tile_products(typingctx, queries, panel, bias, dimension, worst, out):
    """``out[q, l] = bias[l] + sum(queries[q, c] * panel[c, l] for c)``, in order, by fused multiply-adds.

    Parameters
    ----------
    queries : int64
        Address of float32 [QUERIES, dimension].
    panel : int64
        Address of float32 [dimension, LANES].
    bias : int64
        Address of float32 [LANES]: where each row's sum starts.
    dimension : int64
        One or more.
    worst : int64
        Address of float32 [QUERIES].
    out : int64
        Address of float32 [QUERIES, LANES]: the sums are written to it.

    Returns
    -------
    tuple of uint64
        ``out >= worst[:, None]`` as bits 16 q + lane: of queries 0 to 3, and of 4 and 5.
    """

    def codegen(context, builder, signature, args):
        queries, panel, bias, dimension, worst, out = args
        stride = builder.mul(dimension, constant(I64, FLOAT_BYTES))
        start = load(builder, bias, _PANEL, FLOAT_BYTES)
        sums = tile(builder, lines_of(builder, queries, stride, QUERIES), panel, dimension, [start] * QUERIES)
        masks = []
        for query, total in enumerate(sums):
            store(builder, total, offset(builder, out, query * LANES * FLOAT_BYTES), FLOAT_BYTES)
            limit = load_splat(builder, offset(builder, worst, query * FLOAT_BYTES), _PANEL, FLOAT_BYTES)
            masks.append(mask_bits(builder, builder.fcmp_ordered(">=", total, limit)))
        return context.make_tuple(builder, signature.return_type, pack_masks(builder, masks, LANES))

    return types.UniTuple(types.uint64, 2)(*(types.int64,) * 6), codegen


@intrinsic
def pair_products(typingctx, pairs, dimension, out):
    """``out[k] = sum(left[k][c] * right[k][c] for c)``, in order, by fused multiply-adds, for `CHAINS` pairs.

    Parameters
    ----------
    pairs : int64
        Address of int64 [CHAINS, 2]: addresses of the pair's vectors, float32 [dimension].
    dimension : int64
        One or more.
    out : int64
        Address of float32 [CHAINS].
    """

    def codegen(context, builder, signature, args):
        pairs, dimension, out = args
        sides = [load(builder, offset(builder, pairs, _ADDRESS_BYTES * k), I64) for k in range(2 * CHAINS)]

        def step(at: Any, totals: list[Any]) -> list[Any]:
            values = [load(builder, element(builder, side, at, FLOAT_BYTES), F32, FLOAT_BYTES) for side in sides]
            return [fma(builder, values[2 * k], values[2 * k + 1], total) for k, total in enumerate(totals)]

        for chain, total in enumerate(counted_loop(builder, (0, dimension, 1), [constant(F32, 0.0)] * CHAINS, step)):
            store(builder, total, offset(builder, out, chain * FLOAT_BYTES), FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def pair_distance(typingctx, left, right, dimension):
    """``((left.astype(float64) - right) ** 2).sum()`` of two rows of float32 [dimension] at two addresses.

    Differences and sums in float64: eight chains over the dimensions, added up in a fixed order; then the rest.
    """

    def codegen(context, builder, signature, args):
        left, right, dimension = args
        narrow, wide = ir.VectorType(F32, _HALF), ir.VectorType(F64, _HALF)

        def difference(at: Any, narrow: ir.Type, wide: ir.Type) -> Any:
            places = (element(builder, side, at, FLOAT_BYTES) for side in (left, right))
            return builder.fsub(*[builder.fpext(load(builder, place, narrow, FLOAT_BYTES), wide) for place in places])

        def whole_step(at: Any, totals: list[Any]) -> list[Any]:
            apart = difference(at, narrow, wide)
            return [fma(builder, apart, apart, totals[0])]

        def single_step(at: Any, totals: list[Any]) -> list[Any]:
            apart = difference(at, F32, F64)
            return [builder.fadd(totals[0], builder.fmul(apart, apart))]

        whole = builder.and_(dimension, constant(I64, -_HALF))
        lanes = counted_loop(builder, (0, whole, _HALF), [constant(wide, 0.0)], whole_step)[0]
        return counted_loop(builder, (whole, dimension, 1), [tree_sum(builder, lanes)], single_step)[0]

    return types.float64(types.int64, types.int64, types.int64), codegen
