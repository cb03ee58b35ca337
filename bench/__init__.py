"""What the monitoring library costs, measured beside what else there is, in one run."""
