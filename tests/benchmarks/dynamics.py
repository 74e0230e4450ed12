"""Scoring rows by their training dynamics, against loops written anew from the description of the authors' code.

Every leg computes accumulated margin, forgetting and EL2N (first 10 epochs) of one made-up log; CPU seconds of the work
alone.

- loop: batches of 256 held in memory, as the reference's; the float32 exponential of a batch, then a Python loop over
  its rows that keeps dictionaries by row.
- batches: the same with NumPy over the batch instead of the loop, which no user's loop beats by much.
- kernels: the log in memory as one array, in blocks of 16,384 visits.
- parquet, arrow: the log in a file of that format, through the phase of a job that scores, three times (one a metric),
  from an empty cache.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Figures, Yielded, benchmark, leg, timed
from tests.benchmarks.jobs import prepare, run_job

BATCH = 256
BLOCK = 16_384
EL2N_EPOCHS = 10

Log = list[tuple[int, Any, Any]]
"""Epoch, rows and outputs of every batch."""


def write_log(path: Path, rows: int, classes: int, epochs: int) -> None:
    """Write a log of 16-bit log-probabilities, as Parquet and as Arrow: most rows are learned, epochs are shuffled."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    labels = random.integers(0, classes, rows)
    ease = random.normal(2, 2, rows)
    schema = pa.schema(
        {"epoch": pa.int32(), "row": pa.int64(), "label": pa.int32(), "logits": pa.list_(pa.float16(), classes)}
    )
    with (
        pq.ParquetWriter(path, schema, compression="zstd") as writer,
        pa.ipc.new_file(path.with_suffix(".arrow"), schema) as arrow,
    ):
        for epoch in range(epochs):
            order = random.permutation(rows)
            for part in np.array_split(order, max(1, rows * classes // 2_000_000)):
                logits = random.normal(0, 1.5, (len(part), classes)).astype(np.float32)
                logits[np.arange(len(part)), labels[part]] += ease[part] * min(1.0, (epoch + 1) / 8)
                logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
                columns = [
                    pa.array(np.full(len(part), epoch, np.int32)),
                    pa.array(part),
                    pa.array(labels[part].astype(np.int32)),
                    pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float16).ravel()), classes),
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                arrow.write_batch(pa.record_batch(columns, schema=schema))


def read_log(path: str) -> tuple[int, Any, Any, Any, Any]:
    """Return the number of rows; epochs, row numbers, labels and outputs of all visits."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path).combine_chunks()
    lists = table["logits"].combine_chunks()
    outputs = lists.flatten().to_numpy().reshape(len(table), -1)
    rows = table["row"].to_numpy()
    return int(rows.max()) + 1, table["epoch"].to_numpy(), rows, table["label"].to_numpy().astype(np.int64), outputs


def _batches(path: str) -> tuple[Log, Any]:
    """Cut a log as a training loop writes it; return the labels of all rows too."""
    import numpy as np

    n, epochs, rows, labels, outputs = read_log(path)
    bounds = np.flatnonzero(np.diff(epochs, prepend=-1, append=-1))
    starts = [at for first, end in itertools.pairwise(bounds) for at in range(first, end, BATCH)]
    of_rows = np.empty(n, np.int64)
    of_rows[rows] = labels
    return [
        (int(epochs[start]), rows[start:end], outputs[start:end])
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
    ], of_rows


def _measured(work: Callable[[], tuple[Any, Any, Any]], repeat: int) -> Figures:
    done = timed(work, repeat)
    return {**done.figures, "sums": [float(column.sum()) for column in done.result]}


@leg()
def loop(log: str, repeat: int) -> Figures:
    """Follow every row in Python."""
    import numpy as np

    batches, labels = _batches(log)

    def work() -> tuple[Any, Any, Any]:
        n = len(labels)
        aum, el2n = dict.fromkeys(range(n), 0.0), dict.fromkeys(range(n), 0.0)
        forgetting, last = dict.fromkeys(range(n), 0), dict.fromkeys(range(n), 0)
        for epoch, visited, outputs in batches:
            p = np.exp(outputs.astype(np.float32))
            predicted = p.argmax(axis=1)
            for place, row in enumerate(visited.tolist()):
                label = labels[row]
                correct = int(predicted[place] == label)
                if last[row] == 1 and correct == 0:
                    forgetting[row] += 1
                last[row] = correct
                others = p[place].copy()
                others[label] = 0.0
                aum[row] += float(p[place, label] - others.max())
                if epoch < EL2N_EPOCHS:
                    others[label] = p[place, label] - 1.0
                    el2n[row] += float(np.sqrt((others * others).sum()))
        first, second, third = (np.array(list(scores.values())) for scores in (aum, forgetting, el2n))
        return first, second, third

    return _measured(work, repeat)


@leg()
def batches(log: str, repeat: int) -> Figures:
    """Follow every row with NumPy over a batch."""
    import numpy as np

    cut, labels = _batches(log)

    def work() -> tuple[Any, Any, Any]:
        n = len(labels)
        aum, el2n = np.zeros(n, np.float32), np.zeros(n, np.float32)
        forgetting, last = np.zeros(n, np.int32), np.zeros(n, np.bool_)
        for epoch, visited, outputs in cut:
            p = np.exp(outputs.astype(np.float32))
            wanted, places = labels[visited], np.arange(len(visited))
            correct = p.argmax(axis=1) == wanted
            forgetting[visited] += last[visited] & ~correct
            last[visited] = correct
            own = p[places, wanted]
            if epoch < EL2N_EPOCHS:
                p[places, wanted] = own - 1.0
                el2n[visited] += np.sqrt((p * p).sum(axis=1))
            p[places, wanted] = 0.0
            aum[visited] += own - p.max(axis=1)
        return aum, forgetting, el2n

    return _measured(work, repeat)


@leg()
def kernels(log: str, repeat: int) -> Figures:
    """Measure and fold blocks of visits; a first run compiles."""
    import numpy as np

    from tamis.native.learning import dynamics, dynamics_folds

    n, epochs, visited, labels, outputs = read_log(log)

    def work() -> tuple[Any, Any, Any]:
        aum, el2n = np.zeros((2, n))
        latest, counts, learned, forgotten = np.zeros((4, n), np.int32)
        last = np.zeros(n, np.uint8)
        for start in range(0, len(visited), BLOCK):
            block = slice(start, start + BLOCK)
            visits = dynamics.measure(outputs[block], labels[block], "log_probs")
            assert isinstance(visits, dynamics.Visits)
            own, when = visited[block].astype(np.uint32), epochs[block]
            for column in (own, *visits):
                column.setflags(write=False)
            dynamics_folds.fold_visits(own, when, latest, counts)
            dynamics_folds.fold_sum(own, when, visits.margin, 2**31 - 1, aum)
            dynamics_folds.fold_sum(own, when, visits.error, EL2N_EPOCHS, el2n)
            dynamics_folds.fold_correct(own, visits.correct, last, learned, forgotten)
        return aum, forgotten, el2n

    work()
    return _measured(work, repeat)


@leg()
def phase(log: str, rows: int, repeat: int) -> Figures:
    """Score through the phase of a job, once for every metric; only that phase counts."""
    kernels = prepare()
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    runs: list[float] = []
    sums: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pq.write_table(pa.table({"id": range(rows)}), folder / "candidates.parquet")
        for repetition in range(repeat):
            seconds, sums = 0.0, []
            for metric in ("aum", "forgetting", "el2n"):
                params = {"source": "dynamics", "metric": metric, "never_learned": "as_counted", "order": "highest"}
                spec = {
                    "dataset": {"shards": [str(folder / "candidates.parquet")]},
                    "dynamics": {"shards": [log]},
                    "selector": {"name": "topk", "params": params},
                    "budget": {"rows": 1},
                }
                out = folder / f"{metric}-{repetition}"
                seconds += run_job(spec, out, folder / f"cache-{repetition}", 2)["score"]
                sums.append(pc.sum(pq.read_table(out / "scores.parquet")["score"]).as_py())
            runs.append(seconds)
    return {**kernels, "cpu": statistics.median(runs), "best": min(runs), "sums": sums}


@benchmark(
    full={"rows": 50_000, "classes": 10, "epochs": 20, "repeat": 7, "with_loop": True},
    toy={"rows": 500, "epochs": 3, "repeat": 1},
)
def scores(rows: int, classes: int, epochs: int, repeat: int, with_loop: bool) -> Iterator[Yielded]:
    """Margins, forgetting and EL2N of one log by every way; the Python loop is slow."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        write_log(path, rows, classes, epochs)
        runs = {
            "batches": batches.ours(log=path, repeat=repeat),
            **({"loop": loop.ours(log=path, repeat=1)} if with_loop else {}),
            "kernels": kernels.ours(log=path, repeat=repeat),
            "parquet": phase.ours(log=path, rows=rows, repeat=repeat),
            "arrow": phase.ours(log=path.with_suffix(".arrow"), rows=rows, repeat=repeat),
        }
    for name, found in runs.items():
        np.testing.assert_allclose(found["sums"], runs["batches"]["sums"], rtol=1e-5)
        told = {"leg": name, "CPU s": found["best"]}
        told |= {f"{base} ×": runs[base]["best"] / found["best"] for base in ("loop", "batches") if base in runs}
        yield told | {"peak RSS MB": found["peak_rss"] / 1e6}
    yield f"{rows:,} rows x {classes} classes x {epochs} epochs: {rows * classes * epochs * 2 / 1e6:.0f} MB of outputs."
