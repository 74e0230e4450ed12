"""Machine words and 64-byte vectors for the text kernels, as LLVM's portable vector types through `@intrinsic`.

Addresses are int64 numbers, so that a kernel reads an Arrow buffer and its own scratch through the same code; whoever
calls keeps the array alive and the range in bounds. Nothing here depends on the machine's vector width: LLVM splits a
64-byte vector into what the processor has.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tamis.native.simd.ir import I8, I32, I64, I128, constant, intrinsic, load, mask_bits, splat, store

BLOCK = 64
"""Bytes a vector holds, and bits of its masks."""

_BYTES = ir.VectorType(I8, BLOCK)


@intrinsic
def load_u8(typingctx, address):
    """``memory[address]``, a uint8."""

    def codegen(context, builder, signature, args):
        return load(builder, args[0], I8)

    return types.uint8(types.int64), codegen


@intrinsic
def load_u64(typingctx, address):
    """``int.from_bytes(memory[address : address + 8], "little")``, a uint64; at any address."""

    def codegen(context, builder, signature, args):
        return load(builder, args[0], I64)

    return types.uint64(types.int64), codegen


@intrinsic
def store_u8(typingctx, address, value):
    """``memory[address] = value``."""

    def codegen(context, builder, signature, args):
        store(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.uint8), codegen


@intrinsic
def store_i32(typingctx, address, value):
    """``memory[address : address + 4] = (value % 2**32).to_bytes(4, "little")``."""

    def codegen(context, builder, signature, args):
        store(builder, builder.trunc(args[1], I32), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def copy_16(typingctx, target, source):
    """``memory[target : target + 16] = memory[source : source + 16]``; read before it is written."""

    def codegen(context, builder, signature, args):
        store(builder, load(builder, args[1], I128), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def trailing_zeros(typingctx, value):
    """``(value & -value).bit_length() - 1`` of a uint64, the index of its lowest set bit; 64 when none is set."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], cgutils.false_bit)

    return types.int64(types.uint64), codegen


@intrinsic
def popcount(typingctx, value):
    """``value.bit_count()`` of a uint64."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


def _product(builder: Any, args: Any) -> tuple[Any, Any]:
    wide = builder.mul(builder.zext(args[0], I128), builder.zext(args[1], I128))
    high = builder.trunc(builder.lshr(wide, ir.Constant(I128, 64)), I64)
    return builder.trunc(wide, I64), high


@intrinsic
def multiply_high(typingctx, left, right):
    """``left * right >> 64`` of the product in 128 bits."""

    def codegen(context, builder, signature, args):
        return _product(builder, args)[1]

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def fold_multiply(typingctx, left, right):
    """``(left * right % 2**64) ^ (left * right >> 64)``: every bit of it depends on every bit of both."""

    def codegen(context, builder, signature, args):
        low, high = _product(builder, args)
        return builder.xor(low, high)

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def lower_block(typingctx, target, source):
    """``target[:64] = source[:64].lower()`` of ASCII letters, and masks of the bytes by their class.

    Returns
    -------
    tuple of uint64
        Masks, bit i for byte i: not ASCII; word (letter, digit, underscore); space (U+0009 to U+000D, U+0020);
        separator (U+001C to U+001F, a space to the ``re`` engine only).
    """

    def codegen(context, builder, signature, args):
        def within(value: Any, first: int, count: int) -> Any:
            above = builder.sub(value, constant(_BYTES, first))
            return builder.icmp_unsigned("<", above, constant(_BYTES, count))

        text = load(builder, args[1], _BYTES)
        nothing, case_bit = constant(_BYTES, 0), constant(_BYTES, 0x20)
        lower = builder.or_(text, builder.select(within(text, ord("A"), 26), case_bit, nothing))
        store(builder, lower, args[0])
        digit = within(text, ord("0"), 10)
        underscore = builder.icmp_unsigned("==", text, constant(_BYTES, ord("_")))
        word = builder.or_(builder.or_(within(lower, ord("a"), 26), digit), underscore)
        blank = builder.icmp_unsigned("==", text, constant(_BYTES, ord(" ")))
        space = builder.or_(within(text, 9, 5), blank)
        flags = [builder.icmp_signed("<", text, nothing), word, space, within(text, 0x1C, 4)]
        return context.make_tuple(builder, signature.return_type, [mask_bits(builder, each) for each in flags])

    return types.UniTuple(types.uint64, 4)(types.int64, types.int64), codegen


@intrinsic
def equal_bytes(typingctx, source, byte):
    """``source[:64] == byte`` as bits of a uint64."""

    def codegen(context, builder, signature, args):
        text = load(builder, args[0], _BYTES)
        return mask_bits(builder, builder.icmp_unsigned("==", text, splat(builder, args[1], _BYTES)))

    return types.uint64(types.int64, types.uint8), codegen
