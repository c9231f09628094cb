"""Training-free Bayesianisation."""
