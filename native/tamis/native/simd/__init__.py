"""Vector instructions that Numba does not offer: tiles of products, comparisons of words, fused sums."""
