"""Arithmetic whose bits never change: random numbers, elementary functions, moments, linear algebra."""


def warm_common() -> None:
    """Compile the random numbers and elementary functions, which every job needs."""
    import numpy as np

    from tamis.native.math import elementary, rng

    key = rng.stream_key(0, "warm-up")
    rng.gumbel(key, 0, 1)
    rng.gumbel_at(key, np.zeros(1, np.int64))
    rng.uniform(key, 0, 1)
    elementary.logarithms(np.ones(1))
    elementary.exponentials(np.zeros(1))


def warm() -> None:
    """Compile the arithmetic of vectors."""
    import numpy as np

    from tamis.native.math import moments, norms, rng, second_moments, whitening

    point, zero = np.ones((1, 1), np.float32), np.zeros(1)
    norms.squared_lengths(point)
    rng.shuffled_at(rng.stream_key(0, "warm-up"), np.zeros(1, np.int64))
    scaled = moments.moments_of(point)
    moments.standardise(point, np.zeros(1, np.int64), scaled.mean, np.ones(1), np.zeros((1, 1), np.float32))
    for rows in (point, np.ones((1, 1))):
        second_moments.second_moments([rows], zero)
        second_moments.transform(rows, zero, np.ones((1, 1)))
    lower = whitening.cholesky(np.ones((1, 1)))
    whitening.symmetric_root(lower, whitening.inverse_lower(lower))
