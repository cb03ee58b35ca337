"""Losses: the attempt of a dead worker is ended by its guard, or by the next worker there."""
