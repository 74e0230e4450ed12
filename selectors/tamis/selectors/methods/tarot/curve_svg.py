"""The curve of TAROT's `otm` as a drawing for the report: every fold, their mean, the plateau and the chosen size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tamis.selectors.methods.tarot.otm import Curve

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 696, 64, 340
"""Edges of the plot."""

TICK_DISTANCE = 72
"""Numbers below the plot are no nearer to each other."""
LEVELS = 5
"""Numbers beside it."""

FOLD, MEAN, PLATEAU, CHOSEN, TEXT = "#b4b4b4", "#1f4e9c", "#dfe8f5", "#b03030", "#303030"


def drawing(curve: Curve) -> str:
    """Draw a curve as SVG: sizes from left to right, by their logarithm, and distances from below."""
    distances = np.array([[point.transport.value for point in fold] for fold in curve.folds])
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'font-family="sans-serif" font-size="12" fill="{TEXT}">',
            f'<title>{_caption(curve)}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            *_parts(curve, distances),
            "</svg>",
        ]
    )


def _caption(curve: Curve) -> str:
    low, high = (curve.sizes[index] for index in curve.plateau)
    left = [curve.sizes[index] for index in curve.without_a_fold]
    return (
        f"{curve.sizes[curve.chosen]:,} rows chosen; as good: {low:,} to {high:,}; without any one fold: "
        f"{min(left):,} to {max(left):,}"
    )


def _parts(curve: Curve, distances: npt.NDArray[np.float64]) -> Iterator[str]:
    logs = np.log(np.maximum(np.array(curve.sizes, np.float64), 1))
    reach = max(float(logs[-1] - logs[0]), 1e-9)
    low, high = float(distances.min()), float(distances.max())

    def x(index: int) -> float:
        return LEFT + (RIGHT - LEFT) * float(logs[index] - logs[0]) / reach

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / max(high - low, 1e-12)

    def path(values: npt.NDArray[np.float64], style: str) -> str:
        points = " ".join(f"{x(index):.1f},{y(value):.1f}" for index, value in enumerate(values.tolist()))
        return f'<polyline fill="none" {style} points="{points}"/>'

    first, last, chosen = (x(index) for index in (*curve.plateau, curve.chosen))
    width, height = max(last - first, 2), BOTTOM - TOP
    yield f'<rect x="{first:.1f}" y="{TOP}" width="{width:.1f}" height="{height}" fill="{PLATEAU}"/>'
    yield f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="{TEXT}"/>'
    for level in np.linspace(low, high, LEVELS).tolist():
        yield f'<text x="{LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{level:.3f}</text>'
    reached = -np.inf
    for index, size in enumerate(curve.sizes):
        if x(index) - reached >= TICK_DISTANCE:
            reached = x(index)
            yield f'<path d="M{reached:.1f} {BOTTOM}v5" stroke="{TEXT}"/>'
            yield f'<text x="{reached:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{size:,}</text>'
    for fold in distances:
        yield path(fold, f'stroke="{FOLD}"')
    yield path(distances.mean(axis=0), f'stroke="{MEAN}" stroke-width="2"')
    yield f'<path d="M{chosen:.1f} {TOP}V{BOTTOM}" stroke="{CHOSEN}" stroke-width="1.5"/>'
    spread = [x(index) for index in curve.without_a_fold]
    yield f'<path d="M{min(spread):.1f} {TOP}H{max(spread):.1f}" stroke="{CHOSEN}" stroke-width="5"/>'
    yield f'<text x="{LEFT}" y="20">{_caption(curve)}</text>'
    middle = (LEFT + RIGHT) / 2
    yield f'<text x="{middle}" y="{BOTTOM + 40}" text-anchor="middle">rows of so many layers (logarithmic)</text>'
    yield f'<text x="16" y="{(TOP + BOTTOM) / 2}" text-anchor="middle" transform="rotate(-90 16 {(TOP + BOTTOM) / 2})">'
    yield "distance to targets left out</text>"
    at = LEFT
    for colour, name in (
        (FOLD, "a fold"),
        (MEAN, "mean"),
        (PLATEAU, "as good"),
        (CHOSEN, "chosen, and without a fold"),
    ):
        yield f'<path d="M{at} 40h20" stroke="{colour}" stroke-width="4"/><text x="{at + 26}" y="44">{name}</text>'
        at += 100
