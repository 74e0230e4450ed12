"""Distances, nearest neighbours, k-means and hashing of vectors."""


def warm() -> None:
    """Compile distances, graphs of neighbours and hashing."""
    import numpy as np

    from tamis.native.math import rng
    from tamis.native.neighbours import duplicates, knn, lsh, merge, panels, screened, similarities

    point, one = np.ones((1, 1), np.float32), np.zeros(1, np.int32)
    panels.assign(point, point)
    pairs = similarities.of_neighbours(knn.cell_graph(point, 1, 1, 1, rng.stream_key(0, "warm-up")))
    similarities.of_neighbours(knn.exact_graph(np.array([[0.0], [1.0]], np.float32), 1))
    similarities.of_all_pairs(point)
    similarities.nearest_chosen(pairs, point, np.zeros(1, np.int64))
    duplicates.nearest_earlier(panels.read_only(point), panels.pack(point), 0, 0, 1, np.empty(1, np.float32))
    points = np.zeros((3, 1), np.float32)
    views = lsh.directions(rng.stream_key(0, "warm-up"), 1, 1)
    lsh.find_neighbours(points, 1, "lsh", views)
    lsh.find_neighbours(points, 1, "lsh_multiview", views)
    screened.offer(screened.ask(point), screened.pack(point, one), np.zeros(1, np.float32), np.zeros((1, 1), np.int64))
    scores, numbers = merge.list_arrays(1, 1)
    more = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int32)
    for array in more:
        array.setflags(write=False)  # as those of a mapped file
    merge.merge_lists(scores, numbers, *more, 0)
