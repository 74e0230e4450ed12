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

from tamis.native.simd.words import intrinsic

ENTRY_BYTES = 32
LENGTH_AT = 27
"""Place of the length in an entry, after the longest n-gram it can hold."""
BUCKET_WORD = 7
"""Place of the bucket in an entry, in 32-bit words."""
MEMO_BYTES = LENGTH_AT
MIN_INDEX_BITS, MAX_INDEX_BITS = 8, 15
MISSING = -1

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = ir.VectorType(_I8, ENTRY_BYTES)
_HALVES = ir.VectorType(_I32, ENTRY_BYTES // 4)
_WORDS = ir.VectorType(_I64, ENTRY_BYTES // 8)
_MULTIPLIERS = (0x9FB21C651E98DF25, 0xD1342543DE82EF95, 0xAF251AF3B0F025B5, 0xF1357AEA2E62A9C5)
_KEY_MASK = (1 << LENGTH_AT + 1) - 1


def new_memo(text_bytes: int) -> NDArray[np.uint8]:
    """Empty memo fit for so much text: uint8 [entries * 32], a power of two of entries."""
    bits = max(MIN_INDEX_BITS, min(MAX_INDEX_BITS, (text_bytes // ENTRY_BYTES).bit_length()))
    return np.zeros(ENTRY_BYTES << bits, np.uint8)


@intrinsic
def find(typingctx, memo, index_bits, source, length, key):
    """Look an n-gram of ``length`` bytes (1 to `MEMO_BYTES`) at ``source`` up; reads 32 bytes there.

    Addresses and numbers are int64. Writes the entry's first 28 bytes to the address ``key``, for `remember`.

    Returns
    -------
    bucket, entry : int64
        `MISSING` if it is not there; the address of the entry.
    """

    def codegen(context, builder, signature, args):
        memo_address, bits, source_address, n_bytes, key_address = args
        text = builder.load(builder.inttoptr(source_address, _BYTES.as_pointer()), align=1)
        empty = ir.Constant(_BYTES, ir.Undefined)
        size = builder.trunc(n_bytes, _I8)
        every = builder.shuffle_vector(
            builder.insert_element(empty, size, ir.Constant(_I32, 0)),
            empty,
            ir.Constant(ir.VectorType(_I32, ENTRY_BYTES), [0] * ENTRY_BYTES),
        )
        kept = builder.icmp_unsigned("<", ir.Constant(_BYTES, list(range(ENTRY_BYTES))), every)
        wanted = builder.select(kept, text, ir.Constant(_BYTES, [0] * ENTRY_BYTES))
        wanted = builder.insert_element(wanted, size, ir.Constant(_I32, LENGTH_AT))
        builder.store(wanted, builder.inttoptr(key_address, _BYTES.as_pointer()), align=1)
        products = builder.mul(builder.bitcast(wanted, _WORDS), ir.Constant(_WORDS, list(_MULTIPLIERS)))
        code = builder.extract_element(products, ir.Constant(_I32, 0))
        for k in range(1, len(_MULTIPLIERS)):
            code = builder.add(code, builder.extract_element(products, ir.Constant(_I32, k)))
        index = builder.lshr(code, builder.sub(ir.Constant(_I64, 64), bits))
        address = builder.add(memo_address, builder.mul(index, ir.Constant(_I64, ENTRY_BYTES)))
        entry = builder.load(builder.inttoptr(address, _BYTES.as_pointer()), align=1)
        equal = builder.bitcast(builder.icmp_unsigned("==", entry, wanted), _I32)
        mask = ir.Constant(_I32, _KEY_MASK)
        found = builder.icmp_unsigned("==", builder.and_(equal, mask), mask)
        word = builder.add(address, ir.Constant(_I64, 4 * BUCKET_WORD))
        bucket = builder.zext(builder.load(builder.inttoptr(word, _I32.as_pointer()), align=1), _I64)
        result = builder.select(found, bucket, ir.Constant(_I64, MISSING))
        return context.make_tuple(builder, signature.return_type, [result, address])

    result = types.UniTuple(types.int64, 2)
    return result(types.int64, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def remember(typingctx, entry, key, bucket):
    """Write the ``key`` that `find` left and its bucket to the address of an entry."""

    def codegen(context, builder, signature, args):
        halves = builder.load(builder.inttoptr(args[1], _HALVES.as_pointer()), align=1)
        halves = builder.insert_element(halves, builder.trunc(args[2], _I32), ir.Constant(_I32, BUCKET_WORD))
        builder.store(halves, builder.inttoptr(args[0], _HALVES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
