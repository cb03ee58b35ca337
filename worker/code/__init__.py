"""The code that a job brings: fetched once per machine, and copied for each attempt."""
