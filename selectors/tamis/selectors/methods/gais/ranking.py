"""How rows rank for GAIS: the picks of every class, spread evenly, then all others by score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.native.sampling.topk import mark_selected, select_topk
from tamis.selectors.decision.ranking import RankedUnit
from tamis.selectors.methods.gais.scoring import NEVER
from tamis.selectors.methods.gais.survey import Block, Codes, Ints, Surveyed
from tamis.selectors.signals.store import Mapped

REASONS = ("eligible", "no-label")
NO_LABEL = 1


@dataclass(frozen=True)
class GaisRanked:
    """How rows rank: picks first, in the order they were picked; then by score."""

    tables: Mapped
    blocks: Sequence[Block]
    starts: Ints
    found: Surveyed
    score: str
    picks: tuple[Ints, npt.NDArray[np.float64]] | None  # rows ascending with their keys; None: the tables' own

    def scores(self, unit: int) -> npt.NDArray[np.float64]:
        """Return the scores of a unit's rows."""
        scores: npt.NDArray[np.float64]
        if self.score == "coverage":
            scores = self._column(unit, "gain")
        elif self.score == "confidence":
            scores = self._column(unit, "own").astype(np.float64)
        else:
            scores = self._column(unit, "same").astype(np.float64) + self._column(unit, "other")
        return scores

    def _column(self, unit: int, name: str) -> npt.NDArray[Any]:
        block = next(index for index, block in enumerate(self.blocks) if unit < block.last)
        start, stop = (self.starts[unit : unit + 2] - self.starts[self.blocks[block].first]).tolist()
        return self.tables.column(block, name)[start:stop]

    def signal(self, unit: int, name: str) -> npt.NDArray[np.float32]:
        """Return a signal of the network for a unit's rows."""
        return self._column(unit, name)

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        scores = self.scores(unit)
        if self.picks is None:
            keys = self._column(unit, "key")
        else:
            keys = NEVER / (1.0 + scores)
            start, stop = self.starts[unit : unit + 2].tolist()
            inside = slice(*np.searchsorted(self.picks[0], [start, stop]).tolist())
            keys[self.picks[0][inside] - start] = self.picks[1][inside]
        reasons = np.where(self.found.codes(unit) < 0, np.uint8(NO_LABEL), np.uint8(0))
        return RankedUnit(np.where(reasons == 0, keys, -np.inf), scores, None, reasons)


def pick_best(ranked: GaisRanked, quotas: Ints, away: Ints) -> GaisRanked:
    """Pick the rows of every class with the largest scores; the t-th of q gets the key 1 - t / q.

    Parameters
    ----------
    ranked : GaisRanked
    quotas : ndarray, shape (classes,), int64
        Rows to pick.
    away : ndarray of int64
        Rows that can't be picked, ascending.
    """

    def eligible(unit: int) -> tuple[npt.NDArray[np.float64], Codes]:
        start, stop = ranked.starts[unit : unit + 2].tolist()
        codes = ranked.found.codes(unit).copy()
        inside = slice(*np.searchsorted(away, [start, stop]).tolist())
        codes[away[inside] - start] = -1
        return ranked.scores(unit), codes

    def chunks() -> Iterator[Any]:
        for unit in range(len(ranked.starts) - 1):
            scores, codes = eligible(unit)
            yield int(ranked.starts[unit]), scores, codes, None

    cut_offs = select_topk(chunks, quotas)
    rows: list[Ints] = []
    scores: list[npt.NDArray[np.float64]] = []
    strata: list[Codes] = []
    for unit in range(len(ranked.starts) - 1):
        values, codes = eligible(unit)
        at = np.flatnonzero(mark_selected(int(ranked.starts[unit]), values, codes, cut_offs))
        rows.append(at + ranked.starts[unit])
        scores.append(values[at])
        strata.append(codes[at])
    row, score, code = np.concatenate(rows), np.concatenate(scores), np.concatenate(strata)
    order = np.lexsort((row, -score, code))
    counts = np.bincount(code, minlength=len(quotas))
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = 1.0 - places / np.maximum(quotas[code], 1)
    return replace(ranked, picks=(row, keys))


def rows_reaching(ranked: GaisRanked, least: float, away: Ints) -> Ints:
    """Return the rows that reach a minimum score, best first; of coverage, those that were picked before it ended."""
    rows: list[Ints] = []
    keys: list[npt.NDArray[np.float64]] = []
    for unit in range(len(ranked.starts) - 1):
        part = ranked(unit).eligible_keys()
        reached = part > 0 if ranked.score == "coverage" else (part > -np.inf) & (ranked.scores(unit) >= least)
        at = np.flatnonzero(reached)
        rows.append(at + ranked.starts[unit])
        keys.append(part[at])
    row, key = np.concatenate(rows), np.concatenate(keys)
    free = ~np.isin(row, away)
    ordered: Ints = row[free][np.lexsort((row[free], -key[free]))]
    return ordered
