"""Facility location and its graph of neighbours: lazy greedy libraries, faiss' inverted file, whole jobs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import peer
from tests.benchmarks.harness import Figures, Leg, Yielded, benchmark, leg, timed
from tests.benchmarks.jobs import job

PEERS = peer("apricot-select==0.6.1", "submodlib-py==0.0.3", "faiss-cpu==1.15.1")
NEIGHBOURS = 32
QUERIES = 1000
"""Rows whose neighbours are compared with the true ones."""


def vectors(rows: int, dimension: int, seed: int = 0) -> Any:
    """Make something like embeddings: a mixture of 200 in 12 dimensions, bent into more, with noise; float32."""
    import numpy as np

    random = np.random.default_rng(seed)
    centres = random.standard_normal((200, 12)) * 1.5
    hidden = centres[random.integers(0, 200, rows)] + random.standard_normal((rows, 12))
    bend = random.standard_normal((12, dimension)) / np.sqrt(12)
    data = np.empty((rows, dimension), np.float32)
    for first in range(0, rows, 100_000):
        part = slice(first, first + 100_000)
        data[part] = np.tanh(hidden[part] @ bend) + 0.1 * random.standard_normal((len(hidden[part]), dimension))
    return data


def _queries(rows: int) -> Any:
    import numpy as np

    return np.random.default_rng(2).permutation(rows)[:QUERIES]


# -- Selections


@leg(env=PEERS)
def apricot(data: str, budget: int) -> Figures:
    """Select with apricot's lazy greedy; it compiles at every fit, so the second one counts."""
    import numpy as np
    from apricot import FacilityLocationSelection

    rows = np.load(data)

    def fit() -> Any:
        return FacilityLocationSelection(budget, metric="euclidean", optimizer="lazy").fit(rows).ranking

    fit()
    done = timed(fit)
    return {**done.figures, "rows": done.result.tolist()}


@leg(env=PEERS)
def submodlib(data: str, budget: int) -> Figures:
    """Select with submodlib's lazy greedy on its dense kernel."""
    import numpy as np
    from submodlib import FacilityLocationFunction

    rows = np.load(data)

    def fit() -> Any:
        function = FacilityLocationFunction(n=len(rows), mode="dense", data=rows, metric="euclidean")
        chosen = function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
        return [int(row) for row, _ in chosen]

    done = timed(fit)
    return {**done.figures, "rows": done.result}


def _greedy(pairs: Any, budget: int) -> list[int]:
    from tamis.native.greedy import limits, submodular

    state = submodular.begin(pairs, limits.begin_limits(budget))
    while submodular.advance(state, 10**8) == submodular.WORKING:
        pass
    order: list[int] = submodular.taken(state)[0].tolist()
    return order


@leg()
def tamis(data: str, budget: int) -> Figures:
    """Select with the kernels that a job of Tamis calls, in one thread; a first call compiles them."""
    import numpy as np

    from tamis.native.math import rng
    from tamis.native.neighbours import knn, similarities
    from tamis.selectors.features.neighbours import PROBES, cells_of

    def fit(rows: Any) -> list[int]:
        cells = max(1, cells_of(len(rows)))
        graph = knn.cell_graph(rows, NEIGHBOURS, cells, min(cells, PROBES), rng.stream_key(0, "neighbours"))
        return _greedy(similarities.of_neighbours(graph), budget)

    rows = np.load(data)
    fit(rows[:5000])
    done = timed(lambda: fit(rows))
    return {**done.figures, "rows": done.result}


@leg()
def tamis_exact(data: str, budget: int) -> Figures:
    """Select on all pairs, which suits small datasets; a first call compiles."""
    import numpy as np

    from tamis.native.neighbours import similarities

    rows = np.load(data)

    def fit() -> list[int]:
        return _greedy(similarities.of_all_pairs(rows), budget)

    fit()
    done = timed(fit)
    return {**done.figures, "rows": done.result}


@benchmark(
    full={"exact": [1797, 180], "sparse": [10_000, 1000]},
    toy={"exact": [300, 20], "sparse": [400, 30]},
)
def peers(exact: tuple[int, int], sparse: tuple[int, int]) -> Iterator[Yielded]:
    """Lazy greedy libraries beside Tamis: rows and budget where all pairs fit, and where neighbours must do.

    The objective and the mean squared distance to the nearest selected row are measured the same way for all.
    """
    import numpy as np

    from tamis.native.neighbours import panels

    for (rows, budget), ours in ((exact, tamis_exact), (sparse, tamis)):
        data = vectors(rows, 64)
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/data.npy", data)
            given: dict[str, Any] = {"data": f"{folder}/data.npy", "budget": budget}
            found = {one.function.__name__: one.run(**given) for one in (ours, apricot, submodlib)}
        found["random"] = {"rows": np.random.default_rng(1).permutation(rows)[:budget].tolist()}
        base = found[ours.function.__name__]
        assert base is not None
        largest = max(float(((data - row) ** 2).sum(axis=1).max()) for row in data[:: max(1, rows // 2000)])
        means = {
            name: float(panels.assign(data, data[one["rows"]])[1].mean(dtype=np.float64))
            for name, one in found.items()
            if one is not None
        }
        for name, one in found.items():
            if one is None:
                continue
            told: dict[str, Any] = {"data, b": f"{rows:,} × 64, {budget:,}", "": name, "CPU s": one.get("cpu")}
            told["times slower"] = one["cpu"] / base["cpu"] if "cpu" in one else None
            told["mean min d²"] = means[name]
            if "apricot" in means:
                told["objective, of apricot's"] = f"{(largest - means[name]) / (largest - means['apricot']):.4%}"
            yield told | {"peak RSS MB": one["peak_rss"] / 1e6 if "peak_rss" in one else None}


# -- The graph of neighbours


@leg()
def tamis_graph(data: str, probes: int) -> Figures:
    """Make the graph; a first call compiles."""
    import numpy as np

    from tamis.native.math import rng
    from tamis.native.neighbours import knn
    from tamis.selectors.features.neighbours import cells_of

    rows, key = np.load(data), rng.stream_key(0, "neighbours")
    knn.cell_graph(rows[:5000], NEIGHBOURS, 20, 2, key)
    cells = max(1, cells_of(len(rows)))
    return _graph(lambda: knn.cell_graph(rows, NEIGHBOURS, cells, min(cells, probes), key).rows, len(rows))


@leg(env=PEERS)
def faiss_graph(data: str, probes: int) -> Figures:
    """Make the graph with faiss' inverted file, as many cells and trained as long; one thread."""
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(1)
    rows = np.load(data)

    def fit() -> Any:
        cells = round(2 * len(rows) ** 0.5)
        coarse = faiss.IndexFlatL2(rows.shape[1])
        index = faiss.IndexIVFFlat(coarse, rows.shape[1], cells)
        index.cp.niter = 5
        index.cp.max_points_per_centroid = 32
        index.cp.min_points_per_centroid = 1
        index.train(rows)
        index.add(rows)
        index.nprobe = probes
        found = index.search(rows, NEIGHBOURS + 1)[1]
        own = found == np.arange(len(rows))[:, None]
        own[~own.any(axis=1), -1] = True
        return found[~own].reshape(len(rows), NEIGHBOURS)

    return _graph(fit, len(rows))


def _graph(work: Callable[[], Any], rows: int) -> Figures:
    """Time a graph; give the neighbours of the queries."""
    done = timed(work)
    return {**done.figures, "neighbours": done.result[_queries(rows)].tolist()}


@benchmark(full={"rows": [100_000], "probes": [8, 12, 24]}, toy={"rows": [1000], "probes": [4]})
def graph(rows: list[int], probes: list[int]) -> Iterator[Yielded]:
    """The 32 neighbours of every row, as many cells, as long a training and as many probes for both."""
    import numpy as np

    from tamis.native.neighbours import panels

    for count in rows:
        data = vectors(count, 64)
        nearest = panels.best_rows(data[_queries(count)], panels.pack(data), NEIGHBOURS + 1).rows
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/data.npy", data)
            for one in (tamis_graph, faiss_graph):
                yield from _graph_rows(one, f"{folder}/data.npy", probes, nearest)


def _graph_rows(one: Leg, data: str, probes: list[int], nearest: Any) -> Iterator[Yielded]:
    import numpy as np

    for count in probes:
        found = one.run(data=data, probes=count)
        if found is not None:
            shared = [len(np.intersect1d(a, b)) for a, b in zip(nearest, found["neighbours"], strict=True)]
            told = {"": one.function.__name__, "probes": count, "CPU s": found["cpu"]}
            yield told | {"recall of 32": float(np.mean(shared)) / NEIGHBOURS, "RSS MB": found["peak_rss"] / 1e6}


# -- Whole jobs


@benchmark(
    full={"rows": [100_000, 1_000_000], "selectors": ["facility_location"]},
    toy={"rows": [1000]},
)
def scale(rows: list[int], selectors: list[str]) -> Iterator[Yielded]:
    """Whole jobs from an empty cache, two threads, a tenth selected: 64 dimensions from Parquet to the report."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for count in rows:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            data = vectors(count, 64)
            for shard, first in enumerate(range(0, count, 250_000)):
                part = data[first : first + 250_000]
                column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), 64)
                pq.write_table(pa.table({"embedding": column}), folder / f"{shard}.parquet", row_group_size=10_000)
            del data
            for name in selectors:
                spec = {
                    "dataset": {"shards": [str(folder / "*.parquet")]},
                    "selector": {"name": name},
                    "budget": {"rows": count // 10},
                }
                found = job.ours(spec=spec, work=folder / "work", threads=2)
                told = {"rows": count, "b": count // 10, "selector": name, "CPU s": found["cpu"]}
                yield told | {"wall s": found["wall"], "peak RSS MB": found["peak_rss"] / 1e6}
