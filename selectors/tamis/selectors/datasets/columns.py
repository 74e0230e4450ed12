"""Roles and columns: which physical columns play which role, and whether their types can."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import pyarrow as pa

from tamis.selectors.datasets.role_types import (
    ACCEPT,
    ADVICE,
    DEFAULT_TYPE,
    SCORE_ROLES,
    TAKES,
    VECTOR_ROLES,
    join_types,
    template_type,
)
from tamis.selectors.datasets.text_template import Template
from tamis.selectors.datasets.vector_mixture import Mixture
from tamis.selectors.errors import Invalid
from tamis.selectors.schema.request import Checkpoints, Columns, Format, Role, TextTemplate

ROLES: tuple[Role, ...] = get_args(Role)

_COLUMNS_NAMED = 30  # in an error; the rest is counted
_TYPE_NAMED = 120  # characters of a type in an error: a struct's can be pages long


class ShardSchema(NamedTuple):
    """The schema of a shard's columns."""

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
                _types_of(role, name, distinct, f"{place}/template", template_type)
            roles[role] = RoleColumn(role, template, pa.string())
            continue
        if isinstance(named, Checkpoints):
            roles[role] = _mixture(role, named, distinct, place)
            continue
        name = named if named is not None else role
        types = _types_of(role, name, distinct, place, ACCEPT[role], named=named is not None)
        roles[role] = _unify(role, name, types, place)
    return RoleColumns(roles, _json_types(roles, distinct))


def _mixture(role: Role, named: Checkpoints, shards: Sequence[ShardSchema], pointer: str) -> RoleColumn:
    """Resolve one vector column for each checkpoint, all of one length."""
    found = [
        _unify(role, name, _types_of(role, name, shards, f"{pointer}/columns/{index}", ACCEPT[role]), pointer)
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
            advice = next((f" {text}" for test, text in ADVICE if test(physical)), "")
            raise Invalid(
                f"The column '{name}' holds {_short(physical)}; the role {role} takes {TAKES[role]}.{advice}",
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


def _unify(role: Role, name: str, found: Sequence[_Typed], pointer: str) -> RoleColumn:
    """Make one type of what the shards hold, or say which two do not go together."""
    known = [typed for typed in found if typed.type is not None]
    if not known:
        return RoleColumn(role, name, DEFAULT_TYPE[role])
    first = known[0]
    type_ = first.type
    for typed in known[1:]:
        joined = join_types(type_, typed.type)
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
