"""Moderate coreset: of every class, the rows whose distance from the class's centre is nearest to the median.

Xia et al., Moderate coreset: a universal method of data selection for real-world data-efficient deep learning (ICLR
2023, section 3): rows near the centre are redundant, rows far away are noisy, those in between are kept.

Nearness to the median is by rank within the class and relative to its size, so that every class gives the same share
and a prefix of a selection is the smaller selection. The authors' code returns the rows to remove, and a benchmark that
took them for the rows to keep kept both extremes; here they are the rows to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from tamis.native.neighbours.panels import pair_distances
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import ALL_ELIGIBLE, Decision
from tamis.selectors.decision.ranking import Ranked, RankedUnit, Rows
from tamis.selectors.features.embeddings import Matrix, matrix_bytes
from tamis.selectors.features.neighbours import MetricParams, read_vectors
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.score_selector import ScoreSelector
from tamis.selectors.run.selector import Needs, PhaseCost

Floats = npt.NDArray[np.float64]

BLOCK_ROWS = 1 << 14
CLASSES_SHOWN = 200
VALUE_SECONDS = 2e-8
"""CPU seconds that a value's part in its class's median takes; for estimates."""


class ModerateParams(MetricParams):
    """Parameters of the moderate coreset."""

    centre: Literal["median", "mean"] = Field(
        "median", description="A class's centre: the median or the mean of each dimension over its rows."
    )


@dataclass(frozen=True)
class ByMiddle:
    """A ranking by minus the distance of each row's rank from the middle rank of its class, as a share of the class."""

    starts: Rows
    keys: Floats
    distances: Floats  # (n,) from the class's centre
    codes: npt.NDArray[np.int32]  # (n,) classes
    names: Sequence[str]  # of the classes

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        part = slice(*self.starts[unit : unit + 2].tolist())
        return RankedUnit(self.keys[part], self.distances[part])


class Moderate(ScoreSelector):
    """Rows near the median distance from their class's centre."""

    name: ClassVar[str] = "moderate"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Takes the rows of every class that are neither typical nor odd: near the median distance."
    citation: ClassVar[str] = (
        "Xia et al., Moderate coreset: a universal method of data selection for real-world data-efficient deep "
        "learning, ICLR 2023."
    )
    cost: ClassVar[str] = "One pass over the embeddings and labels; 4 bytes a value and 20 a row."
    Params: ClassVar[type[ModerateParams]] = ModerateParams
    reason_names: ClassVar[Sequence[str]] = ALL_ELIGIBLE

    params: ModerateParams

    def needs(self) -> Needs:
        """Embeddings and their classes."""
        return Needs(roles=("embedding", "label"), target=False)

    def rank(self, run: Run) -> Ranked:
        """Find the centres, measure the distances from them, rank each class's middle first."""
        run.begin("read", run.candidates, run.candidates)
        names, parts = run.names(run.candidates, "label")
        codes = np.concatenate([parts[unit] for unit in range(len(parts))])
        data = read_vectors(run, run.candidates, self.params.metric)
        run.begin("centres")
        distances = self._distances(run, data, codes, len(names))
        del data
        run.begin("select")
        keys = middle_keys(distances, codes, len(names))
        return ByMiddle(run.layout().starts, keys, distances, codes, names)

    def _distances(self, run: Run, data: Matrix, codes: npt.NDArray[np.int32], classes: int) -> Floats:
        """Return each row's distance from its class's centre, (n,)."""
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(classes + 1))
        centres = np.zeros((classes, data.shape[1]), np.float32)
        for label in range(classes):
            run.check_cancelled()
            own = data[order[starts[label] : starts[label + 1]]]
            if self.params.centre == "median":
                centres[label] = np.median(own, axis=0, overwrite_input=True)
            else:
                centres[label] = own.sum(axis=0, dtype=np.float64) / len(own)
        distances = np.empty(len(data))
        for start in range(0, len(data), BLOCK_ROWS):
            run.check_cancelled()
            part = slice(start, start + BLOCK_ROWS)
            rows = np.arange(len(data[part]), dtype=np.int32)
            squared = pair_distances(data[part], centres, rows, codes[part, None])
            distances[part] = np.sqrt(squared[:, 0].astype(np.float64))
        return distances

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return, of the largest classes, the range of distances of all rows and of the rows taken."""
        ranked = decision.rankings[0]
        assert isinstance(ranked, ByMiddle)
        names, codes, distances = ranked.names, ranked.codes, ranked.distances
        counts = np.bincount(codes, minlength=len(names))
        chosen = decision.choice.rows
        classes: list[JsonValue] = []
        for label in np.argsort(-counts, kind="stable")[:CLASSES_SHOWN].tolist():
            own = distances[codes == label]
            taken = distances[chosen[codes[chosen] == label]]
            classes.append(
                {
                    "class": names[label],
                    "rows": int(counts[label]),
                    "selected": len(taken),
                    "distances": [float(own.min()), float(np.median(own)), float(own.max())],
                    "distances_selected": [float(taken.min()), float(taken.max())] if len(taken) else None,
                }
            )
        return {"metric": self.params.metric, "classes_in_all": len(names), "classes": classes}

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Read, measure, choose, report."""
        dataset = job.candidates
        bytes_to_read = matrix_bytes(dataset, "embedding")
        return [
            PhaseCost("read", 2 * len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
            PhaseCost("centres", 0, 0, VALUE_SECONDS * bytes_to_read / 4),
            PhaseCost("select", 0, 0, 2e-7 * (dataset.rows or 0)),
            PhaseCost("report", len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """Vectors, the largest class's copy, and distances."""
        return 2 * matrix_bytes(job.candidates, "embedding") + 60 * (job.candidates.rows or 0)


def middle_keys(distances: Floats, codes: npt.NDArray[np.int32], classes: int) -> Floats:
    """Return minus the distance of each row's rank from the middle rank of its class, as a share of the class: (n,).

    Ranks are by distance, equal distances by row number.
    """
    order = np.lexsort((distances, codes))  # stable: equal distances stay in the order of rows
    counts = np.bincount(codes, minlength=classes)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(codes))
    ranks[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    sizes = counts[codes]
    keys: Floats = -np.abs(2.0 * ranks - (sizes - 1)) / (2.0 * sizes)
    return keys
