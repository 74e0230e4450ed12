"""Greedy selection: farthest-first, submodular functions, D2 pruning, bandits, and their limits."""


def warm() -> None:
    """Compile the greedy choices."""
    import numpy as np

    from tamis.native.greedy import bandit, class_coverage, d2, farthest_first, limits, submodular
    from tamis.native.math import rng
    from tamis.native.neighbours import knn, lsh, similarities

    points, free = np.array([[0.0], [1.0]], np.float32), np.ones(2, np.bool_)
    start = np.array([farthest_first.central_row(points, free)])
    farthest_first.advance(farthest_first.begin(points, free, start, limits.begin_limits(2)), 1)
    pairs, nobody = similarities.of_neighbours(knn.exact_graph(points, 1)), np.empty(0, np.int64)
    submodular.advance(submodular.begin(pairs, limits.begin_limits(1)), 1)
    bounds = limits.begin_limits(1)
    limits.take_all(bounds, np.empty(0, np.int64))
    limits.take_fitting(bounds, np.zeros(1, np.int64))
    pruning = d2.begin(
        pairs, np.ones(2), limits.begin_limits(2), free=free, first=nobody, gamma_forward=1.0, gamma_reverse=1.0
    )
    d2.advance(pruning, 1)
    state, chosen, one = bandit.begin(1), np.empty(1, np.int32), np.ones(1)
    picked = chosen[: bandit.choose(state, np.ones(1, np.int64), False, chosen)]
    bandit.means_of(one, np.arange(2), np.empty(1))
    bandit.learn(state, picked, one, np.ones(1, np.bool_), bandit.alone(1), False)
    bandit.rescore(state, 0.0, 1.0, False)
    bandit.near_centres(np.ones((1, 1), np.float32), 1.0, 1)
    key, labels, ties = rng.stream_key(0, "warm-up"), np.zeros(3, np.int32), np.ones((3, 1), np.int32)
    keys = lsh.find_neighbours(np.zeros((3, 1), np.float32), 1, "lsh", lsh.directions(key, 1, 1)).keys
    paid = np.ones((3, 2, 1), np.float32), np.ones((3, 2), np.float32)
    class_coverage.attention_strengths(*paid, ties)
    class_coverage.own_share(keys, labels, np.empty(3, np.float32))
    relation = class_coverage.relation_of(keys, ties, labels, 1)
    mass, taken = np.ones(3, np.int32), np.zeros(3, np.int8)
    class_coverage.cover_batch(relation, labels, np.ones(2, np.int64), mass, taken, 0)
