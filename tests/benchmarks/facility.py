"""Facility location and its graph of neighbours: ``facility.py peers``, ``facility.py graph``, ``facility.py scale``.

`peers`: apricot's and submodlib's lazy greedy beside Tamis on the same vectors; objective and mean squared distance to
the nearest selected row are measured the same way for all. `graph`: the neighbour graph beside faiss' inverted file
with as many cells and probes. `scale`: whole jobs, from Parquet to report. Each leg is a process of its own; CPU
seconds of all its threads without imports and compilation (apricot compiles at every fit: its second fit counts), peak
RSS of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import peer_python  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = ("apricot-select==0.6.1", "submodlib-py==0.0.3", "faiss-cpu==1.15.1")

NEIGHBOURS = 32


def vectors(rows: int, dimension: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Make something like embeddings: a mixture of 200 in 12 dimensions, bent into more, with noise; float32."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((200, 12)) * 1.5
    hidden = centres[random.integers(0, 200, rows)] + random.standard_normal((rows, 12))
    bend = random.standard_normal((12, dimension)) / np.sqrt(12)
    data = np.empty((rows, dimension), np.float32)
    for first in range(0, rows, 100_000):
        part = slice(first, first + 100_000)
        data[part] = np.tanh(hidden[part] @ bend) + 0.1 * random.standard_normal((len(hidden[part]), dimension))
    return data


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and result."""
    start = time.process_time()
    done = work()
    return time.process_time() - start, done


def apricot(data: np.ndarray[Any, Any], budget: int) -> tuple[float, Any]:
    """Select with apricot's lazy greedy."""
    from apricot import FacilityLocationSelection

    def fit() -> Any:
        return FacilityLocationSelection(budget, metric="euclidean", optimizer="lazy").fit(data).ranking

    fit()
    return timed(fit)


def submodlib(data: np.ndarray[Any, Any], budget: int) -> tuple[float, Any]:
    """Select with submodlib's lazy greedy on its dense kernel."""
    from submodlib import FacilityLocationFunction

    def fit() -> Any:
        function = FacilityLocationFunction(n=len(data), mode="dense", data=data, metric="euclidean")
        chosen = function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
        return np.array([row for row, _ in chosen])

    return timed(fit)


def tamis(data: np.ndarray[Any, Any], budget: int) -> tuple[float, Any]:
    """Select with the kernels that a job of Tamis calls, in one thread."""
    from tamis.native.greedy import limits, submodular
    from tamis.native.math import rng
    from tamis.native.neighbours import knn, similarities
    from tamis.selectors.features.neighbours import PROBES, cells_of

    def fit(rows: np.ndarray[Any, Any]) -> Any:
        cells = max(1, cells_of(len(rows)))
        graph = knn.cell_graph(rows, NEIGHBOURS, cells, min(cells, PROBES), rng.stream_key(0, "neighbours"))
        state = submodular.begin(similarities.of_neighbours(graph), limits.begin_limits(budget))
        while submodular.advance(state, 10**8) == submodular.WORKING:
            pass
        return submodular.taken(state)[0]

    fit(data[:5000])
    return timed(lambda: fit(data))


def tamis_exact(data: np.ndarray[Any, Any], budget: int) -> tuple[float, Any]:
    """Select on all pairs: small datasets only."""
    from tamis.native.greedy import limits, submodular
    from tamis.native.neighbours import similarities

    def fit() -> Any:
        state = submodular.begin(similarities.of_all_pairs(data), limits.begin_limits(budget))
        while submodular.advance(state, 10**8) == submodular.WORKING:
            pass
        return submodular.taken(state)[0]

    fit()
    return timed(fit)


def random(data: np.ndarray[Any, Any], budget: int) -> tuple[float, Any]:
    """Draw rows."""
    return 0.0, np.random.default_rng(1).permutation(len(data))[:budget]


def tamis_graph(data: np.ndarray[Any, Any], probes: int) -> tuple[float, Any]:
    """Make the neighbour graph."""
    from tamis.native.math import rng
    from tamis.native.neighbours import knn
    from tamis.selectors.features.neighbours import cells_of

    key = rng.stream_key(0, "neighbours")
    knn.cell_graph(data[:5000], NEIGHBOURS, 20, 2, key)
    seconds, graph = timed(lambda: knn.cell_graph(data, NEIGHBOURS, cells_of(len(data)), probes, key))
    return seconds, graph.rows


def faiss_graph(data: np.ndarray[Any, Any], probes: int) -> tuple[float, Any]:
    """Make the neighbour graph with faiss' inverted file, as many cells and trained as long; one thread."""
    import faiss

    faiss.omp_set_num_threads(1)

    def fit() -> Any:
        cells = round(2 * len(data) ** 0.5)
        coarse = faiss.IndexFlatL2(data.shape[1])
        index = faiss.IndexIVFFlat(coarse, data.shape[1], cells)
        index.cp.niter = 5
        index.cp.max_points_per_centroid = 32
        index.cp.min_points_per_centroid = 1
        index.train(data)
        index.add(data)
        index.nprobe = probes
        found = index.search(data, NEIGHBOURS + 1)[1]
        own = found == np.arange(len(data))[:, None]
        own[~own.any(axis=1), -1] = True
        return found[~own].reshape(len(data), NEIGHBOURS)

    return timed(fit)


LEGS: dict[str, Callable[[Any, int], tuple[float, Any]]] = {
    "apricot lazy": apricot,
    "submodlib lazy, dense": submodlib,
    "Tamis": tamis,
    "Tamis, all pairs": tamis_exact,
    "random": random,
    "Tamis graph": tamis_graph,
    "faiss IVFFlat": faiss_graph,
}


def run_leg(name: str, data: Path, argument: int, out: Path) -> None:
    """Be a leg: print its figures, leave its rows."""
    seconds, rows = LEGS[name](np.load(data), argument)
    np.save(out, np.asarray(rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_rss": peak}))


def leg(python: Path | str, name: str, data: Path, argument: int, out: Path) -> dict[str, Any] | None:
    """Run a leg in a process of its own; None where it fails."""
    command = [str(python), __file__, "leg", name, str(data), str(argument), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return None
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def peers(arguments: argparse.Namespace) -> None:
    """Compare selections."""
    from tamis.native.neighbours import panels

    python = peer_python("coverage-peers", *PEERS)
    print("| data, b | | CPU s | times slower | mean min d² | objective, of apricot's | peak RSS MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for rows, budget, names in (
            (1797, 180, ["Tamis, all pairs", "apricot lazy", "submodlib lazy, dense", "random"]),
            (10_000, 1000, ["Tamis", "apricot lazy", "submodlib lazy, dense", "random"]),
        ):
            data = vectors(rows, 64)
            np.save(folder / "data.npy", data)
            found = {}
            for name in names:
                figures = leg(
                    sys.executable if name.startswith("Tamis") or name == "random" else python,
                    name,
                    folder / "data.npy",
                    budget,
                    folder / f"{name}.npy",
                )
                if figures is not None:
                    chosen = np.load(folder / f"{name}.npy")
                    figures["mean"] = float(panels.assign(data, data[chosen])[1].mean(dtype=np.float64))
                    found[name] = figures
            largest = max(float(((data - row) ** 2).sum(axis=1).max()) for row in data[:: max(1, rows // 2000)])
            exact = largest - found.get("apricot lazy", {"mean": float("nan")})["mean"]
            for name in names:
                if name not in found:
                    print(f"| {rows:,} × 64, {budget:,} | {name} | failed | | | | |")
                    continue
                figures = found[name]
                times = figures["seconds"] / found[names[0]]["seconds"]
                print(
                    f"| {rows:,} × 64, {budget:,} | {name} | {figures['seconds']:.3f} | {times:.1f} "
                    f"| {figures['mean']:.4f} | {(largest - figures['mean']) / exact:.4%} "
                    f"| {figures['peak_rss'] / 1e6:.0f} |",
                    flush=True,
                )


def graph(arguments: argparse.Namespace) -> None:
    """Compare neighbour graphs."""
    from tamis.native.neighbours import panels

    python = peer_python("coverage-peers", *PEERS)
    print("| rows × 64 | | probes | CPU s | recall of 32 | peak RSS MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for rows in arguments.rows:
            data = vectors(rows, 64)
            np.save(folder / "data.npy", data)
            queries = np.random.default_rng(2).permutation(rows)[:1000]
            nearest = panels.best_rows(data[queries], panels.pack(data), NEIGHBOURS + 1).rows
            for name in ("Tamis graph", "faiss IVFFlat"):
                for probes in (8, 12, 24):
                    figures = leg(
                        sys.executable if name.startswith("Tamis") else python,
                        name,
                        folder / "data.npy",
                        probes,
                        folder / "graph.npy",
                    )
                    if figures is None:
                        print(f"| {rows:,} | {name} | {probes} | failed | | |")
                        continue
                    found = np.load(folder / "graph.npy", mmap_mode="r")[queries]
                    shared = [len(np.intersect1d(a, b)) for a, b in zip(nearest, found, strict=True)]
                    print(
                        f"| {rows:,} | {name} | {probes} | {figures['seconds']:.2f} "
                        f"| {np.mean(shared) / NEIGHBOURS:.4f} | {figures['peak_rss'] / 1e6:.0f} |",
                        flush=True,
                    )


def run_job(folder: Path, budget: int, name: str) -> None:
    """Be a leg of `scale`: a whole job in an empty cache."""
    from tamis.native import warmup
    from tamis.selectors.datasets import LocalStorage
    from tamis.selectors.jobs.execute import execute
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.schema.request import JobSpec

    warmup()
    job = {"dataset": {"shards": [str(folder / "*.parquet")]}, "selector": {"name": name}, "budget": {"rows": budget}}
    start, wall = time.process_time(), time.perf_counter()
    environment = Environment(LocalStorage(), folder / f"cache-{name}", 2)
    execute(JobSpec.model_validate(job), folder / f"out-{name}", environment)
    seconds = time.process_time() - start
    wall = time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "wall": wall, "peak_rss": peak}))


def scale(arguments: argparse.Namespace) -> None:
    """Run whole jobs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    print("| rows × 64 | b | selector | CPU s | wall s | peak RSS MB |\n|---|---|---|---|---|---|")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            data = vectors(rows, 64)
            for shard, first in enumerate(range(0, rows, 250_000)):
                part = data[first : first + 250_000]
                column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), 64)
                pq.write_table(pa.table({"embedding": column}), folder / f"{shard}.parquet", row_group_size=10_000)
            del data
            for name in arguments.selectors:
                command = [sys.executable, __file__, "job", str(folder), str(rows // 10), name]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {rows:,} | {rows // 10:,} | {name} | {figures['seconds']:.2f} | {figures['wall']:.1f} "
                    f"| {figures['peak_rss'] / 1e6:.0f} |",
                    flush=True,
                )


def main() -> None:
    """Parse the command line."""
    if sys.argv[1:2] == ["leg"]:
        return run_leg(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    if sys.argv[1:2] == ["job"]:
        return run_job(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("peers").set_defaults(run=peers)
    for name, run, rows in (("graph", graph, [100_000]), ("scale", scale, [100_000, 1_000_000])):
        command = commands.add_parser(name)
        command.add_argument("--rows", type=int, nargs="+", default=rows)
        command.set_defaults(run=run)
    command.add_argument("--selectors", nargs="+", default=["facility_location"])
    arguments = parser.parse_args()
    return arguments.run(arguments)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
