"""The registry of settings: complete, and shown as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tamis.service.settings import SETTINGS, BadSettings, Settings, setting_rows, settings_table

ROOT = Path(__file__).parents[2]
SOURCES = [path for root in ("native", "selectors", "service") for path in (ROOT / root).rglob("*.py")]


def test_every_variable_of_the_code_is_a_setting() -> None:
    named = {name for path in SOURCES for name in re.findall(r"\bTAMIS_[A-Z_]+\b", path.read_text())}
    assert named == {one.variable for one in SETTINGS if one.variable.startswith("TAMIS_")}


def test_every_setting_is_defined_once_and_explained() -> None:
    assert len({one.variable for one in SETTINGS}) == len(SETTINGS)
    assert all(one.default and one.values and one.meaning for one in SETTINGS)


def test_the_rows_show_the_values_in_effect() -> None:
    environ = {"TAMIS_HOME": "/srv/tamis", "TAMIS_THREADS": "3", "TAMIS_KEEP_BYTES": "5", "TAMIS_LOG_LEVEL": "debug"}
    rows = {row.name: row for row in setting_rows(environ)}
    assert list(rows) == [one.variable for one in SETTINGS]
    shown = {name: row.value for name, row in rows.items()}
    assert {name: shown[name] for name in environ} == environ
    assert shown["TAMIS_DATABASE_URL"] == "sqlite:////srv/tamis/tamis.sqlite3"
    assert (shown["TAMIS_KEEP_SECONDS"], shown["TAMIS_LEASE_SECONDS"]) == (None, "15")
    with pytest.raises(BadSettings, match="TAMIS_THREADS: 'two' is not a whole number from 1 to 1024"):
        setting_rows({"TAMIS_THREADS": "two"})


def test_secrets_are_not_shown() -> None:
    environ = {
        "TAMIS_API_KEY": "tamis_hush",
        "TAMIS_DATABASE_URL": "postgresql://ann:hush@db:5432/tamis?password=hush&sslmode=require",
    }
    shown = {row.name: row.value for row in setting_rows(environ)}
    assert shown["TAMIS_DATABASE_URL"] == "postgresql://ann:***@db:5432/tamis?password=***&sslmode=require"
    assert shown["TAMIS_API_KEY"] == "(set)"


@pytest.mark.parametrize("variable", ["TAMIS_LEASE_SECONDS", "TAMIS_MAX_SHARDS", "TAMIS_LOG_FORMAT"])
def test_a_default_in_words_is_the_default(variable: str) -> None:
    setting = next(one for one in SETTINGS if one.variable == variable)
    assert setting.default.replace(",", "").strip("`") == str(setting.read({}))


def test_the_table_has_a_row_for_each() -> None:
    lines = settings_table().splitlines()
    assert lines[0] == "| setting | default | values | meaning |"
    assert len(lines) == len(SETTINGS) + 2
    assert all(re.split(r"(?<!\\)\|", line)[0] == "" and line.count("|") == 5 for line in lines)


def test_settings_of_an_empty_environment_are_the_defaults() -> None:
    assert Settings.from_environment({}).limits.max_queued_jobs == 10_000
