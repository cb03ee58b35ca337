"""Mirrors a run directory in storage, moment by moment."""
