"""The drill: interrupts a job and compares it with an uninterrupted run."""
