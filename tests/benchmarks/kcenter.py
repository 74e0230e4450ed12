"""k-center and D2 pruning: loops in use beside Tamis, a million rows, a whole job.

Peers: a loop as DeepCore's (a matrix of budget x rows, the rows left copied at every step), written anew in NumPy; a
loop on scikit-learn's ``pairwise_distances``, as active learning code has it; the ``lightly-mundig`` wheel; for D2, a
dense loop as the authors'. CPU seconds of all threads, with each library's own number of threads.

Data: ``clusters`` has 200 clusters of unequal size in as many subspaces of 16 dimensions, a little noise in all, scaled
to length 1; ``tails`` has the same clusters, not scaled, with Student's t of 4 degrees of freedom around them, as data
with outliers have; ``normal`` has no structure at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.environments import peer
from tests.benchmarks.harness import Figures, Yielded, benchmark, figure, high_water, leg, ratio, timed
from tests.benchmarks.jobs import job, report

CLUSTERS, INTRINSIC = 200, 16
DENSE_ROWS = 20_000
"""The dense loop of D2 runs up to here: its matrices are n x n."""


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


def _saved(folder: str, kind: str, rows: int, dimension: int) -> str:
    import numpy as np

    path = f"{folder}/{kind}-{rows}-{dimension}.npy"
    np.save(path, vectors(kind, rows, dimension))
    return path


@leg()
def deepcore(data: str, budget: int) -> Figures:
    """Select with a matrix of all distances, and a copy of the rows left at every step."""
    import numpy as np

    rows = np.load(data)

    def distances(left: Any, right: Any) -> Any:
        squared = (left * left).sum(axis=1)[:, None] + (right * right).sum(axis=1)[None] - 2.0 * left @ right.T
        return np.sqrt(np.maximum(squared, np.float32(1e-12)))

    def select() -> list[int]:
        matrix = np.full((budget, len(rows)), -1.0, np.float32)
        left = np.ones(len(rows), np.bool_)
        order = [0]
        left[0] = False
        matrix[0, left] = distances(rows[[0]], rows[left])[0]
        nearest = matrix[0].copy()
        for step in range(1, budget):
            row = int(np.argmax(nearest))
            order.append(row)
            left[row] = False
            nearest[row] = -1.0
            matrix[step, left] = distances(rows[[row]], rows[left])[0]
            nearest = np.minimum(nearest, matrix[step])
        return order

    done = timed(select)
    return {**done.figures, "rows": done.result}


@leg()
def sklearn(data: str, budget: int) -> Figures:
    """Select with one column of distances at a time."""
    import numpy as np
    from sklearn.metrics import pairwise_distances

    rows = np.load(data)

    def select() -> list[int]:
        order = [0]
        nearest = pairwise_distances(rows, rows[[0]])
        for _ in range(1, budget):
            order.append(int(np.argmax(nearest)))
            nearest = np.minimum(nearest, pairwise_distances(rows, rows[[order[-1]]]))
        return order

    done = timed(select)
    return {**done.figures, "rows": done.result}


@leg(env=peer("lightly-mundig==0.1.16", "numpy"))
def mundig(data: str, budget: int) -> Figures:
    """Select by diversity, from row 0."""
    import numpy as np
    from lightly_mundig import Selection  # type: ignore[import-not-found]

    rows = np.load(data)

    def select() -> Any:
        selection = Selection()
        selection.add_diversifying_strategy(rows.tolist(), 1.0)  # it takes lists
        return selection.run_selection([0], len(rows), budget)

    done = timed(select)
    return {**done.figures, "rows": done.result}


@leg()
def tamis(data: str, budget: int) -> Figures:
    """Select by the kernels that the selector calls; a first call compiles them."""
    import numpy as np

    from tamis.native.greedy import farthest_first
    from tamis.native.greedy.limits import begin_limits

    def select(rows: Any, budget: int) -> list[int]:
        state = farthest_first.begin(rows, np.ones(len(rows), np.bool_), np.zeros(1, np.int64), begin_limits(budget))
        while farthest_first.advance(state, 2 * 10**9) == farthest_first.WORKING:
            pass
        order: list[int] = farthest_first.taken(state)[0].tolist()
        return order

    rows = np.load(data)
    select(np.random.default_rng(0).random((5000, 4), dtype=np.float32), 10)
    before = high_water()
    done = timed(lambda: select(rows, budget))
    return {**done.figures, "rows": done.result, "before_rss": before}


@benchmark(
    full={
        "cases": [
            ["clusters", 10_000, 64, 1000],
            ["clusters", 50_000, 64, 1000],
            ["tails", 50_000, 64, 1000],
            ["normal", 50_000, 64, 1000],
            ["clusters", 10_000, 384, 1000],
        ]
    },
    toy={"cases": [["tails", 600, 16, 20]]},
)
def peers(cases: list[tuple[str, int, int, int]]) -> Iterator[Yielded]:
    """Farthest-first traversal from row 0: loops in use beside Tamis.

    Agreement: the share of places with the same row (DeepCore, scikit-learn), and of rows in both sets (mundig).
    """
    for kind, rows, dimension, budget in cases:
        with tempfile.TemporaryDirectory() as folder:
            given: dict[str, Any] = {"data": _saved(folder, kind, rows, dimension), "budget": budget}
            ours = tamis.ours(**given)
            others = {one.function.__name__: one.run(**given) for one in (deepcore, sklearn, mundig)}
        told: dict[str, Any] = {"data": kind, "n x d, budget": f"{rows:,} x {dimension}, {budget:,}"}
        told |= {f"{name} CPU s": figure(found, "cpu") for name, found in others.items()}
        told |= {"Tamis CPU s": ours["cpu"]}
        told |= {f"{name} ×": ratio(found, ours) for name, found in others.items()}
        for name in ("deepcore", "sklearn"):
            found = others[name]
            assert found is not None
            told[f"{name} agreement"] = sum(map(int.__eq__, found["rows"], ours["rows"])) / budget
        if others["mundig"] is not None:
            told["mundig agreement"] = len(set(others["mundig"]["rows"]) & set(ours["rows"])) / budget
        told |= {f"{name} RSS MB": figure(found, "peak_rss", 1e6) for name, found in others.items()}
        yield told | {"Tamis RSS MB": ours["peak_rss"] / 1e6}


@benchmark(
    full={"kinds": ["clusters", "tails", "normal"], "rows": 1_000_000, "budget": 10_000},
    toy={"kinds": ["normal"], "rows": 1000, "budget": 20},
)
def many(kinds: list[str], rows: int, budget: int) -> Iterator[Yielded]:
    """The choice among a million rows of 64 dimensions, in memory."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            found = tamis.ours(data=_saved(folder, kind, rows, 64), budget=budget)
        yield {
            "data": kind,
            "n x d, budget": f"{rows:,} x 64, {budget:,}",
            "Tamis CPU s": found["cpu"],
            "peak RSS MB": found["peak_rss"] / 1e6,
            "of it before": found["before_rss"] / 1e6,
        }


@benchmark(full={"rows": 1_000_000, "budget": 10_000}, toy={"rows": 1000, "budget": 20})
def whole(rows: int, budget: int) -> Iterator[Yielded]:
    """A whole job on the rows of ``tails``, 64 dimensions: read, choose, report, write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors("tails", rows, 64).ravel()), 64)
        path = f"{folder}/rows.parquet"
        pq.write_table(pa.table({"embedding": column}), path, compression="zstd", row_group_size=100_000)
        spec = {
            "dataset": {"shards": [path], "columns": {"embedding": "embedding"}},
            "selector": {"name": "kcenter", "params": {"start": 0, "weighted": False}},
            "budget": {"rows": budget},
        }
        found = job.ours(spec=spec, work=f"{folder}/work", threads=2)
        coverage = report(f"{folder}/work")["coverage"]
    told = {f"{name} CPU s": found[name] for name in ("read", "choose", "report")}
    yield {
        "n x d, budget": f"{rows:,} x 64, {budget:,}",
        **told,
        "CPU s": found["cpu"],
        "RSS MB": found["peak_rss"] / 1e6,
    }
    yield f"Coverage: {coverage}."


def difficulty(rows: int) -> Any:
    """Return scores from 0 to 1."""
    import numpy as np

    return np.random.default_rng(1).beta(1, 4, rows)


@leg()
def d2_dense(data: str, budget: int) -> Figures:
    """Select by D2 pruning with n x n matrices, as the authors' code does."""
    import numpy as np
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import kneighbors_graph

    rows = np.load(data)

    def select() -> list[int]:
        scores = difficulty(len(rows))
        apart = pairwise_distances(rows, rows)
        connected = kneighbors_graph(rows, 10).toarray()
        for i, j in zip(*connected.nonzero(), strict=True):
            message = np.exp(-apart[i, j])
            connected[i, j] = message * max(scores[j], 1e-7)
            connected[j, i] = message * max(scores[i], 1e-7)
        values = np.array([connected[row].sum() + scores[row] for row in range(len(rows))])
        chosen: list[int] = []
        while len(chosen) < budget:
            row = int(np.argmax(values))
            near = (connected[row] > 0).nonzero()[0]
            values[near] -= np.exp(-apart[row, near]) * values[row]
            chosen.append(row)
            values[chosen] = values.min() - 1
        return chosen

    done = timed(select)
    return {**done.figures, "rows": done.result}


@leg()
def d2_tamis(data: str, budget: int) -> Figures:
    """Select by D2 pruning on the graph that the selector builds; a first call compiles."""
    import numpy as np

    from tamis.native.greedy import d2
    from tamis.native.greedy.limits import begin_limits
    from tamis.native.math import rng
    from tamis.native.neighbours import knn, similarities
    from tamis.selectors.features.neighbours import PROBES, cells_of, stored_neighbours

    def select(rows: Any, budget: int) -> list[int]:
        cells, key = cells_of(len(rows)), rng.stream_key(0, "neighbours")
        stored = stored_neighbours(10)
        graph = knn.cell_graph(rows, stored, cells, PROBES, key) if cells else knn.exact_graph(rows, stored)
        pairs = similarities.of_neighbours(graph._replace(rows=graph.rows[:, :10], squared=graph.squared[:, :10]))
        state = d2.begin(
            pairs,
            difficulty(len(rows)),
            begin_limits(budget),
            free=np.ones(len(rows), np.bool_),
            first=np.empty(0, np.int64),
            gamma_forward=1.0,
            gamma_reverse=1.0,
        )
        while d2.advance(state, 10**6) == d2.WORKING:
            pass
        order: list[int] = d2.taken(state)[0].tolist()
        return order

    rows = np.load(data)
    select(np.random.default_rng(0).random((5000, 4), dtype=np.float32), 10)
    done = timed(lambda: select(rows, budget))
    return {**done.figures, "rows": done.result}


@benchmark(full={"rows": [5000, 10_000, 20_000, 100_000]}, toy={"rows": [300]})
def pruning(rows: list[int]) -> Iterator[Yielded]:
    """D2, k = 10, a tenth of the rows selected: a dense loop, where its matrices fit, beside Tamis with its graph."""
    for count in rows:
        budget = count // 10
        with tempfile.TemporaryDirectory() as folder:
            path = _saved(folder, "clusters", count, 64)
            ours = d2_tamis.ours(data=path, budget=budget)
            theirs = d2_dense.ours(data=path, budget=budget) if count <= DENSE_ROWS else None
        yield {
            "n x d, budget": f"{count:,} x 64, {budget:,}",
            "dense CPU s": figure(theirs, "cpu"),
            "Tamis CPU s": ours["cpu"],
            "ratio": ratio(theirs, ours),
            "same set": None if theirs is None else len(set(theirs["rows"]) & set(ours["rows"])) / budget,
            "dense RSS MB": figure(theirs, "peak_rss", 1e6),
            "Tamis RSS MB": ours["peak_rss"] / 1e6,
        }
