"""Top-k, strata, cut-offs and draws without replacement."""


def warm_common() -> None:
    """Compile the choice of the best rows by key, which every job needs."""
    import numpy as np

    from tamis.native.sampling import topk

    keys, codes = np.array([1.0, 0.0]), np.zeros(2, np.int32)
    topk.count_nan(keys)
    cut_offs = topk.select_topk(lambda: iter([(0, keys, codes, None)]), 1)
    topk.mark_selected(0, keys, codes, cut_offs)


def warm() -> None:
    """Compile strata, cut-offs and draws."""
    from collections.abc import Iterator

    import numpy as np

    from tamis.native.math import rng
    from tamis.native.sampling import cutoffs, draws, strata

    def chunks() -> Iterator[strata.Chunk]:
        yield 0, np.array([0.0, 1.0], np.float32), None

    sample, key = strata.sample(chunks, 2), rng.stream_key(0, "warm-up")
    cutoffs.cut_hardest(chunks, sample, 0.5, "low")
    cut_off = cutoffs.cut_by_radix(chunks, 0.5, "low")
    own = strata.equal_width(*strata.extremes(chunks, cut_off), 1)
    strata.codes_of(next(chunks()), cut_off, own)
    strata.populations(chunks, cut_off, own)
    draws.draw(chunks, sample, cut_off, own, 1, key)
