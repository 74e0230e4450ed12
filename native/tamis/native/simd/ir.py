"""Building blocks of the vector intrinsics: loops, loads, splats, fused multiply-adds and masks as LLVM instructions.

An intrinsic is a function of a builder that appends LLVM's portable vector instructions; LLVM splits a vector into what
the processor has. Addresses are int64 numbers.
"""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils

intrinsic: Any = extending.intrinsic
"""Without the types numba declares for it, which keep the typing context as an argument."""

I1, I8, I16, I32, I64, I128 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64, 128))
F32, F64 = ir.FloatType(), ir.DoubleType()


def constant(kind: ir.Type, value: Any) -> ir.Constant:
    """Constant of a scalar type, or a vector with it in all lanes: ``np.full(lanes, value)``."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def pointer(builder: Any, address: Any, kind: ir.Type) -> Any:
    """Pointer of an address."""
    return builder.inttoptr(address, kind.as_pointer())


def offset(builder: Any, address: Any, n_bytes: int) -> Any:
    """Address a known number of bytes on."""
    return builder.add(address, ir.Constant(I64, n_bytes))


def element(builder: Any, address: Any, index: Any, n_bytes: int) -> Any:
    """Address of an element of an array whose elements have ``n_bytes`` each; ``index`` is an int64."""
    return builder.add(address, builder.mul(index, ir.Constant(I64, n_bytes)))


def load(builder: Any, address: Any, kind: ir.Type, align: int = 1) -> Any:
    """Value at an address."""
    return builder.load(pointer(builder, address, kind), align=align)


def store(builder: Any, value: Any, address: Any, align: int = 1) -> None:
    """Write a value to an address."""
    builder.store(value, pointer(builder, address, value.type), align=align)


def shuffle(builder: Any, vector: Any, lanes: Sequence[int]) -> Any:
    """Lanes of a vector in another order: ``vector[lanes]``."""
    undefined = ir.Constant(vector.type, ir.Undefined)
    return builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """Vector with one value in all lanes: ``np.full(lanes, value)``."""
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return shuffle(builder, single, [0] * kind.count)


def load_splat(builder: Any, address: Any, kind: ir.VectorType, align: int = 1) -> Any:
    """Vector with the value at an address in all lanes."""
    return splat(builder, load(builder, address, kind.element, align), kind)


def call(builder: Any, name: str, result: ir.Type, args: Sequence[Any]) -> Any:
    """Call an LLVM intrinsic by its name."""
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), list(args))


def fma(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    """``left * right + addend``, rounded once, of three scalars or vectors of one float type."""
    kind = left.type
    scalar, lanes = (kind.element, f"v{kind.count}") if isinstance(kind, ir.VectorType) else (kind, "")
    return call(builder, f"llvm.fma.{lanes}f{32 if scalar == F32 else 64}", kind, [left, right, addend])


def tree_sum(builder: Any, vector: Any) -> Any:
    """Sum of the lanes in a fixed tree: lane i and lane i + lanes / 2, then of the half that leaves, and so on."""
    lanes = vector.type.count
    width = lanes
    while width > 1:
        width //= 2
        vector = builder.fadd(vector, shuffle(builder, vector, [(lane + width) % lanes for lane in range(lanes)]))
    return builder.extract_element(vector, ir.Constant(I32, 0))


def mask_bits(builder: Any, flags: Any) -> Any:
    """Lanes of a comparison as the lowest bits of an int64: ``sum(flags[lane] << lane)``."""
    bits = builder.bitcast(flags, ir.IntType(flags.type.count))
    return bits if flags.type.count == I64.width else builder.zext(bits, I64)


def pack_masks(builder: Any, masks: Sequence[Any], bits: int) -> list[Any]:
    """Words of 64 bits that hold masks of ``bits`` bits one after the other, the first lowest."""
    each = I64.width // bits
    words = [ir.Constant(I64, 0)] * -(-len(masks) // each)
    for place, mask in enumerate(masks):
        moved = builder.shl(mask, ir.Constant(I64, place % each * bits))
        words[place // each] = builder.or_(words[place // each], moved)
    return words


def counted_loop(
    builder: Any,
    span: tuple[Any, Any, int],
    carried: Sequence[Any],
    body: Callable[[Any, list[Any]], Sequence[Any]],
) -> list[Any]:
    """Loop over ``range(*span)`` that carries values from one step to the next.

    Parameters
    ----------
    builder
    span : (int64 or int, int64, int)
        Start, stop and step.
    carried : sequence of values
        Before the first step.
    body : callable
        Appends a step: of the index and the carried values, the values for the next step.

    Returns
    -------
    list of values
        As the last step leaves them.
    """
    start, stop, step = span
    before = builder.block
    head, inside, done = (builder.append_basic_block(name) for name in ("loop", "step", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    at = builder.phi(I64)
    at.add_incoming(ir.Constant(I64, start) if isinstance(start, int) else start, before)
    held = [builder.phi(value.type) for value in carried]
    for phi, value in zip(held, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", at, stop), inside, done)
    builder.position_at_end(inside)
    following = body(at, held)
    next_at = offset(builder, at, step)
    for phi, value in zip([at, *held], [next_at, *following], strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return held
