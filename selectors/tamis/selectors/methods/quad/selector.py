"""Quad: influential and diverse rows by a bandit over clusters (Zhang et al., ICLR 2025, arXiv 2409.16986).

Clusters of rows are the arms of a bandit. A pull probes the influence of a few rows of a cluster; where their mean
exceeds tau, the rows of the pull are taken. So few influences need to be known, and no single cluster makes the
selection, as the most influential rows of all would. Where every influence is at hand, the quota rule needs no bandit:
the same number of rows from every cluster whose mean exceeds tau.

Where we deviate from the authors' code, `release: true` does as it does; :mod:`tamis.selectors.methods.quad.bandit`
says how. Its inverse-Hessian product, which is no inverse, is not reproduced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.native.greedy import bandit
from tamis.native.greedy.bandit import Neighbours
from tamis.native.math import rng
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints, Ordered
from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.features import clusters, gradient_provenance
from tamis.selectors.features.clusters import Clusters
from tamis.selectors.methods.quad import evidence as quad_evidence
from tamis.selectors.methods.quad import influence as quad_rewards
from tamis.selectors.methods.quad.bandit import (
    NO_ARM,
    Arms,
    Ended,
    Rules,
    Score,
    expected_influence,
    pull,
    pull_as_released,
    released_rows,
)
from tamis.selectors.methods.quad.evidence import Found
from tamis.selectors.methods.quad.params import ROWS_PER_CLUSTER, QuadParams
from tamis.selectors.methods.quad.taking import Taking, quota_order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost, Selector
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

Taken = tuple[Ints, Floats, Notice | None]
"""Rows in order, every row's score, and why the selection ends below its budget."""


class Quad(Selector):
    """A bandit over clusters."""

    name: ClassVar[str] = "quad"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "Pulls clusters whose rows prove influential: influence and diversity, few influences constraints."
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

    params: QuadParams

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
                return quad_rewards.FACTORS if self.params.inverse == "ekfac" else ("gradient",)
            case "ask":
                return ()

    @property
    def _makes_clusters(self) -> bool:
        """Whether the parameters are of clusters made here."""
        return self.params.clusters is not None or self.params.neighbor_distance is not None

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Cluster, score, pull."""
        self._check(job)
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

    def _check(self, job: Job) -> None:
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
        if self.params.release and (spec.strata or spec.preselected or spec.exclude or spec.budget.size):
            raise Invalid(
                "The release knows no strata, sizes or earlier selections: leave them out, or 'release'.",
                pointer="/selector/params/release",
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
        """Say when the gradients' origin is not known, and when the first round is too small to tell tau by."""
        if self._compares_gradients:
            yield from gradient_provenance.notices(job.candidates, job.targets)
        first = self.params.arms_per_round * self.params.probes
        if self.params.rule == "bandit" and not self.params.release and first < FEW_PROBES:
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

    def _count(self, n: int) -> int:
        """Return k of k-means."""
        return min(self.params.clusters or max(1, -(-n // ROWS_PER_CLUSTER)), max(1, n))

    # -- the paper's steps

    def select(self, run: Run) -> Decision:
        """Cluster; score; pull the clusters that promise most, and take the rows of the pulls that keep it."""
        if not run.candidates.rows:
            raise Invalid("The dataset has no rows: nothing can be selected from it.", pointer="/dataset/shards")
        run.begin("clusters", run.candidates)
        found = self._cluster(run)
        influence = self._influence(run)
        reasons = np.where(found.codes < 0, NO_CLUSTER, 0).astype(np.uint8)
        if influence is not None and not self.params.release:  # where a missing score counts as 0
            reasons[(reasons == 0) & np.isnan(influence)] = NO_INFLUENCE
        constraints = run.constraints(reasons, REASONS)
        run.begin("pull", run.candidates)
        self._found = Found(found, influence)
        if self.params.release:
            rows, scores, stopped = self._as_released(run, constraints)
        elif self.params.rule == "quota":
            rows, scores, stopped = self._quota(run, constraints)
        else:
            rows, scores, stopped = self._pull(run, constraints)
        self._found.scores = scores
        if stopped is None:
            constraints.check_taken(np.concatenate([constraints.preselected, rows]))
        ranked = Ordered(run.layout(), rows, scores, reasons)
        choice = run.choose_in_order(ranked, rows, REASONS, stopped=stopped)
        columns = self._found.columns(choice.rows)
        return Decision(choice, [ranked], REASONS, REASON_DETAILS, columns=columns)

    def _cluster(self, run: Run) -> Clusters:
        if run.candidates.columns.has("cluster"):
            return clusters.given_clusters(run)
        return clusters.found_clusters(run, self._count(run.candidates.rows or 0), self.params.metric)

    def _influence(self, run: Run) -> Floats | None:
        """Return the influence of every row; None where it is asked for."""
        params = self.params
        if params.reward == "ask":
            return None
        run.begin("influence", run.candidates)
        if params.reward == "influence":
            return quad_rewards.given_influence(run)
        if params.inverse == "ekfac":
            return quad_rewards.layer_influence(run, params.damping)
        return quad_rewards.gradient_influence(run, params.damping if params.inverse == "fisher" else None)

    def _scorer(self, run: Run, usable: npt.NDArray[np.bool_]) -> Score:
        """Return what gives the influence of rows; those that turn out to have none are not `usable`."""
        influence = self._found.influence

        def score(number: int, rows: Ints) -> Floats:
            run.check_cancelled()
            values = run.ask(number, rows) if influence is None else influence[rows]
            usable[rows[np.isnan(values)]] = False
            return values

        return score

    def _rules(self, arms: Arms) -> Rules:
        params = self.params
        return Rules(
            params.arms_per_round,
            params.probes,
            params.pull_size(len(arms.rows), len(arms.sizes)),
            params.threshold,
            params.exploration,
            params.most_rounds,
        )

    def _shuffled(self, run: Run, constraints: Constraints) -> Arms:
        """Make arms of the clusters, numbered at random, of the rows neither kept nor excluded, in random order.

        Rows without an influence are among them: which row is probed depends on what is known of no row.
        """
        found = self._found
        turns = np.argsort(rng.shuffled_at(run.stream("quad.arms"), np.arange(found.clusters.count)), kind="stable")
        number = np.empty(len(turns), np.int32)
        number[turns] = np.arange(len(turns), dtype=np.int32)
        codes = np.where(found.clusters.codes < 0, NO_ARM, number[found.clusters.codes]).astype(np.int32)
        found.arm_of, found.cluster_of = codes, turns
        pulled = codes.copy()
        pulled[constraints.preselected] = pulled[run.excluded] = NO_ARM
        return Arms.of(pulled, len(turns), rng.shuffled_at(run.stream("quad.rows"), np.arange(len(codes))))

    def _pull(self, run: Run, constraints: Constraints) -> Taken:
        """Pull clusters until the budget is spent."""
        arms = self._shuffled(run, constraints)
        rules, found = self._rules(arms), self._found
        taking = Taking(run, constraints, constraints.eligible)
        found.trace = trace = pull(arms, rules, self._scorer(run, constraints.eligible), taking, self._neighbours(run))
        found.tau = trace.scale.tau
        scores = expected_influence(arms, trace, found.arm_of, rules.rows_per_pull)
        return taking.rows, scores, self._stopped(constraints, taking, trace.ended)

    def _neighbours(self, run: Run) -> Neighbours | None:
        """Return which arms learn from each other, where that is constraints."""
        centres = self._found.clusters.centres
        if self.params.neighbor_distance is None or centres is None:
            return None
        try:
            return bandit.near_centres(
                centres[self._found.cluster_of], self.params.neighbor_distance, MAX_PAIRS, run.check_cancelled
            )
        except ValueError as error:
            raise Invalid(
                f"Clusters have too many neighbours ({error}): lower neighbor_distance.",
                pointer="/selector/params/neighbor_distance",
            ) from error

    def _quota(self, run: Run, constraints: Constraints) -> Taken:
        """Take as many rows of every cluster whose mean influence exceeds tau."""
        found, taking = self._found, Taking(run, constraints, constraints.eligible)
        assert found.influence is not None
        rows, means, found.tau = quota_order(self._shuffled(run, constraints), found.influence, self.params.threshold)
        found.means = means
        ended: Ended = "no-arm-left" if taking(rows) else "budget"
        return taking.rows, found.influence, self._stopped(constraints, taking, ended)

    def _as_released(self, run: Run, constraints: Constraints) -> Taken:
        """Do as the authors' code does; rows beyond the budget, which it takes, are named and left out."""
        found, budget = self._found, constraints.amount.value
        codes = found.clusters.codes
        arms = Arms.of(codes, found.clusters.count)
        found.arm_of, found.cluster_of = codes, np.arange(found.clusters.count)
        rules = self._rules(arms)
        score = self._scorer(run, constraints.eligible)
        found.trace = trace = pull_as_released(arms, rules, budget, score, self._neighbours(run))
        found.tau = rules.tau
        rows = released_rows(arms, trace, rules.rows_per_pull)
        if not len(rows):
            raise Infeasible(NOTHING_TAKEN.format(tau=f"{rules.tau:g}"), pointer="/selector/params/tau")
        detail = f"As released: {trace.rounds_run:,} rounds, {len(rows):,} rows."
        if len(rows) > budget:
            detail += f" The budget leaves out the last {len(rows) - budget:,} of them."
        scores = expected_influence(arms, trace, codes, None)
        return rows[:budget], scores, Notice(code="as-released", detail=detail)

    def _stopped(self, constraints: Constraints, taking: Taking, ended: Ended) -> Notice | None:
        """Say why the selection ends below its budget, where it does."""
        if ended == "budget":
            return None
        count, tau = len(taking.rows), self._found.tau
        if not count and not len(constraints.preselected):
            raise Infeasible(NOTHING_TAKEN.format(tau=f"{tau:.6g}"), pointer="/selector/params/tau")
        below = f" {taking.below_minimum} strata are below their minimum." if taking.below_minimum else ""
        why = "all rounds are over" if ended == "rounds" else "all clusters above tau are used up"
        return Notice(
            code="rounds-over" if ended == "rounds" else "clusters-used-up",
            detail=f"The selection ends with {count + len(constraints.preselected):,} rows, below the budget of "
            f"{constraints.amount}: {why} (tau = {tau:.6g}).{below}",
        )

    # -- the report

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return what was pulled, how many influences that took, and influence and diversity beside a random draw."""
        return quad_evidence.measure(self.params, self._found, decision, random)
