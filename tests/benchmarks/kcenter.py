"""Benchmarks of k-center and D2 pruning: ``run.py kcenter`` (peers, then a million rows, then D2).

Peers: a loop as DeepCore's (a matrix of budget x rows, the rows left copied at every step), written anew in NumPy; a
loop on scikit-learn's ``pairwise_distances``, as active learning code has it; the ``lightly-mundig`` wheel, in an
environment of its own; for D2, a dense loop as the authors'. CPU seconds of all threads; every leg is a process of its
own, with its libraries' own numbers of threads.

Data: ``clusters`` has 200 clusters of unequal size in as many subspaces of 16 dimensions, a little noise in all, scaled
to length 1; ``tails`` has the same clusters, not scaled, with Student's t of 4 degrees of freedom around them, as data
with outliers have; ``normal`` has no structure at all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import peer_python  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MUNDIG = "lightly-mundig==0.1.16"
MANY, MANY_BUDGET = 1_000_000, 10_000
CLUSTERS, INTRINSIC = 200, 16


def vectors(kind: str, rows: int, dimension: int) -> Any:
    """Return float32 [rows, dimension]."""
    import numpy as np

    generator = np.random.default_rng(0)
    if kind == "normal":
        return generator.standard_normal((rows, dimension), dtype=np.float32)
    shares = generator.pareto(1.5, CLUSTERS) + 0.2
    own = np.sort(generator.choice(CLUSTERS, rows, p=shares / shares.sum()))
    out = np.empty((rows, dimension), np.float32)
    cuts = np.searchsorted(own, np.arange(CLUSTERS + 1))
    for cluster in range(CLUSTERS):
        count = cuts[cluster + 1] - cuts[cluster]
        centre = generator.standard_normal(dimension) / dimension**0.5
        basis = generator.standard_normal((INTRINSIC, dimension)) / (dimension * INTRINSIC) ** 0.5
        apart = 0.4 * generator.standard_normal((count, INTRINSIC)) @ basis
        apart += 0.3 / dimension**0.5 * generator.standard_normal((count, dimension))
        if kind == "tails":
            apart *= np.sqrt(4 / generator.chisquare(4, count))[:, None]
        out[cuts[cluster] : cuts[cluster + 1]] = centre + apart
    if kind == "clusters":
        out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out[generator.permutation(rows)]


def deepcore(data: Any, budget: int) -> list[int]:
    """Select with a matrix of all distances, and a copy of the rows left at every step."""
    import numpy as np

    def distances(left: Any, right: Any) -> Any:
        squared = (left * left).sum(axis=1)[:, None] + (right * right).sum(axis=1)[None] - 2.0 * left @ right.T
        return np.sqrt(np.maximum(squared, np.float32(1e-12)))

    matrix = np.full((budget, len(data)), -1.0, np.float32)
    left = np.ones(len(data), np.bool_)
    order = [0]
    left[0] = False
    matrix[0, left] = distances(data[[0]], data[left])[0]
    nearest = matrix[0].copy()
    for step in range(1, budget):
        row = int(np.argmax(nearest))
        order.append(row)
        left[row] = False
        nearest[row] = -1.0
        matrix[step, left] = distances(data[[row]], data[left])[0]
        nearest = np.minimum(nearest, matrix[step])
    return order


def sklearn(data: Any, budget: int) -> list[int]:
    """Select with one column of distances at a time."""
    import numpy as np
    from sklearn.metrics import pairwise_distances

    order = [0]
    nearest = pairwise_distances(data, data[[0]])
    for _ in range(1, budget):
        row = int(np.argmax(nearest))
        order.append(row)
        nearest = np.minimum(nearest, pairwise_distances(data, data[[row]]))
    return order


def mundig(data: Any, budget: int) -> list[int]:
    """Select by diversity, from row 0."""
    from lightly_mundig import Selection  # type: ignore[import-not-found]

    selection = Selection()
    selection.add_diversifying_strategy(data.tolist(), 1.0)  # it takes lists
    rows: list[int] = selection.run_selection([0], len(data), budget)
    return rows


def tamis(data: Any, budget: int) -> list[int]:
    """Select by the kernels that the selector calls."""
    import numpy as np

    from tamis.native.greedy import farthest_first
    from tamis.native.greedy.limits import begin_limits

    state = farthest_first.begin(data, np.ones(len(data), np.bool_), np.zeros(1, np.int64), begin_limits(budget))
    while farthest_first.advance(state, 2 * 10**9) == farthest_first.WORKING:
        pass
    rows: list[int] = farthest_first.taken(state)[0].tolist()
    return rows


def d2_dense(data: Any, budget: int) -> list[int]:
    """Select by D2 pruning with n x n matrices, as the authors' code does."""
    import numpy as np
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import kneighbors_graph

    scores = difficulty(len(data))
    apart = pairwise_distances(data, data)
    connected = kneighbors_graph(data, 10).toarray()
    for i, j in zip(*connected.nonzero(), strict=True):
        message = np.exp(-apart[i, j])
        connected[i, j] = message * max(scores[j], 1e-7)
        connected[j, i] = message * max(scores[i], 1e-7)
    values = np.array([connected[row].sum() + scores[row] for row in range(len(data))])
    chosen: list[int] = []
    while len(chosen) < budget:
        row = int(np.argmax(values))
        near = (connected[row] > 0).nonzero()[0]
        values[near] -= np.exp(-apart[row, near]) * values[row]
        chosen.append(row)
        values[chosen] = values.min() - 1
    return chosen


def d2_tamis(data: Any, budget: int) -> list[int]:
    """Select by D2 pruning on the graph that the selector builds."""
    import numpy as np

    from tamis.native.greedy import d2
    from tamis.native.greedy.limits import begin_limits
    from tamis.native.math import rng
    from tamis.native.neighbours import knn, similarities
    from tamis.selectors.features.neighbours import PROBES, cells_of, stored_neighbours

    cells, key = cells_of(len(data)), rng.stream_key(0, "neighbours")
    stored = stored_neighbours(10)
    graph = knn.cell_graph(data, stored, cells, PROBES, key) if cells else knn.exact_graph(data, stored)
    pairs = similarities.of_neighbours(graph._replace(rows=graph.rows[:, :10], squared=graph.squared[:, :10]))
    state = d2.begin(
        pairs,
        difficulty(len(data)),
        begin_limits(budget),
        free=np.ones(len(data), np.bool_),
        first=np.empty(0, np.int64),
        gamma_forward=1.0,
        gamma_reverse=1.0,
    )
    while d2.advance(state, 10**6) == d2.WORKING:
        pass
    rows: list[int] = d2.taken(state)[0].tolist()
    return rows


def difficulty(rows: int) -> Any:
    """Return scores from 0 to 1."""
    import numpy as np

    return np.random.default_rng(1).beta(1, 4, rows)


WAYS: dict[str, Callable[[Any, int], list[int]]] = {
    "deepcore": deepcore,
    "sklearn": sklearn,
    "mundig": mundig,
    "tamis": tamis,
    "d2-dense": d2_dense,
    "d2-tamis": d2_tamis,
}


def high_water() -> int:
    """Return the peak RSS of this process in bytes; getrusage's is that of the parent before exec, where larger."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure(way: str, path: str, budget: int) -> dict[str, Any]:
    """Time one way in this process; Tamis compiles, or loads its kernels, before."""
    import numpy as np

    data = np.load(path)
    if "tamis" in way:
        WAYS[way](np.random.default_rng(0).random((5000, 4), dtype=np.float32), 10)
    before, start = high_water(), time.process_time()
    rows = WAYS[way](data, budget)
    seconds = time.process_time() - start
    peak = high_water()
    return {"seconds": seconds, "peak": peak, "before": before, "rows": rows}


def whole_job(path: str) -> dict[str, Any]:
    """Run a whole job on Parquet: read, choose, report, write."""
    from tamis.native.greedy import farthest_first  # noqa: F401
    from tamis.native.warm import compile_all
    from tamis.selectors.datasets import LocalStorage
    from tamis.selectors.jobs.execute import execute
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.run.observer import Unobserved
    from tamis.selectors.schema.request import JobSpec

    compile_all()
    marks: list[tuple[str, float]] = []

    class Watch(Unobserved):
        def progress(self, progress: Any) -> None:
            if not marks or marks[-1][0] != progress.phase:
                marks.append((progress.phase, time.process_time()))

    job = {
        "dataset": {"shards": [path], "columns": {"embedding": "embedding"}},
        "selector": {"name": "kcenter", "params": {"start": 0, "weighted": False}},
        "budget": {"rows": MANY_BUDGET},
    }
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        environment = Environment(LocalStorage(), Path(folder) / "cache", 2)
        execute(JobSpec.model_validate(job), Path(folder) / "out", environment, Watch())
        report = json.loads((Path(folder) / "out" / "report.json").read_text())
    ended = time.process_time()
    ends = [*(at for _, at in marks[1:]), ended]
    return {
        "phases": {name: end - at for (name, at), end in zip(marks, ends, strict=True)},
        "seconds": ended - start,
        "peak": high_water(),
        "coverage": report["coverage"],
    }


def leg(*arguments: str) -> dict[str, Any]:
    """Run one leg in a process of its own and return what it printed."""
    python = peer_python("mundig", MUNDIG, "numpy") if arguments[0] == "mundig" else Path(sys.executable)
    done = subprocess.run([python, __file__, "leg", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def save(folder: Path, kind: str, rows: int, dimension: int) -> str:
    """Write vectors where a leg finds them."""
    import numpy as np

    path = folder / f"{kind}-{rows}-{dimension}.npy"
    np.save(path, vectors(kind, rows, dimension))
    return str(path)


def peers(sizes: list[tuple[str, int, int, int]]) -> None:
    """Print the table of all ways."""
    print(
        "| data | n x d, budget | DeepCore-style | sklearn loop | mundig | Tamis | ratios | agreement | peak RSS MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for kind, rows, dimension, budget in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            path = save(Path(temporary), kind, rows, dimension)
            found = {way: leg(way, path, str(budget)) for way in ("tamis", "deepcore", "sklearn", "mundig")}
        ours = found["tamis"]
        theirs = [found[way]["seconds"] for way in ("deepcore", "sklearn", "mundig")]
        same = [
            f"{sum(a == b for a, b in zip(found[way]['rows'], ours['rows'], strict=True)) / budget:.3f}"
            for way in ("deepcore", "sklearn")
        ]
        overlap = len(set(found["mundig"]["rows"]) & set(ours["rows"])) / budget
        seconds = " | ".join(f"{one:.2f}" for one in theirs)
        ratios = " / ".join(f"{one / ours['seconds']:.0f}x" for one in theirs)
        peaks = " / ".join(f"{found[way]['peak'] / 1e6:.0f}" for way in ("deepcore", "sklearn", "mundig", "tamis"))
        print(
            f"| {kind} | {rows:,} x {dimension}, {budget:,} | {seconds} | {ours['seconds']:.3f} | {ratios} "
            f"| {' / '.join(same)} / {overlap:.3f} | {peaks} |",
            flush=True,
        )


def many(kinds: list[str], rows: int, budget: int) -> None:
    """Print what the choice among a million rows takes."""
    print("\n| data | n x d, budget | Tamis CPU s | peak RSS MB, of it before |\n|---|---|---|---|")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as temporary:
            found = leg("tamis", save(Path(temporary), kind, rows, 64), str(budget))
        print(
            f"| {kind} | {rows:,} x 64, {budget:,} | {found['seconds']:.2f} "
            f"| {found['peak'] / 1e6:.0f}, {found['before'] / 1e6:.0f} |",
            flush=True,
        )


def job(rows: int) -> None:
    """Print what a whole job takes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as temporary:
        data = vectors("tails", rows, 64)
        column = pa.FixedSizeListArray.from_arrays(pa.array(data.ravel()), 64)
        path = f"{temporary}/rows.parquet"
        pq.write_table(pa.table({"embedding": column}), path, compression="zstd", row_group_size=100_000)
        del data, column
        found = leg("job", path, "0")
    print(f"\nWhole job, {rows:,} x 64 of `tails` from Parquet: {json.dumps(found)}", flush=True)


def d2(sizes: list[int]) -> None:
    """Print D2 beside the dense loop; the loop only where its matrices fit."""
    print("\n| n x d, budget | dense loop | Tamis | ratio | same set | peak RSS MB |\n|---|---|---|---|---|---|")
    for rows in sizes:
        budget = rows // 10
        with tempfile.TemporaryDirectory() as temporary:
            path = save(Path(temporary), "clusters", rows, 64)
            ours = leg("d2-tamis", path, str(budget))
            theirs = leg("d2-dense", path, str(budget)) if rows <= 20_000 else None
        dense, beside, peak = "", "| | |", ""
        if theirs is not None:
            overlap = len(set(theirs["rows"]) & set(ours["rows"])) / budget
            dense, peak = f"{theirs['seconds']:.2f}", f"{theirs['peak'] / 1e6:.0f}, "
            beside = f"| {theirs['seconds'] / ours['seconds']:.0f}x | {overlap:.3f} |"
        print(
            f"| {rows:,} x 64, {budget:,} | {dense} | {ours['seconds']:.3f} {beside} {peak}{ours['peak'] / 1e6:.0f} |",
            flush=True,
        )


def main() -> None:
    """Parse the command line."""
    if sys.argv[1:2] == ["leg"]:
        way, path, budget = sys.argv[2:5]
        print(json.dumps(whole_job(path) if way == "job" else measure(way, path, int(budget))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", default=["peers", "many", "job", "d2"])
    parser.add_argument("--d2-rows", type=int, nargs="*", default=[5_000, 10_000, 20_000, 100_000])
    arguments = parser.parse_args()
    if "peers" in arguments.parts:
        peers(
            [
                ("clusters", 10_000, 64, 1000),
                ("clusters", 50_000, 64, 1000),
                ("tails", 50_000, 64, 1000),
                ("normal", 50_000, 64, 1000),
                ("clusters", 10_000, 384, 1000),
            ]
        )
    if "many" in arguments.parts:
        many(["clusters", "tails", "normal"], MANY, MANY_BUDGET)
    if "job" in arguments.parts:
        job(MANY)
    if "d2" in arguments.parts:
        d2(arguments.d2_rows)


if __name__ == "__main__":
    main()
