"""``python -m tamis.service.worker [--jobs N] [--parent PID]``: a supervisor; `tamis serve` starts it as its child."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

import structlog

from tamis.selectors.errors import TamisError
from tamis.service.logs import configure_logs
from tamis.service.process_setup import die_with_parent
from tamis.service.settings import Settings
from tamis.service.worker.supervisor import is_reporting, run_worker


def main(argv: Sequence[str] | None = None) -> int:
    """Run a supervisor until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="tamis-worker", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="jobs at a time")
    parser.add_argument("--check", action="store_true", help="only tell whether a worker of this host reported lately")
    parser.add_argument("--parent", type=int, help="stop in good order when this process, the parent, dies")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    try:
        configure_logs()
        if arguments.check:
            return 0 if is_reporting(Settings.from_environment()) else 1
        if arguments.parent is not None:
            die_with_parent(arguments.parent, signal.SIGTERM)
        run_worker(Settings.from_environment(), slots=arguments.jobs)
    except TamisError as error:
        structlog.get_logger("tamis.worker").error("the worker can't run", code=error.code, detail=error.detail)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
