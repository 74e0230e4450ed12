"""The released procedure of TAROT, written anew from its description on PyTorch and GeomLoss, and transport peers.

Runs in a virtual environment of its own (``tests/benchmarks/tarot.py`` makes it). One thread, float32.

``core POOL TARGET BUDGET``: whitening, the whole matrix of scores, fixed-size selection and OTM over ten folds.
``transport ROWS TARGETS``: GeomLoss, POT's exact solver and POT's log-domain Sinkhorn on two .npy files.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from geomloss import SamplesLoss
from sklearn.model_selection import KFold

LISTED = 2000


def distance(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whitened-feature distance of unit vectors."""
    return torch.sqrt(torch.abs(2 - 2 * rows @ targets.transpose(-1, -2)))


def transport(potentials: bool) -> Any:
    """GeomLoss as the release calls it."""
    how = {"cost": distance, "debias": False, "blur": 0.01, "scaling": 0.5, "backend": "tensorized"}
    return SamplesLoss("sinkhorn", p=2, potentials=potentials, **how)


def read(path: str) -> torch.Tensor:
    """Read the gradient column."""
    column = pq.read_table(path)["gradient"].combine_chunks()
    return torch.from_numpy(column.flatten().to_numpy().reshape(len(column), -1).copy())


def whiten(pool: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whiten as released: rows times inverse(L)."""
    both = torch.cat([pool, target])
    mean = both.mean(dim=0)
    centred = both - mean
    covariance = centred.T @ centred / len(both) + 1e-5 * torch.eye(both.shape[1])
    inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
    white = torch.nn.functional.normalize(centred @ inverse, eps=1e-12)
    return white[: len(pool)], white[len(pool) :]


def fixed(scores: np.ndarray[Any, Any], pool: torch.Tensor, target: torch.Tensor, budget: int) -> list[int]:
    """Take whole layers while they fit, the rest by the largest potential, then the weights' potentials."""
    depth = min(LISTED, len(scores))
    listed = np.argpartition(-scores, depth - 1, axis=0)[:depth]
    order = np.take_along_axis(listed, np.argsort(-np.take_along_axis(scores, listed, 0), axis=0, kind="stable"), 0)
    chosen: set[int] = set()
    for layer in order:
        fresh = sorted(set(layer.tolist()) - chosen)
        if len(chosen) + len(fresh) > budget:
            f, _ = transport(True)(pool[fresh], target)
            best = np.argsort(f.flatten().numpy())[-(budget - len(chosen)) :]
            chosen |= {fresh[index] for index in best.tolist()}
            break
        chosen |= set(fresh)
    transport(True)(pool[sorted(chosen)], target)
    return sorted(chosen)


def otm(scores: np.ndarray[Any, Any], pool: torch.Tensor, target: torch.Tensor) -> list[int]:
    """Stop every fold at its first increase; unite the folds' sets."""
    union: set[int] = set()
    for scoring, selecting in KFold(10, shuffle=True, random_state=42).split(np.arange(len(target))):
        part = scores[:, selecting]
        depth = min(LISTED, len(part))
        listed = np.argpartition(-part, depth - 1, axis=0)[:depth]
        order = np.take_along_axis(listed, np.argsort(-np.take_along_axis(part, listed, 0), axis=0, kind="stable"), 0)
        similar = np.take_along_axis(part, order, 0) > 0
        best = np.inf
        for count in range(1, depth):
            rows = np.unique(order[:count][similar[:count]])
            value = float(transport(False)(pool[rows], target[scoring]))
            if value >= best:
                break
            best = value
        union |= set(rows.tolist())
    chosen = sorted(union)
    transport(True)(pool[chosen], target)
    return chosen


def core(pool_path: str, target_path: str, budget: int, out: str) -> dict[str, float]:
    """Time the whole procedure; write what it selects."""
    start = time.process_time()
    pool, target = whiten(read(pool_path), read(target_path))
    scores = (pool @ target.T).numpy()
    rows = fixed(scores, pool, target, budget)
    middle = time.process_time()
    folded = otm(scores, pool, target)
    end = time.process_time()
    with open(out, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"fixed": rows, "otm": folded}, file)
    return {"fixed": middle - start, "otm": end - middle, "whole": end - start}


def peers(rows_path: str, targets_path: str) -> dict[str, float]:
    """Time each solver of one problem."""
    import ot

    rows, targets = torch.from_numpy(np.load(rows_path)), torch.from_numpy(np.load(targets_path))
    found: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        start = time.process_time()
        value = work()
        found[name] = time.process_time() - start
        return value

    transport(False)(rows[:50], targets[:50])
    found["geomloss_value"] = float(timed("geomloss", lambda: transport(False)(rows, targets)))
    a, b = np.full(len(rows), 1 / len(rows)), np.full(len(targets), 1 / len(targets))
    costs = distance(rows, targets).double().numpy()
    found["pot_exact_value"] = float(timed("pot_exact", lambda: ot.emd2(a, b, costs, numItermax=10**8)))
    if rows.shape[0] * targets.shape[0] <= 1_000_000:  # minutes beyond
        timed("pot_log_200", lambda: ot.sinkhorn(a, b, costs, 1e-3, method="sinkhorn_log", numItermax=200, warn=False))
    return found


def main() -> None:
    """Run one leg and print its numbers."""
    torch.set_num_threads(1)
    command, *arguments = sys.argv[1:]
    if command == "core":
        result = core(arguments[0], arguments[1], int(arguments[2]), arguments[3])
    else:
        result = peers(*arguments)
    result["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    print(json.dumps(result))


if __name__ == "__main__":
    main()
