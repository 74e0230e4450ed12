"""What a request that does not fit is told: the place, what is wrong, and the names that there are."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tamis.selectors import select
from tamis.selectors.errors import Invalid
from tamis.selectors.jobs.catalogue import find
from tamis.selectors.schema.request import SelectorSpec

TABLE = pa.table({"embedding": [[1.0, 2.0], [3.0, 4.0]], "label": ["a", "b"]})


@pytest.mark.parametrize(
    ("name", "params", "pointer", "said"),
    [
        ("ccs", {"hardend": "high", "hard_end": "low"}, "/selector/params/hardend", "Did you mean 'hard_end'?"),
        ("kcenter", {"frobnicate": 1}, "/selector/params/frobnicate", "The fields are: metric, start"),
        ("ccs", {"hard_end": "low", "beta": 1.5}, "/selector/params/beta", "less than 1"),
        ("kcenter", {"start": -1}, "/selector/params/start", "greater than or equal to 0"),
        ("ccs", {"beta": 0.1}, "/selector/params", "hard_end is needed"),
    ],
)
def test_parameters(name: str, params: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        find(SelectorSpec(name=name, params=params))
    assert refused.value.pointer == pointer
    assert said in refused.value.detail
    assert "Value error" not in refused.value.detail


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"budget": {"row": 1}}, "/budget/row", "Did you mean 'rows'?"),
        ({"strata": "label"}, "/strata", "with fields of: by, quotas, default"),
        ({"strata": {"by": "label", "default": {"rows": 1}}}, "/strata/default/rows", "min, max, min_share, max_share"),
        ({"strata": {"by": "label", "quotas": {"a": {"least": 1}}}}, "/strata/quotas/a/least", "min, max"),
        ({"seeds": 1}, "/seeds", "Did you mean 'seed'?"),
        ({"dynamics": {"shards": []}}, "/dynamics/shards", "at least 1 item"),
    ],
)
def test_requests(fields: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        select(TABLE, selector="kcenter", **fields)
    assert pointer in {error["pointer"] for error in refused.value.errors}
    assert said in refused.value.detail


def test_a_role_that_is_none() -> None:
    with pytest.raises(Invalid, match="Did you mean 'embedding'") as refused:
        select({"shards": ["x.parquet"], "columns": {"embeddings": "v"}}, selector="kcenter")
    assert refused.value.pointer == "/dataset/columns/embeddings"
