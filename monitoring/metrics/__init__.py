"""Metrics: rows appended to a log without loss, and read back as curves."""
