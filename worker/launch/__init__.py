"""The training process: forked warm or started cold, under a guard."""
