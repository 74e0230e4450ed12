"""Streaming top-k against a full sort."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.native.sampling import topk

NASTY = [0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 2.0**-1022, 1e308, -1e308, np.inf, -np.inf, 1.0 + 2**-52]
key_lists = st.lists(st.one_of(st.sampled_from(NASTY), st.integers(-3, 3).map(float), st.floats(allow_nan=False)))


def cut(start: int, arrays: tuple[NDArray[np.generic] | None, ...], bounds: list[int]) -> topk.Chunks:
    keys = arrays[0]
    assert keys is not None
    edges = [0, *sorted(min(b, len(keys)) for b in bounds), len(keys)]

    def chunks() -> Iterator[topk.Chunk]:
        for a, b in pairwise(edges):
            yield (start + a, *(None if array is None else array[a:b] for array in arrays))  # type: ignore[misc]

    return chunks


def naive_order(keys: NDArray[np.float64]) -> NDArray[np.int64]:
    eligible = np.flatnonzero(keys > -np.inf)
    return eligible[np.lexsort((eligible, -keys[eligible]))]


def naive_prefix(
    keys: NDArray[np.float64], codes: NDArray[np.int32], sizes: NDArray[np.int64], budgets: list[int]
) -> set[int]:
    chosen: set[int] = set()
    left = list(budgets)
    closed = [False] * len(budgets)
    for row in naive_order(keys):
        stratum = codes[row]
        if stratum < 0 or closed[stratum]:
            continue
        if sizes[row] > left[stratum]:
            closed[stratum] = True
        else:
            left[stratum] -= sizes[row]
            chosen.add(int(row))
    return chosen


def selected(chunks: topk.Chunks, cut_offs: topk.CutOffs) -> set[int]:
    rows: list[int] = []
    for start, keys, codes, _ in chunks():
        rows += (start + np.flatnonzero(topk.mark_selected(start, keys, codes, cut_offs))).tolist()
    return set(rows)


@pytest.fixture(params=["gathered", "counted to the end"])
def radix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "gathered":
        monkeypatch.setattr(topk, "GATHERED_ROWS", 0)
        monkeypatch.setattr(topk, "MAX_DIGIT_BITS", 7)


@settings(deadline=None)
@given(st.data())
def _check_prefixes(data: st.DataObject) -> None:
    keys = np.array(data.draw(key_lists), dtype=np.float64)
    n_strata = data.draw(st.integers(1, 4))
    codes = np.array(
        data.draw(st.lists(st.integers(-1, n_strata - 1), min_size=len(keys), max_size=len(keys))), np.int32
    )
    sizes = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(keys), max_size=len(keys))), np.int64)
    budgets = data.draw(st.lists(st.integers(0, len(keys) + 2), min_size=n_strata, max_size=n_strata))
    start = data.draw(st.sampled_from([0, 1, 2**40]))
    chunks = cut(start, (keys, codes, sizes), data.draw(st.lists(st.integers(0, 20), max_size=4)))

    for by_size, weights in ((False, np.ones_like(sizes)), (True, sizes)):
        cut_offs = topk.select_topk(chunks, np.array(budgets), by_size=by_size)
        expected = naive_prefix(keys, codes, weights, budgets)
        assert {row - start for row in selected(chunks, cut_offs)} == expected
        assert cut_offs.counts.sum() == len(expected)
        assert cut_offs.sizes.sum() == sum(weights[row] for row in expected)
        assert cut_offs.eligible.sum() == ((keys > -np.inf) & (codes >= 0)).sum()


def test_prefixes_equal_a_full_sort(radix: None) -> None:
    _check_prefixes()


@pytest.mark.parametrize("distinct", [1, 3, 0])
def test_many_rows(distinct: int) -> None:
    random = np.random.default_rng(5)
    n, n_strata = 300_000, 700
    keys = random.integers(0, distinct, n).astype(float) if distinct else random.normal(size=n)
    codes = random.integers(0, n_strata, n).astype(np.int32)
    order = np.lexsort((np.arange(n), -keys))
    for k in (0, 1, n // 3, n - 1, n, n + 5):
        chunks = cut(0, (keys, None, None), list(range(0, n, 37_000)))
        assert selected(chunks, topk.select_topk(chunks, k)) == set(order[:k].tolist())
    budgets = random.integers(0, 600, n_strata)
    chunks = cut(0, (keys, codes, None), list(range(0, n, 37_000)))
    cut_offs = topk.select_topk(chunks, budgets)
    expected = naive_prefix(keys, codes, np.ones(n, np.int64), budgets.tolist())
    assert selected(chunks, cut_offs) == expected


def test_ties_beyond_the_gathered_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "GATHERED_ROWS", 1000)
    keys = np.zeros(200_000)
    keys[150_000:] = -0.0
    chunks = cut(3, (keys, None, None), [1, 70_000])
    assert selected(chunks, topk.select_topk(chunks, 123_456)) == set(range(3, 123_459))


def test_order_of_chunks_does_not_matter() -> None:
    keys = np.array([1.0, 2.0, 2.0, 2.0, 0.5])
    chunks = cut(0, (keys, None, None), [2, 3])
    reverse = list(chunks())[::-1]
    cut_offs = topk.select_topk(lambda: iter(reverse), 2)
    assert selected(chunks, cut_offs) == {1, 2}


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_ordered_bits_keep_the_order(a: float, b: float) -> None:
    assert (a < b) == (topk.ordered_bits(a) < topk.ordered_bits(b))
    assert (a == b) == (topk.ordered_bits(a) == topk.ordered_bits(b))


def test_refusals() -> None:
    def one(keys: list[float], codes: list[int] | None = None, sizes: list[int] | None = None) -> topk.Chunks:
        chunk = (
            0,
            np.array(keys),
            None if codes is None else np.array(codes, np.int32),
            None if sizes is None else np.array(sizes, np.int64),
        )
        return lambda: iter([chunk])

    with pytest.raises(ValueError, match="NaN"):
        topk.select_topk(one([1.0, np.nan]), 1)
    with pytest.raises(ValueError, match="below 2"):
        topk.select_topk(one([1.0], [2]), np.array([1, 1]))
    with pytest.raises(ValueError, match="negative"):
        topk.select_topk(one([1.0], None, [-1]), 1, by_size=True)
    with pytest.raises(ValueError, match="one element a key"):
        topk.select_topk(one([1.0], [0, 0]), 1)
    with pytest.raises(ValueError, match="budgets"):
        topk.select_topk(one([1.0]), -1)
    assert topk.count_nan(np.array([1.0, np.nan, np.inf])) == 1
