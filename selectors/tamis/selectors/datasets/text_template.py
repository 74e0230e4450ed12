"""Texts made of several columns: ``'{title} by {author}'``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

import pyarrow as pa
import pyarrow.compute as pc

from tamis.selectors.errors import Invalid


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literals and columns in turn."""

    source: str
    literals: tuple[str, ...]  # one more than fields
    fields: tuple[str, ...]  # column names, in order, with repeats

    @classmethod
    def parse(cls, source: str, pointer: str) -> Template:
        """Parse `source`; `pointer` goes with the errors.

        Raises
        ------
        Invalid
            When braces do not match, a field has no name, or asks for formatting.
        """
        literals = [""]
        fields: list[str] = []
        try:
            for literal, name, form, conversion in Formatter().parse(source):
                literals[-1] += literal
                if name is None:
                    continue
                if not name or form or conversion:
                    field = name + ("!" + conversion if conversion else "") + (":" + form if form else "")
                    raise Invalid(
                        f"The template's field {{{field}}} must be a column's name and nothing else.", pointer=pointer
                    )
                fields.append(name)
                literals.append("")
        except ValueError as error:
            raise Invalid(
                f"The template {source!r} can't be parsed: {error} ('{{{{' and '}}}}' are literal braces).",
                pointer=pointer,
            ) from error
        if not fields:
            raise Invalid("The template names no column: write '{column}' where its text goes.", pointer=pointer)
        return cls(source, tuple(literals), tuple(fields))

    def key(self) -> dict[str, str]:
        """Return what decides its texts, as JSON values."""
        return {"template": self.source}

    def columns_read(self) -> tuple[str, ...]:
        """Return the columns it needs, each once, in order of first use."""
        return tuple(dict.fromkeys(self.fields))

    def apply(self, columns: Mapping[str, pa.Array], rows: int) -> pa.Array:
        """Return the texts, large_string[rows]: values that are not text as Arrow writes them, nulls as nothing."""
        parts: list[pa.Array | pa.Scalar] = []
        for literal, name in zip(self.literals, (*self.fields, None), strict=True):
            if literal:
                parts.append(pa.scalar(literal, pa.large_string()))
            if name is not None:
                column = columns[name]
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                parts.append(column.cast(pa.large_string()))
        joined = pc.binary_join_element_wise(
            *parts, pa.scalar("", pa.large_string()), null_handling="replace", null_replacement=""
        )
        assert len(joined) == rows
        return joined
