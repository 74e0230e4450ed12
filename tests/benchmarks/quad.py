"""Quad: the bandit beside the released loop, and a whole job that clusters a million embeddings."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Figures, Yielded, benchmark, leg, timed
from tests.benchmarks.jobs import job

ROUNDS, BATCH, PROBE, WORTH, THRESHOLD = 200, 50, 10, 40, 0.2
TAU, ALPHA = 0.002, 1e-4
NEIGHBOURS = 3
ROW_GROUP = 16_384
NO_BUDGET = 2**60
EXHAUSTED = -9999999.0


def released(
    documents: Sequence[Sequence[float]], near: Sequence[Sequence[tuple[int, float]]], rounds: int
) -> list[int]:
    """Pull clusters as released, written anew from its description: plain dictionaries, a sort of all clusters a round.

    For every pull it walks the list of the cluster's neighbours; what the authors' code adds to that, files read anew
    for every pull and a scan of a row of the distance matrix, is left out.

    Parameters
    ----------
    documents : sequence of sequence of float
        Influences of every cluster's documents.
    near : sequence of sequence of (int, float)
        Every cluster's neighbours, itself among them, with their distance.
    rounds : int
        Number of rounds of `BATCH` pulls.

    Returns
    -------
    list of int
        The clusters in the order they were pulled in.
    """
    clusters = range(len(documents))
    scores = dict.fromkeys(clusters, 0.0)
    sums, updates = dict.fromkeys(clusters, 0.0), dict.fromkeys(clusters, 0)
    pulls, accepted = dict.fromkeys(clusters, 0), dict.fromkeys(clusters, 0)
    total = 0
    order: list[int] = []
    for _ in range(rounds):
        chosen: list[int] = []
        for cluster, _score in sorted(scores.items(), key=lambda item: item[1], reverse=True):
            if len(documents[cluster]) < (pulls[cluster] + 1) * WORTH:
                sums[cluster] = scores[cluster] = EXHAUSTED
                continue
            chosen.append(cluster)
            if len(chosen) == BATCH:
                break
        for cluster in chosen:
            first = pulls[cluster] * PROBE
            probed = documents[cluster][first : first + PROBE]
            reward = sum(probed) / len(probed) - TAU
            pulls[cluster] += 1
            accepted[cluster] += reward > 0
            for other, distance in near[cluster]:
                sums[other] += reward * (1 - distance / THRESHOLD)
                updates[other] += 1
                total += 1
        for cluster in clusters:
            mean = sums[cluster] / updates[cluster] if updates[cluster] else 0.0
            scores[cluster] = mean + ALPHA * math.sqrt(2 * math.log(total) / (updates[cluster] + 1))
        order += chosen
    return order


@leg(one_thread=True)
def loops(arms: int, rounds: int, repeat: int) -> Figures:
    """Time the loops on clusters whose influences differ, with neighbours in a plane: the same pulls."""
    import numpy as np

    from tamis.native.greedy import bandit
    from tamis.selectors.methods.quad.bandit import Arms, Rules, pull
    from tamis.selectors.methods.quad.released import pull_as_released

    draw = np.random.default_rng(0)
    sizes = draw.integers(20, 400, arms)
    codes = np.repeat(np.arange(arms, dtype=np.int32), sizes)
    influence = 0.002 + 0.001 * draw.normal(size=arms)[codes] + 0.002 * draw.normal(size=len(codes))
    places = (draw.random((arms, 2)) * np.sqrt(np.pi * arms / NEIGHBOURS) * THRESHOLD).astype(np.float32)
    near = bandit.near_centres(places, THRESHOLD, len(places) ** 2)
    distances = (1 - near.shares) * THRESHOLD
    listed = [
        list(zip(near.arms[a:b].tolist(), distances[a:b].tolist(), strict=True))
        for a, b in zip(near.starts[:-1].tolist(), near.starts[1:].tolist(), strict=True)
    ]
    documents = [part.tolist() for part in np.split(influence, np.cumsum(sizes)[:-1])]
    of = Arms.of(codes, arms)
    as_released, own = (Rules(BATCH, PROBE, WORTH, *units, rounds) for units in ((TAU, ALPHA), (0.5, 2.0)))

    def score(number: int, rows: Any) -> Any:
        return influence[rows]

    pull_as_released(of, as_released, NO_BUDGET, score, near)  # compiles
    theirs = timed(lambda: released(documents, listed, rounds), repeat)
    ours = timed(lambda: pull_as_released(of, as_released, NO_BUDGET, score, near), repeat)
    corrected = timed(lambda: pull(of, own, score, lambda rows: True), repeat)
    trace = ours.result
    return {
        "released": min(theirs.cpu),
        "tamis": min(ours.cpu),
        "corrected": min(corrected.cpu),
        "same": theirs.result == trace.arms.tolist(),
        "state": sum(column.nbytes for column in trace.state),
        "answers": trace.values.nbytes,
    }


@benchmark(full={"arms": [1000, 10_000], "rounds": ROUNDS, "repeat": 5}, toy={"arms": [100], "rounds": 5, "repeat": 1})
def loop(arms: list[int], rounds: int, repeat: int) -> Iterator[Yielded]:
    """The bandit's loop beside the released one: CPU seconds of one thread, the best of several runs."""
    for count in arms:
        found = loops.ours(arms=count, rounds=rounds, repeat=repeat)
        yield {
            "clusters x rounds": f"{count:,} x {rounds}",
            "released loop": found["released"],
            "Tamis, as released": found["tamis"],
            "ratio": found["released"] / found["tamis"],
            "same pulls": found["same"],
            "Tamis, corrected": found["corrected"],
            "state kB": found["state"] / 1e3,
            "answers of all rounds kB": found["answers"] / 1e3,
        }


@benchmark(
    full={"rows": 1_000_000, "dimension": 256, "clusters": 1000, "threads": 2},
    toy={"rows": 3000, "dimension": 8, "clusters": 10},
)
def kmeans(rows: int, dimension: int, clusters: int, threads: int) -> Iterator[Yielded]:
    """A whole job, one in a hundred selected, on embeddings of many topics."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

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
        spec = {
            "dataset": {"shards": [str(folder / "pool.parquet")]},
            "selector": {"name": "quad", "params": {"clusters": clusters}},
            "budget": {"rows": rows // 100},
        }
        found = job.ours(spec=spec, work=folder / "work", threads=threads)
    told: dict[str, Any] = {"rows x dimensions, clusters": f"{rows:,} x {dimension}, {clusters:,}", "threads": threads}
    told |= {f"{name} CPU s": found[name] for name in ("clusters", "influence", "pull", "report")}
    yield told | {"whole CPU s": found["cpu"], "peak RSS MB": found["peak_rss"] / 1e6}
