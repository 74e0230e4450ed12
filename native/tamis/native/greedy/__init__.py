"""Greedy selection: farthest-first, submodular functions, D2 pruning, bandits, and their limits."""
