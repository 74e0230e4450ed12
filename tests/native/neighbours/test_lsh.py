"""Neighbours in a batch: each graph against loops over the same candidates."""

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.native.naive import gais as naive

from tamis.native.math import rng
from tamis.native.neighbours import lsh, small_sets
from tamis.native.neighbours.graph import SELF

Points = NDArray[np.float32]


def cloud(n: int, d: int = 6, seed: int = 0) -> Points:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(8, d)) * 2
    return (centres[random.integers(0, 8, n)] + random.normal(size=(n, d))).astype(np.float32)


def views(d: int, count: int = 4, seed: int = 0) -> lsh.Single:
    return lsh.directions(rng.stream_key(seed, "directions"), count, d)


def rows_of(keys: NDArray[np.int64]) -> list[list[int]]:
    return [[int(key) & (2**31 - 1) for key in row if key != small_sets.NO_NEIGHBOUR] for row in keys]


def assert_nearest(found: list[list[int]], candidates: list[set[int]], points: Points, k: int) -> None:
    """Every row has its k nearest candidates, nearest first; float32 may swap what is as good as equally far."""
    distances = naive.distances(points)
    for i, rows in enumerate(found):
        assert len(rows) == min(k, len(candidates[i]))
        assert set(rows) <= candidates[i]
        expected = sorted(distances[i, j] for j in candidates[i])[:k]
        assert [distances[i, j] for j in rows] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 3), (17, 3), (70, 16), (100, 17), (131, 32)])
def test_a_batch_gives_the_exact_nearest_rows(n: int, k: int) -> None:
    points = cloud(n, seed=n)
    found = lsh.find_neighbours(points, k, "minibatch", views(6))
    assert_nearest(rows_of(found.keys), [set(range(n)) - {i} for i in range(n)], points, k)
    assert (found.weights == (found.keys != small_sets.NO_NEIGHBOUR)).all()


def test_of_equally_near_rows_the_lower_ones_are_taken() -> None:
    points = np.zeros((100, 3), np.float32)
    found = rows_of(lsh.find_neighbours(points, 4, "minibatch", views(3)).keys)
    assert found[0] == [1, 2, 3, 4]
    assert found[99] == [0, 1, 2, 3]
    assert found[2] == [0, 1, 3, 4]


def expected_order(points: Points, view: lsh.Single, bits: int, levels: int = 0) -> tuple[list[int], list[int]]:
    keys = [naive.hash_key(row, view, bits) for row in points]
    places = [int(min(max(place * 1024.0 + 32768.0, 0.0), 65535.0)) for _, place in keys]
    buckets = [int("".join(map(str, signs)), 2) >> levels for signs, _ in keys]
    return sorted(range(len(points)), key=lambda row: (buckets[row], places[row], row)), buckets


def level_candidates(points: Points) -> list[list[set[int]]]:
    bits = lsh.sign_bits(len(points))
    result = []
    for level in range(lsh.LEVELS):
        order, buckets = expected_order(points, views(points.shape[1])[0], bits, level * bits // lsh.LEVELS)
        result.append(naive.window_candidates(order, buckets, lsh.WINDOW))
    return result


def test_single_level_hashing_finds_the_nearest_in_its_window() -> None:
    points = cloud(1100)
    found = lsh.find_neighbours(points, 5, "lsh", views(6))
    assert lsh.sign_bits(1100) == 3
    assert_nearest(rows_of(found.keys), level_candidates(points)[0], points, 5)
    assert set(np.unique(found.weights)) <= {0.0, 1.0}


def test_multi_level_hashing_merges_the_levels_and_weighs_finer_ones_more() -> None:
    points = cloud(1100, seed=1)
    found = lsh.find_neighbours(points, 5, "lsh_multilevel", views(6))
    levels = level_candidates(points)
    distances = naive.distances(points)
    nearest_of = [[set(sorted(c[i], key=lambda j: (distances[i, j], j))[:5]) for i in range(1100)] for c in levels]
    proposed = [set().union(*(level[i] for level in nearest_of)) for i in range(1100)]
    assert_nearest(rows_of(found.keys), proposed, points, 5)
    for i, rows in enumerate(rows_of(found.keys)):
        for s, j in enumerate(rows):
            weight = sum(0.5**level for level in range(lsh.LEVELS) if j in nearest_of[level][i])
            assert found.weights[i, s] == pytest.approx(weight)


def test_sets_that_are_added_give_what_merging_all_of_them_gives() -> None:
    n, k = 150, 7
    points = np.round(cloud(n, 3, seed=5))  # many equally near
    random = np.random.default_rng(6)
    sets = np.stack([random.permutation(n) % 3 for _ in range(4)], axis=1).astype(np.int16)
    keys, merged = (np.full((n, k), small_sets.NO_NEIGHBOUR) for _ in range(2))
    counts, weights = (np.zeros((n, k), np.float32) for _ in range(2))
    found = np.empty((n, k), np.int64)
    for partition in range(4):
        for own in range(3):
            members = np.flatnonzero(sets[:, partition] == own).astype(np.int32)
            small_sets.nearest_members(points, members, found)
            if partition == 0:
                keys[members] = found[members]
            else:
                small_sets.add_members(points, members, sets, partition, keys)
        small_sets.merge_neighbours(merged, weights, found, np.float32(1.0))
        small_sets.count_meetings(keys, sets[:, : partition + 1].copy(), counts)
        assert keys.tobytes() == merged.tobytes()
        assert counts.tobytes() == weights.tobytes()


def test_multi_view_hashing_merges_leaves_and_counts_views() -> None:
    points = cloud(700, seed=2)
    directions = views(6, 3)
    found = lsh.find_neighbours(points, 4, "lsh_multiview", directions)
    bounds = lsh.leaves(700).tolist()
    assert bounds == [0, 233, 466, 700]
    distances = naive.distances(points)
    proposals: list[list[set[int]]] = []
    for view in directions:
        order, _ = expected_order(points, view, lsh.sign_bits(700))
        own: list[set[int]] = [set()] * len(order)
        for begin, end in pairwise(bounds):
            leaf = order[begin:end]
            for i in leaf:
                own[i] = set(sorted((j for j in leaf if j != i), key=lambda j, i=i: (distances[i, j], j))[:4])  # type: ignore[misc]
        proposals.append(own)
    assert_nearest(rows_of(found.keys), [set().union(*(p[i] for p in proposals)) for i in range(700)], points, 4)
    for i, rows in enumerate(rows_of(found.keys)):
        for s, j in enumerate(rows):
            assert found.weights[i, s] == sum(j in p[i] for p in proposals)


def test_every_view_finds_more_of_the_true_neighbours() -> None:
    points = cloud(3000, 8, 3)
    exact = rows_of(lsh.find_neighbours(points, 8, "minibatch", views(8)).keys)

    def recall(kind: lsh.Kind, count: int) -> float:
        found = rows_of(lsh.find_neighbours(points, 8, kind, views(8, 8)[:count]).keys)
        return float(np.mean([len(set(a) & set(b)) / 8 for a, b in zip(found, exact, strict=True)]))

    single, four, eight = recall("lsh", 1), recall("lsh_multiview", 4), recall("lsh_multiview", 8)
    assert single < recall("lsh_multilevel", 1) < four < eight
    assert four > 0.7


def test_a_graph_lists_each_row_itself_first_and_log_weights() -> None:
    points = cloud(5)
    graph = lsh.to_graph(lsh.find_neighbours(points, 6, "lsh_multiview", views(6, 2)))
    assert graph.neighbours[:, SELF].tolist() == list(range(5))
    assert (graph.log_weights[:, SELF] == 0.0).all()
    assert graph.log_weights[:, 1:5] == pytest.approx(math.log(2.0))  # both views saw the whole batch
    assert (graph.log_weights[:, 5:] == -np.inf).all()


def test_directions_are_unit_vectors_of_normal_numbers() -> None:
    drawn = lsh.gaussian(rng.stream_key(5, "normal"), 20_000)
    assert abs(drawn.mean()) < 0.03 and abs(drawn.std() - 1) < 0.03
    assert abs(np.mean(np.abs(drawn) < 1.0) - 0.6827) < 0.01
    assert np.linalg.norm(views(6), axis=2) == pytest.approx(1.0, abs=1e-6)
