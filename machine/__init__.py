"""This machine: its GPUs, its processes and its Python, with nothing but the standard library."""
