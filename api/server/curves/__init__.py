"""The curves of runs: metrics reduced to buckets while they are read, and kept in memory."""
