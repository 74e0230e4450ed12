"""Quad: influence and diversity by a bandit over clusters."""
