"""Bounds of inner products of rows rounded to 8 bits: a tile of products that AVX-512 VNNI multiplies four at a time.

See :mod:`tamis.native.neighbours.int8` for what the bounds mean.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import config

from tamis.native.simd import tile as tile32
from tamis.native.simd.ir import (
    F32,
    I8,
    I32,
    I64,
    call,
    constant,
    fma,
    intrinsic,
    load,
    load_splat,
    mask_bits,
    offset,
    pack_masks,
)
from tamis.native.simd.tile import FLOAT_BYTES, LANES, WORD_QUERIES, lines_of, tile

QUERIES = 2 * tile32.QUERIES
"""Queries of a tile of 8 bits."""
STEP = 4
"""Coordinates that one instruction multiplies and adds up in a lane."""
WORDS = QUERIES // WORD_QUERIES
"""Words of a tile's bits."""

_INTS = ir.VectorType(I32, LANES)
_FLOATS = ir.VectorType(F32, LANES)
_BYTES = ir.VectorType(I8, LANES * STEP)


def available() -> bool:
    """Whether the processor multiplies numbers of 8 bits fast enough for this to pay: AVX-512 VNNI."""
    named = getattr(config, "CPU_NAME", None) is not None or getattr(config, "CPU_FEATURES", None) is not None
    return not named and bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni", False))


def _add_products(builder: Any, four: Any, row: Any, total: Any) -> Any:
    """Four products of unsigned and signed bytes, added to each lane's sum."""
    unsigned, signed = (builder.bitcast(value, _BYTES) for value in (row, four))
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", _INTS, [total, unsigned, signed])


@intrinsic
def tile_reaches(typingctx, queries, panel, terms, steps, starts, factors, limits):
    """``(starts[q] + queries[q] @ panel[l]) * terms[0, l] + factors[q] * terms[1, l] >= limits[q]``, as bits.

    Parameters
    ----------
    queries : int64
        Address of int8 [QUERIES, steps, STEP].
    panel : int64
        Address of uint8 [steps, LANES, STEP].
    terms : int64
        Address of float32 [2, LANES]: each row's scale, and what rounding may hide.
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

        def of_query(address: Any, query: int, kind: ir.VectorType) -> Any:
            return load_splat(builder, offset(builder, address, query * FLOAT_BYTES), kind, FLOAT_BYTES)

        lines = lines_of(builder, queries, builder.mul(steps, constant(I64, STEP)), QUERIES)
        starts = [of_query(starts_at, query, _INTS) for query in range(QUERIES)]
        sums = tile(builder, lines, panel, steps, starts, _add_products)
        scale, hidden = (
            load(builder, offset(builder, terms, part * LANES * FLOAT_BYTES), _FLOATS, FLOAT_BYTES) for part in range(2)
        )
        masks = []
        for query, total in enumerate(sums):
            product = builder.fmul(builder.sitofp(total, _FLOATS), scale)
            bound = fma(builder, hidden, of_query(factors, query, _FLOATS), product)
            reached = builder.fcmp_ordered(">=", bound, of_query(limits, query, _FLOATS))
            masks.append(mask_bits(builder, reached))
        return context.make_tuple(builder, signature.return_type, pack_masks(builder, masks, LANES))

    return types.UniTuple(types.uint64, WORDS)(*(types.int64,) * 7), codegen
