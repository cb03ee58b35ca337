"""Commands that look at jobs: their output, curves, events, differences, and all of it live."""
