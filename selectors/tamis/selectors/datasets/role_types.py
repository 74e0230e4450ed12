"""The Arrow types that can play each role, and the types that rows of it are read as."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from tamis.selectors.schema.request import Role

VECTOR_ROLES = frozenset({"embedding", "gradient", "activation", "output_gradient", "logits"})

CATEGORY_ROLES = frozenset({"group", "label", "cluster"})

COUNT_ROLES = frozenset({"size", "epoch", "row"})

SCORE_ROLES = frozenset({"score", "cutoff", "influence"})

ADVICE: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (
        lambda type_: (
            pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_)
        ),
        "Store it as UTF-8 strings.",
    ),
    (pa.types.is_decimal, "Store it as int64 or float64."),
    (pa.types.is_nested, "Store the field that is meant as a column of its own."),
)


def is_text(type_: pa.DataType) -> bool:
    """Whether it is one of Arrow's string types, dictionaries of strings included."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _any_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def _text_type(type_: pa.DataType) -> pa.DataType | None:
    if is_text(type_):
        return pa.string()
    if _any_list(type_) and pa.types.is_integer(type_.value_type):
        return pa.list_(pa.int64())
    return None


def _id_type(type_: pa.DataType) -> pa.DataType | None:
    if is_text(type_):
        return pa.string()
    return type_ if pa.types.is_integer(type_) else None


def _category_type(type_: pa.DataType) -> pa.DataType | None:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    return pa.string() if is_text(value) or pa.types.is_integer(value) or pa.types.is_boolean(value) else None


def _count_type(type_: pa.DataType) -> pa.DataType | None:
    return pa.int64() if pa.types.is_integer(type_) else None


def _score_type(type_: pa.DataType) -> pa.DataType | None:
    if pa.types.is_float16(type_) or pa.types.is_float32(type_):
        return pa.float32()
    return pa.float64() if pa.types.is_floating(type_) or pa.types.is_integer(type_) else None


def _vector_type(type_: pa.DataType) -> pa.DataType | None:
    if not _any_list(type_):
        return None
    value = type_.value_type
    if pa.types.is_floating(value):
        return pa.list_(value)
    return None


def template_type(type_: pa.DataType) -> pa.DataType | None:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    simple = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_temporal)
    return pa.string() if is_text(value) or any(test(value) for test in simple) else None


ACCEPT: Mapping[Role, Callable[[pa.DataType], pa.DataType | None]] = {
    "text": _text_type,
    "id": _id_type,
    "group": _category_type,
    "label": _category_type,
    "cluster": _category_type,
    "size": _count_type,
    "epoch": _count_type,
    "row": _count_type,
    "score": _score_type,
    "cutoff": _score_type,
    "influence": _score_type,
    "embedding": _vector_type,
    "gradient": _vector_type,
    "activation": _vector_type,
    "output_gradient": _vector_type,
    "logits": _vector_type,
}

_VECTORS = "lists of float16, float32 or float64, all of one length"

TAKES: Mapping[Role, str] = {
    "text": "strings, or lists of integers (token ids)",
    "id": "strings or integers",
    "group": "strings, integers or booleans",
    "label": "strings, integers or booleans",
    "cluster": "strings, integers or booleans",
    "size": "non-negative integers",
    "epoch": "non-negative integers",
    "row": "non-negative integers",
    "score": "floats or integers",
    "cutoff": "floats or integers",
    "influence": "floats or integers",
    "embedding": _VECTORS,
    "gradient": _VECTORS,
    "activation": _VECTORS,
    "output_gradient": _VECTORS,
    "logits": _VECTORS,
}

DEFAULT_TYPE: Mapping[Role, pa.DataType] = {
    "text": pa.string(),
    "id": pa.string(),
    "group": pa.string(),
    "label": pa.string(),
    "cluster": pa.string(),
    "size": pa.int64(),
    "epoch": pa.int64(),
    "row": pa.int64(),
    "score": pa.float64(),
    "cutoff": pa.float64(),
    "influence": pa.float64(),
    "embedding": pa.list_(pa.float64()),
    "gradient": pa.list_(pa.float64()),
    "activation": pa.list_(pa.float64()),
    "output_gradient": pa.list_(pa.float64()),
    "logits": pa.list_(pa.float64()),
}


def join_types(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if left == right:
        return left
    if pa.types.is_integer(left) and pa.types.is_integer(
        right
    ):  # ids of two widths; a value that overflows is an error
        return pa.uint64() if pa.uint64() in (left, right) else pa.int64()
    if pa.types.is_floating(left) and pa.types.is_floating(right):
        return left if left.bit_width >= right.bit_width else right
    if pa.types.is_list(left) and pa.types.is_list(right):
        value = join_types(left.value_type, right.value_type)
        return None if value is None else pa.list_(value)
    return None
