"""Benches of the service: dispatch, recovery, scale, and servers that stall."""
