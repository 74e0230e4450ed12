"""The evidence for a selection by Quad: pulls, influences known, and the result beside a random draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import JsonValue

from tamis.selectors.decision.choice import Choice
from tamis.selectors.features.clusters import Clusters
from tamis.selectors.methods.quad.bandit import Trace
from tamis.selectors.methods.quad.params import QuadParams

if TYPE_CHECKING:
    from tamis.selectors.decision.decision import Decision

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PULLS_SHOWN = 20_000
"""Pulls of the trace in the report; a run as released has 10,000."""


@dataclass(frozen=True)
class QuadFacts:
    """Clusters, influences and pulls of a selection, for its report."""

    clusters: Clusters
    influence: Floats | None  # (n,) NaN: not known; None: asked for
    scores: Floats  # (n,) known or expected influence
    tau: float
    alpha: float
    trace: Trace | None = None  # None: the quota rule pulls nothing
    means: Floats | None = None  # (K,) of the quota rule, by arm
    cluster_of: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # (K,) cluster of each arm

    def columns(self, rows: Ints) -> dict[str, pa.Array]:
        """Return the further columns of selection.parquet: each row's cluster."""
        codes = self.clusters.codes[rows]
        present = np.unique(codes[codes >= 0])
        names = pa.array([self.clusters.name(code) for code in present.tolist()], pa.string())
        at = pa.array(np.searchsorted(present, codes).astype(np.int32), mask=codes < 0)
        return {"cluster": pa.DictionaryArray.from_arrays(at, names)}


def measure(params: QuadParams, facts: QuadFacts, decision: Decision, random: Choice) -> dict[str, JsonValue]:
    """Return the evidence as JSON.

    Parameters
    ----------
    params : QuadParams
    facts : QuadFacts
        Of the job.
    decision : Decision
    random : Choice
        A random draw under the same budget and bounds.
    """
    n, influence = len(facts.clusters.codes), facts.influence
    asked, bandit = n, None
    if facts.trace is not None:
        asked, bandit = len(facts.trace.probed), _bandit(facts, facts.trace)
    return {
        "reward": params.reward,
        "rule": params.rule,
        "tau": _number(facts.tau),
        "influences": {"asked": asked, "share_of_rows": asked / n},
        "clusters": {"count": facts.clusters.count, **_clusters(facts)},
        "diversity": {
            name: _diversity(facts.clusters, choice)
            for name, choice in (("selected", decision.choice), ("random", random))
        },
        "mean_influence": None
        if influence is None
        else {
            "selected": _mean(influence[decision.choice.rows]),
            "random": _mean(influence[random.rows]),
            "raw": _mean(influence),
        },
        "mean_score": {
            "selected": _mean(facts.scores[decision.choice.rows]),
            "random": _mean(facts.scores[random.rows]),
        },
        "bandit": bandit,
    }


def _bandit(facts: QuadFacts, trace: Trace) -> dict[str, JsonValue]:
    shown = slice(0, PULLS_SHOWN)
    names = [facts.clusters.name(code) for code in facts.cluster_of[trace.arms[shown]].tolist()]
    return {
        "ended": trace.ended,
        "rounds": trace.rounds_run,
        "pulls": len(trace.arms),
        "accepted_pulls": int(np.count_nonzero(trace.accepted)),
        "probes_without_influence": int(np.count_nonzero(np.isnan(trace.values))),
        "alpha": facts.alpha,
        "deviation_of_influences": _number(trace.scale.deviation),
        "influences_estimated_from": trace.scale.estimated_from,
        "trace": {
            "round": trace.rounds[shown].tolist(),
            "cluster": list(names),
            "earlier_pulls": trace.earlier[shown].tolist(),
            "mean_influence": [_number(mean) for mean in trace.means[shown].tolist()],
            "accepted": trace.accepted[shown].tolist(),
        },
        "pulls_not_shown": max(0, len(trace.arms) - PULLS_SHOWN),
    }


def _clusters(facts: QuadFacts) -> dict[str, Any]:
    """Count the clusters that were pulled, and those found to be above tau."""
    if facts.trace is None:
        assert facts.means is not None
        return {"above_tau": int(np.count_nonzero(facts.means > facts.tau))}
    trace = facts.trace
    return {
        "pulled": len(np.unique(trace.arms)),
        "accepted": len(np.unique(trace.arms[trace.accepted])),
    }


def _diversity(clusters: Clusters, choice: Choice) -> dict[str, JsonValue]:
    """Return how many clusters rows are of, and how many equally filled ones that is worth: exp of the entropy."""
    codes = clusters.codes[choice.rows]
    counts = np.bincount(codes[codes >= 0])
    shares = counts[counts > 0] / max(1, counts.sum())
    return {
        "clusters": len(shares),
        "effective_clusters": float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0,
    }


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.cumsum(known)[-1]) / len(known) if len(known) else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
