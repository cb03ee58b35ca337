"""The drill: interrupts a job and compares it with one that was left alone."""
