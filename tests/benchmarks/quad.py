"""Speed and memory of Quad: ``quad.py loop``, ``kmeans``; tables as Markdown for tests/benchmarks/README.md.

``loop``: the bandit against the released loop (``quad_reference.py``), the same pulls, in one process and one thread.
``kmeans``: a whole job that clusters a million embeddings, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import quad_reference  # type: ignore[import-not-found]

from tamis.native.greedy import bandit
from tamis.selectors.methods.quad.bandit import Arms, Rules, Trace, pull
from tamis.selectors.methods.quad.released import pull_as_released

HERE = Path(__file__).resolve().parent
ROUNDS, BATCH, PROBE, WORTH, THRESHOLD = 200, 50, 10, 40, 0.2
TAU, ALPHA = 0.002, 1e-4
NEIGHBOURS = 3
SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ROW_GROUP = 16_384
NO_BUDGET = 2**60


def best_of(repetitions: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the least CPU seconds of several runs, and what the last one returned."""
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def loop(counts: list[int], repetitions: int) -> None:
    """Time the loops on clusters whose influences differ, with neighbours in a plane."""
    print("| clusters x rounds | released loop | Tamis, as released | ratio | same pulls | Tamis, corrected |", end="")
    print(" five columns of state | answers of all rounds |\n|---|---|---|---|---|---|---|---|")
    for count in counts:
        draw = np.random.default_rng(0)
        sizes = draw.integers(20, 400, count)
        codes = np.repeat(np.arange(count, dtype=np.int32), sizes)
        influence = 0.002 + 0.001 * draw.normal(size=count)[codes] + 0.002 * draw.normal(size=len(codes))
        places = (draw.random((count, 2)) * np.sqrt(np.pi * count / NEIGHBOURS) * THRESHOLD).astype(np.float32)
        near = bandit.near_centres(places, THRESHOLD, len(places) ** 2)
        distances = (1 - near.shares) * THRESHOLD
        listed = [
            list(zip(near.arms[a:b].tolist(), distances[a:b].tolist(), strict=True))
            for a, b in zip(near.starts[:-1].tolist(), near.starts[1:].tolist(), strict=True)
        ]
        documents = [part.tolist() for part in np.split(influence, np.cumsum(sizes)[:-1])]
        given = {"batch": BATCH, "probe": PROBE, "tau": TAU, "alpha": ALPHA, "threshold": THRESHOLD}
        given |= {"worth": WORTH, "rounds": ROUNDS}
        arms = Arms.of(codes, count)
        released, own = (Rules(BATCH, PROBE, WORTH, *units, ROUNDS) for units in ((TAU, ALPHA), (0.5, 2.0)))

        def score(number: int, rows: Any, influence: Any = influence) -> Any:
            return influence[rows]

        def theirs(documents: Any = documents, listed: Any = listed, given: Any = given) -> Any:
            return quad_reference.run(documents, listed, given)

        def ours(arms: Arms = arms, near: Any = near, rules: Rules = released, score: Any = score) -> Trace:
            return pull_as_released(arms, rules, NO_BUDGET, score, near)

        def corrected(arms: Arms = arms, rules: Rules = own, score: Any = score) -> Trace:
            return pull(arms, rules, score, lambda rows: True)

        slow, order = best_of(repetitions, theirs)
        fast, trace = best_of(repetitions, ours)
        default, _ = best_of(repetitions, corrected)
        state = sum(column.nbytes for column in trace.state)
        print(
            f"| {count:,} x {ROUNDS} | {slow:.2f} | {fast:.3f} | {slow / fast:.0f}x "
            f"| {'yes' if order == trace.arms.tolist() else 'no'} | {default:.3f} | {state / 1e3:.0f} kB "
            f"| {trace.values.nbytes / 1e3:.0f} kB |",
            flush=True,
        )


def kmeans(rows: int, dimension: int, clusters: int, threads: int) -> None:
    """Run a job on embeddings of many topics."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw = np.random.default_rng(0)
        centres = draw.normal(size=(2 * clusters, dimension)).astype(np.float32)
        schema = pa.schema([("embedding", pa.list_(pa.float32(), dimension)), ("influence", pa.float32())])
        with pq.ParquetWriter(folder / "pool.parquet", schema, compression="none", use_dictionary=False) as writer:
            for start in range(0, rows, ROW_GROUP):
                size = min(ROW_GROUP, rows - start)
                of = draw.integers(0, len(centres), size)
                values = centres[of] + draw.standard_normal((size, dimension), dtype=np.float32)
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dimension)
                noise = draw.standard_normal(size, dtype=np.float32)
                writer.write_table(pa.table([vectors, pa.array(centres[of, 0] + noise)], schema=schema))
        job = {
            "dataset": {"shards": [str(folder / "pool.parquet")]},
            "selector": {"name": "quad", "params": {"clusters": clusters}},
            "budget": {"rows": rows // 100},
        }
        (folder / "job.json").write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, str(HERE / "dsir_tamis.py"), str(folder / "job.json"), str(folder / "work"), str(threads)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **SINGLE},
        )
    found = json.loads(done.stdout.splitlines()[-1])
    print("| rows x dimensions, clusters | threads | cluster CPU s | influence | pull | report | whole | peak RSS MB |")
    print("|---|---|---|---|---|---|---|---|")
    parts = " | ".join(f"{found[name]:.2f}" for name in ("clusters", "influence", "pull", "report", "whole"))
    print(f"| {rows:,} x {dimension}, {clusters:,} | {threads} | {parts} | {found['peak_rss'] / 1e6:.0f} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["loop", "kmeans"])
    parser.add_argument("--arms", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.part == "loop":
        loop(arguments.arms, arguments.repetitions)
    else:
        kmeans(arguments.rows, arguments.dimension, arguments.clusters, arguments.threads)


if __name__ == "__main__":
    main()
