"""Parameters of Quad."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tamis.selectors.features.neighbours import MetricParams
from tamis.selectors.methods.quad.bandit import Rules
from tamis.selectors.schema.answers import MAX_SCORE

Reward = Literal["influence", "gradient", "ask"]
Inverse = Literal["fisher", "ekfac", "none"]

ROWS_PER_CLUSTER = 1000
"""Rows a cluster, where the number of clusters is left open and k-means makes them."""

PULLS_PER_CLUSTER = 3
"""Pulls that an average cluster has, where the rows of a pull are left open: released, 20,000 of 60,000 rows."""

TAU = 0.5
ALPHA = 2.0
"""Experiment 3B (selectors/quad.md): with 2 standard deviations Quad was better than diversity on all six seeds."""

RELEASED_TAU, RELEASED_ALPHA = 0.002, 1e-4
RELEASED_ROWS_PER_PULL, RELEASED_ROUNDS = 20_000, 200


class QuadParams(MetricParams):
    """Parameters of Quad. Defaults are the corrected method's; those of the authors' code where they agree."""

    reward: Reward = Field(
        "influence",
        description="Where the influence of a row comes from. 'influence': that column. 'gradient': its gradient times "
        "an inverse-Hessian product of the target's. 'ask': whoever submitted the job is asked, round by round.",
    )
    rule: Literal["bandit", "quota"] = Field(
        "bandit",
        description="'bandit': clusters are pulled by score, and few influences are asked for. 'quota', where all are "
        "at hand: the same number of rows from every cluster whose mean influence exceeds tau.",
    )
    inverse: Inverse = Field(
        "fisher",
        description="For 'gradient'. 'fisher': of the candidates' damped empirical Fisher matrix. 'ekfac': of one "
        "layer, from the two factors of its gradient (roles activation and output_gradient). 'none': the target's "
        "gradients are inverse-Hessian products already, or none is wanted.",
    )
    damping: Annotated[float, Field(gt=0, le=1e6)] = Field(
        0.01, description="Added to the curvature, relative to its mean eigenvalue: the scale of gradients cancels."
    )
    clusters: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None,
        description=f"k of k-means on the embeddings, where there is no cluster column. Left out: one for every "
        f"{ROWS_PER_CLUSTER:,} rows.",
    )
    arms_per_round: Annotated[int, Field(ge=1, le=100_000)] = Field(50, description="Clusters pulled in a round.")
    probes: Annotated[int, Field(ge=1, le=100_000)] = Field(
        10, description="Rows of a pull whose influence is asked for; they are among the rows it takes."
    )
    rows_per_pull: Annotated[int, Field(ge=1, le=2**40)] | None = Field(
        None,
        description=f"Rows that an accepted pull takes, at least `probes`. Left out: 1 / {PULLS_PER_CLUSTER} of a mean "
        f"cluster. Release: {RELEASED_ROWS_PER_PULL:,}.",
    )
    tau: Annotated[float, Field(ge=-MAX_SCORE, le=MAX_SCORE)] | None = Field(
        None,
        description=f"A pull is accepted when its mean influence exceeds this quantile of the influences probed in the "
        f"clusters' first pulls; {TAU} when left out. Release: the influence itself, {RELEASED_TAU}.",
    )
    alpha: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None,
        description=f"What trying rarely pulled clusters is worth, in standard deviations of those influences; "
        f"{ALPHA:g} when left out. Release: in their own unit, {RELEASED_ALPHA:g}.",
    )
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description=f"At most. Left out: until budget or clusters are spent. Release: {RELEASED_ROUNDS}."
    )
    neighbor_distance: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Clusters of k-means whose centres are nearer than this learn from each other's rewards. Left out, "
        "also with `release`: each from its own, which experiment 3B found to be no worse. The authors' code has 0.2.",
    )
    release: bool = Field(False, description="Pull and take as the authors' code does, defects included.")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.rule == "quota":
            if self.reward == "ask":
                raise ValueError("the quota rule needs every influence at hand: not for reward 'ask'")
            if self.release:
                raise ValueError("the release knows no quota rule: leave it out, or 'release'")
        if not self.release and self.tau is not None and not 0 <= self.tau <= 1:
            raise ValueError("tau is a quantile, from 0 to 1; only the release has it in the unit of the influences")
        if self.rows_per_pull is not None and self.probes > self.rows_per_pull:
            raise ValueError("probes are rows of the pull: rows_per_pull must be as many at least")
        return self

    @property
    def tau_quantile(self) -> float:
        """The quantile of the influences that is tau."""
        return TAU if self.tau is None else self.tau

    def rules(self, rows: int, clusters: int) -> Rules:
        """Return the bandit's parameters for a number of rows in a number of clusters."""
        size = self.rows_per_pull or max(self.probes, -(-rows // (PULLS_PER_CLUSTER * max(1, clusters))))
        alpha = ALPHA if self.alpha is None else self.alpha
        return Rules(self.arms_per_round, self.probes, size, self.tau_quantile, alpha, self.rounds)

    def released_rules(self) -> Rules:
        """Return the bandit's parameters with the defaults of the authors' code."""
        size = self.rows_per_pull or max(RELEASED_ROWS_PER_PULL, self.probes)
        tau = RELEASED_TAU if self.tau is None else self.tau
        alpha = RELEASED_ALPHA if self.alpha is None else self.alpha
        return Rules(self.arms_per_round, self.probes, size, tau, alpha, self.rounds or RELEASED_ROUNDS)
