"""The command line: ``tamis``."""

from __future__ import annotations

import sys

from tamis.selectors.errors import TamisError


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 a job failed or a request was refused, 2 used wrongly, 130 interrupted."""
    from tamis.service.cli.commands import app
    from tamis.service.cli.output import show_error

    try:
        app(prog_name="tamis")
    except TamisError as error:
        show_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more when it closes stdout.
        sys.stderr.close()
        sys.exit(1)
