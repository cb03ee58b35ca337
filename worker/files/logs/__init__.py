"""The output log of an attempt, and other rows that the service itself writes of a run."""
