"""Where progress is read: output, TensorBoard, metrics.csv and trainer_state.json."""
