"""Speed of TAROT: ``tarot.py core``, ``transport`` and ``large``; tables as Markdown for tests/benchmarks/README.md.

The released procedure (``tarot_reference.py``) and the transport peers run in a virtual environment of their own. Each
leg is a process of its own with one thread, except for ``large``; numbers are CPU seconds.
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
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from peers import peer_python  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
PEERS = ("torch==2.13.0", "geomloss==0.3.1", "pot==0.9.7.post1", "scikit-learn", "pyarrow")
CENTRES, TARGET_CENTRES, ROW_GROUP = 40, 10, 16_384
SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def write(folder: Path, n: int, m: int, d: int) -> None:
    """Write candidates of many modes, and targets of some of them, as Parquet of fixed-size lists."""
    draw = np.random.default_rng(0)
    centres = 0.3 * draw.normal(size=(CENTRES, d)).astype(np.float32)
    schema = pa.schema([("gradient", pa.list_(pa.float32(), d))])

    def table(rows: int, modes: int) -> pa.Table:
        values = centres[draw.integers(0, modes, rows)] + draw.standard_normal((rows, d), dtype=np.float32)
        return pa.table([pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), d)], schema=schema)

    for name, count, modes in (("pool", n, CENTRES), ("target", m, TARGET_CENTRES)):
        path = folder / f"{name}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for start in range(0, count, ROW_GROUP):
                writer.write_table(table(min(ROW_GROUP, count - start), modes))


def job(folder: Path, rows: int | None, **params: Any) -> dict[str, Any]:
    """Return a TAROT job over the data."""
    return {
        "dataset": {"shards": [str(folder / "pool.parquet")]},
        "target": {"datasets": [{"shards": [str(folder / "target.parquet")]}]},
        "selector": {"name": "tarot", "params": params},
        "budget": {"fraction": 1} if rows is None else {"rows": rows},
    }


def tamis(folder: Path, name: str, spec: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run a job in a process of its own; return its CPU seconds by phase and its rows."""
    (folder / f"{name}.json").write_text(json.dumps(spec))
    work = folder / name
    done = subprocess.run(
        [sys.executable, str(HERE / "dsir_tamis.py"), str(folder / f"{name}.json"), str(work), str(threads)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **SINGLE},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["rows"] = pq.read_table(work / "out" / "selection.parquet")["row"].to_numpy()
    result["phases"] = {name: result[name] for name in ("moments", "neighbours", "transport", "report")}
    return result


def reference(*arguments: str) -> dict[str, Any]:
    """Run a leg of the peers."""
    done = subprocess.run(
        [str(peer_python("tarot-peers", *PEERS)), str(HERE / "tarot_reference.py"), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **SINGLE},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def core(sizes: list[str]) -> None:
    """Compare with the released procedure: the same sets, CPU seconds of both modes."""
    print("| candidates x targets x d | | release | Tamis job | of it without the report | ratio | the same set |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        n, m, d = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write(folder, n, m, d)
            budget = n // 5
            paths = [str(folder / name) for name in ("pool.parquet", "target.parquet", "released.json")]
            theirs = reference("core", paths[0], paths[1], str(budget), paths[2])
            expected = json.loads(Path(paths[2]).read_text())
            for mode, rows in (("fixed", budget), ("otm", None)):
                # Each from an empty cache, so that neither takes the other's neighbours.
                ours = tamis(folder, mode, job(folder, rows, mode=mode, release=True, weights="potential"), 1)
                bare = ours["whole"] - ours["phases"]["report"]
                same = np.array_equal(np.sort(ours["rows"]), np.array(expected[mode]))
                cpu = theirs[mode]
                print(
                    f"| {n:,} x {m:,} x {d} | {mode} | {cpu:.1f} | {ours['whole']:.2f} | {bare:.2f} "
                    f"| {cpu / bare:.1f} | {'yes' if same else 'no'} |",
                    flush=True,
                )
            print(f"\nPeak RSS: release {theirs['peak_rss'] / 1e9:.2f} GB, Tamis {ours['peak_rss'] / 1e9:.2f} GB.\n")


def unit(n: int, d: int, seed: int) -> npt.NDArray[np.float32]:
    """Return unit vectors of ten loose clusters."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(10, d))
    rows = centres[draw.integers(0, 10, n)] + 1.5 * draw.normal(size=(n, d))
    scaled: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def transport(sizes: list[str], d: int) -> None:
    """Compare solvers of one transport problem."""
    from tamis.selectors.features.transport.problem import Costs
    from tamis.selectors.features.transport.solve import solve

    small, few = unit(40, d, 1), np.full(40, 1 / 40)
    for solver in ("released", "converged", "exact"):
        solve(Costs(small, small), few, few, solver, bounds=True)
    print(
        "| rows x targets | GeomLoss tensorized | Tamis, costs kept | ratio | streaming | ratio | relative difference "
        "| POT emd2 | Tamis exact | relative difference | POT sinkhorn_log, 200 | Tamis converged |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for size in sizes:
        n, m = map(int, size.split("x"))
        rows, targets = unit(n, d, 1), unit(m, d, 2)
        with tempfile.TemporaryDirectory() as temporary:
            np.save(Path(temporary) / "rows.npy", rows)
            np.save(Path(temporary) / "targets.npy", targets)
            theirs = reference("transport", f"{temporary}/rows.npy", f"{temporary}/targets.npy")
        a, b = np.full(n, 1 / n), np.full(m, 1 / m)

        def timed(kept: int, solver: Any, repetitions: int) -> tuple[float, float]:
            best, value = np.inf, 0.0
            for _ in range(repetitions):
                start = time.thread_time()
                value = solve(Costs(rows, targets, None, kept), a, b, solver).value  # noqa: B023
                best = min(best, time.thread_time() - start)
            return best, value

        kept, value = timed(2**30, "released", 3)
        streaming, _ = timed(0, "released", 1)
        exact, exact_value = timed(2**30, "exact", 1)
        converged, _ = timed(2**30, "converged", 1) if n * m <= 1_000_000 else (float("nan"), 0.0)
        print(
            f"| {n:,} x {m:,} | {theirs['geomloss']:.3f} | {kept:.3f} | {theirs['geomloss'] / kept:.1f} "
            f"| {streaming:.3f} | {theirs['geomloss'] / streaming:.1f} "
            f"| {abs(value / theirs['geomloss_value'] - 1):.0e} "
            f"| {theirs['pot_exact']:.2f} | {exact:.2f} | {abs(exact_value / theirs['pot_exact_value'] - 1):.0e} "
            f"| {theirs.get('pot_log_200', float('nan')):.1f} | {converged:.1f} |",
            flush=True,
        )


def large(size: str, budget: int, threads: int, modes: list[str]) -> None:
    """Run whole jobs from Parquet at full size."""
    n, m, d = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, n, m, d)
        print("| mode | CPU s | moments | neighbours | transport | report | wall s | peak RSS GB | rows |")
        print("|---|---|---|---|---|---|---|---|---|")
        for mode in modes:
            done = tamis(folder, mode, job(folder, budget, mode=mode), threads)
            phases = done["phases"]
            print(
                f"| {mode} | {done['whole']:.1f} | "
                + " | ".join(f"{phases[name]:.1f}" for name in ("moments", "neighbours", "transport", "report"))
                + f" | {done['whole_wall']:.0f} | {done['peak_rss'] / 1e9:.2f} | {len(done['rows']):,} |",
                flush=True,
            )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sets = commands.add_parser("core", help="against the released procedure")
    sets.add_argument("--sizes", nargs="+", default=["20000x1000x256", "50000x2000x512"])
    solvers = commands.add_parser("transport", help="solvers of one problem")
    solvers.add_argument("--sizes", nargs="+", default=["1000x1000", "4000x1000", "8000x2000"])
    solvers.add_argument("--dimension", type=int, default=256)
    whole = commands.add_parser("large", help="whole jobs from Parquet")
    whole.add_argument("--size", default="1000000x10000x512")
    whole.add_argument("--budget", type=int, default=50_000)
    whole.add_argument("--threads", type=int, default=2)
    whole.add_argument("--modes", nargs="+", default=["fixed", "otm"])
    arguments = parser.parse_args()
    if arguments.command == "core":
        core(arguments.sizes)
    elif arguments.command == "transport":
        transport(arguments.sizes, arguments.dimension)
    else:
        large(arguments.size, arguments.budget, arguments.threads, arguments.modes)


if __name__ == "__main__":
    main()
