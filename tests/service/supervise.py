"""A supervisor with the short times and the runner of these tests: ``supervise.py DATABASE_URL OPTIONS_JSON``."""

from __future__ import annotations

import json
import sys

from tamis.service.settings import Settings
from tamis.service.store import Store
from tamis.service.worker.attempt import Timing
from tamis.service.worker.supervisor import Supervisor

SHORT = {"lease": 2.0, "heartbeat": 0.1, "poll": 0.05, "memory": 0.05, "grace": 0.5, "report": 0.1}


def main() -> None:
    """Run until told to stop."""
    options = json.loads(sys.argv[2])
    slots, runner = options.pop("slots", 1), options.pop("runner", "runners:run")
    settings = Settings.from_environment()
    settings.create_folders()
    Supervisor(Store(sys.argv[1]), settings, slots=slots, timing=Timing(**(SHORT | options)), runner=runner).run()


if __name__ == "__main__":
    main()
