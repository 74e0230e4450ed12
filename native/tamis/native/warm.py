"""Every kernel once, on tiny inputs: by area, since a job waits for the kernels of its own selector only."""

from collections.abc import Iterator

import numpy as np

from tamis.native.greedy import bandit, class_coverage, d2, farthest_first, limits, submodular
from tamis.native.learning import dynamics, gat, gat_training, influence
from tamis.native.math import elementary, moments, norms, rng, second_moments, whitening
from tamis.native.neighbours import duplicates, knn, lsh, merge, panels, screened, similarities
from tamis.native.sampling import cutoffs, draws, strata, topk
from tamis.native.text import columns as text
from tamis.native.transport import costs, sinkhorn


def compile_common() -> None:
    """Compile what every job runs, and what reads text; or load it from the cache."""
    _decision()
    _text()


def compile_all() -> None:
    """Compile every kernel, or load it from the cache."""
    compile_common()
    _vectors()
    _dynamics()
    _graph()
    _strata()
    _farthest()
    _d2()
    _attention()
    _transport()
    _bandit()


def _decision() -> None:
    key = rng.stream_key(0, "warm-up")
    rng.gumbel(key, 0, 1)
    rng.gumbel_at(key, np.zeros(1, np.int64))
    rng.uniform(key, 0, 1)
    elementary.logarithms(np.ones(1))
    elementary.exponentials(np.zeros(1))
    keys, codes = np.array([1.0, 0.0]), np.zeros(2, np.int32)
    topk.count_nan(keys)
    cut_offs = topk.select_topk(lambda: iter([(0, keys, codes, None)]), 1)
    topk.mark_selected(0, keys, codes, cut_offs)


def _text() -> None:
    column = text.TextColumn(np.array([0, 3], np.int64), np.frombuffer(b"a b", np.uint8))
    config = text.ngram_config(ngrams=1, buckets=2)
    text.score(column, config, np.zeros(2))
    text.chunk_offsets(column)
    text.hash_tokens(["a"])


def _vectors() -> None:
    point = np.ones((1, 1), np.float32)
    norms.squared_lengths(point)
    panels.assign(point, point)


def _dynamics() -> None:
    for dtype in (np.float16, np.float32):
        dynamics.measure(np.full((1, 2), -0.6931, dtype), np.zeros(1, np.int64), "log_probs")
    visits = [np.zeros(1, dtype) for dtype in (np.uint32, np.int32, np.float32, np.uint8)]
    for column in visits:
        column.setflags(write=False)  # as those of a mapped file
    rows, epochs, values, correct = visits
    counts, sums = np.zeros((3, 1), np.int32), np.zeros((2, 1))
    dynamics.fold_visits(rows, epochs, counts[0], counts[1])
    dynamics.fold_sum(rows, epochs, values, 1, sums[0])
    dynamics.fold_confidence(rows, values, sums[0], sums[1])
    dynamics.fold_correct(rows, correct, np.zeros(1, np.uint8), counts[0], counts[1])
    dynamics.fold_latest(rows, values, np.zeros(1, np.float32))


def _graph() -> None:
    point = np.ones((1, 1), np.float32)
    pairs = similarities.of_neighbours(knn.cell_graph(point, 1, 1, 1, rng.stream_key(0, "warm-up")))
    similarities.of_all_pairs(point)
    submodular.advance(submodular.begin(pairs, limits.begin_limits(1)), 1)
    similarities.nearest_chosen(pairs, point, np.zeros(1, np.int64))
    duplicates.nearest_earlier(panels.read_only(point), panels.pack(point), 0, 0, 1, np.empty(1, np.float32))
    bounds = limits.begin_limits(1)
    limits.take_all(bounds, np.empty(0, np.int64))
    limits.take_fitting(bounds, np.zeros(1, np.int64))


def _strata() -> None:
    def chunks() -> Iterator[strata.Chunk]:
        yield 0, np.array([0.0, 1.0], np.float32), None

    sample, key = strata.sample(chunks, 2), rng.stream_key(0, "warm-up")
    cutoffs.cut_hardest(chunks, sample, 0.5, "low")
    cut_off = cutoffs.cut_by_radix(chunks, 0.5, "low")
    own = strata.equal_width(*strata.extremes(chunks, cut_off), 1)
    strata.codes_of(next(chunks()), cut_off, own)
    strata.populations(chunks, cut_off, own)
    draws.draw(chunks, sample, cut_off, own, 1, key)
    rng.shuffled_at(key, np.zeros(1, np.int64))


def _farthest() -> None:
    points, free = np.array([[0.0], [1.0]], np.float32), np.ones(2, np.bool_)
    start = np.array([farthest_first.central_row(points, free)])
    farthest_first.advance(farthest_first.begin(points, free, start, limits.begin_limits(2)), 1)


def _d2() -> None:
    points, free = np.array([[0.0], [1.0]], np.float32), np.ones(2, np.bool_)
    pairs, nobody = similarities.of_neighbours(knn.exact_graph(points, 1)), np.empty(0, np.int64)
    state = d2.begin(
        pairs, np.ones(2), limits.begin_limits(2), free=free, first=nobody, gamma_forward=1.0, gamma_reverse=1.0
    )
    d2.advance(state, 1)


def _attention() -> None:
    key = rng.stream_key(0, "warm-up")
    points, labels = np.zeros((3, 1), np.float32), np.zeros(3, np.int32)
    scaled = moments.moments_of(points)
    moments.standardise(points, np.zeros(1, np.int64), scaled.mean, np.ones(1), points)
    views = lsh.directions(key, 1, 1)
    lsh.find_neighbours(points, 1, "lsh", views)
    found = lsh.find_neighbours(points, 1, "lsh_multiview", views)
    graph = lsh.to_graph(found)
    flat = gat_training.initial_parameters(key, 1, 2)
    batch = gat_training.Batch(points, graph, labels)
    gat_training.train([batch], np.ones(2, np.float32), key, gat_training.Schedule(1), flat)
    activations = gat.empty_activations(3, 2, np.float32)
    out = [np.empty(3, np.float32) for _ in range(5)]
    gat.class_signals(activations.u, gat.split(flat, 1, 2), labels, out[0], out[1])
    gat.attention_received(graph, activations.alpha1, activations.alpha2, labels, out[2], out[3], out[4])
    ties = np.ones((3, 1), np.int32)
    class_coverage.attention_strengths(activations.alpha1, activations.alpha2, ties)
    class_coverage.own_share(found.keys, labels, out[0])
    relation = class_coverage.relation_of(found.keys, ties, labels, 1)
    mass, state = np.ones(3, np.int32), np.zeros(3, np.int8)
    class_coverage.cover_batch(relation, labels, np.ones(2, np.int64), mass, state, 0)


def _transport() -> None:
    point, zero = np.ones((1, 1), np.float32), np.zeros(1)
    for rows in (point, np.ones((1, 1))):
        second_moments.second_moments([rows], zero)
        second_moments.transform(rows, zero, np.ones((1, 1)))
    lower = whitening.cholesky(np.ones((1, 1)))
    whitening.symmetric_root(lower, whitening.inverse_lower(lower))
    one = np.zeros(1, np.int32)
    screened.offer(screened.ask(point), screened.pack(point, one), np.zeros(1, np.float32), np.zeros((1, 1), np.int64))
    block = costs.sphere_costs(point, panels.pack(point, inner=True))
    sums, columns = np.empty(len(block)), np.zeros(block.shape[1])
    for kind, kernel in ((np.float32, sinkhorn.sweep_narrow), (np.float64, sinkhorn.sweep_wide)):
        steps = np.zeros((len(block) // sinkhorn.ROWS, 2, sinkhorn.ROWS), kind)
        kernel(block, steps, np.zeros((2, block.shape[1]), kind), -1.0, sums, columns)
    sinkhorn.row_potential(block[0], columns, 1.0)
    scores, numbers = merge.list_arrays(1, 1)
    more = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int32)
    for array in more:
        array.setflags(write=False)  # as those of a mapped file
    merge.merge_lists(scores, numbers, *more, 0)


def _bandit() -> None:
    state, chosen, one = bandit.begin(1), np.empty(1, np.int32), np.ones(1)
    picked = chosen[: bandit.choose(state, np.ones(1, np.int64), False, chosen)]
    bandit.means_of(one, np.arange(2), np.empty(1))
    bandit.learn(state, picked, one, np.ones(1, np.bool_), bandit.alone(1), False)
    bandit.rescore(state, 0.0, 1.0, False)
    bandit.near_centres(np.ones((1, 1), np.float32), 1.0, 1)
    for rows in (np.ones((1, 1), np.float32), np.ones((1, 1))):
        influence.add_columns(rows, np.zeros(1))
        influence.products(rows, one)
        influence.layer_products(rows, rows, np.ones((1, 1)))
        outer, inner = influence.layer_basis(np.eye(2), 1)
        influence.squares_in_basis(rows, rows, outer, inner)
    influence.fisher_product(np.eye(1), 1.0, one)
    influence.ekfac_product(influence.Kronecker(outer, inner, np.ones((1, 1))), 1.0, np.ones((1, 1)))
