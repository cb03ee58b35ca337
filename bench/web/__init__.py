"""Benches of the API over HTTP, as many clients use it."""
