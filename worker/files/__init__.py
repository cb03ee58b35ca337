"""An attempt's files: restored into scratch, published to storage."""
