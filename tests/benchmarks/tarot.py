"""TAROT: the released procedure and transport libraries beside Tamis, and whole jobs at full size.

The released procedure is written anew from its description on PyTorch and GeomLoss. Legs have one thread, but for
``large``; numbers are CPU seconds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import peer
from tests.benchmarks.harness import Figures, Yielded, benchmark, figure, leg, timed
from tests.benchmarks.jobs import job, selected

PEERS = peer("geomloss==0.3.1", "torch==2.13.0", "pot==0.9.7.post1", "scikit-learn", "pyarrow")
CENTRES, TARGET_CENTRES, ROW_GROUP = 40, 10, 16_384
LISTED = 2000
"""Candidates that the release lists for every target."""
SMALL = 1_000_000
"""Entries of a cost matrix up to which the slow solvers run."""


def write(folder: Path, n: int, m: int, d: int) -> None:
    """Write candidates of many modes, and targets of some of them, as Parquet of fixed-size lists."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

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


def spec(folder: Path, rows: int | None, **params: Any) -> dict[str, Any]:
    """Return a TAROT job over the data."""
    return {
        "dataset": {"shards": [str(folder / "pool.parquet")]},
        "target": {"datasets": [{"shards": [str(folder / "target.parquet")]}]},
        "selector": {"name": "tarot", "params": params},
        "budget": {"fraction": 1} if rows is None else {"rows": rows},
    }


# -- The released procedure


def _geomloss(potentials: bool) -> Any:
    """GeomLoss as the release calls it, on the distance of unit vectors."""
    import torch
    from geomloss import SamplesLoss

    def distance(rows: Any, targets: Any) -> Any:
        return torch.sqrt(torch.abs(2 - 2 * rows @ targets.transpose(-1, -2)))

    how = {"cost": distance, "debias": False, "blur": 0.01, "scaling": 0.5, "backend": "tensorized"}
    return SamplesLoss("sinkhorn", p=2, potentials=potentials, **how)


def _whitened(pool: str, target: str) -> tuple[Any, Any]:
    """Read the gradients and whiten them as released: rows times inverse(L)."""
    import pyarrow.parquet as pq
    import torch

    def read(path: str) -> Any:
        column = pq.read_table(path)["gradient"].combine_chunks()
        return torch.from_numpy(column.flatten().to_numpy().reshape(len(column), -1).copy())

    first = read(pool)
    both = torch.cat([first, read(target)])
    centred = both - both.mean(dim=0)
    covariance = centred.T @ centred / len(both) + 1e-5 * torch.eye(both.shape[1])
    inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
    white = torch.nn.functional.normalize(centred @ inverse, eps=1e-12)
    return white[: len(first)], white[len(first) :]


def _listed(scores: Any) -> Any:
    """Return the candidates of every target from the most similar on."""
    import numpy as np

    depth = min(LISTED, len(scores))
    listed = np.argpartition(-scores, depth - 1, axis=0)[:depth]
    return np.take_along_axis(listed, np.argsort(-np.take_along_axis(scores, listed, 0), axis=0, kind="stable"), 0)


def _fixed(scores: Any, pool: Any, target: Any, budget: int) -> list[int]:
    """Take whole layers while they fit, the rest by the largest potential, then the weights' potentials."""
    import numpy as np

    chosen: set[int] = set()
    for layer in _listed(scores):
        fresh = sorted(set(layer.tolist()) - chosen)
        if len(chosen) + len(fresh) > budget:
            f, _ = _geomloss(True)(pool[fresh], target)
            best = np.argsort(f.flatten().numpy())[-(budget - len(chosen)) :]
            chosen |= {fresh[index] for index in best.tolist()}
            break
        chosen |= set(fresh)
    _geomloss(True)(pool[sorted(chosen)], target)
    return sorted(chosen)


def _otm(scores: Any, pool: Any, target: Any) -> list[int]:
    """Stop every fold at its first increase; unite the folds' sets."""
    import numpy as np
    from sklearn.model_selection import KFold

    union: set[int] = set()
    for scoring, selecting in KFold(10, shuffle=True, random_state=42).split(np.arange(len(target))):
        part = scores[:, selecting]
        order = _listed(part)
        similar = np.take_along_axis(part, order, 0) > 0
        best, rows = np.inf, np.empty(0, np.int64)
        for count in range(1, len(order)):
            rows = np.unique(order[:count][similar[:count]])
            value = float(_geomloss(False)(pool[rows], target[scoring]))
            if value >= best:
                break
            best = value
        union |= set(rows.tolist())
    _geomloss(True)(pool[sorted(union)], target)
    return sorted(union)


@leg(env=PEERS, one_thread=True)
def release(pool: str, target: str, budget: int, rows: str) -> Figures:
    """Run the released procedure in both modes; write the sets it selects to `rows`."""
    import torch

    torch.set_num_threads(1)

    def both() -> tuple[Any, Any, Any, list[int]]:
        white, whitened = _whitened(pool, target)
        scores = (white @ whitened.T).numpy()
        return white, whitened, scores, _fixed(scores, white, whitened, budget)

    first = timed(both)
    white, whitened, scores, fixed = first.result
    second = timed(lambda: _otm(scores, white, whitened))
    Path(rows).write_text(json.dumps({"fixed": fixed, "otm": second.result}), encoding="utf-8")
    return {"fixed": first.cpu[0], "otm": second.cpu[0]}


@benchmark(full={"cases": [[20_000, 1000, 256], [50_000, 2000, 512]]}, toy={"cases": [[400, 40, 8]]})
def core(cases: list[tuple[int, int, int]]) -> Iterator[Yielded]:
    """Whole jobs with ``release: true`` beside the released procedure: CPU seconds of both modes, and the sets.

    Each job runs from an empty cache, so that neither takes the other's neighbours.
    """
    import numpy as np

    for n, m, d in cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write(folder, n, m, d)
            budget, rows = n // 5, folder / "released.json"
            theirs = release.run(
                pool=folder / "pool.parquet", target=folder / "target.parquet", budget=budget, rows=rows
            )
            expected = json.loads(rows.read_text(encoding="utf-8")) if theirs is not None else {}
            for mode, most in (("fixed", budget), ("otm", None)):
                work = folder / mode
                ours = job.ours(
                    spec=spec(folder, most, mode=mode, release=True, weights="potential"), work=work, threads=1
                )
                bare = ours["cpu"] - ours["report"]
                told: dict[str, Any] = {"candidates x targets x d": f"{n:,} x {m:,} x {d}", "": mode}
                told |= {"release CPU s": figure(theirs, mode), "Tamis job": ours["cpu"], "without the report": bare}
                if theirs is not None:
                    told["ratio"] = theirs[mode] / bare
                    told["the same set"] = np.array_equal(np.sort(selected(work)), np.array(expected[mode]))
                yield told | {"release RSS GB": figure(theirs, "peak_rss", 1e9), "RSS GB": ours["peak_rss"] / 1e9}


# -- One transport problem


def unit(n: int, d: int, seed: int) -> Any:
    """Return unit vectors of ten loose clusters."""
    import numpy as np

    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(10, d))
    rows = centres[draw.integers(0, 10, n)] + 1.5 * draw.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@leg(env=PEERS, one_thread=True)
def solvers(n: int, m: int, d: int) -> Figures:
    """Solve with GeomLoss, POT's exact solver and, a small problem, POT's log-domain Sinkhorn."""
    import numpy as np
    import ot
    import torch

    torch.set_num_threads(1)
    rows, targets = torch.from_numpy(unit(n, d, 1)), torch.from_numpy(unit(m, d, 2))
    _geomloss(False)(rows[:50], targets[:50])
    geomloss = timed(lambda: float(_geomloss(False)(rows, targets)))
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    costs = torch.sqrt(torch.abs(2 - 2 * rows @ targets.T)).double().numpy()
    exact = timed(lambda: float(ot.emd2(a, b, costs, numItermax=10**8)))
    found = {"geomloss": geomloss.cpu[0], "geomloss_value": geomloss.result}
    found |= {"exact": exact.cpu[0], "exact_value": exact.result}
    if n * m <= SMALL:  # minutes beyond
        how = {"method": "sinkhorn_log", "numItermax": 200, "warn": False}
        found["log"] = timed(lambda: ot.sinkhorn(a, b, costs, 1e-3, **how)).cpu[0]
    return found


@leg(one_thread=True)
def tamis(n: int, m: int, d: int) -> Figures:
    """Solve with Tamis: costs kept, streaming, exact and, a small problem, converged; a first call each compiles."""
    import numpy as np

    from tamis.selectors.features.transport.problem import Costs
    from tamis.selectors.features.transport.solve import solve

    small, few = unit(40, d, 1), np.full(40, 1 / 40)
    for solver in ("released", "converged", "exact"):
        solve(Costs(small, small), few, few, solver, bounds=True)
    rows, targets = unit(n, d, 1), unit(m, d, 2)
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)

    def solved(kept: int, solver: Any) -> Callable[[], float]:
        return lambda: float(solve(Costs(rows, targets, None, kept), a, b, solver).value)

    kept, exact = timed(solved(2**30, "released"), 3), timed(solved(2**30, "exact"))
    found = {"kept": min(kept.cpu), "value": kept.result, "exact": exact.cpu[0], "exact_value": exact.result}
    found["streaming"] = timed(solved(0, "released")).cpu[0]
    if n * m <= SMALL:
        found["converged"] = timed(solved(2**30, "converged")).cpu[0]
    return found


@benchmark(full={"cases": [[1000, 1000], [4000, 1000], [8000, 2000]], "dimension": 256}, toy={"cases": [[60, 50]]})
def transport(cases: list[tuple[int, int]], dimension: int) -> Iterator[Yielded]:
    """Solvers of one transport problem, costs sqrt(2 - 2 cosine)."""
    for n, m in cases:
        theirs, ours = solvers.run(n=n, m=m, d=dimension), tamis.ours(n=n, m=m, d=dimension)
        told: dict[str, Any] = {"rows x targets": f"{n:,} x {m:,}", "GeomLoss": figure(theirs, "geomloss")}
        told["Tamis, costs kept"] = ours["kept"]
        told["ratio"] = None if theirs is None else theirs["geomloss"] / ours["kept"]
        told["Tamis streaming"] = ours["streaming"]
        if theirs is not None:
            told["relative difference"] = f"{abs(ours['value'] / theirs['geomloss_value'] - 1):.0e}"
            told |= {"POT emd2": theirs["exact"], "Tamis exact": ours["exact"]}
            told["of exact"] = f"{abs(ours['exact_value'] / theirs['exact_value'] - 1):.0e}"
            told["POT sinkhorn_log, 200"] = theirs.get("log")
        yield told | {"Tamis exact": ours["exact"], "Tamis converged": ours.get("converged")}


# -- Whole jobs


@benchmark(
    full={"size": [1_000_000, 10_000, 512], "budget": 50_000, "threads": 2, "modes": ["fixed", "otm"]},
    toy={"size": [400, 40, 8], "budget": 20, "modes": ["fixed"]},
)
def large(size: tuple[int, int, int], budget: int, threads: int, modes: list[str]) -> Iterator[Yielded]:
    """Whole jobs from Parquet at full size: candidates, targets, dimensions."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, *size)
        for mode in modes:
            found = job.ours(spec=spec(folder, budget, mode=mode), work=folder / mode, threads=threads)
            told = {"mode": mode, "CPU s": found["cpu"]}
            told |= {name: found[name] for name in ("moments", "neighbours", "transport", "report")}
            told |= {"wall s": found["wall"], "peak RSS GB": found["peak_rss"] / 1e9}
            yield told | {"rows": len(selected(folder / mode))}
