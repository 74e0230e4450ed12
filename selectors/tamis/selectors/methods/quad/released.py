"""Quad as the authors' code does it, defects included: for comparison (`release: true`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tamis.native.greedy import bandit
from tamis.native.greedy.bandit import Neighbours
from tamis.selectors.decision.in_order import Reasons
from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.features.clusters import Clusters
from tamis.selectors.methods.quad.bandit import (
    Arms,
    Ended,
    Round,
    Rules,
    Scale,
    Score,
    Trace,
    expected_influence,
    gathered,
    traced,
)
from tamis.selectors.methods.quad.evidence import QuadFacts
from tamis.selectors.methods.quad.selector import NO_CLUSTER, NOTHING_TAKEN, Pool, Quad, order_of
from tamis.selectors.run.greedy_selector import Order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.schema.response import Notice

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MEDIAN = 0.5


class ReleasedQuad(Quad):
    """Quad with the rules, the order of rows and the missing scores of the authors' code."""

    def check(self, job: Job) -> None:
        """Refuse a request that can't work, and everything that the authors' code does not know."""
        super().check(job)
        spec = job.spec
        if spec.strata or spec.preselected or spec.exclude or spec.budget.size:
            raise Invalid(
                "The release knows no strata, sizes or earlier selections: leave them out, or 'release'.",
                pointer="/selector/params/release",
            )

    def few_probes(self) -> Iterator[Notice]:
        """Return no warning: tau is a parameter, not an estimate."""
        yield from ()

    def reasons(self, clusters: Clusters, influence: Floats | None) -> Reasons:
        """Return why rows can't be taken; a missing score counts as 0."""
        return np.where(clusters.codes < 0, NO_CLUSTER, 0).astype(np.uint8)

    def take(self, run: Run, pool: Pool) -> Order:
        """Do as the authors' code does; rows beyond the budget, which it takes, are named and left out."""
        codes, count = pool.clusters.codes, pool.clusters.count
        arms, cluster_of = Arms.of(codes, count), np.arange(count)
        rules, budget = self.params.released_rules(), pool.constraints.amount.value
        neighbours = self.neighbours(run, pool.clusters, cluster_of)
        trace = pull_as_released(arms, rules, budget, self.scorer(run, pool), neighbours)
        rows = released_rows(arms, trace, rules.rows_per_pull)
        if not len(rows):
            raise Infeasible(NOTHING_TAKEN.format(tau=f"{rules.tau:g}"), pointer="/selector/params/tau")
        detail = f"As released: {trace.rounds_run:,} rounds, {len(rows):,} rows."
        if len(rows) > budget:
            detail += f" The budget leaves out the last {len(rows) - budget:,} of them."
        scores = expected_influence(arms, trace, codes, None)
        facts = QuadFacts(pool.clusters, pool.influence, scores, rules.tau, rules.alpha, trace, cluster_of=cluster_of)
        return order_of(rows[:budget], scores, pool, facts, Notice(code="as-released", detail=detail))


def pull_as_released(arms: Arms, rules: Rules, budget: int, score: Score, neighbours: Neighbours | None) -> Trace:
    """Pull arms as the authors' code does.

    A cluster with fewer than (pulls + 1) times `rows_per_pull` rows is passed over; of pull p the rows probed are
    p * probes, and so on, of the cluster; a missing score counts as 0; the bandit ends after the round in which the
    accepted pulls are worth the budget, or after its rounds. With no arm left, where the authors' code fails, it ends.

    Parameters
    ----------
    arms : Arms
        Clusters in their order, rows by number.
    rules : Rules
        `tau` and `alpha` in the unit of the influences.
    budget : int
        In rows.
    score, neighbours
        As for :func:`pull`.
    """
    count = len(arms.sizes)
    state, scale = bandit.begin(count), Scale(MEDIAN)
    relations = bandit.alone(count) if neighbours is None else neighbours
    capacity = arms.sizes // rules.rows_per_pull
    chosen = np.empty(min(rules.arms_per_round, count), np.int32)
    rounds: list[Round] = []
    ended: Ended = "rounds"
    while rules.rounds is None or len(rounds) < rules.rounds:
        picked = chosen[: bandit.choose(state, capacity, True, chosen)]
        if not len(picked):
            ended = "no-arm-left"
            break
        earlier = state.pulls[picked]
        firsts = arms.starts[picked] + earlier * rules.probes
        rows, cuts = gathered(arms.rows, firsts, np.full(len(picked), rules.probes))
        values = score(len(rounds), rows)
        means = np.empty(len(picked))
        bandit.means_of(np.where(np.isnan(values), 0.0, values), cuts, means)
        scale.add(values[np.repeat(earlier == 0, rules.probes)])
        rewards = means - rules.tau
        accepted = rewards > 0
        bandit.learn(state, picked, rewards, accepted, relations, True)
        bandit.rescore(state, 0.0, rules.alpha, True)
        rounds.append(Round(picked.copy(), earlier, means, accepted, rows, values))
        if int(state.accepted.sum()) * rules.rows_per_pull >= budget:
            ended = "budget"
            break
    scale.tau = rules.tau
    return traced(rounds, state, scale, ended)


def released_rows(arms: Arms, trace: Trace, rows_per_pull: int) -> Ints:
    """Return the rows that the authors' code selects: as many of a cluster's first as its accepted pulls are worth.

    In the order of the pulls, the a-th accepted one of a cluster being worth its a-th `rows_per_pull` rows.
    """
    accepted = trace.arms[trace.accepted]
    order = np.argsort(accepted, kind="stable")
    ranks = np.empty(len(order), np.int64)
    counts = np.bincount(accepted, minlength=len(arms.sizes))
    ranks[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    firsts = arms.starts[accepted] + ranks * rows_per_pull
    return gathered(arms.rows, firsts, np.full(len(firsts), rows_per_pull))[0]
