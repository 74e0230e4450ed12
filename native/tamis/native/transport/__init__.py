"""Optimal transport: cost blocks and Sinkhorn sweeps."""
