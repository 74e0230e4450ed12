"""The report: request and result beside a random draw of the same budget; JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.selectors.decision.budget import STRATA_NAMED_IN_ERRORS
from tamis.selectors.decision.by_key import choose
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.ranking import Ranked, RankedUnit
from tamis.selectors.decision.request import Request
from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.features.coverage import measure_coverage
from tamis.selectors.schema.request import Budget
from tamis.selectors.schema.response import Notice

if TYPE_CHECKING:
    from tamis.selectors.decision.decision import Decision
    from tamis.selectors.run.run import Run
    from tamis.selectors.run.selector import Selector

SCHEMA_VERSION = 1

HISTOGRAM_BINS = 60
HISTOGRAM_TAIL = 0.001
"""The histogram's range leaves out this share of rows at either end; they are counted in the end bins."""

QUANTILE_SAMPLE = 100_000
"""Rows, evenly spaced, that the histogram's range is estimated from."""

LOST_SHARE_WARNED = 0.2
"""A selector that can't take more than this share of the rows is worth a word."""

GROUPS_SHOWN = 200


class UniformDraw:
    """A random draw among the rows that the selector could have taken: the baseline of every report."""

    def __init__(self, ranked: Ranked, starts: npt.NDArray[np.int64], key: Any) -> None:
        self._ranked = ranked
        self._starts = starts
        self._key = key
        self._eligible: dict[int, npt.NDArray[np.uint8]] = {}  # of each unit, one bit a row: a ranking may be slow

    def __call__(self, unit: int) -> RankedUnit:
        """Rank a unit's eligible rows by uniform keys."""
        first, last = self._starts[unit : unit + 2].tolist()
        if unit not in self._eligible:
            self._eligible[unit] = np.packbits(self._ranked(unit).eligible_keys() > -np.inf)
        eligible = np.unpackbits(self._eligible[unit], count=last - first).view(np.bool_)
        draw = rng.uniform(self._key, first, last - first)
        return RankedUnit(keys=np.where(eligible, draw, -np.inf), scores=draw)


def make_report(run: Run, selector: Selector, decision: Decision) -> dict[str, JsonValue]:
    """Measure a decision; the last phase of every job.

    Returns
    -------
    dict
        JSON: ``asked_and_got``, ``strata``, ``composition`` by group, ``coverage`` (distances to the nearest selected
        row, where there are embeddings), ``scores`` (histograms with the threshold),
        ``effective_sample_size`` (of log weights), the selector's own ``evidence``, and ``warnings``.
    """
    choice = decision.choice
    random, drawn = _random_draw(run, decision)
    evidence = selector.evidence(run, decision, random)
    scores, sample_size = _scores(run, decision)
    composition, uncounted = _composed(run, choice, random)
    coverage, unmeasured = measure_coverage(run, selector, choice, random)
    report: dict[str, JsonValue] = {
        "schema_version": SCHEMA_VERSION,
        "selector": selector.name,
        "asked_and_got": choice.totals.model_dump(mode="json"),
        "strata": [outcome.model_dump(mode="json") for outcome in choice.outcomes],
        "composition": composition,
        "coverage": coverage,
        "scores": scores,
        "effective_sample_size": sample_size if selector.scores_are_log_weights else None,
        "evidence": evidence,
    }
    notices = [*decision.warnings, *choice.warnings, *_notices(decision, evidence), *drawn, *uncounted, *unmeasured]
    report["warnings"] = [notice.model_dump(mode="json") for notice in notices]
    return report


def _random_draw(run: Run, decision: Decision) -> tuple[Choice, list[Notice]]:
    """Draw rows at random under the job's budget and bounds, or, where no draw meets them, as many rows without bounds.

    A size budget can fit the selection and not the draw: its first row may already be larger than what is left.
    """
    layout = run.layout()
    ranked = UniformDraw(decision.rankings[0], layout.starts, run.stream("report.random"))
    unbounded = Request(layout, Budget(rows=len(decision.choice.rows)), excluded=run.excluded)
    if (asked := decision.choice.totals.asked_rows) is not None and len(decision.choice.rows) < asked:
        # The selector ended before its budget by a rule of its own: a draw of as many rows is what it has to beat.
        return choose(unbounded, ranked, decision.reason_names), []
    try:
        return run.choose(ranked, decision.reason_names), []
    except Infeasible as error:
        draw = choose(unbounded, ranked, decision.reason_names)
        detail = f"The random draw beside the selection has as many rows, but not its budget and bounds: {error.detail}"
        return draw, [Notice(code="random-draw-by-rows", detail=detail)]


def _composed(run: Run, choice: Choice, random: Choice) -> tuple[JsonValue, list[Notice]]:
    """Return the composition, or a word on why there is none: a group column of ids must not fail the job."""
    try:
        return _composition(run, choice, random), []
    except Invalid as error:
        return None, [Notice(code="no-composition", detail=error.detail)]


def _composition(run: Run, choice: Choice, random: Choice) -> JsonValue:
    """Count rows by group: all, target, random draw, selection; null where no group column is named."""
    if not run.candidates.columns.has("group"):
        return None
    names, codes = run.names(run.candidates, "group")
    raw = _bincount(codes, len(names))
    target: dict[str, int] = {}
    grouped_targets = bool(run.targets) and all(dataset.columns.has("group") for dataset in run.targets)
    for dataset in run.targets if grouped_targets else []:
        target_names, target_codes = run.names(dataset, "group")
        for name, count in zip(target_names, _bincount(target_codes, len(target_names)).tolist(), strict=True):
            target[name] = target.get(name, 0) + count
    drawn, chosen = (_bincount_rows(run, codes, picked.rows, len(names)) for picked in (random, choice))
    order = np.argsort(-chosen, kind="stable")[:GROUPS_SHOWN]
    groups: list[JsonValue] = [
        {
            "group": names[code],
            "raw": int(raw[code]),
            "target": target.get(names[code], 0) if grouped_targets else None,
            "random": int(drawn[code]),
            "selected": int(chosen[code]),
        }
        for code in order.tolist()
    ]
    return {"groups": groups, "groups_in_all": len(names)}


def _bincount(codes: Sequence[npt.NDArray[np.int32]], names: int) -> npt.NDArray[np.int64]:
    total = np.zeros(names, np.int64)
    for unit in range(len(codes)):
        total += np.bincount(codes[unit], minlength=names)
    return total


def _bincount_rows(
    run: Run, codes: Sequence[npt.NDArray[np.int32]], rows: npt.NDArray[np.int64], names: int
) -> npt.NDArray[np.int64]:
    total = np.zeros(names, np.int64)
    starts = run.layout().starts
    cuts = np.searchsorted(rows, starts)
    for unit in range(len(codes)):
        inside = rows[cuts[unit] : cuts[unit + 1]] - starts[unit]
        if len(inside):
            total += np.bincount(codes[unit][inside], minlength=names)
    return total


def _scores(run: Run, decision: Decision) -> tuple[JsonValue, JsonValue]:
    """Return histograms of the scores (all eligible rows, selection) and the weights' effective sample size.

    The effective sample size is (sum w)^2 / sum w^2 over the eligible rows, with w = exp(score): how many equally
    weighted rows the importance weights are worth.
    """
    ranked = decision.rankings[0]
    starts = run.layout().starts
    step = max(1, int(starts[-1]) // QUANTILE_SAMPLE)
    sample: list[npt.NDArray[np.float64]] = []
    peak = -np.inf
    for unit in range(len(starts) - 1):
        part = ranked(unit)
        fit = part.scores[part.eligible_keys() > -np.inf]
        if len(fit):
            sample.append(fit[::step].copy())  # a view would hold all of the unit
            peak = max(peak, float(fit.max()))
    if not sample:
        return None, None
    low, high = np.quantile(np.concatenate(sample), [HISTOGRAM_TAIL, 1 - HISTOGRAM_TAIL]).tolist()
    if not high > low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    raw = np.zeros(HISTOGRAM_BINS, np.int64)
    weight_sum = square_sum = 0.0
    for unit in range(len(starts) - 1):
        part = ranked(unit)
        fit = part.scores[part.eligible_keys() > -np.inf]
        raw += np.histogram(np.clip(fit, low, high), edges)[0]
        weights = np.exp(fit - peak)
        weight_sum += float(weights.sum())
        square_sum += float((weights * weights).sum())
    known = decision.choice.scores[np.isfinite(decision.choice.scores)]  # a row kept from before may have none
    chosen = np.histogram(np.clip(known, low, high), edges)[0]
    scores: dict[str, Any] = {
        "edges": edges.tolist(),
        "raw": raw.tolist(),
        "selected": chosen.tolist(),
        "lowest_selected": float(known.min()) if len(known) else None,
        "key_thresholds": {outcome.stratum: outcome.threshold for outcome in decision.choice.outcomes},
    }
    eligible = decision.choice.totals.eligible
    size = weight_sum * weight_sum / square_sum
    return scores, {"rows": size, "share_of_eligible": size / eligible if eligible else None}


def _notices(decision: Decision, evidence: dict[str, JsonValue]) -> list[Notice]:
    notices: list[Notice] = []
    totals = decision.choice.totals
    lost = totals.candidates - totals.eligible - totals.excluded - decision.left_out
    if lost > LOST_SHARE_WARNED * totals.candidates:
        notices.append(
            Notice(
                code="many-rows-not-eligible",
                detail=f"{lost:,} of {totals.candidates:,} rows can't be selected; 'explain' tells why, row by row.",
            )
        )
    notices.extend(_binding(decision.choice))
    same = evidence.get("rows_identical_to_a_target_row")
    if isinstance(same, dict) and same.get("selected"):
        notices.append(
            Notice(
                code="target-in-candidates",
                detail=f"{same['selected']} selected rows are a row of the target, word for word: evaluate elsewhere.",
            )
        )
    return notices


def _binding(choice: Choice) -> list[Notice]:
    """Name the strata that reached their maximum, in the unit of the budget."""
    full = [
        outcome
        for outcome in choice.outcomes
        if outcome.asked_max is not None
        and outcome.rows
        and (outcome.size if choice.amount.unit == "size" else outcome.rows) == outcome.asked_max
    ]
    if len(full) <= STRATA_NAMED_IN_ERRORS:
        details = [f"The maximum of stratum '{outcome.stratum}' binds: {outcome.asked_max:,}." for outcome in full]
    else:
        details = [f"The maximums of {len(full):,} strata bind, that of '{full[0].stratum}' among them."]
    return [Notice(code="quota-binding", detail=detail) for detail in details]
