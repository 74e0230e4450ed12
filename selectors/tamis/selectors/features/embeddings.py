"""Vectors of a whole dataset in memory: what a selector that compares rows with each other works on."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tamis.native.math.norms import squared_lengths
from tamis.selectors.errors import Invalid

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.run.run import Run
    from tamis.selectors.schema.request import Role

Matrix = npt.NDArray[np.float32]


def matrix_bytes(dataset: Dataset, role: Role) -> int:
    """Return the memory that :func:`read_matrix` takes; 0 while the rows are not counted."""
    return 4 * (dataset.rows or 0) * dataset.dimension(role)


def read_matrix(run: Run, dataset: Dataset, role: Role) -> Matrix:
    """Return the vectors of `role`, float32 (n, d), rows in the dataset's order.

    Units are read by the job's threads, each into its own rows: the result does not depend on their number.

    Parameters
    ----------
    run : Run
        The job; is told of the rows read, and asked whether to stop.
    dataset : Dataset
        With counted rows.
    role : Role
        A role of vectors.

    Raises
    ------
    DataError
        When a value is NaN or infinite, or too large for float32; with shard, column and place.
    Cancelled
        When the job was cancelled.
    """
    assert dataset.row_starts is not None
    starts = dataset.row_starts.tolist()
    matrix = np.empty((starts[-1], dataset.dimension(role)), np.float32)

    def read(unit: int) -> None:
        run.check_cancelled()
        for batch in run.read(dataset, unit, (role,)):
            first = starts[unit] + batch.start
            part = matrix[first : first + batch.rows]
            vectors = batch.vectors(role)
            with np.errstate(over="ignore"):  # found below, as infinite
                part[:] = vectors
            check_finite(part, vectors, dataset, unit, batch.start, role)
            run.advance(rows=batch.rows)
        run.advance(units=1)

    with ThreadPoolExecutor(run.engine.threads, thread_name_prefix="tamis-read") as pool:
        futures: list[Future[None]] = [pool.submit(read, unit) for unit in range(len(dataset.units))]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in futures:
            if future in done:
                future.result()
    return matrix


def check_finite(
    part: Matrix, vectors: npt.NDArray[np.floating], dataset: Dataset, unit: int, start: int, role: Role
) -> None:
    """Refuse vectors that are not finite as float32; `start` is the number of the first inside its unit."""
    finite = np.isfinite(part)
    if finite.all():
        return
    row, place = np.argwhere(~finite)[0].tolist()
    given = vectors[row, place]
    why = "" if not np.isfinite(given) else ", too large for float32"
    raise dataset.refuse(unit, start + row, role, f"Value {place} of the vector is {given}{why}.")


def normalized(matrix: Matrix, dataset: Dataset) -> Matrix:
    """Scale every row to length 1, in place; a squared distance is then 2 (1 - cosine).

    Parameters
    ----------
    matrix : ndarray, shape (n, d), float32
        Of :func:`read_matrix`; written to and returned.
    dataset : Dataset
        Where it comes from, for the error.

    Raises
    ------
    Invalid
        When a row is all zeros: it has no direction.
    """
    lengths = np.sqrt(squared_lengths(matrix))
    if len(lengths) and not lengths.min() > 0:
        row = int(np.argmin(lengths))
        raise Invalid(
            f"The vector of row {row} is all zeros, which has no direction: leave the row out, or use the euclidean "
            "metric.",
            pointer=f"{dataset.pointer}/columns/embedding",
            row=row,
        )
    matrix /= lengths[:, None]
    return matrix
