"""The settings of the built-in workload: one schema, which the service and the trainer share."""
