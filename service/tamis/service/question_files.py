"""Files of questions beside a job's result: shard, number and id of each row in question.

The store holds row numbers and scores, as little as the job needs; shards and ids are for whoever answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tamis.selectors.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tamis.selectors.run.questions import Question


def write_question(out: Path, question: Question) -> None:
    """Write a question's table into the job's folder and remove those of earlier rounds.

    Raises
    ------
    StorageError
        The folder can't be written.
    """
    import pyarrow as pa

    from tamis.selectors.results.files import published

    path = _path(out, question.round)
    for earlier in set(out.glob(_path(out, "*").name)) - {path}:
        earlier.unlink(missing_ok=True)
    table = question.table().combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with published(path) as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)


def read_question(out: Path, round: int) -> pa.Table:
    """Read the table of a question: columns ``row``, ``shard``, ``shard_row`` and, where there are ids, ``id``.

    Raises
    ------
    StorageError
        It can't be read, or another client's answer has just ended the round.
    """
    import pyarrow as pa

    try:
        return pa.ipc.open_file(_path(out, round).read_bytes()).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"The rows that round {round} asks can't be read: {error}.") from error


def _path(out: Path, round: int | str) -> Path:
    return out / f"question-{round}.arrow"
