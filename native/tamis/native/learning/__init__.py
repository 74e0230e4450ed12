"""Training dynamics, influence functions and the graph attention network."""


def warm() -> None:
    """Compile training dynamics, influence and the graph attention network."""
    import numpy as np

    from tamis.native.learning import dynamics, dynamics_folds, gat, gat_training, influence
    from tamis.native.math import rng
    from tamis.native.neighbours import lsh

    for dtype in (np.float16, np.float32):
        dynamics.measure(np.full((1, 2), -0.6931, dtype), np.zeros(1, np.int64), "log_probs")
    visits = [np.zeros(1, dtype) for dtype in (np.uint32, np.int32, np.float32, np.uint8)]
    for column in visits:
        column.setflags(write=False)  # as those of a mapped file
    rows, epochs, values, correct = visits
    counts, sums = np.zeros((3, 1), np.int32), np.zeros((2, 1))
    dynamics_folds.fold_visits(rows, epochs, counts[0], counts[1])
    dynamics_folds.fold_sum(rows, epochs, values, 1, sums[0])
    dynamics_folds.fold_confidence(rows, values, sums[0], sums[1])
    dynamics_folds.fold_correct(rows, correct, np.zeros(1, np.uint8), counts[0], counts[1])
    dynamics_folds.fold_latest(rows, values, np.zeros(1, np.float32))
    key, points, labels = rng.stream_key(0, "warm-up"), np.zeros((3, 1), np.float32), np.zeros(3, np.int32)
    graph = lsh.to_graph(lsh.find_neighbours(points, 1, "lsh_multiview", lsh.directions(key, 1, 1)))
    flat = gat_training.initial_parameters(key, 1, 2)
    batch = gat_training.Batch(points, graph, labels)
    gat_training.train([batch], np.ones(2, np.float32), key, gat_training.Schedule(1), flat)
    activations = gat.empty_activations(3, 2, np.float32)
    out = [np.empty(3, np.float32) for _ in range(5)]
    gat.class_signals(activations.u, gat.split(flat, 1, 2), labels, out[0], out[1])
    gat.attention_received(graph, activations.alpha1, activations.alpha2, labels, out[2], out[3], out[4])
    one = np.ones(1)
    for vectors in (np.ones((1, 1), np.float32), np.ones((1, 1))):
        influence.add_columns(vectors, np.zeros(1))
        influence.products(vectors, one)
        influence.layer_products(vectors, vectors, np.ones((1, 1)))
        outer, inner = influence.layer_basis(np.eye(2), 1)
        influence.squares_in_basis(vectors, vectors, outer, inner)
    influence.fisher_product(np.eye(1), 1.0, one)
    influence.ekfac_product(influence.Kronecker(outer, inner, np.ones((1, 1))), 1.0, np.ones((1, 1)))
