"""Top-k, strata, cut-offs and draws without replacement."""
