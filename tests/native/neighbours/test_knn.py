"""Neighbour graphs and k-means: the same bytes from any number of threads, and what loops give."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.native.naive import distances as naive

from tamis.native.math import rng
from tamis.native.neighbours import kmeans, knn

Matrix = NDArray[np.float32]
KEY = rng.stream_key(3, "test")


def blobs(n: int, d: int = 8, seed: int = 5) -> Matrix:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((20, d)) * 3
    return (centres[random.integers(0, 20, n)] + random.standard_normal((n, d))).astype(np.float32)


def threaded(pool: ThreadPoolExecutor) -> kmeans.Map:
    def each(function: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
        return pool.map(function, numbers)

    return each


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 3), (4, 3), (4, 9), (60, 5)])
def test_exact_graph_is_that_of_a_loop(n: int, k: int) -> None:
    data = np.random.default_rng(n).integers(0, 3, (n, 3)).astype(np.float32)
    graph = knn.exact_graph(data, k)
    expected = naive.nearest(data, data, k, others_only=True)
    assert [[row for row in line if row >= 0] for line in graph.rows.tolist()] == expected
    for line, rows in zip(graph.squared, graph.rows, strict=True):
        assert (np.isinf(line) == (rows < 0)).all()
    for row, line in enumerate(expected):
        assert graph.squared[row, : len(line)].tolist() == [naive.squared(data[row], data[other]) for other in line]


def test_all_cells_give_the_exact_graph() -> None:
    data = blobs(500)
    exact, cells = knn.exact_graph(data, 7), knn.cell_graph(data, 7, 12, 12, KEY)
    assert np.array_equal(exact.rows, cells.rows)
    assert np.array_equal(exact.squared, cells.squared)


def test_few_cells_find_most_neighbours() -> None:
    data = blobs(4000, 16)
    exact, found = knn.exact_graph(data, 10), knn.cell_graph(data, 10, 60, 12, KEY)
    shared = sum(len(np.intersect1d(a, b)) for a, b in zip(exact.rows, found.rows, strict=True))
    assert shared >= 0.95 * exact.rows.size
    assert (found.squared >= exact.squared).all()


def test_graph_is_the_same_bytes_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "SEARCHED_ROWS", 128)
    monkeypatch.setattr(kmeans, "BLOCK_ROWS", 100)
    data = blobs(1000)
    data[500:600] = data[0]  # many at distance 0
    graphs = [knn.cell_graph(data, 5, 20, 4, KEY)]
    for workers in (1, 2, 7):
        with ThreadPoolExecutor(workers) as pool:
            graphs.append(knn.cell_graph(data, 5, 20, 4, KEY, each=threaded(pool)))
    assert len({graph.rows.tobytes() + graph.squared.tobytes() for graph in graphs}) == 1
    assert (graphs[0].rows != np.arange(1000)[:, None]).all()
    other = knn.cell_graph(data, 5, 20, 4, rng.stream_key(4, "test"))
    assert not np.array_equal(other.rows, graphs[0].rows)


def test_means_are_lloyds() -> None:
    data = blobs(300, 4)
    centres = data[:9].copy()
    found = kmeans.means(kmeans.in_blocks(data), centres, 4)
    for step in range(4):
        nearest = [min((naive.squared(row, c), k) for k, c in enumerate(centres)) for row in data]
        assert found.inertia[step] == pytest.approx(np.mean([distance for distance, _ in nearest]), rel=1e-5)
        codes = np.array([k for _, k in nearest])
        centres = np.array([data[codes == k].mean(axis=0, dtype=np.float64) for k in range(9)], np.float32)
    assert found.centres == pytest.approx(centres, rel=1e-5)
    assert found.empty == 0
    assert found.inertia == sorted(found.inertia, reverse=True)


def test_empty_clusters_get_the_farthest_rows() -> None:
    data = np.array([[0], [0], [1], [30], [50]], np.float32)
    start = np.array([[0], [1000], [2000], [3000]], np.float32)
    once = kmeans.means([data[:3], data[3:]], start, 1)
    assert once.centres.ravel().tolist() == [np.float32(81 / 5), 50, 30, 1]
    assert once.empty == 3
    settled = kmeans.means([data[:3], data[3:]], start, 20)
    assert sorted(settled.centres.ravel().tolist()) == [0, 1, 30, 50]
    assert len(settled.inertia) < 20
    equal = kmeans.means([np.zeros((4, 1), np.float32)], np.array([[0], [5]], np.float32), 9)
    assert (equal.centres.ravel().tolist(), equal.empty) == ([0, 5], 1)


def test_samples_are_nested_and_distinct() -> None:
    small, large = kmeans.sample_rows(KEY, 1000, 10), kmeans.sample_rows(KEY, 1000, 100)
    assert set(small) < set(large)
    assert len(set(large)) == 100
    assert (np.diff(large) > 0).all()
    assert kmeans.sample_rows(KEY, 5, 9).tolist() == [0, 1, 2, 3, 4]
    assert kmeans.sample_rows(KEY, 5, 0).size == 0
