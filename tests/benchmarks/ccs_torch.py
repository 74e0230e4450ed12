"""The reference loop of CCS on torch tensors, as the authors' code runs it: a leg of ``ccs.py``.

Written anew from the algorithm, with the cost of each of its steps: an unstable sort of the column for the cut-off, two
scans of it for every stratum, `Tensor.item` for every row selected.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch


def select(scores: torch.Tensor, keep: float, beta: float, strata: int) -> torch.Tensor:
    """Select rows: int64 [int(keep * n)]."""
    rest = scores.argsort()[int(beta * len(scores)) :]
    left = scores[rest]
    lowest, highest = left.min(), left.max() * 1.0001
    step = (highest - lowest) / strata

    def inside(k: int) -> torch.Tensor:
        return torch.logical_and(left >= lowest + k * step, left < lowest + (k + 1) * step)

    populations = [int(inside(k).sum()) for k in range(strata)]
    budgets, budget = [0] * strata, int(keep * len(scores))
    for place, k in enumerate(np.argsort(populations).tolist()):
        budgets[k] = min(populations[k], budget // (strata - place))
        budget -= budgets[k]
    chosen: list[int] = []
    for k in range(strata):
        pool = torch.arange(len(left))[inside(k)]
        drawn = pool[torch.randperm(len(pool))][: budgets[k]]
        chosen += [row.item() for row in drawn]
    return rest[torch.tensor(chosen)]


def main() -> None:
    """Time one selection from the scores in a file."""
    path, keep, beta, strata = sys.argv[1:]
    scores = torch.from_numpy(np.load(path))
    start = time.process_time()
    chosen = select(scores, float(keep), float(beta), int(strata))
    print(json.dumps({"seconds": time.process_time() - start, "selected": len(chosen)}))


if __name__ == "__main__":
    main()
