"""Generated tables of the pages: ``python -m tamis.service.cli.reference [--check] [PAGE ...]``.

A page marks the place of a table by two comments, and this command writes what lies between them::

    <!-- generated: params dsir -->
    <!-- end -->

``params NAME`` is the table of a selector's parameters; ``params NAME except OTHER`` leaves out those that it shares
with OTHER. ``commands`` is the reference of the command line, ``api`` the list of endpoints, ``settings`` that of the
environment variables. All are made from the models, commands and routes of the code.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final

from tamis.selectors.errors import TamisError

PAGES: Final = ("README.md", "selectors/**/*.md", "service/**/*.md", "native/**/*.md", "docker/*.md")
"""Globs of the pages, from the root of the repository."""

COMMON: Final = 3
"""Commands that must share an argument or option before it is explained once, above all commands."""

_REGION: Final = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_KINDS: Final = {"integer": "whole number", "boolean": "`true`, `false`"}
_BOUNDS: Final = {
    "minimum": "{:,.15g} or more",
    "exclusiveMinimum": "above {:,.15g}",
    "maximum": "at most {:,.15g}",
    "exclusiveMaximum": "below {:,.15g}",
}

Schema = Mapping[str, Any]


class UnknownTable(TamisError):
    """A page asks for a table that does not exist."""

    code = "unknown-table"


def generate(page: str) -> str:
    """Return the text of a page with its tables as the code has them now.

    Raises
    ------
    UnknownTable
        A marker names no table.
    """
    return _REGION.sub(lambda region: f"{region[1]}{table(region[2])}{region[4]}", page)


def table(name: str) -> str:
    """Return one table as Markdown, by the name in its marker.

    Raises
    ------
    UnknownTable
        No table has this name.
    """
    match name.split():
        case ["params", selector]:
            return params_table(selector)
        case ["params", selector, "except", other]:
            return params_table(selector, other)
        case ["commands"]:
            return commands_table()
        case ["api"]:
            return api_table()
        case ["settings"]:
            from tamis.service.settings import settings_table

            return settings_table()
    raise UnknownTable(f"There is no table '{name}'.")


def params_table(selector: str, other: str | None = None) -> str:
    """Return the parameters of a selector, from the JSON Schema of its model.

    Parameters
    ----------
    selector : str
        Name of a selector.
    other : str, optional
        Name of a selector whose parameters are left out where they are the same.
    """
    from tamis.selectors.jobs.catalogue import info

    schema: Schema = info(selector).params_schema
    shared = {} if other is None else dict(_parameters(info(other).params_schema))
    required = schema.get("required", ())
    rows = [
        (
            f"`{name}`",
            "required" if name in required else _code(field.get("default")),
            _values(field),
            field.get("description", ""),
        )
        for name, field in _parameters(schema)
        if shared.get(name) != field
    ]
    return _markdown(("parameter", "default", "values", "meaning"), rows)


def _parameters(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the parameters of a JSON Schema; those of an object follow it as ``object.parameter``."""
    for name, field in schema.get("properties", {}).items():
        reference = field.get("$ref")
        if reference is None:
            yield name, field
            continue
        yield name, {"type": "object", "description": field.get("description", "")}
        definition = schema["$defs"][reference.rpartition("/")[2]]
        for inner, inner_field in _parameters(definition | {"$defs": schema["$defs"]}):
            yield f"{name}.{inner}", inner_field


def _values(field: Schema) -> str:
    """Return the values that a field takes: words, or a type with its bounds."""
    if "anyOf" in field:
        return " or ".join(_values(one) for one in field["anyOf"] if one.get("type") != "null")
    if "const" in field or "enum" in field:
        return ", ".join(_code(value) for value in field.get("enum", [field.get("const")]))
    name: str = field["type"]
    kind = _KINDS.get(name, name)
    if "minimum" in field and "maximum" in field:
        return f"{kind}, {field['minimum']:,.15g} to {field['maximum']:,.15g}"
    return ", ".join((kind, *(text.format(field[key]) for key, text in _BOUNDS.items() if key in field)))


def commands_table() -> str:
    """Return the reference of the command line: every command with its arguments and options."""
    import typer

    from tamis.service.cli.commands import app

    commands = dict(_commands(typer.main.get_command(app), "tamis"))
    uses = Counter(_parameter(parameter) for command in commands.values() for parameter in command.params)
    common = {row for row, count in uses.items() if count >= COMMON}
    rows: list[tuple[str, str, str]] = []
    for path, command in commands.items():
        meant = " ".join((command.help or "").split())
        rows.append((f"**`{' '.join((path, *_usage(command, common)))}`**", "", meant))
        rows.extend(row for row in map(_parameter, command.params) if row not in common)
    head = _markdown(("in several commands", "default", "meaning"), sorted(common))
    return f"{head}\n{_markdown(('command, its arguments and options', 'default', 'meaning'), rows)}"


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something by itself, with the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from _commands(one, f"{path} {name}")


def _usage(command: Any, common: Set[tuple[str, str, str]]) -> Iterator[str]:
    """Yield a command's arguments, and those of its options that are explained elsewhere."""
    for parameter in command.params:
        names = _names(parameter)
        if not names[0].startswith("-"):
            yield names[0] if parameter.required else f"[{names[0]}]"
        elif _parameter(parameter) in common:
            yield f"[{names[-1]}]"


def _names(parameter: Any) -> list[str]:
    names: list[str] = [*parameter.opts, *parameter.secondary_opts]
    return names if names[0].startswith("-") else [parameter.metavar or parameter.name.upper()]


def _parameter(parameter: Any) -> tuple[str, str, str]:
    """Return name, default and meaning of an argument or option."""
    default = parameter.default
    if isinstance(default, list):
        default = " ".join(default)
    elif isinstance(default, Path):
        default = str(default)
    names = _names(parameter)
    if parameter.required and names[0].startswith("-"):
        shown = "required"
    else:
        shown = "" if default is False else _code(default)
    environment = f" Also `{parameter.envvar}`." if parameter.envvar else ""
    return ", ".join(f"`{name}`" for name in names), shown, " ".join(parameter.help.split()) + environment


def api_table() -> str:
    """Return the endpoints of the service with what each does and the scope that its key needs."""
    from tamis.service.api.app import create_app
    from tamis.service.settings import Settings

    document = create_app(Settings.from_environment({"TAMIS_HOME": "/nonexistent"})).openapi()
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = [
                scope for scheme in operation.get("security", []) for needed in scheme.values() for scope in needed
            ]
            rows.append((f"`{method.upper()} {path}`", ", ".join(scopes), operation["summary"]))
    return _markdown(("endpoint", "scope", "meaning"), rows)


def _code(value: Any) -> str:
    """Return a value as code; strings without the quotes that JSON has around them."""
    if value is None:
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (head, *rows)]
    return "\n".join((lines[0], "|---" * len(head) + "|", *lines[1:])) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, or with ``--check`` exit with 1 and a diff where a page is not as the code has it."""
    parser = argparse.ArgumentParser(prog="python -m tamis.service.cli.reference", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="all pages of the repository when left out")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args(argv)
    pages = arguments.pages or sorted(path for glob in PAGES for path in Path().glob(glob))
    differs = False
    for page in pages:
        there = page.read_text("utf-8")
        wanted = generate(there)
        if wanted == there:
            continue
        differs = True
        if arguments.check:
            lines = there.splitlines(keepends=True), wanted.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(*lines, str(page), "the code"))
        else:
            page.write_text(wanted, "utf-8")
    if differs and arguments.check:
        sys.stderr.write("Generated tables differ from the code: run `python -m tamis.service.cli.reference`.\n")
    return int(differs and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
