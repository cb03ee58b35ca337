"""Checkpoints: a training state copied, written and committed whole, and found again."""
