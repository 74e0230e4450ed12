"""Settings of the service: all from the environment, each defined once in `tamis.service.settings.registry`."""

from __future__ import annotations

from tamis.service.settings.definition import BadSettings
from tamis.service.settings.model import Keep, RequestLimits, Settings
from tamis.service.settings.registry import (
    API_KEY,
    CALLBACK_HOSTS,
    DATA_ROOTS,
    LOG_FORMAT,
    LOG_LEVEL,
    SERVICE_URL,
    SETTINGS,
    AllowedHosts,
)
from tamis.service.settings.table import SettingRow, setting_rows, settings_table

__all__ = [
    "API_KEY",
    "CALLBACK_HOSTS",
    "DATA_ROOTS",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "SERVICE_URL",
    "SETTINGS",
    "AllowedHosts",
    "BadSettings",
    "Keep",
    "RequestLimits",
    "SettingRow",
    "Settings",
    "setting_rows",
    "settings_table",
]
