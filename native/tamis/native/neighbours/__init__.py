"""Distances, nearest neighbours, k-means and hashing of vectors."""
