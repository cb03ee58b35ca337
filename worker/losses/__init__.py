"""Losses: the attempt of a dead worker is ended by its witness, or by the next worker there."""
