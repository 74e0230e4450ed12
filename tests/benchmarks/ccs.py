"""Benchmarks of CCS: ``run.py ccs`` (select from scores in memory, beside the reference loop; then a job on Parquet).

The reference is a loop as the authors' code has it, written anew: an unstable sort for the cut-off, two scans of the
whole column for every stratum, one number taken out of an array for every row selected. It runs on torch tensors, as
theirs does (``ccs_torch.py``), and on NumPy arrays, where the last of these is cheap. CPU seconds; each leg is a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from peers import peer_python  # type: ignore[import-not-found]

KEEP, BETA, STRATA = 0.1, 0.3, 50
TORCH = "torch==2.13.0"
SHARD_ROWS = 5_000_000
ROW_GROUP = 1_000_000
STREAM_BUDGET = 1_000_000

Scores = NDArray[np.float32]


def margins(rows: int, seed: int = 0) -> Scores:
    """Return scores shaped like accumulated margins: most near the top, a tail of hard rows."""
    generator = np.random.default_rng(seed)
    scores = 200 - np.abs(generator.standard_normal(rows, dtype=np.float32) * 30)
    hard = generator.random(rows, dtype=np.float32) < 0.2
    scores[hard] -= generator.standard_exponential(int(hard.sum()), dtype=np.float32) * 20
    return scores


def reference(scores: Scores, keep: float, beta: float, strata: int, seed: int = 0) -> NDArray[np.int64]:
    """Select as the reference does."""
    generator = np.random.default_rng(seed)
    rest = np.argsort(scores)[int(beta * len(scores)) :]
    left = scores[rest]
    lowest, highest = left.min(), left.max() * np.float32(1.0001)
    step = (highest - lowest) / np.float32(strata)

    def inside(k: int) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (left >= lowest + np.float32(k) * step) & (left < lowest + np.float32(k + 1) * step)
        return inside

    populations = [int(inside(k).sum()) for k in range(strata)]
    budgets, budget = [0] * strata, int(keep * len(scores))
    for place, k in enumerate(np.argsort(populations).tolist()):
        budgets[k] = min(populations[k], budget // (strata - place))
        budget -= budgets[k]
    chosen: list[int] = []
    for k in range(strata):
        pool = np.flatnonzero(inside(k))
        drawn = pool[generator.permutation(len(pool))[: budgets[k]]]
        chosen += [row.item() for row in drawn]
    return rest[np.array(chosen, np.int64)]


def tamis(scores: Scores, keep: float, beta: float, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Select by the kernels that the selector calls."""
    from tamis.native.math import rng
    from tamis.native.sampling import cutoffs, draws, strata

    def chunks() -> Iterator[strata.Chunk]:
        yield 0, scores, None

    sample = strata.sample(chunks, len(scores))
    cut_off = cutoffs.cut_hardest(chunks, sample, beta, "low")
    own = strata.equal_width(*strata.extremes(chunks, cut_off), count)
    return draws.draw(chunks, sample, cut_off, own, int(keep * len(scores)), rng.stream_key(seed, "ccs")).drawn.rows


def measure(which: str, rows: int, repetitions: int) -> dict[str, Any]:
    """Time one way in this process; the first of Tamis's calls compiles and is not counted."""
    scores = margins(rows)
    select = reference if which == "reference" else tamis
    if which == "tamis":
        select(scores[:10_000], KEEP, BETA, STRATA)
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        chosen = select(scores, KEEP, BETA, STRATA)
        seconds.append(time.process_time() - start)
    tracemalloc.start()  # NumPy tells it of its arrays
    select(scores, KEEP, BETA, STRATA)
    return {
        "seconds": statistics.median(seconds),
        "best": min(seconds),
        "peak_bytes": tracemalloc.get_traced_memory()[1],
        "selected": len(chosen),
    }


def write_shards(folder: Path, rows: int) -> list[str]:
    """Write the scores as zstd Parquet."""
    shards = []
    for first in range(0, rows, SHARD_ROWS):
        table = pa.table({"score": margins(min(SHARD_ROWS, rows - first), seed=first)})
        shards.append(str(folder / f"scores-{first // SHARD_ROWS:03}.parquet"))
        pq.write_table(table, shards[-1], compression="zstd", row_group_size=ROW_GROUP, use_dictionary=False)
    return shards


def stream(folder: Path, shards: list[str], threads: int) -> dict[str, Any]:
    """Run a whole job on the shards: read, select, report, write."""
    from tamis.native import warmup
    from tamis.selectors.datasets import LocalStorage
    from tamis.selectors.jobs.execute import execute
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.run.observer import Unobserved
    from tamis.selectors.schema.request import JobSpec

    warmup()
    spec = {
        "dataset": {"shards": shards},
        "selector": {"name": "ccs", "params": {"hard_end": "low", "beta": BETA}},
        "budget": {"rows": STREAM_BUDGET},
    }
    marks: list[tuple[str, float]] = []

    class Watch(Unobserved):
        def progress(self, progress: Any) -> None:
            if not marks or marks[-1][0] != progress.phase:
                marks.append((progress.phase, time.process_time()))

    started, wall = time.process_time(), time.perf_counter()
    execute(
        JobSpec.model_validate(spec), folder / "out", Environment(LocalStorage(), folder / "cache", threads), Watch()
    )
    ended = time.process_time()
    ends = [*(at for _, at in marks[1:]), ended]
    return {
        "phases": {name: end - at for (name, at), end in zip(marks, ends, strict=True)},
        "seconds": ended - started,
        "wall": time.perf_counter() - wall,
        "peak_rss": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def leg(*arguments: str) -> dict[str, Any]:
    """Run one leg in a process of its own and return what it printed."""
    done = subprocess.run([sys.executable, __file__, "leg", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def torch_leg(rows: int) -> dict[str, Any]:
    """Run the reference loop on torch tensors, in torch's own environment."""
    python = peer_python("torch-peers", TORCH, "numpy")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "scores.npy"
        np.save(path, margins(rows))
        command = [str(python), str(Path(__file__).with_name("ccs_torch.py")), str(path)]
        done = subprocess.run(
            [*command, str(KEEP), str(BETA), str(STRATA)], check=True, stdout=subprocess.PIPE, text=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(sizes: list[int], repetitions: int) -> None:
    """Print the table of both ways."""
    print(
        "| rows | keep, beta | torch CPU s | NumPy CPU s | Tamis CPU s (best) | ns a row | torch ratio | NumPy ratio "
        "| memory beside the scores (NumPy, Tamis) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for rows in sizes:
        theirs, ours = leg("reference", str(rows), "1"), leg("tamis", str(rows), str(repetitions))
        torch = torch_leg(rows)
        assert theirs["selected"] == ours["selected"] == torch["selected"] == int(KEEP * rows)
        print(
            f"| {rows:,} | {KEEP:g}, {BETA:g} | {torch['seconds']:.2f} | {theirs['seconds']:.2f} "
            f"| {ours['seconds']:.4f} ({ours['best']:.4f}) | {1e9 * ours['seconds'] / rows:.1f} "
            f"| {torch['seconds'] / ours['seconds']:.0f}x | {theirs['seconds'] / ours['seconds']:.0f}x "
            f"| {theirs['peak_bytes'] / 1e6:.0f} MB, {ours['peak_bytes'] / 1e6:.0f} MB |",
            flush=True,
        )


def whole_job(rows: int, threads: list[int]) -> None:
    """Print what a job on Parquet takes, phase by phase."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = write_shards(folder, rows)
        size = sum(Path(shard).stat().st_size for shard in shards)
        print(f"\n{rows:,} scores in {len(shards)} shards, {size / 1e6:.0f} MB; {STREAM_BUDGET:,} rows selected.\n")
        print("| threads | score | select | report and result | whole CPU s | wall s | peak RSS MB |")
        print("|---|---|---|---|---|---|---|")
        (folder / "shards.json").write_text(json.dumps(shards))
        for count in threads:
            work = folder / f"work-{count}"
            work.mkdir()
            found = leg("stream", str(work), str(folder / "shards.json"), str(count))
            phases = found["phases"]
            print(
                f"| {count} | {phases['score']:.1f} | {phases['select']:.1f} | {phases['report']:.1f} "
                f"| {found['seconds']:.1f} | {found['wall']:.1f} | {found['peak_rss'] / 1e6:.0f} |",
                flush=True,
            )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--stream", type=int, default=100_000_000, help="rows of the job on Parquet; 0: none")
    parser.add_argument("--threads", type=int, nargs="*", default=[1])
    if sys.argv[1:2] == ["leg"]:
        which, *rest = sys.argv[2:]
        if which == "stream":
            found = stream(Path(rest[0]), json.loads(Path(rest[1]).read_text()), int(rest[2]))
        else:
            found = measure(which, int(rest[0]), int(rest[1]))
        print(json.dumps(found))
        return
    arguments = parser.parse_args()
    if arguments.rows:
        compare(arguments.rows, arguments.repetitions)
    if arguments.stream:
        whole_job(arguments.stream, arguments.threads)


if __name__ == "__main__":
    main()
