"""A small memo of the buckets of short n-grams, exact: an entry holds all the bytes of its n-gram.

Text repeats its n-grams soon, and to find one here costs less than to hash it: 147 MB/s of mixed text with it, 103
without. An entry is 32 bytes, the n-gram's (27 at most), its length and its bucket; a new one
takes the place of what was there. 2**15 entries, a mebibyte, were the fastest of 2**13 to 2**16 within the noise.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from tamis.native.simd.ir import I8, I32, I64, constant, element, intrinsic, load, mask_bits, offset, splat, store

ENTRY_BYTES = 32
LENGTH_AT = 27
"""Place of the length in an entry, after the longest n-gram it can hold."""
BUCKET_WORD = 7
"""Place of the bucket in an entry, in 32-bit words."""
MEMO_BYTES = LENGTH_AT
MIN_INDEX_BITS, MAX_INDEX_BITS = 8, 15
MISSING = -1

_BYTES = ir.VectorType(I8, ENTRY_BYTES)
_HALVES = ir.VectorType(I32, ENTRY_BYTES // 4)
_WORDS = ir.VectorType(I64, ENTRY_BYTES // 8)
_MULTIPLIERS = (0x9FB21C651E98DF25, 0xD1342543DE82EF95, 0xAF251AF3B0F025B5, 0xF1357AEA2E62A9C5)
_KEY_MASK = (1 << LENGTH_AT + 1) - 1


def new_memo(text_bytes: int) -> NDArray[np.uint8]:
    """Empty memo fit for so much text: uint8 [entries * 32], a power of two of entries."""
    bits = max(MIN_INDEX_BITS, min(MAX_INDEX_BITS, (text_bytes // ENTRY_BYTES).bit_length()))
    return np.zeros(ENTRY_BYTES << bits, np.uint8)


@intrinsic
def find(typingctx, memo, index_bits, source, length, key):
    """``memo.get(source[:length], MISSING)`` of an n-gram of 1 to `MEMO_BYTES` bytes; reads 32 bytes at ``source``.

    Addresses and numbers are int64. Writes the entry's first 28 bytes to the address ``key``, for `remember`.

    Returns
    -------
    bucket, entry : int64
        `MISSING` if it is not there; the address of the entry.
    """

    def codegen(context, builder, signature, args):
        memo_address, bits, source_address, n_bytes, key_address = args
        text = load(builder, source_address, _BYTES)
        size = builder.trunc(n_bytes, I8)
        places = ir.Constant(_BYTES, list(range(ENTRY_BYTES)))
        kept = builder.icmp_unsigned("<", places, splat(builder, size, _BYTES))
        wanted = builder.select(kept, text, constant(_BYTES, 0))
        wanted = builder.insert_element(wanted, size, constant(I32, LENGTH_AT))
        store(builder, wanted, key_address)
        products = builder.mul(builder.bitcast(wanted, _WORDS), ir.Constant(_WORDS, list(_MULTIPLIERS)))
        code = builder.extract_element(products, constant(I32, 0))
        for k in range(1, len(_MULTIPLIERS)):
            code = builder.add(code, builder.extract_element(products, constant(I32, k)))
        index = builder.lshr(code, builder.sub(constant(I64, 64), bits))
        address = element(builder, memo_address, index, ENTRY_BYTES)
        equal = mask_bits(builder, builder.icmp_unsigned("==", load(builder, address, _BYTES), wanted))
        mask = constant(I64, _KEY_MASK)
        found = builder.icmp_unsigned("==", builder.and_(equal, mask), mask)
        bucket = builder.zext(load(builder, offset(builder, address, 4 * BUCKET_WORD), I32), I64)
        result = builder.select(found, bucket, constant(I64, MISSING))
        return context.make_tuple(builder, signature.return_type, [result, address])

    result = types.UniTuple(types.int64, 2)
    return result(types.int64, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def remember(typingctx, entry, key, bucket):
    """``entry[:28], entry[28:] = key[:28], bucket``: write the key that `find` left, and its bucket, to an entry."""

    def codegen(context, builder, signature, args):
        halves = load(builder, args[1], _HALVES)
        halves = builder.insert_element(halves, builder.trunc(args[2], I32), constant(I32, BUCKET_WORD))
        store(builder, halves, args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
