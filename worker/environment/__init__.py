"""The Python packages that a job brings, on top of those that the worker has."""
