"""Training dynamics, influence functions and the graph attention network."""
