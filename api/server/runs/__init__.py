"""What runs hold, as the calls on them answer it: pages of metrics, and the log."""
