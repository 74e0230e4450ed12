"""What the report warns of, and whom its random draw may take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tamis.native.math import rng
from tamis.selectors.decision.ranking import RankedUnit
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.results.report import UniformDraw
from tamis.selectors.schema.request import JobSpec

from ..corpus import write

MakeEnvironment = Callable[..., Environment]


def binding(job: dict[str, Any], quota: dict[str, Any], out: Path, environment: Environment) -> list[str]:
    spec = JobSpec.model_validate(job | {"strata": {"default": quota}})
    return [w.detail for w in execute(spec, out, environment).warnings if w.code == "quota-binding"]


def test_a_maximum_in_rows_is_not_compared_with_sizes(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")  # with a size column, and sizes of more than one a row
    assert binding(job, {"max": 101}, tmp_path / "loose", environment()) == []
    [told] = binding(job, {"max": 80}, tmp_path / "tight", environment())
    assert "'sea' binds: 80" in told


def test_many_maximums_that_bind_are_one_warning(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")
    job["dataset"]["columns"]["group"] = "id"
    [told] = binding(job, {"max": 1}, tmp_path / "out", environment())
    assert "100 strata" in told


def test_the_random_draw_takes_no_row_that_a_reason_keeps_out() -> None:
    def ranked(unit: int) -> RankedUnit:
        return RankedUnit(np.arange(4.0), np.zeros(4), reasons=np.array([0, 1, 0, 2], np.uint8))

    draw = UniformDraw(ranked, np.array([0, 4]), rng.stream_key(0, "draw"))
    assert (draw(0).keys > -np.inf).tolist() == [True, False, True, False]
