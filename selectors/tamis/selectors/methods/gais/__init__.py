"""GAIS: graph attention and hashing for instance selection."""
