"""TAROT: targeted data selection by optimal transport."""
