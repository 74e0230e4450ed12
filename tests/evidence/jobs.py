"""A running service for an experiment: everything that is compared is a job, submitted by the client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.service import home

if TYPE_CHECKING:
    from tamis.service.client import Client


@contextlib.contextmanager
def service() -> Iterator[tuple[Client, Path]]:
    """Run a service; give a client of it, and a folder whose files its jobs may read."""
    from tamis.service.cli.demo import running_service
    from tamis.service.client import Client

    with home() as folder:
        data = folder / "data"
        data.mkdir()
        with running_service(folder, data) as url, Client(url) as client:
            yield client, data


def lists(values: Any) -> Any:
    """Make a column of vectors."""
    import numpy as np
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
