"""Logs of every process: structured, one line each, to standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Final

import structlog

from tamis.service.settings import LOG_FORMAT, LOG_LEVEL

QUIET_LIBRARIES: Final = ("alembic", "httpx", "httpcore")
"""Libraries that log every request: only their warnings are logged."""


def configure_logs(environ: Mapping[str, str] | None = None) -> None:
    """Write every log of this process, the libraries' included, to standard error.

    ``TAMIS_LOG_FORMAT`` is ``json`` (one object a line) or ``text`` (for a terminal); ``TAMIS_LOG_LEVEL`` the least
    important level that is written: ``debug``, ``info``, ``warning`` or ``error``.

    Raises
    ------
    BadSettings
        One of them has another value.
    """
    form, level = LOG_FORMAT.read(environ), LOG_LEVEL.read(environ)
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, number))
