"""Speed and memory of scoring rows by their training dynamics, against loops written anew from ccs.md, 1.1 and 1.2.

    python tests/benchmarks/dynamics.py

Every leg computes accumulated margin, forgetting and EL2N (first 10 epochs) of one made-up log, in a process of its
own; CPU seconds of the work alone, the smallest of the repetitions.

- rows: batches of 256 held in memory, as the reference's; the float32 exponential of a batch, then a Python loop over
  its rows that keeps dictionaries by row.
- batches: the same with NumPy over the batch instead of the loop, which no user's loop beats by much.
- kernels: the log in memory as one array, in blocks of 16,384 visits.
- parquet, arrow: the log in a file of that format, through the phase of a job that scores, three times (one a metric),
  from an empty cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dsir_tamis import peak_rss  # type: ignore[import-not-found]

BATCH = 256
BLOCK = 16_384
EL2N_EPOCHS = 10

Log = list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float16]]]


def write_log(path: Path, rows: int, classes: int, epochs: int) -> None:
    """Write a log of 16-bit log-probabilities, as Parquet and as Arrow: most rows are learned, epochs are shuffled."""
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


def read_log(path: Path) -> tuple[int, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return rows, epochs, row numbers, labels and outputs."""
    import pyarrow.parquet as pq

    table = pq.read_table(path).combine_chunks()
    lists = table["logits"].combine_chunks()
    outputs = lists.flatten().to_numpy().reshape(len(table), -1)
    rows = table["row"].to_numpy()
    return int(rows.max()) + 1, table["epoch"].to_numpy(), rows, table["label"].to_numpy().astype(np.int64), outputs


def batches_of(epochs: npt.NDArray[Any], rows: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> Log:
    """Cut a log as a training loop writes it."""
    bounds = np.flatnonzero(np.diff(epochs, prepend=-1, append=-1))
    starts = [at for first, end in itertools.pairwise(bounds) for at in range(first, end, BATCH)]
    return [
        (int(epochs[start]), rows[start:end], outputs[start:end])
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
    ]


def by_rows(log: Log, labels: npt.NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """Follow every row in Python."""
    n = len(labels)
    aum, el2n = dict.fromkeys(range(n), 0.0), dict.fromkeys(range(n), 0.0)
    forgetting, last = dict.fromkeys(range(n), 0), dict.fromkeys(range(n), 0)
    for epoch, rows, outputs in log:
        p = np.exp(outputs.astype(np.float32))
        predicted = p.argmax(axis=1)
        for place, row in enumerate(rows.tolist()):
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
    return tuple(np.array(list(scores.values())) for scores in (aum, forgetting, el2n))  # type: ignore[return-value]


def by_batches(log: Log, labels: npt.NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """Follow every row with NumPy over a batch."""
    n = len(labels)
    aum, el2n = np.zeros(n, np.float32), np.zeros(n, np.float32)
    forgetting, last = np.zeros(n, np.int32), np.zeros(n, np.bool_)
    for epoch, rows, outputs in log:
        p = np.exp(outputs.astype(np.float32))
        wanted, places = labels[rows], np.arange(len(rows))
        correct = p.argmax(axis=1) == wanted
        forgetting[rows] += last[rows] & ~correct
        last[rows] = correct
        own = p[places, wanted]
        if epoch < EL2N_EPOCHS:
            p[places, wanted] = own - 1.0
            el2n[rows] += np.sqrt((p * p).sum(axis=1))
        p[places, wanted] = 0.0
        aum[rows] += own - p.max(axis=1)
    return aum, forgetting, el2n


def by_kernels(
    n: int, epochs: npt.NDArray[Any], rows: npt.NDArray[Any], labels: npt.NDArray[Any], outputs: npt.NDArray[Any]
) -> tuple[Any, Any, Any]:
    """Measure and fold blocks of visits."""
    from tamis.native.learning import dynamics

    aum, el2n = np.zeros((2, n))
    latest, counts, learned, forgotten = np.zeros((4, n), np.int32)
    last = np.zeros(n, np.uint8)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        visits = dynamics.measure(outputs[block], labels[block], "log_probs")
        assert isinstance(visits, dynamics.Visits)
        visited, when = rows[block].astype(np.uint32), epochs[block]
        for column in (visited, *visits):
            column.setflags(write=False)
        dynamics.fold_visits(visited, when, latest, counts)
        dynamics.fold_sum(visited, when, visits.margin, 2**31 - 1, aum)
        dynamics.fold_sum(visited, when, visits.error, EL2N_EPOCHS, el2n)
        dynamics.fold_correct(visited, visits.correct, last, learned, forgotten)
    return aum, forgotten, el2n


def by_job(path: Path, n: int) -> tuple[Any, Any, Any]:
    """Score through the phase of a job."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tamis.selectors.datasets import Dataset, LocalStorage
    from tamis.selectors.features import difficulty
    from tamis.selectors.features.difficulty_params import SourceParams
    from tamis.selectors.jobs.catalogue import find
    from tamis.selectors.run.observer import Unobserved
    from tamis.selectors.run.opened import Opened
    from tamis.selectors.run.progress import PhaseTracker
    from tamis.selectors.run.run import Run
    from tamis.selectors.run.selector import PhaseCost
    from tamis.selectors.schema.request import JobSpec
    from tamis.selectors.signals.signals import Signals
    from tamis.selectors.signals.store import SignalStore
    from tamis.selectors.signals.threads import LocalEngine

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pq.write_table(pa.table({"id": np.arange(n)}), folder / "candidates.parquet")
        spec = JobSpec.model_validate(
            {
                "dataset": {"shards": [str(folder / "candidates.parquet")]},
                "dynamics": {"shards": [str(path)]},
                "selector": {"name": "random"},
                "budget": {"rows": 1},
            }
        )
        wanted = SourceParams(source="dynamics")
        storage, store, engine = LocalStorage(), SignalStore(folder / "cache"), LocalEngine(2)
        candidates = Dataset.open(spec.dataset, storage, needs=set(), pointer="/dataset")  # type: ignore[arg-type]
        roles = set(difficulty.needs(wanted).dynamics)
        log = Dataset.open(spec.dynamics, storage, needs=roles, pointer="/dynamics")  # type: ignore[arg-type]
        opened = Opened(
            spec,
            candidates,
            [],
            log,
            selector=find(spec.selector),
            phases=[PhaseCost(difficulty.PHASE, 0, 0, 1.0)],
            fingerprint="",
        )
        run = Run(opened, Signals(store, store, engine), PhaseTracker([(difficulty.PHASE, 1.0)], Unobserved()))
        found = []
        for metric in ("aum", "forgetting", "el2n"):
            run.begin(difficulty.PHASE)
            params = SourceParams(source="dynamics", metric=metric, never_learned="as_counted")
            found.append(np.concatenate(list(difficulty.scores(run, params).columns)))
        engine.close()
        return tuple(found)  # type: ignore[return-value]


def leg(name: str, path: Path, repetitions: int) -> None:
    """Run one leg and print what it took."""
    work: Callable[[], tuple[Any, Any, Any]]
    if name in ("parquet", "arrow"):
        import pyarrow.parquet as pq

        n = 1 + max(batch["row"].to_numpy().max() for batch in pq.ParquetFile(path).iter_batches(columns=["row"]))

        def work() -> tuple[Any, Any, Any]:
            return by_job(path.with_suffix(f".{name}"), int(n))
    else:
        n, epochs, rows, labels, outputs = read_log(path)
        if name == "kernels":

            def work() -> tuple[Any, Any, Any]:
                return by_kernels(n, epochs, rows, labels, outputs)
        else:
            log = batches_of(epochs, rows, outputs)
            of_rows = np.empty(n, np.int64)
            of_rows[rows] = labels
            reference = by_rows if name == "rows" else by_batches

            def work() -> tuple[Any, Any, Any]:
                return reference(log, of_rows)

    if name in ("kernels", "parquet", "arrow"):
        from tamis.native import warmup

        warmup()
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        scores = work()
        seconds.append(time.process_time() - start)
    sums = [float(np.sum(column)) for column in scores]
    print(json.dumps({"cpu": min(seconds), "rss": peak_rss(), "sums": sums}))


def main() -> None:
    """Write the log and run the legs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--skip-rows", action="store_true", help="leave the Python loop out")
    parser.add_argument("--leg", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.leg:
        leg(arguments.leg, arguments.log, arguments.repetitions)
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "log.parquet"
        write_log(path, arguments.rows, arguments.classes, arguments.epochs)
        size = arguments.rows * arguments.classes * arguments.epochs * 2 / 1e6
        print(
            f"{arguments.rows:,} rows x {arguments.classes} classes x {arguments.epochs} epochs: {size:.0f} MB of "
            "outputs.\n\n| leg | CPU s | reference rows x | NumPy batches x | peak RSS MB |\n|---|---|---|---|---|"
        )
        found: dict[str, dict[str, Any]] = {}
        for name in ("rows", "batches", "kernels", "parquet", "arrow"):
            if name == "rows" and arguments.skip_rows:
                continue
            repetitions = 1 if name == "rows" else arguments.repetitions
            command = [sys.executable, __file__, "--leg", name, "--log", str(path), "--repetitions", str(repetitions)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            np.testing.assert_allclose(
                found[name]["sums"], found["batches" if "batches" in found else name]["sums"], rtol=1e-5
            )
            ratios = [
                f"{found[base]['cpu'] / found[name]['cpu']:.0f}" if base in found else ""
                for base in ("rows", "batches")
            ]
            print(
                f"| {name} | {found[name]['cpu']:.3f} | {' | '.join(ratios)} | {found[name]['rss'] / 1e6:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
