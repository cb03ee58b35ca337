"""The whole service on one machine: `spectrain up` and `spectrain demo`."""
