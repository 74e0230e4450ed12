"""Warnings of GAIS about its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tamis.selectors.methods.gais.scoring import Settings
from tamis.selectors.methods.gais.survey import Block, Scaling, Surveyed
from tamis.selectors.schema.response import Notice

ROWS_A_CLASS = 32
"""A slice with fewer rows a class than this, on average, hardly holds a row's neighbours of its class."""

SORTED_WARNED = 0.5
"""A block whose class mix differs from the whole by more than this share of its rows, on average, is worth a word."""


def notices(found: Surveyed, scaling: Scaling, settings: Settings, blocks: Sequence[Block]) -> Iterator[Notice]:
    """Return the warnings that labels and features justify."""
    totals, classes = found.totals, len(found.names)
    if constant := scaling.dimension - len(scaling.columns):
        yield Notice(
            code="constant-columns",
            detail=f"{constant:,} of {scaling.dimension:,} columns of the embedding are constant and left out.",
        )
    if found.unlabelled:
        yield Notice(
            code="no-label", detail=f"{found.unlabelled:,} rows have no label: they are neither compared nor taken."
        )
    alone = np.flatnonzero(totals == 1)
    if len(alone):
        yield Notice(
            code="class-of-one-row",
            detail=f"{len(alone):,} classes have one row ('{found.names[alone[0]]}' first): nothing can stand for it.",
        )
    slice_rows = min(settings.slice_rows, int(totals.sum()))
    if slice_rows < ROWS_A_CLASS * classes and settings.graph == "minibatch":
        yield Notice(
            code="few-rows-a-class",
            detail=f"A batch of {slice_rows:,} rows holds about {slice_rows / classes:.0f} of each of {classes:,} "
            "classes, too few to compare: use 'lsh_multiview', or a larger batch.",
        )
    if (apart := _apart(found, blocks)) > SORTED_WARNED:
        yield Notice(
            code="sorted-by-class",
            detail=f"The class mix of a block of rows differs from the whole's by {apart:.0%} of its rows: the shards "
            "seem sorted by class, and the network sees other neighbours than it was trained on. Shuffle the rows.",
        )


def _apart(found: Surveyed, blocks: Sequence[Block]) -> float:
    """Return the mean total variation between the blocks' class mix and the whole's, weighed by their rows."""
    whole = found.totals / found.totals.sum()
    apart = 0.0
    for block in blocks:
        counts = found.counts[block.first : block.last].sum(axis=0)
        apart += float(np.abs(counts - whole * counts.sum()).sum()) / 2
    return apart / float(found.totals.sum())
