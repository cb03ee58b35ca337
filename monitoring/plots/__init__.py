"""Plots: figures of a run, drawn in a process of their own."""
