"""Optimal transport between rows and targets: problems, Sinkhorn's algorithm, the exact solution."""
