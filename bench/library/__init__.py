"""Benches of the monitoring library: what it costs a training loop."""
