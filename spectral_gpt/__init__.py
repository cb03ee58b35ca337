"""Spectral GPT: the built-in workload."""
