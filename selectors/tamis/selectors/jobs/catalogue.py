"""The catalogue: selectors found by name through entry points, and their descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from pydantic import Field, JsonValue, ValidationError

from tamis.selectors.errors import Invalid, UnknownSelector
from tamis.selectors.run.selector import API_VERSIONS, Needs, Selector
from tamis.selectors.schema.request import SelectorSpec, Shape
from tamis.selectors.schema.validation import field_errors

ENTRY_POINTS = "tamis.selectors"
"""Entry-point group that selectors are registered in."""


class SelectorInfo(Shape):
    """A selector's entry in the catalogue."""

    name: str
    revision: int
    summary: str
    needs: Needs
    params_schema: dict[str, JsonValue] = Field(description="JSON Schema of the parameters, defaults included.")
    cost: str
    citation: str


@cache
def _registered() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        if point.name in points:
            raise RuntimeError(f"two packages register a selector '{point.name}'")
        points[point.name] = point
    return points


_ADDED: dict[str, type[Selector]] = {}
"""Selectors of :func:`added`."""


def reload() -> None:
    """Look for installed selectors again, e.g. after a package was installed into a running process."""
    _registered.cache_clear()


@contextmanager
def added(kind: type[Selector]) -> Iterator[None]:
    """Have `kind` found under its name inside the block, whether its package is installed or not; in this process."""
    _ADDED[kind.name] = kind
    try:
        yield
    finally:
        del _ADDED[kind.name]


def names() -> list[str]:
    """Return the names of all selectors, sorted."""
    return sorted({*_registered(), *_ADDED})


def load(name: str) -> type[Selector]:
    """Import the selector class registered as `name`.

    Raises
    ------
    UnknownSelector
        When nothing of that name is registered.
    RuntimeError
        When the entry point leads to something else than a selector of this name and of a supported plugin API.
    """
    if name in _ADDED:
        return _ADDED[name]
    points = _registered()
    if name not in points:
        raise UnknownSelector(
            f"There is no selector '{name}'; there are: {', '.join(names())}.", pointer="/selector/name"
        )
    kind = points[name].load()  # this one only: some bring slow imports along
    where = f"the entry point of '{name}' ({points[name].value})"
    if not (isinstance(kind, type) and issubclass(kind, Selector)):
        raise RuntimeError(f"{where} is no subclass of tamis.selectors.plugin.Selector")
    if kind.api_version not in API_VERSIONS:
        supported = ", ".join(map(str, sorted(API_VERSIONS)))
        raise RuntimeError(
            f"{where} is written for version {kind.api_version} of the plugin API, and this Tamis supports "
            f"{supported}: install a version of that package, or of Tamis, that fits"
        )
    if kind.name != name:
        raise RuntimeError(f"{where} names the selector '{kind.name}'")
    return kind


def find(spec: SelectorSpec) -> Selector:
    """Return the selector of `spec` with its parameters checked.

    Raises
    ------
    UnknownSelector
        When nothing of that name is registered.
    Invalid
        When the parameters do not fit; `errors` holds a pointer for each.
    """
    kind = load(spec.name)
    try:
        params = kind.Params.model_validate(spec.params)
    except ValidationError as error:
        wrong = field_errors(error, spec.params, kind.Params)
        errors = [{"pointer": f"/selector/params{item['pointer']}", "detail": item["detail"]} for item in wrong]
        detail = "; ".join(
            f"{item['pointer'].removeprefix('/')}: {item['detail']}".removeprefix(": ") for item in wrong
        )
        raise Invalid(
            f"The parameters of '{spec.name}' do not fit: {detail}.", pointer=errors[0]["pointer"], errors=errors
        ) from error
    return kind.make(params)


def info(name: str) -> SelectorInfo:
    """Return the catalogue's entry of one selector.

    Its needs are those of the default parameters, or, where some have no default, of the first example in their JSON
    Schema.

    Raises
    ------
    UnknownSelector
        When nothing of that name is registered.
    """
    kind = load(name)
    schema = kind.Params.model_json_schema()
    example: Mapping[str, JsonValue] = next(iter(schema.get("examples", [])), {})
    return SelectorInfo(
        name=kind.name,
        revision=kind.revision,
        summary=kind.summary,
        needs=kind.make(kind.Params.model_validate(example)).needs(),
        params_schema=schema,
        cost=kind.cost,
        citation=kind.citation,
    )


def catalogue() -> list[SelectorInfo]:
    """Return the entries of all registered selectors, by name."""
    return [info(name) for name in names()]
