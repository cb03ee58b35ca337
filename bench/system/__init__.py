"""Benches of the service: dispatch, recovery, scale, storage, stalls and outages."""
