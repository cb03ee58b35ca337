"""A cache on the worker's disk, shared by all workers of the machine, for what jobs bring."""
