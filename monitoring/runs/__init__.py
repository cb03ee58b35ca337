"""Runs: what one was started with, on which machine, and what came out."""
