"""The inputs of a job: fetched once per machine into the cache that jobs share, read-only."""
