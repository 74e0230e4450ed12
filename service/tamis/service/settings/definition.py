"""`Setting`: one environment variable with its type, its range, its default and its meaning."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from tamis.selectors.errors import TamisError

T = TypeVar("T")


class BadSettings(TamisError):
    """A setting has a value that can't be used."""

    code = "bad-settings"
    status = 500


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One setting.

    Attributes
    ----------
    variable : str
        Name of the environment variable; an empty value counts as not set.
    default : str
        The default in words, for documentation.
    values : str
        Type and range in words, for documentation.
    meaning : str
        One phrase.
    parse : callable
        From the variable's text to its value. Raises ValueError, whose text completes "VARIABLE: ...".
    unset : T
        Value when the variable is not set.
    secret : bool
        Never show the value.
    """

    variable: str
    default: str
    values: str
    meaning: str
    parse: Callable[[str], T]
    unset: T
    secret: bool = False

    def read(self, environ: Mapping[str, str] | None = None) -> T:
        """Read and check the value from `environ`, by default this process's. Raises BadSettings."""
        text = (os.environ if environ is None else environ).get(self.variable)
        if not text:
            return self.unset
        try:
            return self.parse(text)
        except ValueError as error:
            raise BadSettings(f"{self.variable}: {error}") from error


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def number_setting(
    variable: str, low: int, high: int, *, meaning: str, unset: T, default: str | None = None
) -> Setting[int | T]:
    """Define a setting that is a whole number from `low` to `high`; `default` is `unset` in words."""
    return Setting(
        variable,
        default=f"{unset:,}" if default is None else default,
        values=f"whole number, {low:,} to {high:,}",
        meaning=meaning,
        parse=whole_number(low, high),
        unset=unset,
    )


def choice_setting(variable: str, *choices: str, meaning: str, unset: str) -> Setting[str]:
    """Define a setting that is one of several words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    values = ", ".join(f"`{choice}`" for choice in choices)
    return Setting(variable, default=f"`{unset}`", values=values, meaning=meaning, parse=parse, unset=unset)
