"""How many rows of each class GAIS takes: in proportion, by square roots or equally, with a floor, exactly."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from tamis.selectors.errors import Infeasible

Ints = npt.NDArray[np.int64]
Sharing = Literal["proportional", "square_root", "equal"]

_HALVINGS = 200
"""Of the interval that the common factor lies in: more than a float64 has bits."""


def class_quotas(
    rows: int, totals: Ints, available: Ints, kept: Ints, sharing: Sharing, floor: int, pointer: str
) -> Ints:
    """Share `rows` out among the classes.

    Every class gets a common factor times its weight (its rows, their square root, or 1), but no less than the floor,
    or all it has, and no more than it has: water is poured until the budget is used. What rounding down leaves goes to
    the largest remainders, lower classes first.

    Parameters
    ----------
    rows : int
        The budget, the kept rows included; at most what is available.
    totals, available, kept : ndarray, shape (classes,), int64
        Rows of every class; those that can be taken, the kept ones included; those kept from an earlier selection.
    sharing, floor
        As in the parameters.
    pointer : str
        JSON Pointer of the budget, for the error.

    Raises
    ------
    Infeasible
        When the floors need more than the budget.
    """
    lower = np.maximum(np.minimum(floor, available), kept)
    if int(lower.sum()) > rows:
        raise Infeasible(
            f"The budget asks {rows} rows, but min_per_class = {floor} needs {int(lower.sum())} for {len(totals)} "
            "classes: ask more rows, or lower min_per_class.",
            pointer=pointer,
        )
    weights = {"proportional": totals.astype(np.float64), "square_root": np.sqrt(totals), "equal": np.ones(len(totals))}
    weight = np.where(available > 0, weights[sharing], 0.0)
    wanted = min(rows, int(available.sum()))
    low, high = 0.0, float(wanted) / max(float(weight[weight > 0].min(initial=1.0)), 1e-12) + 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if np.clip(middle * weight, lower, available).sum() > wanted:
            high = middle
        else:
            low = middle
    exact = np.clip(low * weight, lower, available)
    quotas = np.maximum(np.floor(exact).astype(np.int64), lower)
    order = np.lexsort((np.arange(len(exact)), -(exact - quotas)))
    while (left := wanted - int(quotas.sum())) > 0:
        open_classes = order[quotas[order] < available[order]][:left]
        quotas[open_classes] += 1
    return quotas
