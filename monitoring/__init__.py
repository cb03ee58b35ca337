"""What a training script imports: checkpoints, metrics, plots, configuration, results."""
