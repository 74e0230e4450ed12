"""Optimal transport between selected rows and targets: Sinkhorn as released, converged, and the exact distance.

Three solvers of one problem, min <P, C> over plans P with marginals a (rows) and b (targets):

- ``released``: one sweep a temperature, from the squared diameter down to blur² (GeomLoss, as TAROT calls it). Cheap,
  and by design not converged: it lies 0.4 to 11 % below the exact distance.
- ``converged``: temperatures cooled slowly, then sweeps at blur² until the marginals hold.
- ``exact``: the network simplex on a graph of near pairs, grown until no pair left out could lower the cost.

Whatever the solver, :func:`bracket` tells how far the exact distance can be: a feasible plan's cost above, a feasible
dual's value below. Marginals and potentials are float64.
"""

from __future__ import annotations

from dataclasses import replace

from tamis.selectors.features.transport.exact import solve_exact
from tamis.selectors.features.transport.problem import Costs, Floats, Problem, Solver, Transport, bracket
from tamis.selectors.features.transport.sinkhorn import solve_entropic


def solve(
    costs: Costs,
    row_weights: Floats,
    target_weights: Floats,
    solver: Solver = "released",
    *,
    bounds: bool = False,
) -> Transport:
    """Solve one problem.

    Parameters
    ----------
    costs : Costs
        Of one row and one target or more.
    row_weights, target_weights : ndarray, shapes (n,) and (m,), float64
        Positive, each with the sum 1.
    solver : Solver
        See the module.
    bounds : bool
        Also bracket the exact distance; takes about as long as the released schedule.
    """
    problem = Problem(costs, row_weights, target_weights)
    found = solve_exact(problem) if solver == "exact" else solve_entropic(problem, solver)
    if not bounds:
        return found
    lower, upper = bracket(problem, found.rows, found.targets)
    return replace(found, lower=lower, upper=upper if found.upper is None else found.upper)
