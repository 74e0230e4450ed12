"""Tables of the settings: for `tamis settings` with their values, for the pages without."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tamis.service.settings import registry
from tamis.service.settings.model import Settings

HIDDEN: Final = "(set)"
"""Shown instead of a secret."""


class SettingRow(NamedTuple):
    """One setting, as `tamis settings` shows it."""

    name: str  # of the environment variable
    value: str | None  # in effect; None: not set, and the default is no single value
    default: str
    values: str  # type and range
    meaning: str


def setting_rows(environ: Mapping[str, str] | None = None) -> Sequence[SettingRow]:
    """List all settings with the values in effect.

    Parameters
    ----------
    environ : mapping, optional
        ``os.environ`` when left out.

    Raises
    ------
    BadSettings
        A value can't be used.
    """
    environ = os.environ if environ is None else environ
    settings = Settings.from_environment(environ)
    computed = {
        registry.HOME.variable: str(settings.home),
        registry.DATABASE_URL.variable: _without_password(settings.database_url),
        registry.THREADS.variable: str(settings.threads),
    }
    rows = []
    for setting in registry.SETTINGS:
        parsed = setting.read(environ)
        text = environ.get(setting.variable) or (str(parsed) if isinstance(parsed, int | str) else None)
        value = HIDDEN if setting.secret and text else computed.get(setting.variable, text)
        words = (setting.default, setting.values, setting.meaning)
        rows.append(SettingRow(setting.variable, value, *(part.replace("`", "") for part in words)))
    return rows


def settings_table() -> str:
    """Write all settings as a Markdown table: name, default, values, meaning."""
    lines = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    lines += [f"| `{one.variable}` | {one.default} | {one.values} | {one.meaning} |" for one in registry.SETTINGS]
    return "\n".join(lines) + "\n"


def _without_password(url: str) -> str:
    """Hide the password of a database's URL."""
    hidden = re.sub(r"(?<=://)([^/@:]*):[^@]*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", hidden)
