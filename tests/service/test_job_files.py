"""What is refused before a document is validated."""

from __future__ import annotations

import pytest

from tamis.selectors.errors import Invalid
from tamis.service.api.documents import MAX_VALUES, parse


def test_more_values_than_any_request_needs() -> None:
    assert len(parse(b"[" + b"0," * 10 + b"0]")) == 11
    with pytest.raises(Invalid, match="more than 1,000,000 values"):
        parse(b"[" + b"0," * MAX_VALUES + b"0]")
