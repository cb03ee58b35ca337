"""This machine: its GPUs and its processes, with nothing but the standard library."""
