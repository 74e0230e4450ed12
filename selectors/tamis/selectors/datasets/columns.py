"""Roles and columns: which physical columns play which role, and whether their types can."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import pyarrow as pa

from tamis.selectors.datasets.text_template import Template
from tamis.selectors.datasets.vector_mixture import Mixture
from tamis.selectors.errors import Invalid
from tamis.selectors.schema.request import Checkpoints, Columns, Format, Role, TextTemplate

ROLES: tuple[Role, ...] = get_args(Role)
VECTOR_ROLES = frozenset({"embedding", "gradient", "activation", "output_gradient", "logits"})
CATEGORY_ROLES = frozenset({"group", "label", "cluster"})
COUNT_ROLES = frozenset({"size", "epoch", "row"})
SCORE_ROLES = frozenset({"score", "cutoff", "influence"})

_COLUMNS_NAMED = 30  # in an error; the rest is counted
_TYPE_NAMED = 120  # characters of a type in an error: a struct's can be pages long
_ADVICE: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (
        lambda type_: (
            pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_)
        ),
        "Store it as UTF-8 strings.",
    ),
    (pa.types.is_decimal, "Store it as int64 or float64."),
    (pa.types.is_nested, "Store the field that is meant as a column of its own."),
)


class ShardSchema(NamedTuple):
    """What a shard says of its columns."""

    uri: str
    format: Format
    schema: pa.Schema | None  # None: a JSON-lines shard without a line, which says nothing


@dataclass(frozen=True)
class RoleColumn:
    """A role with what fills it, the same in every shard."""

    role: Role
    source: str | Template | Mixture  # a column, or several
    type: pa.DataType  # of `RoleBatch.column(role)`; text may also come as large_string
    dimension: int | None = None  # of vectors, where the schema tells

    def columns_read(self) -> tuple[str, ...]:
        """Return the physical columns it needs."""
        return (self.source,) if isinstance(self.source, str) else self.source.columns_read()


@dataclass(frozen=True)
class RoleColumns:
    """The roles of a dataset, resolved against every shard's schema."""

    roles: Mapping[Role, RoleColumn]
    json_types: Mapping[str, pa.DataType]  # of columns in JSON-lines shards, where the shard itself does not tell

    def __getitem__(self, role: Role) -> RoleColumn:
        return self.roles[role]

    def has(self, role: Role) -> bool:
        """Whether a column plays `role`."""
        return role in self.roles

    @property
    def is_token_ids(self) -> bool:
        """Whether the text role holds token ids rather than text."""
        return "text" in self.roles and pa.types.is_list(self.roles["text"].type)

    def columns_read(self, roles: Iterable[Role]) -> tuple[str, ...]:
        """Return the physical columns that `roles` need, each once.

        Raises
        ------
        ValueError
            When no column plays one of them: it was neither named in the manifest nor asked for at `Dataset.open`.
        """
        wanted: dict[str, None] = {}
        for role in roles:
            if role not in self.roles:
                raise ValueError(f"no column plays the role {role}: name it in `needs` or in the manifest")
            wanted.update(dict.fromkeys(self.roles[role].columns_read()))
        return tuple(wanted)

    def json_schema(self, names: Iterable[str], seen: pa.Schema | None) -> pa.Schema:
        """Return what to ask of the JSON parser for the columns `names` of a shard whose first lines hold `seen`."""
        fields = []
        for name in names:
            asked = self.json_types[name]
            own = pa.null() if seen is None else seen.field(name).type
            numbers = pa.types.is_primitive(own) and pa.types.is_primitive(asked) and not pa.types.is_boolean(own)
            fields.append(pa.field(name, asked if pa.types.is_null(own) or numbers or pa.types.is_list(asked) else own))
        return pa.schema(fields)

    def key(self, roles: Iterable[Role]) -> dict[str, Any]:
        """Return, as JSON values, everything about `roles` that decides what a reader sees."""
        found = (self.roles[role] for role in sorted(set(roles)))
        return {
            column.role: {
                "source": column.source if isinstance(column.source, str) else column.source.key(),
                "type": str(column.type),
            }
            for column in found
        }


def column_names(columns: Columns, needs: Collection[Role], pointer: str) -> tuple[str, ...]:
    """Return the names of the physical columns that the roles will need, before any shard is looked at.

    Raises
    ------
    Invalid
        When a template can't be parsed.
    """
    names: dict[str, None] = {}
    for role in ROLES:
        named = getattr(columns, role)
        if isinstance(named, TextTemplate):
            template = Template.parse(named.template, f"{pointer}/columns/{role}/template")
            names.update(dict.fromkeys(template.columns_read()))
        elif isinstance(named, Checkpoints):
            names.update(dict.fromkeys(named.columns))
        elif named is not None or role in needs:
            names[named or role] = None
    return tuple(names)


def first_there(
    columns: Columns, either: Sequence[Role], shards: Sequence[ShardSchema], pointer: str
) -> tuple[Role, ...]:
    """Return the role that is needed of those of which one must be filled: none where the manifest names one.

    Raises
    ------
    Invalid
        When none is named and no column that all shards have bears the name of one.
    """
    if not either or any(getattr(columns, role) is not None for role in either):
        return ()
    known = [shard for shard in shards if shard.schema is not None]
    for role in either:
        if all(shard.schema is not None and role in shard.schema.names for shard in known):
            return (role,)
    lacking = next(shard for shard in known if shard.schema is not None and not set(either) <= set(shard.schema.names))
    assert lacking.schema is not None
    raise Invalid(
        f"A column is needed for one of the roles {' and '.join(either)}. None is named, and not all shards have a "
        f"column of such a name: name the right one of {_listed(lacking.schema.names)} in columns.{either[0]}, or in "
        f"columns.{either[-1]}.",
        pointer=f"{pointer}/columns/{either[0]}",
        shard=lacking.uri,
    )


def resolve(columns: Columns, needs: Collection[Role], shards: Sequence[ShardSchema], pointer: str) -> RoleColumns:
    """Find the column of every role and check it in every shard.

    Parameters
    ----------
    columns : Columns
        The manifest's.
    needs : collection of Role
        Roles that must be filled; one that is not named falls back to a column of its own name.
    shards : sequence of ShardSchema
        In manifest order; equal schemas should be one object, it is looked at once.
    pointer : str
        JSON Pointer to the dataset.

    Raises
    ------
    Invalid
        With the pointer of the role, the shard, the column, and the columns that there are.
    """
    distinct = list({(id(shard.schema), shard.format): shard for shard in reversed(shards) if shard.schema}.values())[
        ::-1
    ]
    roles: dict[Role, RoleColumn] = {}
    for role in ROLES:
        named = getattr(columns, role)
        if named is None and role not in needs:
            continue
        place = f"{pointer}/columns/{role}"
        if isinstance(named, TextTemplate):
            template = Template.parse(named.template, f"{place}/template")
            for name in template.columns_read():
                _types_of(role, name, distinct, f"{place}/template", _template_type)
            roles[role] = RoleColumn(role, template, pa.string())
            continue
        if isinstance(named, Checkpoints):
            roles[role] = _mixture(role, named, distinct, place)
            continue
        name = named if named is not None else role
        types = _types_of(role, name, distinct, place, _ACCEPT[role], named=named is not None)
        roles[role] = _unify(role, name, types, place)
    return RoleColumns(roles, _json_types(roles, distinct))


def _mixture(role: Role, named: Checkpoints, shards: Sequence[ShardSchema], pointer: str) -> RoleColumn:
    """Resolve one vector column for each checkpoint, all of one length."""
    found = [
        _unify(role, name, _types_of(role, name, shards, f"{pointer}/columns/{index}", _ACCEPT[role]), pointer)
        for index, name in enumerate(named.columns)
    ]
    lengths = {column.dimension for column in found} - {None}
    if len(lengths) > 1:
        held = ", ".join(f"'{name}' {column.dimension}" for name, column in zip(named.columns, found, strict=True))
        raise Invalid(f"The checkpoints' vectors must be of one length: {held}.", pointer=pointer)
    mixture = Mixture.of(named)
    return RoleColumn(role, mixture, pa.list_(pa.float64()), lengths.pop() if lengths else None)


class _Typed(NamedTuple):
    shard: ShardSchema
    physical: pa.DataType
    type: pa.DataType | None  # None: only nulls seen so far, goes with any


def _types_of(
    role: Role,
    name: str,
    shards: Sequence[ShardSchema],
    pointer: str,
    accept: Callable[[pa.DataType], pa.DataType | None],
    *,
    named: bool = True,
) -> list[_Typed]:
    found = []
    for shard in shards:
        assert shard.schema is not None
        physical = _field(role, name, shard, pointer, named=named).type
        if pa.types.is_null(physical):
            found.append(_Typed(shard, physical, None))
            continue
        if role in VECTOR_ROLES and shard.format == "jsonl" and physical == pa.list_(pa.int64()):
            physical = pa.list_(pa.float64())  # 1 is a float too where JSON is concerned
        type_ = accept(physical)
        if type_ is None:
            advice = next((f" {text}" for test, text in _ADVICE if test(physical)), "")
            raise Invalid(
                f"The column '{name}' holds {_short(physical)}; the role {role} takes {_TAKES[role]}.{advice}",
                pointer=pointer,
                shard=shard.uri,
                column=name,
            )
        found.append(_Typed(shard, physical, type_))
    return found


def _field(role: Role, name: str, shard: ShardSchema, pointer: str, *, named: bool) -> pa.Field:
    assert shard.schema is not None
    indices = shard.schema.get_all_field_indices(name)
    if len(indices) == 1:
        return shard.schema.field(indices[0])
    held = _listed(shard.schema.names)
    if indices:
        detail = f"{shard.uri} has {len(indices)} columns '{name}'; a role needs one."
    elif named:
        seen = " in its first lines; a field that only some lines have must be there too, as null" * (
            shard.format == "jsonl"
        )
        detail = f"{shard.uri} has no column '{name}'{seen}. Its columns: {held or 'none'}."
    else:
        detail = (
            f"A {role} column is needed. None is named, and {shard.uri} has no column '{role}': "
            f"name the right one of its columns in columns.{role}: {held or 'none'}."
        )
    raise Invalid(detail, pointer=pointer, shard=shard.uri, column=name)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _COLUMNS_NAMED
    return ", ".join(names[:_COLUMNS_NAMED]) + (f" and {more} more" if more > 0 else "")


def _short(type_: pa.DataType) -> str:
    text = str(type_)
    return text if len(text) <= _TYPE_NAMED else text[:_TYPE_NAMED] + "…"


# -- what each role takes, and what becomes of it


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


def _template_type(type_: pa.DataType) -> pa.DataType | None:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    simple = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_temporal)
    return pa.string() if is_text(value) or any(test(value) for test in simple) else None


_ACCEPT: Mapping[Role, Callable[[pa.DataType], pa.DataType | None]] = {
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
_TAKES: Mapping[Role, str] = {
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
_DEFAULT: Mapping[Role, pa.DataType] = {
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


def _unify(role: Role, name: str, found: Sequence[_Typed], pointer: str) -> RoleColumn:
    """Make one type of what the shards hold, or say which two do not go together."""
    known = [typed for typed in found if typed.type is not None]
    if not known:
        return RoleColumn(role, name, _DEFAULT[role])
    first = known[0]
    type_ = first.type
    for typed in known[1:]:
        joined = _join(type_, typed.type)
        if joined is None:
            raise _disagreement(name, first, typed, pointer)
        type_ = joined
    if role not in VECTOR_ROLES:
        return RoleColumn(role, name, type_)
    fixed = [typed for typed in known if pa.types.is_fixed_size_list(typed.physical)]
    for typed in fixed[1:]:
        if typed.physical.list_size != fixed[0].physical.list_size:
            raise _disagreement(name, fixed[0], typed, pointer)
    return RoleColumn(role, name, type_, fixed[0].physical.list_size if fixed else None)


def _join(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if left == right:
        return left
    if pa.types.is_integer(left) and pa.types.is_integer(
        right
    ):  # ids of two widths; a value that overflows is an error
        return pa.uint64() if pa.uint64() in (left, right) else pa.int64()
    if pa.types.is_floating(left) and pa.types.is_floating(right):
        return left if left.bit_width >= right.bit_width else right
    if pa.types.is_list(left) and pa.types.is_list(right):
        value = _join(left.value_type, right.value_type)
        return None if value is None else pa.list_(value)
    return None


def _disagreement(name: str, first: _Typed, other: _Typed, pointer: str) -> Invalid:
    return Invalid(
        f"The shards do not agree: the column '{name}' holds {_short(first.physical)} in {first.shard.uri} and "
        f"{_short(other.physical)} in {other.shard.uri}.",
        pointer=pointer,
        shard=other.shard.uri,
        column=name,
    )


def _json_types(roles: Mapping[Role, RoleColumn], shards: Sequence[ShardSchema]) -> dict[str, pa.DataType]:
    """Return the widest type that the JSON-lines shards show for each column, or else what its role wants."""
    schemas = [shard.schema for shard in shards if shard.format == "jsonl" and shard.schema is not None]
    asked: dict[str, pa.DataType] = {}
    for column in roles.values():
        for name in column.columns_read():
            seen = [schema.field(name).type for schema in schemas if not pa.types.is_null(schema.field(name).type)]
            users = [user for user in roles.values() if name in user.columns_read()]
            if all(user.role in SCORE_ROLES or user.role in VECTOR_ROLES for user in users):
                asked[name] = pa.list_(pa.float64()) if users[0].role in VECTOR_ROLES else pa.float64()
            elif seen:
                asked[name] = next((type_ for type_ in seen if type_ in (pa.float64(), pa.uint64())), seen[0])
            else:
                asked[name] = column.type
    return asked
