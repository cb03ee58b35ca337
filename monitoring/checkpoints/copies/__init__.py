"""Copies of a training state in memory, made while training goes on."""
