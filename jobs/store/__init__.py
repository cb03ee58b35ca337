"""The store: jobs and workers in Redis; every change of several keys is one Lua script."""
