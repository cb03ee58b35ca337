"""The job: its record, states and rules, and its store in Redis."""
