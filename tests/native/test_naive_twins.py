"""Each public kernel has a naive twin by its name in `tests/native/naive`; those that still lack one are listed."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from tests.native.naive import twins as naive

from tamis.native.greedy import bandit, class_coverage, limits
from tamis.native.learning import dynamics_folds
from tamis.native.math import dense, elementary, rng
from tamis.native.neighbours import merge, small_sets
from tamis.native.sampling import topk
from tamis.native.text import chunks
from tamis.native.transport import sinkhorn

ROOT = Path(__file__).parents[2]
ROWS = 7

WITHOUT_TWIN = {
    # Compared with loops, the authors' numbers or another library in the test of their module, under other names.
    "greedy/bandit": set(),
    "greedy/class_coverage": {"attention_strengths", "relate", "cover_class"},
    "greedy/submodular": {"advance"},
    "learning/gat": {
        *("attend_heads", "attend", "gather_heads", "gather", "head_terms", "class_terms"),
        *("class_signals", "attention_received"),
    },
    "learning/gat_training": {"drop_edges"},
    "neighbours/lsh": {"hash_keys", "window_neighbours"},
    "neighbours/panels": {"read_keys", "update_lists"},
    "neighbours/small_sets": {"nearest_members", "add_members", "count_meetings", "merge_neighbours"},
    "sampling/strata": {"fill"},
    "sampling/topk": {"histogram_level"},
    "text/ngrams": {"hash_bytes", "finish"},
    "text/scan": {"run"},
    "text/tokens": {"scan_document"},
    "transport/sinkhorn": {"sweep_narrow", "sweep_wide"},
}
"""By module. The list may only shrink."""


def public_kernels() -> dict[str, set[str]]:
    """Return the names of the public kernels by module."""
    root, found = ROOT / "native" / "tamis" / "native", {}
    for path in sorted(root.rglob("*.py")):
        names = {
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and any(isinstance(mark, ast.Name) and mark.id == "kernel" for mark in node.decorator_list)
        }
        if names:
            found[path.relative_to(root).with_suffix("").as_posix()] = names
    return found


def names_of_twins() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests" / "native" / "naive").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


def test_each_public_kernel_has_a_twin_or_is_listed() -> None:
    twins = names_of_twins()
    lacking = {module: names - twins for module, names in public_kernels().items()}
    assert {module: names for module, names in lacking.items() if names} == {
        module: names for module, names in WITHOUT_TWIN.items() if names
    }


# -- the twins that have no test elsewhere


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_means_of() -> None:
    values, starts = draw().normal(size=9), np.array([0, 0, 4, 5, 9])
    values[[1, 4]] = np.nan
    means = np.empty(4)
    bandit.means_of(values, starts, means)
    np.testing.assert_allclose(means, naive.means_of(values.tolist(), starts.tolist()), rtol=1e-15)


def test_take_all() -> None:
    codes, sizes = draw().integers(0, 3, 8).astype(np.int32), draw(1).integers(0, 9, 8)
    state = limits.begin_limits(100, codes=codes, lower=np.zeros(3, np.int64), upper=np.full(3, 99), sizes=sizes)
    limits.take_all(state, np.array([5, 0, 7]))
    assert state.have.tolist() == naive.take_all(codes.tolist(), sizes.tolist(), [5, 0, 7], 3)


def test_multiply() -> None:
    x, w = draw().normal(size=(3, 5)), draw(1).normal(size=(5, 2))
    out = np.full((3, 2), np.nan)
    dense.multiply(x, w, out)
    np.testing.assert_allclose(out, naive.multiply(x.tolist(), w.tolist()), rtol=1e-13)


@pytest.mark.parametrize("x", [5e-308, 0.1, 1.0, math.nextafter(1.0, 2.0), math.sqrt(0.5), 3.0, 1e308])
def test_natural_log(x: float) -> None:
    expected = naive.natural_log(x)
    assert abs(elementary.natural_log(x) - expected) <= 2 * math.ulp(expected)


@pytest.mark.parametrize("x", [-700.0, -1.5, -1e-300, 0.0, 0.3, 1.0, 20.0, 700.0])
def test_natural_exp(x: float) -> None:
    expected = naive.natural_exp(x)
    assert abs(elementary.natural_exp(x) - expected) <= 2 * math.ulp(expected)


@pytest.mark.parametrize(("key_0", "key_1", "counter"), [(0, 0, 0), (1, 2**63, 5), (2**64 - 1, 17, 2**40)])
def test_philox_block(key_0: int, key_1: int, counter: int) -> None:
    found = rng.philox_block(np.uint64(key_0), np.uint64(key_1), np.int64(counter))
    assert tuple(map(int, found)) == naive.philox_block(key_0, key_1, counter)


def test_merge_lists() -> None:
    scores, rows = np.array([[0.9, 0.5, -np.inf]], np.float32), np.array([[4, 2, -1]])
    more_scores, more_rows = np.array([[0.7, 0.5, 0.1]], np.float32), np.array([[1, 0, -1]], np.int32)
    for array in (more_scores, more_rows):
        array.setflags(write=False)
    earlier = list(zip(scores[0].tolist(), rows[0].tolist(), strict=True))
    later = [
        (score, 10 + row if row >= 0 else -1)
        for score, row in zip(*map(naive.as_list, (more_scores[0], more_rows[0])), strict=True)
    ]
    merge.merge_lists(scores, rows, more_scores, more_rows, 10)
    assert list(zip(scores[0].tolist(), rows[0].tolist(), strict=True)) == naive.merge_lists(earlier, later, 3)


def test_ordered_bits() -> None:
    keys = [-np.inf, -1e300, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1.0, 1e300, np.inf]
    bits = [int(topk.ordered_bits(key)) for key in keys]
    for left, one in zip(keys, bits, strict=True):
        for right, other in zip(keys, bits, strict=True):
            assert (one < other) == (naive.ordered_bits(left) < naive.ordered_bits(right))


def test_count_nan() -> None:
    keys = np.array([np.nan, 0.0, -np.inf, np.nan])
    assert topk.count_nan(keys) == naive.count_nan(keys.tolist())


@pytest.mark.parametrize("words", [1, 2, 5])
def test_chunks(words: int) -> None:
    documents = [b"", b"a b c", b" ", b"one two  three four five six"]
    offsets = np.cumsum([0, *map(len, documents)])
    data = np.frombuffer(b"".join(documents), np.uint8)
    counts = np.empty(len(documents), np.int64)
    chunks.count_chunks(offsets, data, words, counts)
    assert counts.tolist() == naive.count_chunks(documents, words)


def test_own_share() -> None:
    near = [[1, 2], [0, 2, 3], [], [1, 0]]
    keys = np.array([[*row, *[small_sets.NO_NEIGHBOUR] * (3 - len(row))] for row in near], np.int64)
    labels = np.array([0, 0, 1, 1], np.int32)
    shares = np.empty(4, np.float32)
    class_coverage.own_share(keys, labels, shares)
    np.testing.assert_allclose(shares, naive.own_share(near, labels.tolist()), rtol=1e-6)


def test_row_potential() -> None:
    costs, shifts = draw().random(9).astype(np.float32), draw(1).normal(size=9)
    expected = naive.row_potential(costs.astype(float).tolist(), shifts.tolist(), 0.3)
    assert sinkhorn.row_potential(costs, shifts, 0.3) == pytest.approx(expected, rel=1e-13)


def test_folds() -> None:
    rows, epochs = draw().integers(0, ROWS, 30).astype(np.uint32), np.sort(draw(1).integers(0, 5, 30)).astype(np.int32)
    values, correct = draw(2).random(30).astype(np.float32), draw(3).integers(0, 2, 30).astype(np.uint8)
    at, when, what, right = (naive.as_list(column) for column in (rows, epochs, values, correct))
    latest, counts = np.full(ROWS, -1, np.int32), np.zeros(ROWS, np.int32)
    assert dynamics_folds.fold_visits(rows, epochs, latest, counts) == -1
    assert (latest.tolist(), counts.tolist()) == naive.fold_visits(list(zip(at, when, strict=True)), ROWS)
    sums, squares = np.zeros((2, ROWS))
    dynamics_folds.fold_sum(rows, epochs, values, 3, sums)
    np.testing.assert_allclose(sums, naive.fold_sum(list(zip(at, when, what, strict=True)), 3, ROWS), rtol=1e-14)
    sums[:] = 0
    dynamics_folds.fold_confidence(rows, values, sums, squares)
    for found, wanted in zip(
        (sums, squares), naive.fold_confidence(list(zip(at, what, strict=True)), ROWS), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-13)
    last, learned, forgotten = np.zeros(ROWS, np.uint8), np.zeros(ROWS, np.int32), np.zeros(ROWS, np.int32)
    dynamics_folds.fold_correct(rows, correct, last, learned, forgotten)
    assert (learned.tolist(), forgotten.tolist()) == naive.fold_correct(list(zip(at, right, strict=True)), ROWS)
    newest = np.zeros(ROWS, np.float32)
    dynamics_folds.fold_latest(rows, values, newest)
    assert newest.tolist() == naive.fold_latest(list(zip(at, what, strict=True)), ROWS)
