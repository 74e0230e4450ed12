"""Sinkhorn's algorithm with annealed temperatures, as GeomLoss does it or until the marginals hold."""

from __future__ import annotations

import math

import numpy as np

from tamis.selectors.features.transport.problem import BLUR, Problem, Solver, Transport

RELEASED_SCALING = 0.5
"""Factor between the roots of two temperatures, as released: 11 or 12 sweeps in all."""

SLOW_SCALING = 0.9
"""The same, where the result is to converge."""

MARGINAL_TOLERANCE = 1e-3
"""Sum of what is missing or too much in the marginals from which a plan counts as converged."""

MAX_SWEEPS = 3000
"""At the last temperature; then the solver gives up and says so."""

RELAXATION = 1.8
"""Each potential is moved so many times as far as Sinkhorn would: an order of magnitude fewer sweeps."""


def temperatures(diameter: float, blur: float, scaling: float) -> list[float]:
    """Return the temperatures of GeomLoss' epsilon scaling for p = 2, the largest first."""
    steps = np.arange(2 * math.log(diameter), 2 * math.log(blur), 2 * math.log(scaling))
    return [diameter**2, *(math.exp(step) for step in steps.tolist()), blur**2]


def solve_entropic(problem: Problem, solver: Solver) -> Transport:
    """Symmetric Sinkhorn with cooling: both potentials move half way at every temperature (Feydy, GeomLoss)."""
    n, m = problem.costs.shape
    scaling = RELEASED_SCALING if solver == "released" else SLOW_SCALING
    schedule = temperatures(problem.costs.diameter(), BLUR, scaling)
    f, g, error = problem.sweep(np.zeros(n), np.zeros(m), schedule[0])
    for epsilon in schedule:
        new_f, new_g, _ = problem.sweep(f, g, epsilon)
        f, g = (f + new_f) / 2, (g + new_g) / 2
    last, sweeps = schedule[-1], len(schedule) + 2
    if solver == "released":
        f, g, error = problem.sweep(f, g, last)
        return Transport(solver, problem.value(f, g), f, g, sweeps, error, error <= MARGINAL_TOLERANCE)
    relaxation = RELAXATION
    for _ in range(MAX_SWEEPS // 2):
        new_f, _, error = problem.sweep(f, g, last, wide=True)
        sweeps += 2
        if error <= MARGINAL_TOLERANCE:
            break
        if not math.isfinite(error):  # carried too far: begin again from a plain step
            relaxation = 1.0
        f = f + relaxation * (new_f - f)
        _, new_g, _ = problem.sweep(f, g, last, wide=True)
        g = g + relaxation * (new_g - g)
    return Transport(solver, problem.value(f, g), f, g, sweeps, error, error <= MARGINAL_TOLERANCE)
