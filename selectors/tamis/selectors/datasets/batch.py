"""Bounded batches of role columns, as Arrow arrays and NumPy views of their buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.selectors.datasets.columns import RoleColumn
from tamis.selectors.datasets.role_types import CATEGORY_ROLES, COUNT_ROLES, VECTOR_ROLES, is_text
from tamis.selectors.datasets.text_template import Template
from tamis.selectors.datasets.vector_mixture import Mixture
from tamis.selectors.schema.request import Role

MAX_BATCH_ROWS = 16_384
MAX_BATCH_BYTES = 2 * 2**20
"""Of the columns read, decoded. A single row that is larger is a batch of its own."""

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]


class BadRow(Exception):
    """A value that its role can't take; the reader adds where it is."""

    def __init__(self, row: int, detail: str, column: str) -> None:
        super().__init__(detail)
        self.row = row  # inside the array
        self.detail = detail
        self.column = column


@dataclass(frozen=True, slots=True)
class RoleBatch:
    """Consecutive rows of a unit.

    The arrays may point into mapped files: hold them no longer than the batch is needed.
    """

    start: int  # number of the first row inside its unit
    rows: int
    columns: Mapping[Role, pa.Array]  # as `conform` leaves them

    @property
    def bytes(self) -> int:
        """Bytes of the decoded columns."""
        return sum(int(array.nbytes) for array in self.columns.values())

    @property
    def is_token_ids(self) -> bool:
        """Whether the text role holds token ids (use :meth:`tokens`) rather than text (:meth:`text_buffers`)."""
        return not is_text(self.columns["text"].type)

    def take(self, positions: npt.NDArray[np.int64]) -> RoleBatch:
        """Return a batch of its own with the rows at `positions`; its `start` says nothing any more."""
        indices = pa.array(positions, pa.int64())
        return RoleBatch(0, len(positions), {role: array.take(indices) for role, array in self.columns.items()})

    def column(self, role: Role) -> pa.Array:
        """Return a role's values: text as string or large_string, group and label as text, nulls as null."""
        array = self.columns[role]
        if role in CATEGORY_ROLES:
            return self.strings(role)
        return array

    def text_buffers(self) -> tuple[Ints, Bytes]:
        """Return the text as (offsets int64[rows + 1], data uint8[offsets[-1]]), valid UTF-8, nulls as empty texts.

        The data are not copied; `offsets[0]` is 0.
        """
        array = self.columns["text"]
        offsets = _offsets(array)
        if array.null_count and np.diff(offsets)[_nulls(array)].any():  # Arrow lets a null own bytes
            array = pc.fill_null(array, "")
            offsets = _offsets(array)
        data = _bytes(array.buffers()[2])[offsets[0] : offsets[-1]]
        return offsets - offsets[0], data

    def tokens(self) -> tuple[Ints, Ints]:
        """Return token ids as (offsets int64[rows + 1], values int64[offsets[-1]]), nulls as empty lists."""
        array = self.columns["text"]
        lengths = np.diff(_offsets(array))
        if array.null_count:
            lengths[_nulls(array)] = 0
        values: Ints = array.flatten().cast(pa.int64()).to_numpy(zero_copy_only=True)  # flatten() leaves nulls out
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), values

    def ints(self, role: Role) -> Ints:
        """Return whole numbers, int64[rows]; sizes, epochs and rows are neither null nor negative."""
        ints: Ints = self.columns[role].cast(pa.int64()).to_numpy(zero_copy_only=True)
        return ints

    def floats(self, role: Role) -> Floats:
        """Return scores, float32[rows] or float64[rows] as the dataset holds them; nulls are NaN."""
        floats: Floats = self.columns[role].to_numpy(zero_copy_only=False)
        return floats

    def strings(self, role: Role) -> pa.Array:
        """Return values as text, string[rows], nulls as null: integers in decimal, booleans as 'true' and 'false'."""
        array = self.columns[role]
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return array if pa.types.is_string(array.type) else array.cast(pa.string())

    def categories(self, role: Role) -> tuple[npt.NDArray[np.int32], list[str]]:
        """Return codes int32[rows] into the list of names, -1 for null; faster than :meth:`strings` when few differ."""
        array = self.columns[role]
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        names = array.dictionary.cast(pa.string()).to_pylist()
        distinct = list(dict.fromkeys(name for name in names if name is not None))
        number = {name: code for code, name in enumerate(distinct)}
        codes = np.array([-1 if name is None else number[name] for name in names] + [-1], dtype=np.int32)
        indices = array.indices
        if indices.null_count:
            indices = indices.cast(pa.int64()).fill_null(len(names))
        return codes[indices.to_numpy(zero_copy_only=False)], distinct

    def vectors(self, role: Role) -> Floats:
        """Return vectors, float[rows, dimension], in the width that the shard stores, without a copy."""
        array = self.columns[role]
        vectors: Floats = array.flatten().to_numpy(zero_copy_only=True).reshape(len(array), array.type.list_size)
        return vectors


def _nulls(array: pa.Array) -> npt.NDArray[np.bool_]:
    nulls: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _bytes(buffer: pa.Buffer | None) -> Bytes:
    return np.empty(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)


def _offsets(array: pa.Array) -> Ints:
    """Return the offsets of a string or list array, int64[n + 1], absolute into its values; slices honoured."""
    if len(array) == 0:
        return np.zeros(1, np.int64)
    if pa.types.is_fixed_size_list(array.type):
        size = int(array.type.list_size)
        return np.arange(array.offset, array.offset + len(array) + 1, dtype=np.int64) * size
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_list(array.type)
    kind = np.int64 if wide else np.int32
    # Counted, as a buffer may be longer than it must, by a part of an element even.
    offsets = np.frombuffer(array.buffers()[1], kind, array.offset + len(array) + 1)[array.offset :]
    return offsets.astype(np.int64, copy=False)


# -- slicing


def slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut `batch`, without copies, into batches within MAX_BATCH_ROWS and MAX_BATCH_BYTES (decoded)."""
    for start in range(0, batch.num_rows, MAX_BATCH_ROWS):
        part = batch.slice(start, MAX_BATCH_ROWS)
        if part.nbytes <= MAX_BATCH_BYTES and not any(map(_may_grow, part.schema.types)):
            yield part
            continue
        ends = np.cumsum(sum((_row_bytes(column) for column in part.columns), np.zeros(part.num_rows, np.int64)))
        begin, taken = 0, 0
        while begin < part.num_rows:
            end = max(int(np.searchsorted(ends, taken + MAX_BATCH_BYTES, side="right")), begin + 1)
            yield part.slice(begin, end - begin)
            begin, taken = end, int(ends[end - 1])


def _may_grow(type_: pa.DataType) -> bool:
    """Whether a row may take more bytes once it is decoded."""
    return bool(pa.types.is_dictionary(type_) or pa.types.is_string_view(type_))


def _row_bytes(array: pa.Array) -> Ints:
    """Return the decoded size of each row in bytes, int64[n]."""
    type_ = array.type
    if pa.types.is_dictionary(type_):
        indices = array.indices.cast(pa.int64()).fill_null(len(array.dictionary))
        widths: Ints = np.append(_row_bytes(array.dictionary), 0)
        decoded: Ints = widths[indices.to_numpy(zero_copy_only=False)]
        return decoded
    if pa.types.is_string_view(type_):
        views = np.frombuffer(array.buffers()[1], np.int32, 4 * (array.offset + len(array)))
        return views[4 * array.offset :: 4].astype(np.int64)  # 16 bytes a view, its length first
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return np.diff(_offsets(array))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return np.diff(_offsets(array)) * int(type_.value_type.bit_width // 8)
    return np.full(len(array), 1 if pa.types.is_null(type_) else max(1, type_.bit_width // 8), np.int64)


# -- from physical columns to roles


def conform(column: RoleColumn, batch: pa.RecordBatch, dimension: int | None) -> pa.Array:
    """Return the array of one role.

    Text becomes string or large_string, or stays a list of integers; id its type; group and label stay strings,
    dictionaries of them, integers or booleans; size, epoch and row int64; score and cutoff float32 or float64; vectors
    a fixed-size list of `dimension` values (of what the first row has when None).

    Raises
    ------
    BadRow
        A value that can't be taken: a size, an epoch or a row that is null or negative, a vector that is null or of
        another length, a token id that is null, an integer that does not fit.
    """
    if isinstance(column.source, Template):
        arrays = {name: batch.column(batch.schema.get_field_index(name)) for name in column.columns_read()}
        return column.source.apply(arrays, batch.num_rows)
    if isinstance(column.source, Mixture):
        return _mixed(column.source, batch, dimension)
    array = batch.column(batch.schema.get_field_index(column.source))
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), column.type)
    if column.role in VECTOR_ROLES:
        return _vectors(column.source, array, dimension)
    if column.role in CATEGORY_ROLES:
        return array.cast(pa.string()) if pa.types.is_string_view(array.type) else array
    if pa.types.is_list(column.type):
        return _token_lists(column.source, array)
    if pa.types.is_string(column.type):
        return _strings(array, wide_too=column.role == "text")
    numbers = _numbers(column.source, array, column.type)
    if column.role in COUNT_ROLES:
        _check_counts(column.role, column.source, numbers)
    return numbers


def _mixed(mixture: Mixture, batch: pa.RecordBatch, dimension: int | None) -> pa.Array:
    """Return the weighted mean of several columns of vectors, float64."""
    total: npt.NDArray[np.float64] | None = None
    for name, share in zip(mixture.columns, mixture.shares, strict=True):
        array = batch.column(batch.schema.get_field_index(name))
        if pa.types.is_null(array.type):
            array = pa.nulls(len(array), pa.list_(pa.float64()))
        vectors = _vectors(name, array, dimension)
        dimension = int(vectors.type.list_size)
        part = share * vectors.flatten().to_numpy(zero_copy_only=True).astype(np.float64)
        total = part if total is None else total + part
    assert total is not None and dimension is not None
    return pa.FixedSizeListArray.from_arrays(pa.array(total), dimension)


def _strings(array: pa.Array, *, wide_too: bool) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or (wide_too and pa.types.is_large_string(array.type)):
        return array
    return array.cast(pa.large_string() if wide_too else pa.string())


def _numbers(name: str, array: pa.Array, type_: pa.DataType) -> pa.Array:
    try:
        return array.cast(type_, safe=pa.types.is_integer(type_))
    except pa.ArrowInvalid:
        row = next(row for row in range(len(array)) if not _fits(array.slice(row, 1), type_))
        raise BadRow(row, f"{array[row].as_py()} does not fit {type_}.", name) from None


def _fits(array: pa.Array, type_: pa.DataType) -> bool:
    try:
        array.cast(type_)
    except pa.ArrowInvalid:
        return False
    return True


def _check_counts(role: Role, name: str, counts: pa.Array) -> None:
    if counts.null_count:
        raise BadRow(int(np.argmax(_nulls(counts))), f"The {role} is null; every row needs one.", name)
    values = counts.to_numpy(zero_copy_only=True)
    if len(values) and values.min() < 0:
        row = int(np.argmax(values < 0))
        raise BadRow(row, f"The {role} is {values[row]}; {role}s are not negative.", name)


def _token_lists(name: str, array: pa.Array) -> pa.Array:
    offsets = _offsets(array)
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    if values.null_count:
        lengths = np.diff(offsets)
        inside = np.repeat(np.arange(len(array)), lengths)
        bad = _nulls(values) & ~_nulls(array)[inside]  # what a null list owns does not count
        if bad.any():
            raise BadRow(int(inside[np.argmax(bad)]), "A token id is null.", name)
    if pa.types.is_uint64(values.type) and len(values) and (pc.max(values).as_py() or 0) > np.iinfo(np.int64).max:
        wide = np.asarray(values.fill_null(0)) > np.iinfo(np.int64).max
        row = int(np.repeat(np.arange(len(array)), np.diff(offsets))[np.argmax(wide)])
        raise BadRow(row, "A token id does not fit int64.", name)
    return array


def _vectors(name: str, array: pa.Array, dimension: int | None) -> pa.Array:
    if array.null_count:
        raise BadRow(int(np.argmax(_nulls(array))), "The vector is null; every row needs one.", name)
    offsets = _offsets(array)
    lengths = np.diff(offsets)
    size = dimension if dimension is not None else int(lengths[0]) if len(lengths) else 0
    if (lengths != size).any():
        row = int(np.argmax(lengths != size))
        raise BadRow(row, f"The vector has {lengths[row]} values, those before it {size}: all need one length.", name)
    if size == 0:
        raise BadRow(0, "The vector is empty.", name)
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    if values.null_count:
        raise BadRow(int(np.argmax(_nulls(values))) // size, "A value of the vector is null.", name)
    return pa.FixedSizeListArray.from_arrays(values, size)
