"""Benchmarks of GAIS: ``gais.py speed`` (jobs on Parquet, beside torch-geometric), ``gais.py recall`` (of the graphs).

Each leg is a process of its own. CPU seconds of all threads, and wall seconds, which mean little on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from peers import peer_python  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
PEER = ("torch==2.13.0", "torch_geometric==2.6.1", "pyarrow", "numpy")
SHARDS = 16
CLOUDS_A_CLASS = 10


def write(folder: Path, rows: int, dimension: int, classes: int) -> None:
    """Write clouds of points in shards, row groups of 16,384 rows."""
    random = np.random.default_rng(0)
    clouds = CLOUDS_A_CLASS * classes
    centres = random.normal(size=(clouds, dimension)).astype(np.float32)
    for shard in range(SHARDS):
        of = random.integers(0, clouds, rows // SHARDS)
        points = centres[of] + random.normal(size=(len(of), dimension)).astype(np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.reshape(-1)), dimension)
        table = pa.table({"embedding": vectors, "label": [f"c{cloud % classes}" for cloud in of]})
        pq.write_table(
            table, folder / f"{shard:02d}.parquet", row_group_size=16_384, compression="zstd", use_dictionary=["label"]
        )


def leg(python: Path | str, script: str, *arguments: str, home: Path) -> dict[str, Any]:
    """Run one leg and return what it printed."""
    done = subprocess.run(
        [str(python), str(HERE / script), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TAMIS_HOME": str(home)},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def speed(arguments: argparse.Namespace) -> None:
    """Time jobs by graph and threads, then the peer on the same shards."""
    phases = ("survey", "train", "score", "select", "report")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "data"
        data.mkdir()
        write(data, arguments.rows, arguments.dimension, arguments.classes)
        print(f"{arguments.rows:,} rows of {arguments.dimension}, {arguments.classes} classes, 4% kept\n")
        print(f"| graph | threads | {' | '.join(phases)} | CPU s | wall s | without report | peak RSS MB |")
        print(f"|{'---|' * (len(phases) + 6)}")
        for graph in arguments.graphs:
            for threads in arguments.threads:
                request = {
                    "dataset": {"shards": [str(data / "*.parquet")]},
                    "selector": {"name": "gais", "params": {"graph": graph, "neighbors": 10}},
                    "budget": {"fraction": 0.04},
                }
                (folder / "job.json").write_text(json.dumps(request))
                best: dict[str, Any] = {}
                for repetition in range(arguments.repetitions + (not best)):
                    work = folder / f"{graph}-{threads}-{repetition}"
                    # The first one compiles kernels: a peak of memory and time that is not the job's.
                    found = leg(
                        sys.executable, "gais_leg.py", str(folder / "job.json"), str(work), threads, home=folder
                    )
                    found["cpu"] = sum(value for name, value in found.items() if name.endswith("_cpu"))
                    found["wall"] = sum(value for name, value in found.items() if name.endswith("_wall"))
                    if repetition > 0 and (not best or found["cpu"] < best["cpu"]):
                        best = found
                parts = " | ".join(f"{best[f'{phase}_cpu']:.2f}" for phase in phases)
                print(
                    f"| {graph} | {threads} | {parts} | {best['cpu']:.2f} | {best['wall']:.2f} "
                    f"| {best['cpu'] - best['report_cpu']:.2f} | {best['peak_rss'] / 1e6:.0f} |",
                    flush=True,
                )
        if arguments.peer:
            found = leg(
                peer_python("gais-torch", *PEER), "gais_torch.py", str(data), str(arguments.rows), "1", home=folder
            )
            print(
                "\ntorch-geometric, one thread, CPU s: "
                + ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            )


def recall(arguments: argparse.Namespace) -> None:
    """Measure the share of the true neighbours that each graph finds in a block, and what a row costs."""
    from tamis.native.math import rng
    from tamis.native.neighbours import lsh, small_sets

    random = np.random.default_rng(0)
    columns = ("dimension", "graph", "views", "recall of 10", "in a batch of 1,024", "µs a row")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for dimension in (8, 32, 128):
        centres = random.normal(size=(40, dimension))
        points = centres[random.integers(0, 40, arguments.rows)] + random.normal(size=(arguments.rows, dimension))
        points = np.ascontiguousarray(points - points.mean(axis=0), dtype=np.float32)
        views = lsh.directions(rng.stream_key(0, "recall"), 16, dimension)
        exact = np.empty((len(points), 10), np.int64)
        small_sets.nearest_members(points, np.arange(len(points), dtype=np.int32), exact)
        cases: list[tuple[lsh.Kind, int]] = [("lsh", 1), ("lsh_multilevel", 1)]
        cases += [("lsh_multiview", count) for count in (1, 2, 4, 8, 16)]
        for kind, count in cases:
            lsh.find_neighbours(points[:2000], 10, kind, views[:count])
            start = time.thread_time()
            found = lsh.find_neighbours(points, 10, kind, views[:count])
            cost = (time.thread_time() - start) / len(points) * 1e6
            hits = np.mean([np.isin(a, b).sum() for a, b in zip(found.keys, exact, strict=True)]) / 10
            print(f"| {dimension} | {kind} | {count} | {hits:.3f} | | {cost:.2f} |", flush=True)
        share = np.mean([np.isin(row & (2**31 - 1), np.arange(1024)).mean() for row in exact[:1024]])
        keys = np.empty((1024, 10), np.int64)
        part = np.ascontiguousarray(points[:1024])
        start = time.thread_time()
        for _ in range(10):
            small_sets.nearest_members(part, np.arange(1024, dtype=np.int32), keys)
        cost = (time.thread_time() - start) / 10_240 * 1e6
        print(f"| {dimension} | minibatch | | {share:.3f} | 1 | {cost:.2f} |", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    timed = commands.add_parser("speed")
    timed.add_argument("--rows", type=int, default=1_000_000)
    timed.add_argument("--dimension", type=int, default=32)
    timed.add_argument("--classes", type=int, default=4)
    timed.add_argument("--graphs", nargs="+", default=["minibatch", "lsh_multiview"])
    timed.add_argument("--threads", nargs="+", default=["1", "2"])
    timed.add_argument("--repetitions", type=int, default=3)
    timed.add_argument("--peer", action="store_true", help="also time torch-geometric")
    seen = commands.add_parser("recall")
    seen.add_argument("--rows", type=int, default=16_384)
    arguments = parser.parse_args()
    speed(arguments) if arguments.command == "speed" else recall(arguments)


if __name__ == "__main__":
    main()
