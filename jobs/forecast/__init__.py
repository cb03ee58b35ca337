"""The forecast: why a queued job waits, for how long, and what a new job would meet."""
