"""Machine words and 64-byte vectors for the text kernels, as LLVM's portable vector types through `@intrinsic`.

Addresses are int64 numbers, so that a kernel reads an Arrow buffer and its own scratch through the same code; whoever
calls keeps the array alive and the range in bounds. Nothing here depends on the machine's vector width: LLVM splits a
64-byte vector into what the processor has.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic
"""Without the types numba declares for it, which keep the typing context as an argument."""

BLOCK = 64
"""Bytes a vector holds, and bits of its masks."""

_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_I128 = ir.IntType(128)
_BYTES = ir.VectorType(_I8, BLOCK)


def _splat(value: int, kind: ir.VectorType) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _at(builder: Any, address: Any, kind: ir.Type) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def load_u8(typingctx, address):
    """Byte at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(_at(builder, args[0], _I8), align=1)

    return types.uint8(types.int64), codegen


@intrinsic
def load_u64(typingctx, address):
    """Eight bytes at any address as a number, first byte lowest."""

    def codegen(context, builder, signature, args):
        return builder.load(_at(builder, args[0], _I64), align=1)

    return types.uint64(types.int64), codegen


@intrinsic
def store_u8(typingctx, address, value):
    """Write a byte."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], _at(builder, args[0], _I8), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint8), codegen


@intrinsic
def store_i32(typingctx, address, value):
    """Write the lower four bytes of an int64."""

    def codegen(context, builder, signature, args):
        builder.store(builder.trunc(args[1], _I32), _at(builder, args[0], _I32), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def copy_16(typingctx, target, source):
    """Copy 16 bytes; the source is read before the target is written."""

    def codegen(context, builder, signature, args):
        value = builder.load(_at(builder, args[1], _I128), align=1)
        builder.store(value, _at(builder, args[0], _I128), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def trailing_zeros(typingctx, value):
    """Index of the lowest set bit of a uint64; 64 when none is set."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], cgutils.false_bit)

    return types.int64(types.uint64), codegen


@intrinsic
def population(typingctx, value):
    """Number of set bits of a uint64."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


def _product(builder: Any, args: Any) -> tuple[Any, Any]:
    wide = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
    high = builder.trunc(builder.lshr(wide, ir.Constant(_I128, 64)), _I64)
    return builder.trunc(wide, _I64), high


@intrinsic
def multiply_high(typingctx, left, right):
    """Upper 64 bits of a 64 by 64 bit product."""

    def codegen(context, builder, signature, args):
        return _product(builder, args)[1]

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def fold_multiply(typingctx, left, right):
    """Lower xor upper half of a 64 by 64 bit product: every output bit depends on every input bit."""

    def codegen(context, builder, signature, args):
        low, high = _product(builder, args)
        return builder.xor(low, high)

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def lower_block(typingctx, target, source):
    """Lower the ASCII letters of 64 bytes and classify them.

    Returns
    -------
    tuple of uint64
        Masks, bit i for byte i: not ASCII; word (letter, digit, underscore); space (U+0009 to U+000D, U+0020);
        separator (U+001C to U+001F, a space to the ``re`` engine only).
    """

    def codegen(context, builder, signature, args):
        def within(value: Any, first: int, count: int) -> Any:
            return builder.icmp_unsigned("<", builder.sub(value, _splat(first, _BYTES)), _splat(count, _BYTES))

        def mask(bits: Any) -> Any:
            return builder.bitcast(bits, _I64)

        text = builder.load(_at(builder, args[1], _BYTES), align=1)
        nothing, case_bit = _splat(0, _BYTES), _splat(0x20, _BYTES)
        lower = builder.or_(text, builder.select(within(text, ord("A"), 26), case_bit, nothing))
        builder.store(lower, _at(builder, args[0], _BYTES), align=1)
        digit = within(text, ord("0"), 10)
        underscore = builder.icmp_unsigned("==", text, _splat(ord("_"), _BYTES))
        word = builder.or_(builder.or_(within(lower, ord("a"), 26), digit), underscore)
        blank = builder.icmp_unsigned("==", text, _splat(ord(" "), _BYTES))
        space = builder.or_(within(text, 9, 5), blank)
        masks = [mask(builder.icmp_signed("<", text, nothing)), mask(word), mask(space), mask(within(text, 0x1C, 4))]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 4)(types.int64, types.int64), codegen


@intrinsic
def equal_bytes(typingctx, source, byte):
    """Mask of the bytes equal to ``byte`` among the 64 at an address."""

    def codegen(context, builder, signature, args):
        text = builder.load(_at(builder, args[0], _BYTES), align=1)
        single = builder.insert_element(ir.Constant(_BYTES, ir.Undefined), args[1], ir.Constant(_I32, 0))
        indices = ir.Constant(ir.VectorType(_I32, BLOCK), [0] * BLOCK)
        every = builder.shuffle_vector(single, ir.Constant(_BYTES, ir.Undefined), indices)
        return builder.bitcast(builder.icmp_unsigned("==", text, every), _I64)

    return types.uint64(types.int64, types.uint8), codegen
