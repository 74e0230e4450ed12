"""Text columns: tokens, n-grams and their hashes, straight from Arrow buffers."""


def warm() -> None:
    """Compile the passes over text."""
    import numpy as np

    from tamis.native.text import columns as text

    column = text.TextColumn(np.array([0, 3], np.int64), np.frombuffer(b"a b", np.uint8))
    config = text.ngram_config(ngrams=1, buckets=2)
    text.score(column, config, np.zeros(2))
    text.chunk_offsets(column)
    text.hash_tokens(["a"])
