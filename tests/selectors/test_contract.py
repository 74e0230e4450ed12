"""Each selector of ours keeps the contract of the plugin API, and a selector that breaks it is told how."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tests.acceptance.test_every_selector import CASES, JOBS

from tamis.selectors.jobs import catalogue
from tamis.selectors.plugin import (
    ByScore,
    Choice,
    Decision,
    GreedySelector,
    Job,
    Order,
    Params,
    PhaseCost,
    Ranked,
    RoleBatch,
    Run,
    ScoreSelector,
    Selector,
    TamisError,
)
from tamis.selectors.run.selector import API_VERSIONS
from tamis.selectors.signals.row_columns import read_groups
from tamis.selectors.testing import check_selector


@pytest.mark.parametrize(("name", "index"), CASES)
def test_our_own(name: str, index: int) -> None:
    check_selector(catalogue.load(name), JOBS[name][index].get("params", {}))


class Sound(ScoreSelector):
    """Takes the rows of highest score."""

    name = "sound"
    reads = ("score",)

    @staticmethod
    def score(batch: RoleBatch, params: Params) -> Any:
        return batch.floats("score")


class Ordered(GreedySelector):
    """Takes rows from the last to the first."""

    name = "backwards"

    def order(self, run: Run) -> Order:
        run.begin("select", run.candidates)
        constraints = run.constraints()
        rows = np.flatnonzero(constraints.eligible)[::-1].astype(np.int64)
        return Order(constraints.take(rows), np.arange(run.layout().rows, dtype=np.float64))


class Misspelt(Sound):
    """Enters a phase that it does not plan."""

    name = "misspelt"

    def rank(self, run: Run) -> Ranked:
        run.begin("scores")
        return super().rank(run)


class Skipping(Sound):
    """Plans a phase that it does not enter."""

    name = "skipping"

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        return [*super().plan(job), PhaseCost("extra", 0, 0, 1.0)]


class WithNumpy(Sound):
    """Hands a NumPy integer to a task."""

    name = "with_numpy"

    def rank(self, run: Run) -> Ranked:
        run.begin("score", run.candidates)
        run.map(read_groups, run.candidates, params={"k": np.int64(3)})
        return super().rank(run)


class Stateful(Sound):
    """Keeps state for its evidence on itself."""

    name = "stateful"

    def select(self, run: Run) -> Decision:
        self.decision = super().select(run)
        return self.decision


class Threaded(Sound):
    """Selects by the number of threads."""

    name = "threaded"

    def rank(self, run: Run) -> Ranked:
        ranked = super().rank(run)
        draw = np.random.default_rng(run.engine.threads)
        assert isinstance(ranked, ByScore)
        return ByScore([draw.permutation(ranked.scores[unit]) for unit in range(len(ranked.scores))])


class Greedy(Sound):
    """Holds more memory than it plans."""

    name = "hoarding"

    def memory(self, job: Job, threads: int) -> int:
        return 0

    def rank(self, run: Run) -> Ranked:
        np.ones(2**26)
        return super().rank(run)


class Unnested(Selector):
    """Claims an order, but draws anew for each budget."""

    name = "unnested"
    nested = True

    def select(self, run: Run) -> Decision:
        run.begin("select")
        starts = run.layout().starts
        draw = np.random.default_rng(run.amount.value).random(int(starts[-1]))
        ranked = ByScore([draw[low:high] for low, high in itertools.pairwise(starts)])
        return Decision(run.choose(ranked, ("eligible", "no-score")), [ranked], ("eligible", "no-score"))


class Infinite(Sound):
    """Gives infinite scores."""

    name = "infinite"

    @staticmethod
    def score(batch: RoleBatch, params: Params) -> Any:
        return np.full(batch.rows, np.inf)


class Short(Sound):
    """Gives a score too few."""

    name = "short"

    @staticmethod
    def score(batch: RoleBatch, params: Params) -> Any:
        return np.zeros(batch.rows - 1)


class Crashing(ScoreSelector):
    """Fails on a null."""

    name = "crashing"
    reads = ("text",)

    @staticmethod
    def score(batch: RoleBatch, params: Params) -> Any:
        return [len(text) for text in batch.strings("text").to_pylist()]


class Unreportable(Sound):
    """Has no method that scores."""

    name = "scoreless"

    rank = ScoreSelector.rank
    score = ScoreSelector.score

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("kind", [Sound, Ordered])
def test_a_sound_selector_passes(kind: type[Selector]) -> None:
    check_selector(kind)


@pytest.mark.parametrize(
    ("kind", "error", "sentence"),
    [
        (
            Misspelt,
            TamisError,
            "begins the phase 'scores', but its plan names score, select, report. Did you mean 'score'",
        ),
        (Skipping, AssertionError, "plans phases that it does not enter: extra"),
        (WithNumpy, TypeError, "The parameter 'k' of the task 'rows.read_groups' is of type numpy.int64"),
        (Stateful, AssertionError, r"keeps state on its instance \(decision\)"),
        (Threaded, AssertionError, "gives other bytes with other numbers of threads"),
        (Greedy, AssertionError, "held .* bytes, but plans"),
        (Unnested, AssertionError, "says that it is nested"),
        (Infinite, TamisError, "'infinite' gave an infinite score"),
        (Short, TamisError, r"gave scores of shape \(\d+,\) for \d+ rows"),
        (Crashing, AssertionError, "ended a job over a null in the column text with TypeError"),
        (Unreportable, TamisError, "has neither a static method score"),
    ],
)
def test_a_broken_selector_is_told_how(
    kind: type[Selector], error: type[Exception], sentence: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(error, match=sentence):
        check_selector(kind)


def test_a_selector_in_a_function_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a class at the top level of its module"):

        class Inner(ScoreSelector):
            name = "inner"

            @staticmethod
            def score(batch: RoleBatch, params: Params) -> Any:
                return np.zeros(batch.rows)


def test_another_version_of_the_plugin_api_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        value = "some.package:Newer"

        def __init__(self, load: Callable[[], Any]) -> None:
            self.load = load

    class Newer(Sound):
        name = "newer"
        api_version = max(API_VERSIONS) + 1

    for kind, sentence in (
        (
            Newer,
            r"'newer' \(some.package:Newer\) is written for version 2 of the plugin API, and this Tamis supports 1",
        ),
        (dict, r"is no subclass of tamis.selectors.plugin.Selector"),
        (Sound, r"names the selector 'sound'"),
    ):
        monkeypatch.setattr(catalogue, "_registered", lambda kind=kind: {"newer": Point(lambda: kind)})
        with pytest.raises(RuntimeError, match=sentence):
            catalogue.load("newer")
