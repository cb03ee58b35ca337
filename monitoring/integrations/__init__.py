"""Integrations: callbacks, loggers and trackers for Lightning, Hugging Face and Accelerate.

Each module imports its framework, and nothing of the library imports the module.
"""
