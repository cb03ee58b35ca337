"""Workspaces: the code of a job, packed into an archive where it lies, unpacked where it runs."""
