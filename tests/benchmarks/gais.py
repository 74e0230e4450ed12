"""GAIS: whole jobs on Parquet beside torch-geometric, and the recall of its graphs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import peer
from tests.benchmarks.harness import Figures, Yielded, benchmark, leg
from tests.benchmarks.jobs import job

SHARDS = 16
CLOUDS_A_CLASS = 10
PHASES = ("survey", "train", "score", "select", "report")
BATCH, NEIGHBOURS, STEPS, BATCHES = 1024, 10, 150, 18
"""Of the mini-batch work that torch-geometric repeats."""


def write(folder: Path, rows: int, dimension: int, classes: int) -> None:
    """Write clouds of points in shards, row groups of 16,384 rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

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


@leg(env=peer("torch_geometric==2.6.1", "torch==2.13.0", "pyarrow", "numpy"), one_thread=True)
def torch_geometric(data: str) -> Figures:
    """Do the same mini-batch work: exact neighbours, two GATConv layers, training, one scoring pass; no selection."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from torch_geometric.nn import GATConv  # type: ignore[import-not-found]

    class Network(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        """Two layers: 4 heads of 8, then one head to the classes."""

        def __init__(self, dimension: int, classes: int) -> None:
            super().__init__()
            self.first = GATConv(dimension, 8, heads=4)
            self.second = GATConv(32, classes, heads=1, concat=False)

        def forward(self, x: Any, edges: Any) -> tuple[Any, Any, Any]:
            """Return logits, and edges and attention of both layers."""
            z, first = self.first(x, edges, return_attention_weights=True)
            logits, second = self.second(torch.nn.functional.elu(z), edges, return_attention_weights=True)
            return logits, first, second

    def edges_of(x: Any) -> Any:
        distances = torch.cdist(x, x)
        distances.fill_diagonal_(float("inf"))
        sources = distances.topk(NEIGHBOURS, largest=False).indices
        targets = torch.arange(len(x)).repeat_interleave(NEIGHBOURS)
        return torch.stack([sources.reshape(-1), targets])

    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = time.process_time()
    tables = [pq.read_table(file) for file in sorted(Path(data).glob("*.parquet"))]
    features = np.concatenate(
        [table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1) for table in tables]
    )
    names = np.concatenate([table["label"].to_numpy(zero_copy_only=False) for table in tables])
    codes = np.unique(names.astype(str), return_inverse=True)[1]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    order = np.random.default_rng(0).permutation(len(features))
    x, y = torch.from_numpy(features[order]), torch.from_numpy(codes[order])
    read = time.process_time()
    network = Network(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=5e-4)
    batches = [slice(b * BATCH, (b + 1) * BATCH) for b in range(BATCHES) if b * BATCH + NEIGHBOURS < len(x)]
    graphs = [edges_of(x[batch]) for batch in batches]
    for step in range(STEPS):
        batch, edges = batches[step % len(batches)], graphs[step % len(batches)]
        edges = edges[:, torch.rand(edges.shape[1]) > 0.1]
        optimizer.zero_grad()
        loss: Any = torch.nn.functional.cross_entropy(network(x[batch], edges)[0], y[batch])
        loss.backward()
        optimizer.step()
    trained = time.process_time()
    received, own = torch.zeros(len(x)), torch.zeros(len(x))
    with torch.no_grad():
        for begin in range(0, len(x), BATCH):
            part = x[begin : begin + BATCH]
            logits, first, second = network(part, edges_of(part))
            own[begin : begin + BATCH] = torch.softmax(logits, 1).gather(1, y[begin : begin + BATCH, None])[:, 0]
            for edges, alpha in (first, second):
                received[begin : begin + BATCH].index_add_(0, edges[0], alpha.mean(1))
    end = time.process_time()
    return {"survey": read - start, "train": trained - read, "score": end - trained, "cpu": end - start}


@benchmark(
    full={
        "rows": 1_000_000,
        "dimension": 32,
        "classes": 4,
        "graphs": ["minibatch", "lsh_multiview"],
        "threads": [1, 2],
        "repeat": 3,
    },
    toy={"rows": 1600, "dimension": 8, "graphs": ["minibatch"], "threads": [1], "repeat": 1},
)
def speed(
    rows: int, dimension: int, classes: int, graphs: list[str], threads: list[int], repeat: int
) -> Iterator[Yielded]:
    """CPU seconds of whole jobs by phase, 4% kept, then of torch-geometric on the same shards."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "data"
        data.mkdir()
        write(data, rows, dimension, classes)
        runs = [
            (f"Tamis, {graph}", count, _job(data, graph, folder / "work", count, repeat))
            for graph in graphs
            for count in threads
        ]
        runs += [("torch-geometric", 1, theirs)] if (theirs := torch_geometric.run(data=data)) is not None else []
        for name, count, found in runs:
            told: dict[str, Any] = {"": name, "threads": count, **{phase: found.get(phase) for phase in PHASES}}
            told |= {"CPU s": found["cpu"], "without report": found["cpu"] - found.get("report", 0.0)}
            yield told | {"wall s": found.get("wall"), "peak RSS MB": found["peak_rss"] / 1e6}
    yield f"{rows:,} rows of {dimension}, {classes} classes, 4% kept."


def _job(data: Path, graph: str, work: Path, threads: int, repeat: int) -> Figures:
    spec = {
        "dataset": {"shards": [str(data / "*.parquet")]},
        "selector": {"name": "gais", "params": {"graph": graph, "neighbors": NEIGHBOURS}},
        "budget": {"fraction": 0.04},
    }
    return job.ours(spec=spec, work=work, threads=threads, processes=repeat)


@leg(one_thread=True)
def graphs_of_tamis(rows: int, dimension: int) -> Figures:
    """Find the neighbours of every row by every graph, beside the true ones."""
    import numpy as np

    from tamis.native.math import rng
    from tamis.native.neighbours import lsh, small_sets

    random = np.random.default_rng(0)
    centres = random.normal(size=(40, dimension))
    given = centres[random.integers(0, 40, rows)] + random.normal(size=(rows, dimension))
    points: Any = np.ascontiguousarray(given - given.mean(axis=0), dtype=np.float32)
    views = lsh.directions(rng.stream_key(0, "recall"), 16, dimension)
    exact = np.empty((rows, 10), np.int64)
    small_sets.nearest_members(points, np.arange(rows, dtype=np.int32), exact)
    cases: list[tuple[lsh.Kind, int]] = [("lsh", 1), ("lsh_multilevel", 1)]
    cases += [("lsh_multiview", count) for count in (1, 2, 4, 8, 16)]
    found: list[Figures] = []
    for kind, count in cases:
        lsh.find_neighbours(points[:2000], 10, kind, views[:count])
        start = time.thread_time()
        keys = lsh.find_neighbours(points, 10, kind, views[:count]).keys
        cost = (time.thread_time() - start) / rows * 1e6
        hits = float(np.mean([np.isin(a, b).sum() for a, b in zip(keys, exact, strict=True)])) / 10
        found.append({"graph": kind, "views": count, "recall of 10": hits, "in its batch": None, "µs a row": cost})
    batch = min(BATCH, rows)
    share = float(np.mean([np.isin(row & (2**31 - 1), np.arange(batch)).mean() for row in exact[:batch]]))
    keys, part = np.empty((batch, 10), np.int64), np.ascontiguousarray(points[:batch])
    start = time.thread_time()
    for _ in range(10):
        small_sets.nearest_members(part, np.arange(batch, dtype=np.int32), keys)
    cost = (time.thread_time() - start) / (10 * batch) * 1e6
    found.append({"graph": "minibatch", "views": None, "recall of 10": share, "in its batch": 1, "µs a row": cost})
    return {"found": found}


@benchmark(full={"rows": 16_384, "dimensions": [8, 32, 128]}, toy={"rows": 2048, "dimensions": [8]})
def recall(rows: int, dimensions: list[int]) -> Iterator[Yielded]:
    """The share of the true neighbours that each graph finds among the rows of a block, and what a row costs."""
    for dimension in dimensions:
        for found in graphs_of_tamis.ours(rows=rows, dimension=dimension)["found"]:
            yield {"dimensions": dimension, **found}
