"""Configuration, environment and results of runs."""
