"""Quad: influential and diverse rows by a bandit over clusters (Zhang et al., ICLR 2025, arXiv 2409.16986).

Clusters of rows are the arms of a bandit. A pull probes the influence of a few rows of a cluster; where their mean
exceeds tau, the rows of the pull are taken. So few influences need to be known, and no single cluster makes the
selection, as the most influential rows of all would. Where every influence is at hand, the quota rule needs no bandit:
the same number of rows from every cluster whose mean exceeds tau.

Where we deviate from the authors' code, `release: true` does as it does
(:mod:`tamis.selectors.methods.quad.released`). Its inverse-Hessian product, which is no inverse, is not reproduced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.native.greedy import bandit
from tamis.native.greedy.bandit import Neighbours
from tamis.native.math import rng
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints, Reasons
from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.features import clusters, gradient_provenance
from tamis.selectors.features.clusters import Clusters
from tamis.selectors.methods.quad import influence as influences
from tamis.selectors.methods.quad.bandit import (
    NO_ARM,
    Arms,
    Ended,
    Score,
    expected_influence,
    pull,
)
from tamis.selectors.methods.quad.evidence import QuadFacts, measure
from tamis.selectors.methods.quad.params import ROWS_PER_CLUSTER, QuadParams
from tamis.selectors.methods.quad.taking import Intake, quota_order
from tamis.selectors.run.greedy_selector import GreedySelector, Order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.request import Role
from tamis.selectors.schema.response import Notice

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

REASONS = ("eligible", "no-cluster", "no-influence")
NO_CLUSTER, NO_INFLUENCE = 1, 2
REASON_DETAILS = {
    "no-cluster": "The row's cluster is null: it is of no arm, and is never pulled.",
    "no-influence": "The row's influence is null or NaN: it counts in no mean, and is not taken.",
}

FEW_PROBES = 100
"""tau and the unit of alpha are shaky when the first round probes fewer influences."""

HELD_ROW_BYTES = 64
"""A row's cluster, random word, place in its arm, influence, and what is known of it."""

MAX_PAIRS = 20_000_000
"""Pairs of clusters that are neighbours, at most."""
PAIR_BYTES = 24
"""Of such a pair: number and share, held twice while they are put together."""

DOUBLE_FLOPS = 10e9
"""Multiply-adds of second moments, a CPU-second; for estimates."""
PAIRS_PER_SECOND = 3e8
"""Rows compared with centres in 64 dimensions, a CPU second; for estimates."""


NOTHING_TAKEN = (
    "No pull's mean influence exceeds tau = {tau}: nothing can be taken. All influences may be equal, or missing (tau "
    "is nan where none was found); else lower tau."
)


@dataclass(frozen=True)
class Pool:
    """The candidates as the bandit meets them."""

    clusters: Clusters
    influence: Floats | None  # (n,) NaN: a row has none; None: it is asked for
    reasons: Reasons  # (n,) why a row can't be taken
    constraints: Constraints


@dataclass(frozen=True)
class ShuffledArms:
    """Arms of the clusters, numbered at random."""

    arms: Arms
    codes: npt.NDArray[np.int32]  # (n,) arm of every row, NO_ARM where it is of none
    cluster_of: Ints  # (K,) cluster of each arm


class Quad(GreedySelector):
    """A bandit over clusters."""

    name: ClassVar[str] = "quad"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "Pulls clusters whose rows prove influential: influence and diversity, few influences asked."
    )
    citation: ClassVar[str] = (
        "Zhang et al.: Harnessing Diversity for Important Data Selection in Pretraining Large Language Models. ICLR "
        "2025, arXiv:2409.16986."
    )
    cost: ClassVar[str] = (
        "k-means: a sample of 64 rows a cluster, then one pass, rows x clusters x dimensions. The bandit itself: "
        "milliseconds. 64 bytes a row."
    )
    Params: ClassVar[type[QuadParams]] = QuadParams
    reason_names: ClassVar[Sequence[str]] = REASONS
    reason_details: ClassVar[Mapping[str, str]] = REASON_DETAILS
    nested: ClassVar[bool] = False  # the size of a pull, and so what is probed, can depend on the budget's bounds

    params: QuadParams

    @classmethod
    def make(cls, params: QuadParams) -> Quad:
        """Return the variant of these parameters."""
        from tamis.selectors.methods.quad.released import ReleasedQuad  # here: a subclass of this class

        return ReleasedQuad(params) if params.release else Quad(params)

    def needs(self) -> Needs:
        """Read what the rewards are made of, and clusters or what they are made of."""
        roles, targets = self._reward_roles, None
        if self.params.reward == "gradient":
            targets = roles
        made: tuple[Role, ...] = ("embedding",) if self._makes_clusters else ()
        return Needs(
            roles=(*roles, *made),
            either=() if made else ("cluster", "embedding"),
            target=targets is not None,
            target_roles=targets,
            answers=self.params.reward == "ask",
        )

    @property
    def _reward_roles(self) -> tuple[Role, ...]:
        match self.params.reward:
            case "influence":
                return ("influence",)
            case "gradient":
                return influences.FACTORS if self.params.inverse == "ekfac" else ("gradient",)
            case "ask":
                return ()

    @property
    def _makes_clusters(self) -> bool:
        """Whether the parameters are of clusters made here."""
        return self.params.clusters is not None or self.params.neighbor_distance is not None

    def _count(self, n: int) -> int:
        """Return k of k-means."""
        return min(self.params.clusters or max(1, -(-n // ROWS_PER_CLUSTER)), max(1, n))

    # -- the paper's steps

    def order(self, run: Run) -> Order:
        """Cluster; score; pull the clusters that promise most, and take the rows of the pulls that keep it."""
        run.begin("clusters", run.candidates)
        clusters = self._cluster(run)
        influence = self._influence(run)
        reasons = self.reasons(clusters, influence)
        pool = Pool(clusters, influence, reasons, run.constraints(reasons, REASONS))
        run.begin("pull", run.candidates)
        order = self.take(run, pool)
        if order.stopped is None:
            pool.constraints.check_taken(np.concatenate([pool.constraints.preselected, order.rows]))
        return order

    def reasons(self, clusters: Clusters, influence: Floats | None) -> Reasons:
        """Return why rows can't be taken, (n,)."""
        reasons = np.where(clusters.codes < 0, NO_CLUSTER, 0).astype(np.uint8)
        if influence is not None:
            reasons[(reasons == 0) & np.isnan(influence)] = NO_INFLUENCE
        return reasons

    def take(self, run: Run, pool: Pool) -> Order:
        """Take rows by the bandit, or by the quota rule."""
        return self._quota(run, pool) if self.params.rule == "quota" else self._pull(run, pool)

    def _cluster(self, run: Run) -> Clusters:
        if run.candidates.columns.has("cluster"):
            return clusters.given_clusters(run)
        return clusters.found_clusters(run, self._count(run.candidates.rows or 0), self.params.metric)

    def _influence(self, run: Run) -> Floats | None:
        """Return the influence of every row; None where the caller answers for it."""
        params = self.params
        if params.reward == "ask":
            return None
        run.begin("influence", run.candidates)
        if params.reward == "influence":
            return influences.given_influence(run)
        if params.inverse == "ekfac":
            return influences.layer_influence(run, params.damping)
        return influences.gradient_influence(run, params.damping if params.inverse == "fisher" else None)

    def scorer(self, run: Run, pool: Pool) -> Score:
        """Return a function that gives the influence of rows, and makes rows that have none ineligible."""
        influence, eligible = pool.influence, pool.constraints.eligible

        def score(number: int, rows: Ints) -> Floats:
            run.check_cancelled()
            values = run.ask(number, rows) if influence is None else influence[rows]
            eligible[rows[np.isnan(values)]] = False
            return values

        return score

    def _shuffled(self, run: Run, pool: Pool) -> ShuffledArms:
        """Make arms of the clusters, numbered at random, of the rows neither preselected nor excluded, in random order.

        Rows without an influence are among them: which row is probed depends on what is known of no row.
        """
        clusters = pool.clusters
        turns = np.argsort(rng.shuffled_at(run.stream("quad.arms"), np.arange(clusters.count)), kind="stable")
        number = np.empty(len(turns), np.int32)
        number[turns] = np.arange(len(turns), dtype=np.int32)
        codes = np.where(clusters.codes < 0, NO_ARM, number[clusters.codes]).astype(np.int32)
        pulled = codes.copy()
        pulled[pool.constraints.preselected] = pulled[run.excluded] = NO_ARM
        arms = Arms.of(pulled, len(turns), rng.shuffled_at(run.stream("quad.rows"), np.arange(len(codes))))
        return ShuffledArms(arms, codes, turns)

    def _pull(self, run: Run, pool: Pool) -> Order:
        """Pull clusters until the budget is spent."""
        shuffled = self._shuffled(run, pool)
        arms, cluster_of = shuffled.arms, shuffled.cluster_of
        rules = self.params.rules(len(arms.rows), len(arms.sizes))
        intake = Intake(run, pool.constraints, pool.constraints.eligible)
        trace = pull(arms, rules, self.scorer(run, pool), intake, self.neighbours(run, pool.clusters, cluster_of))
        scores = expected_influence(arms, trace, shuffled.codes, rules.rows_per_pull)
        tau = trace.scale.tau
        facts = QuadFacts(pool.clusters, pool.influence, scores, tau, rules.alpha, trace, cluster_of=cluster_of)
        return order_of(intake.rows, scores, pool, facts, self._stopped(pool.constraints, intake, trace.ended, tau))

    def neighbours(self, run: Run, clusters: Clusters, cluster_of: Ints) -> Neighbours | None:
        """Return the arms that learn from each other; None: each learns from its own pulls."""
        centres = clusters.centres
        if self.params.neighbor_distance is None or centres is None:
            return None
        try:
            return bandit.near_centres(
                centres[cluster_of], self.params.neighbor_distance, MAX_PAIRS, run.check_cancelled
            )
        except ValueError as error:
            raise Invalid(
                f"Clusters have too many neighbours ({error}): lower neighbor_distance.",
                pointer="/selector/params/neighbor_distance",
            ) from error

    def _quota(self, run: Run, pool: Pool) -> Order:
        """Take the same number of rows of every cluster whose mean influence exceeds tau."""
        intake, shuffled, influence = (
            Intake(run, pool.constraints, pool.constraints.eligible),
            self._shuffled(run, pool),
            pool.influence,
        )
        assert influence is not None
        rows, means, tau = quota_order(shuffled.arms, influence, self.params.tau_quantile)
        ended: Ended = "no-arm-left" if intake(rows) else "budget"
        facts = QuadFacts(pool.clusters, influence, influence, tau, 0.0, means=means, cluster_of=shuffled.cluster_of)
        return order_of(intake.rows, influence, pool, facts, self._stopped(pool.constraints, intake, ended, tau))

    def _stopped(self, constraints: Constraints, intake: Intake, ended: Ended, tau: float) -> Notice | None:
        """Return why the selection ends below its budget, where it does."""
        if ended == "budget":
            return None
        count = len(intake.rows)
        if not count and not len(constraints.preselected):
            raise Infeasible(NOTHING_TAKEN.format(tau=f"{tau:.6g}"), pointer="/selector/params/tau")
        below = f" {intake.below_minimum} strata are below their minimum." if intake.below_minimum else ""
        why = "all rounds are over" if ended == "rounds" else "all clusters above tau are used up"
        return Notice(
            code="rounds-over" if ended == "rounds" else "clusters-used-up",
            detail=f"The selection ends with {count + len(constraints.preselected):,} rows, below the budget of "
            f"{constraints.amount}: {why} (tau = {tau:.6g}).{below}",
        )

    # -- the report

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return what was pulled, how many influences that took, and influence and diversity beside a random draw."""
        return measure(self.params, decision.facts, decision, random)

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Cluster, score, pull."""
        self.check(job)
        dataset, n = job.candidates, job.candidates.rows or 0
        reading = dataset.bytes / 1e9
        clustering, units = reading, len(dataset.units)
        if not dataset.columns.has("cluster"):
            count, d = self._count(n), dataset.dimension("embedding")
            trained = min(n, clusters.SAMPLE_PER_CLUSTER * count)
            pairs = (n + clusters.TRAINING_STEPS * trained) * count
            clustering, units = 2 * reading + pairs / PAIRS_PER_SECOND * max(1.0, d / 64), 2 * units
        scoring = PhaseCost("influence", len(dataset.units), dataset.bytes, self._seconds(job))
        return [
            PhaseCost("clusters", units, dataset.bytes, clustering),
            *([] if self.params.reward == "ask" else [scoring]),
            PhaseCost("pull", 0, 0, 1e-6 * n + 0.1),
            PhaseCost("report", 0, 0, 1e-6 * n),
        ]

    def _seconds(self, job: Job) -> float:
        """Estimate the CPU seconds of reading or computing influences."""
        reading = job.candidates.bytes / 1e9
        if self.params.reward != "gradient" or self.params.inverse == "none":
            return reading
        d = sum(job.candidates.dimension(role) for role in self._reward_roles)
        passes = 2 if self.params.inverse == "ekfac" else 1
        return (1 + passes) * reading + passes * (job.candidates.rows or 0) * d * d / 2 / DOUBLE_FLOPS

    def check(self, job: Job) -> None:
        """Refuse a request that can't work."""
        spec = job.spec
        if spec.target is not None and spec.target.model is not None:
            raise Invalid("quad takes target datasets, not a fitted model.", pointer="/target/model")
        for target in job.targets:
            for role in self._reward_roles:
                lengths = target.dimension(role), job.candidates.dimension(role)
                if lengths[0] != lengths[1]:
                    raise Invalid(
                        f"The vectors have {lengths[0]} values, those of the candidates {lengths[1]}: both must come "
                        "from the same model and projection.",
                        pointer=f"{target.pointer}/columns/{role}",
                    )
        if self._compares_gradients:
            gradient_provenance.check_origins(job.candidates, job.targets, ignored=self._may_differ)
        if self._makes_clusters and job.candidates.columns.has("cluster"):
            name = "clusters" if self.params.clusters is not None else "neighbor_distance"
            raise Invalid(
                f"'{name}' is for clusters that k-means makes of the embeddings, but the dataset names a cluster "
                "column: leave one of the two out.",
                pointer=f"/selector/params/{name}",
            )

    @property
    def _compares_gradients(self) -> bool:
        """Whether a gradient column of the candidates meets one of the target."""
        return self.params.reward == "gradient" and self.params.inverse != "ekfac"

    @property
    def _may_differ(self) -> tuple[str, ...]:
        """Return what the target's gradients need not have in common: they may be inverse-Hessian products already."""
        return ("preconditioning", "normalized", "reduction") if self.params.inverse == "none" else ()

    def plan_warnings(self, job: Job) -> Iterator[Notice]:
        """Return warnings where the gradients' origin is unknown, or the first round too small to estimate tau from."""
        if self._compares_gradients:
            yield from gradient_provenance.notices(job.candidates, job.targets)
        yield from self.few_probes()

    def few_probes(self) -> Iterator[Notice]:
        """Return a warning where the first round is too small to estimate tau from."""
        first = self.params.arms_per_round * self.params.probes
        if self.params.rule == "bandit" and first < FEW_PROBES:
            yield Notice(
                code="few-probes",
                detail=f"The first round probes {first} influences at most, from which tau and the unit of alpha are "
                "estimated until there are more: raise arms_per_round or probes.",
            )

    def memory(self, job: Job, threads: int) -> int:
        """Columns over the rows, and what clustering holds."""
        n = job.candidates.rows or 0
        held = HELD_ROW_BYTES * n
        if self.params.reward == "gradient" and self.params.inverse != "none":
            d = sum(job.candidates.dimension(role) for role in self._reward_roles)
            held += (threads + 1) * 40 * d * d
        if job.candidates.columns.has("cluster"):
            return held
        count = self._count(n)
        if self.params.neighbor_distance is not None:
            held += PAIR_BYTES * min(count * count, MAX_PAIRS)
        return held + clusters.training_bytes(job.candidates, count, threads)


def order_of(rows: Ints, scores: Floats, pool: Pool, facts: QuadFacts, stopped: Notice | None) -> Order:
    """Return the rows taken as an order, with each row's cluster as a column."""
    return Order(rows, scores, pool.reasons, stopped=stopped, columns=facts.columns, facts=facts)
