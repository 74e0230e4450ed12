"""Inner products of a few queries with a panel of rows, held in vector registers: what all distance kernels stand on.

A *panel* is `LANES` rows stored dimension by dimension, so that one load gives a coordinate of all of them; a *tile* is
the products of `QUERIES` queries with a panel. Each product is one chain of fused multiply-adds over the dimensions, in
order: its bits depend on neither the tile's shape, nor the block, nor the number of threads, nor the processor.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tamis.native.simd.words import intrinsic

LANES = 16
"""Rows of a panel: two vectors of 256 bits, or one of 512."""
CHAINS = 8
"""Pairs of `pair_products`: what one chain's latency leaves idle, the others fill."""
QUERIES = 6
"""Queries of a tile: its 12 sums, 2 vectors of rows and a coordinate fill the 16 registers that AVX2 has."""

_HALF = LANES // 2
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()
_F64 = ir.DoubleType()
_PANEL = ir.VectorType(_F32, LANES)  # LLVM makes two of it where vectors have 256 bits
_FLOATS = ir.VectorType(_F32, _HALF)
_DOUBLES = ir.VectorType(_F64, _HALF)
_FLOAT_BYTES = 4


def pointer(builder: Any, address: Any, kind: ir.Type) -> Any:
    """Pointer of an address."""
    return builder.inttoptr(address, kind.as_pointer())


def _offset(builder: Any, address: Any, bytes_on: Any) -> Any:
    return builder.add(address, bytes_on if not isinstance(bytes_on, int) else ir.Constant(_I64, bytes_on))


def loaded(builder: Any, address: Any, kind: ir.Type) -> Any:
    """Value at an address, which is that of a float32."""
    return builder.load(pointer(builder, address, kind), align=_FLOAT_BYTES)


def spread(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """Vector of one value."""
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    lanes = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), lanes)


def fused(builder: Any, kind: ir.VectorType, a: Any, b: Any, c: Any) -> Any:
    """A b + c, rounded once."""
    letter = "32" if kind.element == _F32 else "64"
    name = f"llvm.fma.v{kind.count}f{letter}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


@intrinsic
def tile_products(typingctx, queries, panel, bias, dimension, worst, out):
    """Bias plus inner product of every query with every row of a panel.

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
        Bits 16 q + lane: whether the sum is at least ``worst`` [q]; of queries 0 to 3, and of 4 and 5.
    """

    def codegen(context, builder, signature, args):
        queries, panel, bias, dimension, worst, out = args
        start = builder.block
        loop = builder.append_basic_block("dimensions")
        done = builder.append_basic_block("done")
        first = loaded(builder, bias, _PANEL)
        stride = builder.mul(dimension, ir.Constant(_I64, _FLOAT_BYTES))
        lines = [queries]
        for _ in range(QUERIES - 1):
            lines.append(builder.add(lines[-1], stride))
        builder.branch(loop)
        builder.position_at_end(loop)
        at = builder.phi(_I64)
        at.add_incoming(ir.Constant(_I64, 0), start)
        sums = [builder.phi(_PANEL) for _ in range(QUERIES)]
        row = loaded(builder, builder.add(panel, builder.mul(at, ir.Constant(_I64, LANES * _FLOAT_BYTES))), _PANEL)
        column = builder.mul(at, ir.Constant(_I64, _FLOAT_BYTES))
        totals = []
        for line, total in zip(lines, sums, strict=True):
            total.add_incoming(first, start)
            coordinate = spread(builder, loaded(builder, builder.add(line, column), _F32), _PANEL)
            totals.append(fused(builder, _PANEL, coordinate, row, total))
            total.add_incoming(totals[-1], loop)
        following = builder.add(at, ir.Constant(_I64, 1))
        at.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, dimension), loop, done)
        builder.position_at_end(done)
        words = [ir.Constant(_I64, 0), ir.Constant(_I64, 0)]
        for query, total in enumerate(totals):
            place = _offset(builder, out, query * LANES * _FLOAT_BYTES)
            builder.store(total, pointer(builder, place, _PANEL), align=_FLOAT_BYTES)
            limit = spread(builder, loaded(builder, _offset(builder, worst, query * _FLOAT_BYTES), _F32), _PANEL)
            bits = builder.zext(builder.bitcast(builder.fcmp_ordered(">=", total, limit), ir.IntType(LANES)), _I64)
            moved = builder.shl(bits, ir.Constant(_I64, query % 4 * LANES))
            words[query // 4] = builder.or_(words[query // 4], moved)
        return context.make_tuple(builder, signature.return_type, words)

    arguments = (types.int64,) * 6
    return types.UniTuple(types.uint64, 2)(*arguments), codegen


@intrinsic
def pair_products(typingctx, pairs, dimension, out):
    """Inner products of `CHAINS` pairs of float32 [dimension], each summed up in order, by fused multiply-adds.

    Parameters
    ----------
    pairs : int64
        Address of int64 [CHAINS, 2]: addresses of the pair's vectors.
    dimension : int64
        One or more.
    out : int64
        Address of float32 [CHAINS].
    """

    def codegen(context, builder, signature, args):
        pairs, dimension, out = args
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_F32, [_F32] * 3), "llvm.fma.f32")
        places = [
            builder.load(pointer(builder, builder.add(pairs, ir.Constant(_I64, 8 * index)), _I64))
            for index in range(2 * CHAINS)
        ]
        before, loop = builder.block, builder.append_basic_block("dimensions")
        done = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        at = builder.phi(_I64)
        at.add_incoming(ir.Constant(_I64, 0), before)
        totals = [builder.phi(_F32) for _ in range(CHAINS)]
        column = builder.mul(at, ir.Constant(_I64, _FLOAT_BYTES))
        ends = []
        for chain, total in enumerate(totals):
            total.add_incoming(ir.Constant(_F32, 0.0), before)
            left, right = (loaded(builder, builder.add(places[2 * chain + side], column), _F32) for side in range(2))
            ends.append(builder.call(function, [left, right, total]))
            total.add_incoming(ends[-1], loop)
        following = builder.add(at, ir.Constant(_I64, 1))
        at.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, dimension), loop, done)
        builder.position_at_end(done)
        for chain, end in enumerate(ends):
            place = builder.add(out, ir.Constant(_I64, chain * _FLOAT_BYTES))
            builder.store(end, pointer(builder, place, _F32))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def pair_distance(typingctx, left, right, dimension):
    """Squared Euclidean distance, float64, of two rows of float32 [dimension] at two addresses.

    Differences and sums in float64: eight chains over the dimensions, added up in a fixed order.
    """

    def codegen(context, builder, signature, args):
        left, right, dimension = args
        whole = builder.and_(dimension, ir.Constant(_I64, -_HALF))
        total = cgutils.alloca_once_value(builder, ir.Constant(_DOUBLES, [0.0] * _HALF))
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), whole, ir.Constant(_I64, _HALF), inc=True) as (
            at,
            _,
        ):
            column = builder.mul(at, ir.Constant(_I64, _FLOAT_BYTES))
            sides = [
                builder.fpext(loaded(builder, builder.add(side, column), _FLOATS), _DOUBLES) for side in (left, right)
            ]
            apart = builder.fsub(*sides)
            builder.store(fused(builder, _DOUBLES, apart, apart, builder.load(total)), total)
        lanes = builder.load(total)
        width = _HALF
        while width > 1:  # lane i and lane i + width / 2, and so on: the same tree for every row
            width //= 2
            swapped = ir.Constant(ir.VectorType(_I32, _HALF), [(i + width) % _HALF for i in range(_HALF)])
            lanes = builder.fadd(lanes, builder.shuffle_vector(lanes, ir.Constant(_DOUBLES, ir.Undefined), swapped))
        single = cgutils.alloca_once_value(builder, builder.extract_element(lanes, ir.Constant(_I32, 0)))
        with cgutils.for_range_slice(builder, whole, dimension, ir.Constant(_I64, 1), inc=True) as (at, _):
            column = builder.mul(at, ir.Constant(_I64, _FLOAT_BYTES))
            sides = [builder.fpext(loaded(builder, builder.add(side, column), _F32), _F64) for side in (left, right)]
            apart = builder.fsub(*sides)
            builder.store(builder.fadd(builder.load(single), builder.fmul(apart, apart)), single)
        return builder.load(single)

    return types.float64(types.int64, types.int64, types.int64), codegen
