"""CCS: the choice from scores in memory beside the reference loop, and a whole job on Parquet.

The reference is a loop as the authors' code has it, written anew: an unstable sort for the cut-off, two scans of the
whole column for every stratum, one number taken out of an array for every row selected. It runs on torch tensors, as
theirs does, and on NumPy arrays, where the last of these is cheap.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.environments import peer
from tests.benchmarks.harness import Figures, Yielded, benchmark, figure, leg, ratio, timed
from tests.benchmarks.jobs import job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEEP, BETA, STRATA = 0.1, 0.3, 50
SHARD_ROWS = 5_000_000
ROW_GROUP = 1_000_000


def margins(rows: int, seed: int = 0) -> NDArray[np.float32]:
    """Return scores shaped like accumulated margins: most near the top, a tail of hard rows."""
    import numpy as np

    generator = np.random.default_rng(seed)
    scores: NDArray[np.float32] = 200 - np.abs(generator.standard_normal(rows, dtype=np.float32) * 30)
    hard = generator.random(rows, dtype=np.float32) < 0.2
    scores[hard] -= generator.standard_exponential(int(hard.sum()), dtype=np.float32) * 20
    return scores


def _budgets(populations: list[int], rows: int) -> list[int]:
    """Share `rows` out, the smallest stratum first: as the authors' code does."""
    import numpy as np

    budgets = [0] * STRATA
    for place, k in enumerate(np.argsort(populations).tolist()):
        budgets[k] = min(populations[k], rows // (STRATA - place))
        rows -= budgets[k]
    return budgets


@leg(env=peer("torch==2.13.0", "numpy"))
def torch(rows: int) -> Figures:
    """Run the loop on torch tensors."""
    import torch

    scores = torch.from_numpy(margins(rows))

    def select() -> Any:
        rest = scores.argsort()[int(BETA * rows) :]
        left = scores[rest]
        lowest, highest = left.min(), left.max() * 1.0001
        step = (highest - lowest) / STRATA

        def inside(k: int) -> Any:
            return torch.logical_and(left >= lowest + k * step, left < lowest + (k + 1) * step)

        budgets = _budgets([int(inside(k).sum()) for k in range(STRATA)], int(KEEP * rows))
        chosen: list[int] = []
        for k in range(STRATA):
            pool = torch.arange(len(left))[inside(k)]
            chosen += [row.item() for row in pool[torch.randperm(len(pool))][: budgets[k]]]
        return rest[torch.tensor(chosen)]

    done = timed(select)
    return {**done.figures, "selected": len(done.result)}


@leg()
def numpy(rows: int) -> Figures:
    """Run the loop on NumPy arrays."""
    import numpy as np

    scores, generator = margins(rows), np.random.default_rng(0)

    def select() -> Any:
        rest = np.argsort(scores)[int(BETA * rows) :]
        left = scores[rest]
        lowest, highest = left.min(), left.max() * np.float32(1.0001)
        step = (highest - lowest) / np.float32(STRATA)

        def inside(k: int) -> Any:
            return (left >= lowest + np.float32(k) * step) & (left < lowest + np.float32(k + 1) * step)

        budgets = _budgets([int(inside(k).sum()) for k in range(STRATA)], int(KEEP * rows))
        chosen: list[int] = []
        for k in range(STRATA):
            pool = np.flatnonzero(inside(k))
            chosen += [row.item() for row in pool[generator.permutation(len(pool))[: budgets[k]]]]
        return rest[np.array(chosen, np.int64)]

    return _with_memory(select, 1)


@leg()
def tamis(rows: int, repeat: int) -> Figures:
    """Select by the kernels that the selector calls; the first call compiles and is not counted."""
    from tamis.native.math import rng
    from tamis.native.sampling import cutoffs, draws, strata

    def select(scores: NDArray[np.float32]) -> Any:
        def chunks() -> Iterator[strata.Chunk]:
            yield 0, scores, None

        sample = strata.sample(chunks, len(scores))
        cut_off = cutoffs.cut_hardest(chunks, sample, BETA, "low")
        own = strata.equal_width(*strata.extremes(chunks, cut_off), STRATA)
        return draws.draw(chunks, sample, cut_off, own, int(KEEP * len(scores)), rng.stream_key(0, "ccs")).drawn.rows

    scores = margins(rows)
    select(scores[:10_000])
    return _with_memory(lambda: select(scores), repeat)


def _with_memory(select: Callable[[], Any], repeat: int) -> Figures:
    """Time a choice, then measure what it allocates beside the scores."""
    import tracemalloc

    done = timed(select, repeat)
    tracemalloc.start()  # NumPy reports its arrays to it
    select()
    return {**done.figures, "selected": len(done.result), "allocated": tracemalloc.get_traced_memory()[1]}


@benchmark(full={"rows": [1_000_000, 10_000_000], "repeat": 7}, toy={"rows": [20_000], "repeat": 1})
def choice(rows: list[int], repeat: int) -> Iterator[Yielded]:
    """The choice from scores in memory, beside the reference loop on torch tensors and on NumPy arrays."""
    for count in rows:
        ours, beside, theirs = tamis.ours(rows=count, repeat=repeat), numpy.ours(rows=count), torch.run(rows=count)
        assert ours["selected"] == beside["selected"] == int(KEEP * count)
        yield {
            "rows": count,
            "torch CPU s": figure(theirs, "cpu"),
            "NumPy CPU s": beside["cpu"],
            "Tamis CPU s": ours["cpu"],
            "Tamis best": ours["best"],
            "ns a row": 1e9 * ours["cpu"] / count,
            "torch ×": ratio(theirs, ours),
            "NumPy ×": ratio(beside, ours),
            "NumPy MB beside the scores": beside["allocated"] / 1e6,
            "Tamis MB": ours["allocated"] / 1e6,
        }


def write_shards(folder: Path, rows: int) -> list[str]:
    """Write the scores as zstd Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = []
    for first in range(0, rows, SHARD_ROWS):
        table = pa.table({"score": margins(min(SHARD_ROWS, rows - first), seed=first)})
        shards.append(str(folder / f"scores-{first // SHARD_ROWS:03}.parquet"))
        pq.write_table(table, shards[-1], compression="zstd", row_group_size=ROW_GROUP, use_dictionary=False)
    return shards


@benchmark(full={"rows": 100_000_000, "budget": 1_000_000, "threads": [1]}, toy={"rows": 20_000, "budget": 200})
def stream(rows: int, budget: int, threads: list[int]) -> Iterator[Yielded]:
    """A whole job on scores in Parquet: read, select, report, write."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = write_shards(folder, rows)
        spec = {
            "dataset": {"shards": shards},
            "selector": {"name": "ccs", "params": {"hard_end": "low", "beta": BETA}},
            "budget": {"rows": budget},
        }
        for count in threads:
            found = job.ours(spec=spec, work=folder / "work", threads=count)
            told = {name: found[name] for name in ("score", "select", "report")}
            told |= {"whole CPU s": found["cpu"], "wall s": found["wall"], "peak RSS MB": found["peak_rss"] / 1e6}
            yield {"threads": count, **told}
        size = sum(Path(shard).stat().st_size for shard in shards)
        yield f"{rows:,} scores in {len(shards)} shards, {size / 1e6:.0f} MB; {budget:,} rows selected."
