"""Signals that several methods share: embeddings, gradients, difficulty, n-grams, transport."""
