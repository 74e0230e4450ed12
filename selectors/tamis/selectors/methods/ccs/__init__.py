"""CCS: coverage-centric coreset selection (Zheng et al., 2023)."""
