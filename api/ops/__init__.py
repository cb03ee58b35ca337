"""Commands for operators: they work on Redis and storage, not over HTTP."""
