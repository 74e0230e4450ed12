"""Lists of best rows where a bound in 8 bits leaves most pairs out: the same as without it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.native.neighbours import int8, panels, screened
from tamis.native.simd import tile8

Matrix = NDArray[np.float32]

needs_screen = pytest.mark.skipif(not tile8.available(), reason="the processor has no AVX-512 VNNI")


def unit(rows: NDArray[Any]) -> Matrix:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def vectors(kind: str, n: int, d: int, seed: int) -> Matrix:
    draw = np.random.default_rng(seed)
    match kind:
        case "normal":
            return unit(draw.standard_normal((n, d)))
        case "tails":  # one coordinate is most of a vector, and the others lose their digits
            return unit(draw.standard_cauchy((n, d)))
        case "axes":
            return np.eye(d, dtype=np.float32)[draw.integers(0, d, n)] * draw.choice([-1, 1], (n, 1)).astype(np.float32)
        case "few places":  # ties
            return unit(draw.integers(-1, 2, (n, d)))
        case "tiny":
            return unit(draw.standard_normal((n, d))) * np.float32(10.0) ** draw.integers(-44, 1, (n, 1))
        case _:  # all near to one: every pair reaches the bound
            return unit(1 + 1e-4 * draw.standard_normal((n, d)))


def lists(queries: Matrix, parts: list[Matrix], floor: Matrix, k: int, gone: set[int]) -> NDArray[np.int64]:
    keys, first = np.full((len(queries), k), panels.EMPTY), 0
    asked = screened.ask(queries)
    for part in parts:
        numbers = np.array([-1 if row in gone else row for row in range(first, first + len(part))], np.int32)
        screened.offer(asked, screened.pack(part, numbers), floor, keys)
        first += len(part)
    return keys


def expected(queries: Matrix, parts: list[Matrix], floor: Matrix, k: int, gone: set[int]) -> NDArray[np.int64]:
    """All sums, in the order of the tiles' own chains, sorted."""
    found = panels.best_rows(queries, panels.pack(np.concatenate(parts), inner=True), sum(map(len, parts)))
    keys = np.full((len(queries), k), panels.EMPTY)
    for query, (scores, rows) in enumerate(zip(found.scores, found.rows, strict=True)):
        kept = [
            (score, row)
            for score, row in zip(scores, rows.tolist(), strict=True)
            if row not in gone and score >= floor[query]
        ]
        for place, (score, row) in enumerate(kept[:k]):
            keys[query, place] = panels.key_of.py_func(score, np.int64(row))
    return keys


@pytest.mark.parametrize("kind", ["normal", "tails", "axes", "few places", "tiny", "alike"])
@pytest.mark.parametrize(("m", "n", "d", "k"), [(1, 1, 1, 1), (13, 700, 7, 5), (30, 300, 64, 40), (300, 90, 101, 3)])
def test_lists_are_those_of_all_sums(kind: str, m: int, n: int, d: int, k: int) -> None:
    queries, rows = vectors(kind, m, d, 1), vectors(kind, n, d, 2)
    parts, gone = [rows[: n // 3], rows[n // 3 :]] if n > 2 else [rows], {n // 2} if n > 1 else set()
    everything = np.full(m, -np.inf, np.float32)
    free = lists(queries, parts, everything, k, gone)
    assert np.array_equal(free, expected(queries, parts, everything, k, gone))
    floor = panels.lists_of(free).scores[:, k // 2]  # scores of rows: at the floor still counts
    assert np.array_equal(lists(queries, parts, floor, k, gone), expected(queries, parts, floor, k, gone))


@needs_screen
def test_rounding_that_hides_all_it_can_hides_no_row() -> None:
    """Rows whose rounding errors all point along the query, which asks for exactly the score they have."""
    d = 64
    query = np.full((1, d), 1 / np.sqrt(d), np.float32)
    steps = np.concatenate([[127.0], np.arange(1, d) % 100 + 0.499])
    rows = np.stack([unit((steps + shift)[None])[0] for shift in np.linspace(-0.02, 0.0, 40)])
    kept = int8.to_bytes(rows)
    left = rows.astype(np.float64) - kept.values * kept.scale.astype(np.float64)[:, None]
    assert (left @ query[0] > 0.9 * kept.residual).all()  # Cauchy and Schwarz' bound is nearly reached
    for row in range(len(rows)):
        alone = expected(query, [rows[row : row + 1]], np.full(1, -np.inf, np.float32), 1, set())
        floor = panels.lists_of(alone).scores[:, 0]
        assert np.array_equal(lists(query, [rows[row : row + 1]], floor, 1, set()), alone)


@needs_screen
def test_most_pairs_are_left_out() -> None:
    queries, rows = vectors("normal", 12, 256, 1), vectors("normal", 4096, 256, 2)
    kept = int8.to_bytes(rows)
    assert np.abs(kept.values).max() == 127
    assert (kept.residual < 0.02).all()  # of scores whose standard deviation is 0.06
    scores = queries.astype(np.float64) @ rows.T
    coarse = int8.to_bytes(queries)
    near = coarse.scale[:, None] * kept.scale * (coarse.values.astype(np.int64) @ kept.values.T.astype(np.int64))
    bound = near + (1 + coarse.residual[:, None]) * kept.residual + coarse.residual[:, None]
    assert (bound >= scores).all()
    assert (bound >= np.sort(scores)[:, -64:-63]).mean() < 0.05


@needs_screen
def test_a_processor_without_it_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, rows = vectors("normal", 20, 33, 3), vectors("tails", 500, 33, 4)
    floor = np.full(20, 0.35, np.float32)
    found = lists(queries, [rows], floor, 60, {7})
    monkeypatch.setattr(screened, "available", lambda: False)
    assert np.array_equal(lists(queries, [rows], floor, 60, {7}), found)
    assert (found == panels.EMPTY).any()
